"""Which kind of source a data set is, and its arrays as images of one kind."""

import pathlib
import re
import types
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from tf_ldiaf.config import DataSettings
from tf_ldiaf.data import (
    arrays,
    compressed,
    digits,
    hdf5,
    idx,
    matlab,
    numpy_files,
    parquet,
    pictures,
    splits,
    streamed_pictures,
    tables,
    tfds,
)
from tf_ldiaf.data.splits import Source
from tf_ldiaf.errors import ConfigError, DataError

_DIGITS, _FOLDER, _FILE, _TFDS = "the digits", "a folder", "a file", "a data set of TFDS"
_PICTURE, _ARCHIVE, _PARQUET = "a picture", "an archive", "a Parquet file"
_ENDING = re.compile(r"\.[a-zA-Z]\w{0,7}$")  # of a file's name; a version of TFDS's ends with .1
_PICKLE = re.compile(rb"\x80[\x02-\x05]")


def open_splits(settings: DataSettings) -> dict[str, Any]:
    """The sets that a data set has among train, valid, test, not read yet; train is always there.

    Returns:
        for each set its `Source`; of a stream its `Records`, of uint8.

    Raises:
        DataError: a source that is missing, of no known kind, cannot be prepared or streamed, has no training images or
            more than memory should hold; a function: files that cannot be read, or images of more than one size.
    """
    meaning, path = _meaning(settings)
    if settings.arrays and meaning not in (_FILE, _FOLDER):
        raise _unnamed(settings)
    if settings.stream:
        return _open_stream(meaning, path, settings)
    if meaning == _DIGITS:
        return digits.open_splits()
    if meaning == _FOLDER:
        return _of_folder(path, settings)
    if meaning == _FILE:
        return _of_file(path, settings)
    return tfds.open_splits(settings.dataset, settings.data_dir, settings.keeps_colour)


def check_apart(settings: DataSettings, path: pathlib.Path) -> None:
    """Says if a run would lie in the folder of its pictures: its own would be some of them.

    Raises:
        ConfigError: so it would, at `path`.
        DataError: as of `open_splits`.
    """
    meaning, folder = _meaning(settings)
    is_inside = meaning == _FOLDER and path.resolve().is_relative_to(folder.resolve())
    if is_inside and (settings.stream or not any(_arrays_in(folder))):
        raise ConfigError(
            "`run_dir` must be outside the folder of pictures, for a run has pictures of its own. "
            f"Received: {path}, in {folder}."
        )


def _meaning(settings):
    """What `dataset` is the name of, and as a path."""
    dataset, path = settings.dataset, _as_path(settings.dataset)
    if dataset == "digits":
        if path.is_dir() and not _is_run_or_empty(path):
            raise DataError(
                "`dataset` must mean one thing. Received: digits, a folder here and the digits of scikit-learn; "
                "./digits is the folder, and in another working directory digits are those of scikit-learn."
            )
        return _DIGITS, path
    is_path = path.is_absolute() or dataset.startswith((".", "~")) or path.is_file() or _ENDING.search(dataset)
    if path.is_dir() and (is_path or str(path) != dataset or not tfds.knows(dataset)):
        return _TFDS if tfds.is_folder(path) else _FOLDER, path
    if path.is_file():
        return _FILE, path
    if is_path:
        found = "does not exist" if not path.exists() else "is neither"
        raise DataError(f"`dataset` must be a file or a folder that exists. Received: {dataset}, which {found}.")
    if path.is_dir() and not settings.data_dir and not tfds.is_folder(path):
        raise DataError(
            f"`dataset` must mean one thing. Received: {dataset}, a folder here and a name of TFDS; "
            f"./{dataset} is the folder, `data_dir` says that TFDS is meant."
        )
    owner, _, name = dataset.partition("/")
    if name and not tfds.knows(re.split("[:/]", owner)[0]):
        hint = f"`{name}`, which TFDS has, or " if tfds.knows(name) else ""
        raise DataError(
            f"`dataset` must be {hint}a file or a folder; those of hubs must be downloaded first. Received: {dataset}."
        )
    return _TFDS, path


