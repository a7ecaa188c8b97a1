"""The model step: live features, the cache-aware encoder, greedy decoders, and the slots that hold their state."""
