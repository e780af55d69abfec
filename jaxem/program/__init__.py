"""The program `python -m jaxem`: its options, its tables and its figure."""
