"""How fast, how large and how soon: jaxem against scikit-learn, gmmx and the machine's own floor.

    python -m benchmarks            the quick suite, some minutes
    python -m benchmarks full       all problems, more repetitions

Everybody does the same work in the same run: the same data, start, dtype and number of steps. See `suite.py` for the
rules, and one module per question for what is asked.
"""
