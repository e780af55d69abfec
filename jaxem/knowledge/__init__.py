"""What is known, missing or believed beyond complete rows: wrappers of families and models, each one mechanism."""
