"""What one component looks like: one file for each distribution."""
