"""From the name of a data set, or a file, to images and batches of x."""

import difflib
import pathlib
import typing
import zipfile
import zlib

import numpy as np
import tensorflow as tf

from tf_ldiaf.config import Config, ConfigError

# The test set, and the draws of `dynamic`, are the same whatever the run's seed: numbers stay comparable.
_FIXED_SEED = 0
_TEST_FRACTION = 0.2
_READ_BATCH = 1000


class Images(typing.NamedTuple):
    """Three disjoint sets of images, each [n, H, W], uint8 or float32.

    Pixels are 0 or 1, but for the training images of a dynamic binarisation: grey in 0-255 (uint8) or 0-1 (float32).
    """

    train: np.ndarray
    valid: np.ndarray
    test: np.ndarray


def load(config: Config) -> Images:
    """The images of `config.dataset`, split and binarised.

    Splits that the source has are kept; a missing test set is a fifth of the images, drawn with a
    fixed seed, and a missing validation set is drawn from the training images with `config.seed`.

    Raises:
        ConfigError: a source that is missing, unreadable, empty, of a wrong shape or out of range,
            or grey where 0/1 is asked for. One sentence each.
    """
    path = _as_path(config.dataset)
    if config.dataset == "digits":
        splits = _read_digits()
    elif path.suffix == ".npz":
        splits = _read_npz(path)
    elif path.is_dir():
        splits = _read_folder(path)
    elif path.is_absolute() or config.dataset.startswith((".", "~")):
        found = "is neither" if path.exists() else "does not exist"
        raise ConfigError(
            f"--dataset must be an .npz file or a folder of PNGs. Received: {config.dataset}, which {found}."
        )
    else:
        splits = _read_tfds(config.dataset, config.data_dir)
    splits = _as_pictures(splits, "--dataset")
    images = _split(splits, config)
    for name, x in images._asdict().items():
        if not len(x):
            raise ConfigError(f"--dataset must leave at least one image in each set. Received: no {name} image.")
    return _binarized(images, config)


def read_images(file: str) -> np.ndarray:
    """The images of the first array of an .npz file, thresholded at one half: [n, H, W], float32 in {0, 1}.

    Raises:
        ConfigError: the file is missing or unreadable, or its array does not hold images.
    """
    x = next(iter(_as_pictures(_read_arrays(pathlib.Path(file), "--reconstruct"), "--reconstruct").values()))
    return _thresholded(x).astype("float32")


def training_batches(images: np.ndarray, config: Config, first_epoch: int = 0) -> tf.data.Dataset:
    """Endless batches [B, H, W] of float32 in {0, 1}, `steps_per_epoch` of them an epoch.

    The order, and every draw of a dynamic binarisation, is a function of (seed, epoch) alone. What
    does not fill a batch is left out of that epoch.
    """
    batch, steps = _batch_size(images, config), steps_per_epoch(images, config)
    pixels = tf.constant(images)

    def one_epoch(epoch):
        seed = tf.stack([tf.constant(config.seed, tf.int64), epoch])
        order = tf.random.experimental.stateless_shuffle(tf.range(len(images)), seed=seed)
        batches = tf.reshape(order[: steps * batch], [steps, batch])
        return tf.data.Dataset.from_tensor_slices((batches, tf.range(steps))).map(
            lambda rows, step: (
                _drawn(tf.gather(pixels, rows), tf.random.fold_in(tf.cast(seed, tf.int32), step))
                if config.binarization == "dynamic"
                else tf.cast(tf.gather(pixels, rows), tf.float32)
            )
        )

    epochs = tf.data.Dataset.range(first_epoch, np.iinfo(np.int64).max)
    return epochs.flat_map(one_epoch).prefetch(tf.data.AUTOTUNE)


def steps_per_epoch(images: np.ndarray, config: Config) -> int:
    """Full batches in one pass over `images`."""
    return len(images) // _batch_size(images, config)


def evaluation_batches(images: np.ndarray, batch_size: int) -> tf.data.Dataset:
    """Batches (x, x, weight) in order, all of one size: the last is filled up with images of weight 0.

    One size means one compilation, and the weights keep the padding out of every mean.
    """
    size = min(batch_size, len(images))
    padding = -len(images) % size
    padded = np.concatenate([images, images[:padding]])
    weights = np.concatenate([np.ones(len(images), "float32"), np.zeros(padding, "float32")])

    def as_example(x, weight):
        x = tf.cast(x, tf.float32)
        return x, x, weight

    return tf.data.Dataset.from_tensor_slices((padded, weights)).batch(size, drop_remainder=True).map(as_example)


def _batch_size(images, config):
    return min(config.batch_size, len(images))


def _as_path(dataset):
    try:
        path = pathlib.Path(dataset).expanduser()
        path.exists()
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"--dataset must be a name or a path. Received: {dataset} ({error}).") from None
    return path


# Sources: each gives a dict of arrays among train, valid, test


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
            return {name: arrays[key] for key, name in names.items() if key in arrays}
    except unreadable as error:
        raise ConfigError(f"{flag} must be a readable .npz file of numbers. Received: {path} ({error}).") from None


