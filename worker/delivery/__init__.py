"""Kafka out: events and rejected records, and the input offsets that they allow to commit."""
