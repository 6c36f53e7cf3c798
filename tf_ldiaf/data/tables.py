"""Images in tables of text, a row each: CSV, .amat, and either in .gz."""

import io
import pathlib

import numpy as np

from tf_ldiaf.data import arrays, compressed
from tf_ldiaf.data.splits import is_label
from tf_ldiaf.errors import DataError

_MOST_CLASSES = 1000
_LONGEST_ROW = 1 << 20  # bytes
_TEXT = "utf-8-sig"  # a byte-order mark is not of the first cell
_NUMBERS = {"", "id", "index", "unnamed: 0"}  # what a column of the rows' numbers is called


def is_one(path: pathlib.Path) -> bool:
    """Whether a file is of this kind: text whose second line, or only line, is numbers.

    Raises:
        DataError: the file cannot be read.
    """
    first, second = _first_lines(path)
    cells = _cells(second.strip() or first)
    return bool(cells) and all(_is_number(cell) for cell in cells[:-1] or cells)  # the last may be cut


def shapes(path: pathlib.Path) -> dict[str, tuple[int, ...] | None]:
    """The shape of its only array, "", as far as its first line says it.

    Raises:
        DataError: the file cannot be read.
    """
    return {"": (1, len(_cells(_first_lines(path)[0])))}


def _first_lines(path):
    """The first two, which may be cut; what is no text in them is no number either."""
    with compressed.opened(path) as content, io.TextIOWrapper(content, _TEXT, errors="replace") as text:
        return text.readline(_LONGEST_ROW), text.readline(_LONGEST_ROW)


def read(path: pathlib.Path, name: str) -> np.ndarray:
    """The numbers of all rows without their labels, [n, H * W]; errors as of `shapes`.

    A column is labels, or a row's number, if the header says so. Where the columns are one more than a square, the
    first or the last one is labels: the one that has all whole numbers from 0 or 1 to some other.
    """
    lines = compressed.whole(path).decode(_TEXT, errors="replace").splitlines()
    names = _cells(lines[0])
    has_names = not all(map(_is_number, names)) or names == [str(i) for i in range(len(names))]
    if has_names:
        lines = lines[1:]
    arrays.check_size(8 * len(lines) * len(names), path)
    try:
        x = np.loadtxt(lines, delimiter="," if "," in lines[0] else None, ndmin=2, comments=None)
    except (ValueError, IndexError, OverflowError) as error:
        raise DataError(f"`dataset` must be a table of numbers. Received: {path} ({error}).") from None
    is_pixel = [not has_names or not (is_label(of_one) or of_one.lower() in _NUMBERS) for of_one in names]
    if not all(is_pixel):
        return x[:, is_pixel]
    width = x.shape[1]
    if arrays.side_of_square(width) or not arrays.side_of_square(width - 1):
        return x
    labels = [column for column in (0, width - 1) if _may_be_labels(x[:, column])]
    if len(labels) != 1:
        raise DataError(
            f"`dataset` must have rows of pixels, after a line of names if one column is labels. Received: {path} with "
            f"{width} numbers in a row."
        )
    return np.delete(x, labels, axis=1)


def _may_be_labels(column):
    found = np.unique(column)
    is_range = np.array_equal(found, found[0] + np.arange(len(found))) and found[0] in (0, 1)
    return is_range and 2 <= len(found) <= _MOST_CLASSES


def _cells(line):
    return [cell.strip().strip('"') for cell in (line.split(",") if "," in line else line.split())]


def _is_number(text):
    try:
        float(text)
    except ValueError:
        return False
    return True
