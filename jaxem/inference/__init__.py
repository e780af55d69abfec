"""What one asks of a finished fit: criteria, alignment, bounds, comparisons, files."""
