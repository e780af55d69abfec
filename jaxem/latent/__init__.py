"""A hidden variable put over any family: mixtures, hidden Markov models, hard assignment."""
