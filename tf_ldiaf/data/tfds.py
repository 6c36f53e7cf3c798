"""Images of the data sets of TensorFlow Datasets (TFDS)."""

import contextlib
import difflib
import fcntl
import itertools
import math
import os
import pathlib
import re
import shutil
import typing

import numpy as np

from tf_ldiaf.data import arrays
from tf_ldiaf.data.records import Records
from tf_ldiaf.data.splits import Source, by_set
from tf_ldiaf.errors import DataError
from tf_ldiaf.execution.private import no_download_retries


def open_splits(name: str, data_dir: str, keep_colour: bool = False) -> dict[str, Source]:
    """The sets of a data set, see `sources.open_splits`; one that is not prepared is downloaded.

    Args:
        name: of the data set.
        data_dir: where TFDS keeps its data sets; "" for its own choice.
        keep_colour: whether images of colour stay so. Otherwise they become grey.
    """
    splits = _open(name, data_dir, keep_colour)
    size = sum(math.prod(records.shape) * np.dtype(records.dtype).itemsize for records in splits.values())
    if size > arrays.most_bytes():
        raise DataError(
            f"`dataset` must fit into a quarter of this machine's memory, {arrays.most_bytes():,} bytes, or be read "
            f"with `stream`. Received: {name} of {size:,}."
        )
    return {split: Source(records.array, records.checksum) for split, records in splits.items()}


def knows(name: str) -> bool:
    """Whether TFDS has a data set of this name."""
    import tensorflow_datasets as tfds  # slow to import, and only needed here

    return name in tfds.list_builders(with_community_datasets=False)


def open_stream(name: str, data_dir: str, keep_colour: bool = False) -> dict[str, Records]:
    """The same sets as records, which may be larger than memory and must be of uint8."""
    splits = _open(name, data_dir, keep_colour)
    dtype = np.dtype(splits["train"].dtype)
    if dtype != "uint8":
        raise DataError(f"`stream` needs images of uint8. Received: {name} of {dtype}.")
    return splits


def is_folder(path: pathlib.Path) -> bool:
    """Whether TFDS prepared a data set in this folder, or in the folders of its versions."""
    return _newest(path) is not None


def _newest(path):
    folders = [path, *sorted((file for file in path.iterdir() if file.is_dir()), reverse=True)] if path.is_dir() else []
    return next((folder for folder in folders if (folder / "dataset_info.json").is_file()), None)


def _builder(name, data_dir):
    import tensorflow_datasets as tfds  # slow to import, and only needed here

    folder = _newest(pathlib.Path(name).expanduser())
    try:
        if folder is not None:
            return tfds.builder_from_directory(folder)
        builder = tfds.builder(name, data_dir=os.path.expanduser(data_dir) or None)
    except tfds.core.DatasetNotFoundError:
        _check_depth(name, data_dir)
        near = ", ".join(difflib.get_close_matches(name, tfds.list_builders(), 3))
        hint = f" Did you mean {near}?" if near else ""
        raise DataError(
            f"`dataset` must be digits, a TFDS name, or a file or folder that exists. Received: {name}.{hint}"
        ) from None
    except Exception as error:
        raise DataError(f"`dataset` must be a data set that TFDS can open. Received: {name} ({error}).") from None
    if not builder.is_prepared():
        _check_depth(name, data_dir)
        builder = _prepare(name, builder)
    return builder


def _open(name, data_dir, keep_colour) -> dict[str, Records]:
    import tensorflow_datasets as tfds

    builder = _builder(name, data_dir)
    features: typing.Any = builder.info.features
    if "image" not in features or "train" not in builder.info.splits:
        raise DataError(f"`dataset` must have images and a train split. Received: {name}, which has not.")
    shape = features["image"].shape
    if len(shape) != 3 or None in shape or shape[-1] not in (1, 3):
        raise DataError(f"`dataset` must hold grey or RGB images of one size. Received: {name} of shape {shape}.")
    file_format: typing.Any = builder.info.file_format
    if file_format != tfds.core.FileFormat.TFRECORD:
        raise DataError(
            f"`dataset` must be prepared by TFDS as tfrecord, its default. Received: {name} as {file_format.value}."
        )
    found = by_set([split for split in builder.info.splits if split.isalpha()], name)
    return {ours: Records.of_split(builder, theirs, keep_colour) for ours, theirs in found.items()}


def _check_depth(name, data_dir):
    """Says if the folder is within the data set, where its name is looked for once more."""
    import tensorflow_datasets as tfds

    folder, first = pathlib.Path(data_dir), re.split(r"[/:]", name)[0]
    for above in itertools.islice(folder.parents, 2):
        if first not in folder.parts[len(above.parts) :]:
            continue
        try:
            is_there = tfds.builder(name, data_dir=above).is_prepared()
        except Exception:  # TFDS has many
            continue
        if is_there:
            raise DataError(f"`data_dir` must be the folder above {first}, {above}. Received: {folder}.")


def _prepare(wanted, builder):
    """The builder of `wanted` after its download; without a network, says how to prepare it elsewhere."""
    import tensorflow_datasets as tfds

    name, folder = builder.info.full_name, builder.data_dir_root
    print(f"Preparing {name} in {folder} with TFDS.", flush=True)
    was_there, new = os.path.isdir(folder), [".lock"]
    new = [name for name in new if not os.path.exists(os.path.join(folder, name))]
    tfds.disable_progress_bar()  # it would stay on the screen, broken, where there is no network
    try:
        with _one_at_a_time(folder), no_download_retries():
            # Not before: another process may have had the lock.
            new += [name for name in ("downloads", builder.name) if not os.path.exists(os.path.join(folder, name))]
            builder = tfds.builder(wanted, data_dir=folder)  # which another process may have prepared meanwhile
            if not builder.is_prepared():
                builder.download_and_prepare()
        return builder
    except Exception as error:
        _remove(folder, new, was_there)
        reason = str(error).strip().splitlines()[0][:100] if str(error).strip() else type(error).__name__
        raise DataError(
            f"`dataset={builder.name}` is not prepared in {folder} and cannot be downloaded from here "
            f"({type(error).__name__}: {reason}); on a machine with a network run `tfds build {builder.name}`, copy "
            f"~/tensorflow_datasets/{name} here, and name the folder above {builder.name} with `data_dir`."
        ) from None


def _remove(folder, names, was_there):
    """Removes what a download that failed has left: what is called so, and the folder itself if it was made for it."""
    for name in names:
        path = os.path.join(folder, name)
        if os.path.isdir(path):
            shutil.rmtree(path, ignore_errors=True)
        elif os.path.exists(path):
            os.unlink(path)
    if not was_there and os.path.isdir(folder) and not os.listdir(folder):
        os.rmdir(folder)


@contextlib.contextmanager
def _one_at_a_time(folder):
    """Within the block no other process prepares a data set in `folder`; all may, where files cannot be locked."""
    with contextlib.ExitStack() as held:
        if "://" not in str(folder):  # no bucket
            with contextlib.suppress(OSError):
                os.makedirs(folder, exist_ok=True)
                fcntl.flock(held.enter_context(open(os.path.join(folder, ".lock"), "a")), fcntl.LOCK_EX)
        yield
