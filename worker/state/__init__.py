"""Checkpoints of streams, and where they are kept."""
