"""Where images come from: scikit-learn's digits, .npz files, folders of PNG images, TFDS."""

import contextlib
import difflib
import fcntl
import math
import os
import pathlib
import typing
import warnings
import zipfile
import zlib

import numpy as np

from tf_ldiaf.config import ConfigError
from tf_ldiaf.data.records import Records


def read(dataset: str, data_dir: str) -> dict[str, np.ndarray]:
    """The arrays that a data set has among train, valid, test; train is always there.

    Args:
        dataset: digits, an .npz file, a folder, or a TFDS name.
        data_dir: where TFDS keeps its data sets; "" for its own choice.

    Returns:
        Arrays [n, H, W] of one size and type, uint8 in 0-255 or float32 in 0-1.

    Raises:
        ConfigError: a source that is missing, unreadable, of a wrong shape or out of range.
    """
    path = _as_path(dataset)
    if dataset == "digits":
        splits = _read_digits()
    elif path.suffix == ".npz":
        splits = _read_npz(path)
    elif path.is_dir():
        splits = _read_folder(path)
    elif path.is_absolute() or dataset.startswith((".", "~")):
        found = "is neither" if path.exists() else "does not exist"
        raise ConfigError(f"--dataset must be an .npz file or a folder of PNGs. Received: {dataset}, which {found}.")
    else:
        splits = _read_tfds(dataset, data_dir)
    return as_pictures(splits, "--dataset")


def open_records(dataset: str, data_dir: str) -> dict[str, Records]:
    """The sets that a TFDS data set has among train, valid, test, not read yet; train is always there.

    Args:
        dataset: a TFDS name.
        data_dir: where TFDS keeps its data sets; "" for its own choice.

    Raises:
        ConfigError: not a TFDS name, or a data set that is not prepared, or whose images have no common size.
    """
    if dataset == "digits" or dataset.endswith(".npz") or dataset.startswith((".", "~", "/")):
        raise ConfigError(f"--stream needs a --dataset of TFDS. Received: {dataset}.")
    return _open_tfds(dataset, data_dir)


def read_first_array(file: str, flag: str) -> np.ndarray:
    """The images of the first array of an .npz file, as `read` gives them; errors speak of `flag`.

    Raises:
        ConfigError: the file is missing or unreadable, or its array does not hold images.
    """
    arrays = as_pictures(_read_arrays(pathlib.Path(file), flag), flag)
    if not any(len(x) for x in arrays.values()):
        raise ConfigError(f"{flag} must be an .npz file with images. Received: {file}, which has none.")
    return next(iter(arrays.values()))


def _as_path(dataset):
    try:
        path = pathlib.Path(dataset).expanduser()
        path.exists()
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"--dataset must be a name or a path. Received: {dataset} ({error}).") from None
    return path


def _read_digits():
    from sklearn.datasets import load_digits  # slow to import, and only needed here

    return {"train": np.round(load_digits().images * (255 / 16)).astype("uint8")}


_NPZ_NAMES = {f"{prefix}{name}": name for prefix in ("", "x_") for name in ("train", "valid", "test")}


def _read_npz(path):
    splits = _read_arrays(path, "--dataset", _NPZ_NAMES)
    if "train" not in splits:
        raise ConfigError(
            "--dataset must be an .npz file with arrays train, valid, test or x_train, x_valid, x_test. "
            f"Received: {path}, which has no training images."
        )
    return splits


def _read_arrays(path, flag, names=None):
    """The arrays of an .npz file that are called one of `names`, under their new names; by default the first."""
    if not path.is_file():
        raise ConfigError(f"{flag} must be an .npz file that exists. Received: {path}.")
    unreadable = (
        *(OSError, ValueError, EOFError, TypeError, AttributeError, MemoryError, NotImplementedError),
        *(zipfile.BadZipFile, zlib.error),
    )
    try:
        with np.load(path, allow_pickle=False) as arrays:
            names = names or {name: name for name in arrays.files[:1]}
            size = sum(member.file_size for member in arrays.zip.infolist())
            if size > _memory() // 4:
                raise ConfigError(
                    f"{flag} must fit into a quarter of this machine's memory, {_memory() // 4:,} bytes. "
                    f"Received: {path}, which unpacks to {size:,}."
                )
            found = {name: arrays[key] for key, name in names.items() if key in arrays}
    except ConfigError:
        raise
    except unreadable as error:
        raise ConfigError(f"{flag} must be a readable .npz file of numbers. Received: {path} ({error}).") from None
    for name, x in found.items():
        if not isinstance(x, np.ndarray):
            raise ConfigError(f"{flag} must be a readable .npz file of numbers. Received: {path}, whose {name} is not.")
    return found


