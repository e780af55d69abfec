"""Small published data sets, for examples and tests."""

from pathlib import Path

import numpy as np

_FOLDER = Path(__file__).parent / "data"


def _read(name) -> np.ndarray:
    return np.loadtxt(_FOLDER / f"{name}.csv", delimiter=",", skiprows=1)


def old_faithful() -> np.ndarray:
    """Eruptions of the Old Faithful geyser, [272, 2]: duration and time to the next.

    Both are in minutes.

    Azzalini and Bowman (1990), Applied Statistics 39, 357-365; as in Härdle (1991).
    """
    return _read("old_faithful")


def twenty_numbers() -> np.ndarray:
    """The 20 numbers, [20], on which Hastie, Tibshirani and Friedman (2009) run Algorithm 8.1.

    They are in table 8.1 there.
    """
    return _read("twenty_numbers")


def earthquakes() -> np.ndarray:
    """Major earthquakes (magnitude 7 or more) in the world in each year from 1900 to 2006, [107].

    They are counts of the US Geological Survey; Zucchini and MacDonald (2009), table 1.1.
    """
    return _read("earthquakes")[:, 1]


def deaths_of_women() -> np.ndarray:
    """Deaths of women aged 80 and over in The Times on each day of 1910 to 1912, [1096].

    The days are in no order.

    Hasselblad (1969), Journal of the American Statistical Association 64, 1459-1471, table 3.
    """
    deaths, days = _read("deaths_of_women").T
    return np.repeat(deaths, days.astype(int))
