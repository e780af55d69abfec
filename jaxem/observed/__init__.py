"""Incomplete observations: missing entries, noise, censored times, labels and groups of rows."""
