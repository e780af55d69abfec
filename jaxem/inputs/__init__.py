"""Arguments of users become arrays: rows, sequences, sources. Every error names the argument."""
