"""From a person to the engine and back: `fit`, `fit_restarts`, `fit_stream` and their relatives."""
