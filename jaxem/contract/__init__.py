"""What a model promises: read `model` first, then `family`, `constraints` and `units`."""