def _is_run_or_empty(path):
    """Whether a folder is that of a run, which may be called as the data set, or has nothing to read."""
    names = {file.name for file in path.iterdir() if not file.name.startswith(".")}
    return not names or "config.json" in names


def _open_stream(meaning, path, settings):
    if meaning in (_DIGITS, _FILE):
        raise DataError(f"`stream` needs a `dataset` of TFDS, or a folder of pictures. Received: {settings.dataset}.")
    if meaning == _FOLDER:
        return streamed_pictures.open_stream(path, _reading(settings))
    streams = tfds.open_stream(settings.dataset, settings.data_dir, settings.keeps_colour)
    if not settings.image_size:
        return streams
    return {split: records.resized(settings.image_size) for split, records in streams.items()}


def _reading(settings):
    return pictures.Reading(
        settings.image_size, settings.skip_unreadable, settings.keeps_colour, keep_values=bool(settings.value_range)
    )


def _of_file(path, settings):
    kind, reading, chosen = _kind(path), _reading(settings), settings.chosen_arrays
    if kind == _ARCHIVE and chosen:
        raise _unnamed(settings)
    if kind == _PARQUET:
        where = path if len(_siblings(path)) == 1 else path.parent
        return parquet.open_splits(_siblings(path), where, reading, chosen.values())
    if kind == _PICTURE:
        raise DataError(f"`dataset` must be a folder of pictures, not one of them. Received: {path}.")
    siblings = {} if set(chosen) - {"train"} else _sets_of_files(_siblings(path))
    return _of_sets(siblings if "train" in siblings else {"train": path}, settings)


def _of_folder(path, settings):
    """Pictures; or files of arrays whose names say the set, such as MNIST's four; or Parquet files."""
    of_parquet, sets = _arrays_in(path)
    if of_parquet:
        return parquet.open_splits(of_parquet, path, _reading(settings), settings.chosen_arrays.values())
    if settings.arrays:
        raise _unnamed(settings)
    return _of_sets(sets, settings) if sets else pictures.open_folder(path, _reading(settings))


def _arrays_in(path):
    """The Parquet files of a folder; and its files of arrays by the set that their names say, if train is one."""
    files = [path / name for name in pictures.names_in(path)]
    files = [file for file in files if not file.name.startswith(".")]
    of_parquet = [file for file in files if file.suffix == ".parquet"]
    named = [file for file in files if file.parent == path and splits.set_named(file.name)]
    sets = {} if of_parquet else _sets_of_files([file for file in named if _has_images(file)])
    return of_parquet, sets if "train" in sets else {}


def _of_sets(files, settings):
    """The sets of files whose names say which they are. A lone file may have several, as its own content says."""
    found = {split: _opened(file, settings, split) for split, file in files.items()}
    if len(found) == 1:
        return found["train"]
    for split, sets in found.items():
        if len(sets) > 1:
            others = " and ".join(str(file.name) for name, file in files.items() if name != split)
            raise DataError(
                "`dataset` must be one file of all sets, or a file for each. "
                f"Received: {files[split]}, which has {' and '.join(sets)}, beside {others}."
            )
    return {split: sets[split] for split, sets in found.items()}


def _opened(path, settings, split):
    kind = _kind(path)
    if kind == _ARCHIVE:
        return pictures.open_archive(path, _reading(settings), split)
    return _of_arrays(path, kind, settings, split)


def _unnamed(settings):
    return DataError(
        f"`arrays` needs a file whose arrays or columns have names. Received: {settings.arrays} for {settings.dataset}."
    )


def _has_images(file):
    """Whether a file is of arrays, and no table of labels beside pictures."""
    kind = _kind(file, or_none=True)
    if kind is tables:
        [shape] = tables.shapes(file).values()
        return shape is not None and shape[1] >= splits.FEWEST_NUMBERS
    return isinstance(kind, types.ModuleType)


def _sets_of_files(files):
    named = splits.by_set([file.name for file in files], str(files[0].parent)) if files else {}
    return {split: next(file for file in files if file.name == name) for split, name in named.items()}


def _siblings(path):
    """The files beside `path`, and itself, whose names differ from its own in the word for a set alone."""
    if not splits.set_named(path.name):
        return [path]
    rest = splits.without_set(path.name)
    beside = sorted(path.parent.iterdir())
    return [file for file in beside if file.is_file() and splits.without_set(file.name) == rest]


