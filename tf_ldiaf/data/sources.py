"""Which kind of source a data set is, and its arrays as images of one kind."""

import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tf_ldiaf.config import DataSettings
from tf_ldiaf.data import digits, folders, npz, tfds
from tf_ldiaf.data.arrays import as_pictures
from tf_ldiaf.data.splits import Source
from tf_ldiaf.errors import DataError


def open_splits(settings: DataSettings) -> dict[str, Any]:
    """The sets that a data set has among train, valid, test, not read yet; train is always there.

    Returns:
        for each set its `Source`; of a stream its `Records`, of uint8.

    Raises:
        DataError: a source that is missing, cannot be prepared or streamed, has no training images or more than
            memory should hold; a function: files that cannot be read, or images of more than one size.
    """
    dataset = settings.dataset
    if settings.stream:
        if dataset == "digits" or dataset.endswith(".npz") or dataset.startswith((".", "~", "/")):
            raise DataError(f"`stream` needs a `dataset` of TFDS. Received: {dataset}.")
        return tfds.open_stream(dataset, settings.data_dir)
    path = _as_path(dataset)
    if dataset == "digits":
        return digits.open_splits()
    if path.suffix == ".npz":
        return npz.open_splits(path)
    if path.is_dir():
        if str(path) != dataset or not tfds.knows(dataset):
            return folders.open_splits(path)
        if not settings.data_dir:
            raise DataError(
                f"`dataset` must mean one thing. Received: {dataset}, a folder here and a name of TFDS; "
                f"./{dataset} is the folder, `data_dir` says that TFDS is meant."
            )
    if path.is_absolute() or dataset.startswith((".", "~")):
        found = "is neither" if path.exists() else "does not exist"
        raise DataError(f"`dataset` must be an .npz file or a folder of PNGs. Received: {dataset}, which {found}.")
    return tfds.open_splits(dataset, settings.data_dir)


def read(splits: Mapping[str, Source], wanted: Iterable[str]) -> dict[str, np.ndarray]:
    """The `wanted` sets, of those that `splits` has, as images [n, H, W] of one kind, see `as_pictures`.

    No other set is read, but where no pixel of uint8 is above 1: whether these are binary images, or nearly black ones
    in 0-255, the other sets tell, which must be so too.

    Raises:
        DataError: files that cannot be read, or sets that are not images of one kind.
    """
    found = {name: splits[name].array() for name in wanted if name in splits}
    if all(x.dtype in ("uint8", "bool") and (x <= 1).all() for x in found.values()):
        found = {name: found[name] if name in found else splits[name].array() for name in splits}
    pictures = as_pictures(found, "`dataset`")
    return {name: pictures[name] for name in wanted if name in splits}


def _as_path(dataset):
    try:
        path = pathlib.Path(dataset).expanduser()
        path.exists()
    except (OSError, RuntimeError) as error:
        raise DataError(f"`dataset` must be a name or a path. Received: {dataset} ({error}).") from None
    return path
