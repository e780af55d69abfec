"""What a model has to write and may write: read `model`, then `family`, `constraints`, `units`."""
