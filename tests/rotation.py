"""Which rows of the zoo a default run checks on all ten laws: the core rows always, the others one day a week."""

import datetime
import zlib

#: The dtypes in which every row obeys the laws.
DTYPES = ("float32", "float64")

#: The days of ISO 8601, Monday first, and the choice of everything on any day.
DAYS = ("1", "2", "3", "4", "5", "6", "7")
ALL = "all"


def today() -> str:
    """The day of the week by the clock of this machine."""
    return str(datetime.date.today().isoweekday())


def day_of(name, dtype) -> str:
    """The day on which a row is checked in full; it depends on the row's name alone, so new rows move no other."""
    return DAYS[(zlib.crc32(name.encode()) + 3 * DTYPES.index(dtype)) % len(DAYS)]


def dtype_of(name) -> str:
    """The dtype in which a row is checked in part on the days that are not its own."""
    return DTYPES[zlib.crc32(name.encode()) // len(DAYS) % len(DTYPES)]


def in_part(name, dtype, day) -> bool:
    """Whether a row is checked in part in a run with `--laws-day day`: every other day, in one dtype."""
    if dtype != dtype_of(name):
        return False
    return day == ALL or (zlib.crc32(name.encode()) // 64 + int(day)) % 2 == 0


def in_full(row, dtype, day) -> bool:
    """Whether a row obeys all ten laws in a run with `--laws-day day`."""
    return row.core or day in (ALL, day_of(row.name, dtype))
