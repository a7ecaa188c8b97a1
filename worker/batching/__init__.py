"""Which streams step together, and in which slots."""