def _memory():
    """Bytes of this machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def _read_folder(path):
    parts = {name: path / name for name in ("train", "valid", "test") if (path / name).is_dir()}
    if parts and "train" not in parts:
        raise ConfigError(f"--dataset must have a folder train beside {' and '.join(parts)}. Received: {path}.")
    parts = parts or {"train": path}
    return {name: _read_pngs(part) for name, part in parts.items()}


def _read_pngs(path):
    from PIL import Image, UnidentifiedImageError

    files = sorted(file for file in path.rglob("*") if file.suffix.lower() == ".png")
    if not files:
        raise ConfigError(f"--dataset must be a folder with PNG images. Received: {path}, which holds none.")
    unreadable = (OSError, UnidentifiedImageError, SyntaxError, ValueError)
    unreadable += (Image.DecompressionBombError, Image.DecompressionBombWarning)
    pictures = []
    for file in files:
        try:
            bombs = warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning)
            with bombs, Image.open(file) as picture:
                mode = picture.mode
                pixels = np.asarray(picture.convert("L"))
        except unreadable as error:
            raise ConfigError(f"--dataset must hold readable PNG images. Received: {file} ({error}).") from None
        if mode not in ("1", "L", "LA", "P", "RGB", "RGBA"):
            raise ConfigError(f"--dataset must hold PNG images of 8 bits. Received: {file} of mode {mode}.")
        if pictures and pixels.shape != pictures[0].shape:
            raise ConfigError(
                f"--dataset must hold images of one size, {pictures[0].shape} like the first. "
                f"Received: {file} of {pixels.shape}."
            )
        pictures.append(pixels)
    return np.stack(pictures)


def _read_tfds(name, data_dir):
    splits = _open_tfds(name, data_dir)
    size = sum(math.prod(records.shape) * np.dtype(records.dtype).itemsize for records in splits.values())
    if size > _memory() // 4:
        raise ConfigError(
            f"--dataset must fit into a quarter of this machine's memory, {_memory() // 4:,} bytes, or be read with "
            f"--stream. Received: {name} of {size:,}."
        )
    return {split: records.array() for split, records in splits.items()}


def _open_tfds(name, data_dir):
    import tensorflow_datasets as tfds  # slow to import, and only needed here

    try:
        builder = tfds.builder(name, data_dir=data_dir or None)
    except tfds.core.DatasetNotFoundError:
        near = ", ".join(difflib.get_close_matches(name, tfds.list_builders(), 3))
        hint = f" Did you mean {near}?" if near else ""
        raise ConfigError(
            f"--dataset must be digits, a TFDS name, an .npz file or a folder. Received: {name}.{hint}"
        ) from None
    except Exception as error:
        raise ConfigError(f"--dataset must be a data set that TFDS can open. Received: {name} ({error}).") from None
    if not builder.is_prepared():
        builder = _prepare(name, builder)
    features: typing.Any = builder.info.features
    if "image" not in features or "train" not in builder.info.splits:
        raise ConfigError(f"--dataset must have images and a train split. Received: {name}, which has not.")
    shape = features["image"].shape
    if len(shape) != 3 or None in shape or shape[-1] not in (1, 3):
        raise ConfigError(f"--dataset must hold grey or RGB images of one size. Received: {name} of shape {shape}.")
    file_format = builder.info.file_format
    if file_format != tfds.core.FileFormat.TFRECORD:
        raise ConfigError(
            f"--dataset must be prepared by TFDS as tfrecord, its default. Received: {name} as {file_format.value}."
        )
    names = {"train": "train", "validation": "valid", "test": "test"}
    return {ours: Records.of_split(builder, theirs) for theirs, ours in names.items() if theirs in builder.info.splits}


def _prepare(wanted, builder):
    """The builder of `wanted` after its download; without a network, says how to prepare it elsewhere."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import downloader

    name, folder = builder.info.full_name, builder._data_dir_root
    retries, downloader.MAX_RETRIES = downloader.MAX_RETRIES, 0  # TFDS would retry for minutes, deaf to Ctrl-C
    print(f"Preparing {name} in {folder} with TFDS.", flush=True)
    tfds.disable_progress_bar()  # it would stay on the screen, broken, where there is no network
    try:
        with _one_at_a_time(folder):
            builder = tfds.builder(wanted, data_dir=folder)  # which another process may have prepared meanwhile
            if not builder.is_prepared():
                builder.download_and_prepare()
        return builder
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:100] if str(error).strip() else type(error).__name__
        raise ConfigError(
            f"--dataset={builder.name} is not prepared in {folder} and cannot be downloaded from here "
            f"({type(error).__name__}: {reason}); on a machine with a network run `tfds build {builder.name}`, copy "
            f"~/tensorflow_datasets/{name} here, and name the folder above {builder.name} with --data_dir."
        ) from None
    finally:
        downloader.MAX_RETRIES = retries


