"""A hidden variable over any family: mixtures, chains, gates, state spaces."""
