"""The service as a whole on this machine: `python -m bench.service`."""
