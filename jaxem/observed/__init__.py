"""What was seen of a row: missing entries, noise, censored times, labels, groups."""
