"""One step of each algorithm: EM, and gradient ascent on the same objective."""
