"""`trunkline doctor`: whether a worker could work here."""