@contextlib.contextmanager
def _one_at_a_time(folder):
    """Within the block no other process prepares a data set in `folder`; all may, where files cannot be locked."""
    with contextlib.ExitStack() as held:
        if "://" not in str(folder):  # no bucket
            with contextlib.suppress(OSError):
                os.makedirs(folder, exist_ok=True)
                fcntl.flock(held.enter_context(open(os.path.join(folder, ".lock"), "a")), fcntl.LOCK_EX)
        yield


def as_pictures(splits: dict[str, np.ndarray], flag: str) -> dict[str, np.ndarray]:
    """Every array as [n, H, W], uint8 in 0-255 or float32 in 0-1; one shape and one dtype for all.

    Raises:
        ConfigError: arrays that are not images of one kind; it speaks of `flag`.
    """
    for name, x in splits.items():
        if x.dtype == bool:
            x = x.astype("uint8")
        if x.ndim == 4 and x.shape[-1] == 1:
            x = x[..., 0]
        if x.ndim == 2:  # flat: a square if it is one, else one row of pixels
            side = round(x.shape[1] ** 0.5)
            x = x.reshape(len(x), *((side, side) if side * side == x.shape[1] else (1, x.shape[1])))
        if x.ndim != 3 or 0 in x.shape[1:]:
            raise ConfigError(f"{flag} must hold images [n, H, W] or [n, H * W]. Received: {name} of {x.shape}.")
        if x.dtype != "uint8" and not np.issubdtype(x.dtype, np.floating):
            raise ConfigError(f"{flag} must be uint8 in 0-255 or float in 0-1. Received: {name} of {x.dtype}.")
        if x.dtype != "uint8" and not (np.isfinite(x).all() and (x >= 0).all() and (x <= 1).all()):
            found = "NaN or infinity" if not np.isfinite(x).all() else f"{x.min():g} to {x.max():g}"
            raise ConfigError(f"{flag} must be uint8 in 0-255 or float in 0-1. Received: {name} with {found}.")
        splits[name] = x if x.dtype == "uint8" else x.astype("float32")
    kinds = {(x.shape[1:], x.dtype.name) for x in splits.values()}
    if len(kinds) > 1:
        raise ConfigError(f"{flag} must have one image size and type in all sets. Received: {sorted(kinds)}.")
    # uint8 arrays of 0 and 1 are binary images, not nearly black ones.
    binary = {bool((x <= 1).all()) for x in splits.values() if x.dtype == "uint8" and len(x)}
    if len(binary) > 1:
        raise ConfigError(f"{flag} must be 0-255 in all sets or 0-1 in all. Received: both.")
    if True in binary:
        splits = {name: x * np.uint8(255) for name, x in splits.items()}
    return splits
