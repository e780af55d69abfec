"""The functions that fit a model: `fit`, `fit_restarts`, `fit_stream` and what belongs to them."""
