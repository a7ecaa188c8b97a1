"""The `trunkline` command; the code is in wire, producer and worker."""
