"""What is believed of params beforehand, and which of them a fit may move."""
