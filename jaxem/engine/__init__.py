"""The loop, and the compiled programs and blocks around it."""