def _of_arrays(path, kind, settings, split):
    """The sets of a file of arrays; `split` is the one that it must have."""
    shapes = kind.shapes(path)
    is_one = set(shapes) == {""}
    if is_one and settings.arrays:
        raise _unnamed(settings)
    chosen = settings.chosen_arrays
    if split != "train":  # a file beside the one that was named, whose arrays may have other names
        chosen = {split: chosen["train"]} if chosen.get("train") in shapes else {}
    found = {split: ""} if is_one else splits.arrays_by_set(shapes, str(path), chosen, split)

    def source(name):
        return Source(lambda: _array(path, kind, name), lambda: _checksum(path, kind, name))

    return {split: source(name) for split, name in found.items()}


def _array(path, kind, name):
    x = kind.read(path, name)
    if kind in (numpy_files, hdf5):
        arrays.check_images_first(name, x, "`dataset`")
    return x


def _checksum(path, kind, name):
    if kind is numpy_files:
        return numpy_files.checksum(path, name)
    with compressed.opened(path) as content:
        return splits.checksum(iter(lambda: content.read(1 << 20), b""))


def _kind(path, or_none=False) -> Any:
    """What a file is, as its first bytes say: the module that reads its arrays, or one of the kinds above.

    Raises:
        DataError: it is of no known kind, unless `or_none`.
    """
    try:
        with open(path, "rb") as file:
            packed = file.read(1024)
    except OSError as error:
        raise DataError(f"`dataset` must be a file that can be read. Received: {path} ({error.strerror}).") from None
    if packed.startswith(b"PK") or path.suffix == ".npz":
        return numpy_files if path.suffix == ".npz" or numpy_files.is_npz(path) else _ARCHIVE
    if packed.startswith(b"MATLAB "):
        return matlab
    if packed.startswith(b"\x89HDF"):
        return hdf5
    if packed.startswith(b"PAR1"):
        return _PARQUET
    if packed.startswith((b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"BM", b"II*\0", b"MM\0*")) or packed[8:12] == b"WEBP":
        return _PICTURE
    head = compressed.head(path) if packed.startswith(b"\x1f\x8b") else packed
    if head.startswith(b"\x93NUMPY"):
        return numpy_files
    if head[257:262] == b"ustar":
        return _ARCHIVE
    if idx.is_one(head):
        return idx
    if tables.is_one(path):
        return tables
    if or_none:
        return None
    found = "which is empty" if not packed else "which is none of them"
    if _PICKLE.match(head):
        found = (
            "a pickle, which may run any program when it is read; if you trust it, convert it: x = pickle.load(open("
            f"{path.name!r}, 'rb')); numpy.savez('images.npz', train=x)"
        )
    raise DataError(
        "`dataset` must be a file of images: .npz, .npy, idx, .mat, HDF5, CSV, .amat, Parquet, or an archive or "
        f"a folder of pictures. Received: {path}, {found}."
    )


def read(splits: Mapping[str, Source], wanted: Iterable[str], settings: DataSettings) -> dict[str, np.ndarray]:
    """The `wanted` sets, of those that `splits` has, as images [n, H, W] or [n, H, W, 3], see `as_pictures`.

    No other set is read, but where no pixel of uint8 is above 1: whether these are binary images, or nearly black ones
    in 0-255, the other sets tell, which must be so too.

    Raises:
        DataError: files that cannot be read, or sets that are not images of one kind.
    """
    found = {name: splits[name].array() for name in wanted if name in splits}
    if all(x.dtype in ("uint8", "bool") and (x <= 1).all() for x in found.values()):
        found = {name: found[name] if name in found else splits[name].array() for name in splits}
    reading = settings.values_from_to, settings.keeps_colour, settings.image_size
    images = arrays.as_pictures(found, "`dataset`", *reading)
    if settings.image_size:
        images = pictures.resized(images, settings.image_size)
    return {name: images[name] for name in wanted if name in splits}


def _as_path(dataset):
    try:
        path = pathlib.Path(dataset).expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError) as error:
        raise DataError(f"`dataset` must be a name or a path. Received: {dataset} ({error}).") from None
    return path
