"""The loop over iterations, and the compiled programs and blocks around it."""
