"""Small published data sets, for examples and tests."""

from pathlib import Path

import numpy as np

_FOLDER = Path(__file__).parent / "data"


def _read(name) -> np.ndarray:
    return np.loadtxt(_FOLDER / f"{name}.csv", delimiter=",", skiprows=1)


def old_faithful() -> np.ndarray:
    """[272, 2]: duration of an eruption of the Old Faithful geyser and waiting time to the next, in minutes.

    Azzalini and Bowman (1990), Applied Statistics 39, 357-365; as in Härdle (1991).
    """
    return _read("old_faithful")


def twenty_numbers() -> np.ndarray:
    """[20]: the numbers of Hastie, Tibshirani and Friedman (2009), table 8.1, which Algorithm 8.1 is run on."""
    return _read("twenty_numbers")


def earthquakes() -> np.ndarray:
    """[107]: major earthquakes (magnitude 7 or more) in the world in each year from 1900 to 2006.

    Counts of the US Geological Survey; Zucchini and MacDonald (2009), table 1.1.
    """
    return _read("earthquakes")[:, 1]


def deaths_of_women() -> np.ndarray:
    """[1096]: deaths of women aged 80 and over reported in The Times on each day of 1910 to 1912, in no order.

    Hasselblad (1969), Journal of the American Statistical Association 64, 1459-1471, table 3.
    """
    deaths, days = _read("deaths_of_women").T
    return np.repeat(deaths, days.astype(int))
