"""The `trunkline` command, and `trunkline tail`; the rest of the code is in wire, producer and worker."""
