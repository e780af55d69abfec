"""The algorithms of a fit: EM, its accelerations, online EM and gradient ascent."""
