"""Trunkline's own encoder step: projected K and V in rings, nothing computed twice."""
