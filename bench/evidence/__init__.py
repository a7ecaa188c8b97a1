"""What the cache fault and its fix are worth in words: `python -m bench.evidence`."""
