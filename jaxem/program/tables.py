"""Tables of numbers from CSV, NPY and Parquet files, for the program.

Error messages name the place in the file.
"""

import csv
from pathlib import Path
from typing import NamedTuple

import numpy as np

#: The cells of a text file that stand for a missing number, in lower case.
MISSING = ("", "na", "nan", "n/a", "null", "none", "?")


class Table(NamedTuple):
    """A table of numbers.

    Attributes:
        values: the rows [n, d], finite, in float64.
        names: the names of the d columns.
    """

    values: np.ndarray
    names: list[str]


def read_table(path: str | Path, columns: list[str] | None = None) -> Table:
    """Read a table from a file.

    Args:
        path: a file named .npy or .parquet, or .csv, .tsv or .txt for text with separators.
        columns: the names of the columns to read; None reads all.

    Raises:
        ValueError: the file or the columns are not usable; one line says what is wrong and where.
        OSError: the file cannot be opened.
    """
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"{path}: is a folder, not a file")
    if not path.exists():
        raise ValueError(f"{path}: no such file")
    readers = {".npy": _read_npy, ".parquet": _read_parquet, ".csv": _read_text, ".tsv": _read_text, ".txt": _read_text}
    if path.suffix.lower() not in readers:
        raise ValueError(f"{path}: expected a file named .csv, .tsv, .txt, .npy or .parquet")
    raw, first_line = readers[path.suffix.lower()](path)
    chosen = list(raw) if columns is None else columns
    unknown = [name for name in chosen if name not in raw]
    if unknown:
        raise ValueError(f"{path}: no column {unknown[0]!r}; it has {_listed(raw)}")
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"--columns: {max(chosen, key=chosen.count)!r} is named twice")
    if not chosen or not len(raw[chosen[0]]):
        raise ValueError(f"{path}: holds no rows")
    values = [_numbers(path, name, raw[name], first_line) for name in chosen]
    return Table(np.stack(values, 1), chosen)


def _listed(names):
    names = list(names)
    return ", ".join(names[:12]) + (f" and {len(names) - 12} more" if len(names) > 12 else "")


def _numbers(path, name, cells, first_line):
    """One column as an array of numbers, which must be finite and not all equal."""
    place = "row" if first_line is None else "line"
    offset = 0 if first_line is None else first_line
    try:
        numbers = np.asarray(cells, np.float64)
    except (TypeError, ValueError):
        numbers = np.array([_number(cell) for cell in cells], np.float64)
        text = [i for i, cell in enumerate(cells) if np.isnan(numbers[i]) and not _is_missing(cell)]
        if text:
            where = f"{str(cells[text[0]])[:30]!r} in {place} {text[0] + offset}"
            raise ValueError(f"{path}: column {name!r} holds text ({where}); choose others with --columns") from None
    bad = np.flatnonzero(~np.isfinite(numbers))
    if len(bad):
        where = f"{len(bad)} of {len(numbers)} rows, the first is {place} {bad[0] + offset}"
        raise ValueError(f"{path}: column {name!r} holds NaN, missing or infinite values ({where})")
    if len(numbers) > 1 and np.ptp(numbers) == 0:
        raise ValueError(f"{path}: column {name!r} is constant ({numbers[0]:g}); leave it out with --columns")
    return numbers


def _is_missing(cell):
    return cell is None or str(cell).strip().lower() in MISSING


def _number(cell):
    try:
        return float(cell)
    except (TypeError, ValueError):
        return np.nan


# --- formats --------------------------------------------------------------------------------------
#
# Each reader returns ({name: cells}, the line of the first row). The second is None for files
# without lines, whose rows are counted from 0.


def _read_npy(path):
    try:
        array = np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise ValueError(f"{path}: not a readable NPY file ({_first_line(error)})") from None
    if array.dtype.kind not in "biuf":
        raise ValueError(f"{path}: expected an array of numbers; got dtype {array.dtype}")
    if array.ndim not in (1, 2):
        raise ValueError(f"{path}: expected an array [n] or [n, d]; got shape {array.shape}")
    columns = array.reshape(len(array), -1).T
    return {f"x{j + 1}": column for j, column in enumerate(columns)}, None


def _read_parquet(path):
    try:
        import pandas
    except ImportError:
        raise ValueError(f"{path}: Parquet needs pandas and pyarrow: pip install 'jaxem[files]'") from None
    try:
        frame = pandas.read_parquet(path)
    except ImportError:
        raise ValueError(f"{path}: Parquet needs pandas and pyarrow: pip install 'jaxem[files]'") from None
    except Exception as error:  # pyarrow raises errors of its own kinds for broken files.
        raise ValueError(f"{path}: not a readable Parquet file ({_first_line(error)})") from None
    return {str(name): frame[name].to_numpy() for name in frame.columns}, None


def _read_text(path):
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except UnicodeDecodeError:
        raise ValueError(f"{path}: not a text file in UTF-8") from None
    numbered = [(i, line) for i, line in enumerate(lines, 1) if line.strip()]
    if not numbered:
        raise ValueError(f"{path}: is empty")
    rows = _split([line for _, line in numbered])
    width = len(rows[0])
    for (i, _), row in zip(numbered, rows, strict=True):
        if len(row) != width:
            raise ValueError(f"{path}: line {i} has {len(row)} fields, the first line has {width}")
    # A first line that holds text is a header; a first line of numbers is data.
    has_header = any(np.isnan(_number(cell)) and not _is_missing(cell) for cell in rows[0])
    names = [cell.strip() for cell in rows[0]] if has_header else [f"x{j + 1}" for j in range(width)]
    names = [name or f"x{j + 1}" for j, name in enumerate(names)]
    if len(set(names)) < width:
        raise ValueError(f"{path}: two columns are named {max(names, key=names.count)!r}")
    body = rows[has_header:]
    columns = zip(*body, strict=True) if body else [()] * width
    return dict(zip(names, columns, strict=True)), numbered[min(has_header, len(numbered) - 1)][0]


def _split(lines):
    """The fields of lines of text.

    The separator is the one that the first line holds most often, or white space if it holds none.
    """
    counts = {mark: lines[0].count(mark) for mark in ",;\t"}
    mark = max(counts, key=counts.__getitem__)
    if not counts[mark] and len(lines[0].split()) > 1:
        return [line.split() for line in lines]
    return list(csv.reader(lines, delimiter=mark, skipinitialspace=True))


def _first_line(error):
    return str(error).splitlines()[0][:120] if str(error) else type(error).__name__
