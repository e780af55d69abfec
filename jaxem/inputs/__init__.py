"""What a person gives becomes arrays here: rows, sequences, sources; every complaint names the argument."""
