"""scikit-learn's handwritten digits: 1,797 grey images of 8 x 8, which need no file."""

import typing

import numpy as np

from tf_ldiaf.data.splits import Source


def open_splits() -> dict[str, Source]:
    """The one set that there is, train."""
    return {"train": Source(_read, lambda: 0)}


def _read():
    from sklearn.datasets import load_digits  # slow to import, and only needed here

    digits: typing.Any = load_digits()
    return np.round(digits.images * (255 / 16)).astype("uint8")