def _read_folder(path):
    parts = {name: path / name for name in ("train", "valid", "test") if (path / name).is_dir()}
    if "train" not in parts:
        parts = {"train": path}
    return {name: _read_pngs(part) for name, part in parts.items()}


def _read_pngs(path):
    from PIL import Image, UnidentifiedImageError

    files = sorted(file for file in path.rglob("*") if file.suffix.lower() == ".png")
    if not files:
        raise ConfigError(f"--dataset must be a folder with PNG images. Received: {path}, which holds none.")
    pictures = []
    for file in files:
        try:
            with Image.open(file) as picture:
                mode = picture.mode
                pixels = np.asarray(picture.convert("L"))
        except (OSError, UnidentifiedImageError, SyntaxError, ValueError) as error:
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
        _prepare(builder)
    features: typing.Any = builder.info.features
    if "image" not in features or "train" not in builder.info.splits:
        raise ConfigError(f"--dataset must have images and a train split. Received: {name}, which has not.")
    shape = features["image"].shape
    if len(shape) != 3 or None in shape or shape[-1] not in (1, 3):
        raise ConfigError(f"--dataset must hold grey or RGB images of one size. Received: {name} of shape {shape}.")
    names = {"train": "train", "validation": "valid", "test": "test"}
    return {ours: _read_tfds_split(builder, theirs) for theirs, ours in names.items() if theirs in builder.info.splits}


def _prepare(builder):
    """Downloads a data set; without a network, says how to prepare it elsewhere."""
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import downloader

    name, folder = builder.info.full_name, builder._data_dir_root
    retries, downloader.MAX_RETRIES = downloader.MAX_RETRIES, 0  # TFDS would retry for minutes, deaf to Ctrl-C
    print(f"Preparing {name} in {folder} with TFDS.", flush=True)
    tfds.disable_progress_bar()  # it would stay on the screen, broken, where there is no network
    try:
        builder.download_and_prepare()
    except Exception as error:
        reason = str(error).strip().splitlines()[0][:100] if str(error).strip() else type(error).__name__
        raise ConfigError(
            f"--dataset={builder.name} is not prepared in {folder} and cannot be downloaded from here "
            f"({type(error).__name__}: {reason}); on a machine with a network run `tfds build {builder.name}`, copy "
            f"~/tensorflow_datasets/{name} here, and name the folder above {builder.name} with --data_dir."
        ) from None
    finally:
        downloader.MAX_RETRIES = retries


def _read_tfds_split(builder, split):
    def grey(example):
        image = example["image"]
        return tf.image.rgb_to_grayscale(image) if image.shape[-1] == 3 else image

    batches = builder.as_dataset(split=split, batch_size=_READ_BATCH, shuffle_files=False).map(grey)
    return np.concatenate([batch[..., 0] for batch in batches.as_numpy_iterator()])


# From arrays to binary images


def _as_pictures(splits, flag):
    """Every array as [n, H, W], uint8 in 0-255 or float32 in 0-1; one shape and one dtype for all."""
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
    if all(x.dtype == "uint8" and (x <= 1).all() for x in splits.values()):
        splits = {name: x * np.uint8(255) for name, x in splits.items()}
    return splits


def _split(splits, config):
    train, test = splits["train"], splits.get("test")
    if test is None:
        test, train = _held_out(train, _TEST_FRACTION, _FIXED_SEED)
    valid = splits.get("valid")
    if valid is None:
        valid, train = _held_out(train, config.validation_fraction, config.seed)
    if config.limit_train and config.limit_train < len(train):
        train, _ = _held_out(train, config.limit_train / len(train), config.seed)
    return Images(train, valid, test)


def _held_out(x, fraction, seed):
    """A random part of x, and the rest."""
    order = np.random.default_rng(seed).permutation(len(x))
    num = round(fraction * len(x))
    return x[np.sort(order[:num])], x[np.sort(order[num:])]


def _binarized(images, config):
    if config.binarization == "dynamic":
        drawn = [_draw_once(x, split) for split, x in enumerate(images[1:])]
        return Images(images.train, *drawn)
    if config.binarization == "none":
        for name, x in images._asdict().items():
            if not ((x == 0) | (x == (255 if x.dtype == "uint8" else 1))).all():
                raise ConfigError(
                    f"--binarization=none needs pixels that are all 0 or 1. Received: grey {name} images in "
                    f"{config.dataset}; threshold and dynamic make them binary."
                )
    return Images(*(_thresholded(x) for x in images))


def _thresholded(x):
    return (x > (127 if x.dtype == "uint8" else 0.5)).astype("uint8")


def _draw_once(x, split):
    chunks = [
        _drawn(tf.constant(x[i : i + _READ_BATCH]), tf.constant([_FIXED_SEED + split, i], tf.int32)).numpy()
        for i in range(0, len(x), _READ_BATCH)
    ]
    return np.concatenate(chunks).astype("uint8") if chunks else x


def _drawn(grey, seed):
    """A Bernoulli draw of every pixel, float32 in {0, 1}."""
    scale = 255.0 if grey.dtype == tf.uint8 else 1.0
    uniform = tf.random.stateless_uniform(tf.shape(grey), seed=seed)
    return tf.cast(uniform < tf.cast(grey, tf.float32) / scale, tf.float32)
