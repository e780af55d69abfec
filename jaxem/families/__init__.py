"""What one component looks like: k of them side by side, one file for each family."""
