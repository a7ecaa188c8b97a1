"""The service: call audio from Kafka in, transcripts to Kafka out."""
