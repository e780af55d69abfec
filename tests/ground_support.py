"""Reading the data of the trusted fits."""

import csv

import numpy as np
from conftest import GROUND


def rows_of(case):
    """The rows of a case's file, as dictionaries."""
    return list(csv.DictReader((GROUND / case["file"]).read_text().splitlines()))


def columns(rows, names):
    """[n, len(names)] of floats."""
    return np.array([[float(row[name]) for name in names] for row in rows]).reshape(len(rows), len(names))
