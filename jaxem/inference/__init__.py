"""What is done with finished fits: criteria, alignment, bounds, comparisons and files."""
