"""Images in picture files: in a folder, or in a .zip or .tar archive."""

import concurrent.futures
import contextlib
import functools
import io
import itertools
import os
import pathlib
import sys
import typing
import warnings
import zlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import rich.progress
from PIL import Image, ImageOps, UnidentifiedImageError

from tf_ldiaf.data import archives, arrays
from tf_ldiaf.data.splits import Source, by_set, set_named
from tf_ldiaf.errors import DataError

FORMATS = ("PNG", "JPEG", "GIF", "BMP", "WEBP", "TIFF")  # Pillow knows more, and starts other programs for some
_ENDINGS = {".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff"}
_FOREIGN = {"__MACOSX", "@eaDir", "lost+found"}
_THREADS, _PIECE = 4, 256
_SMALL = 10_000  # bytes of a file: of smaller ones Python's part is the larger, and threads wait for each other
_DARK = 16  # of 255: no pixel of 12 bits in a file of 16 is above
_MANY = 4 * _PIECE  # pictures whose reading takes long enough for a bar


class Reading(typing.NamedTuple):
    """How pictures are read; see `data.load`. With `keep_values`, those of 16 or 32 bits stay as they are: float32."""

    image_size: tuple[int, ...] = ()
    skip_unreadable: bool = False
    keep_colour: bool = False
    keep_values: bool = False


class _UnreadableError(Exception):
    """Why a picture cannot be read."""


def open_folder(path: pathlib.Path, reading: Reading) -> dict[str, Source]:
    """The sets of a folder, see `_by_set`."""
    return _open(path, names_in(path), lambda name: (path / name).read_bytes(), reading)


def names_in(path: pathlib.Path) -> list[str]:
    """The files in a folder and in those below it."""
    try:
        return [str(file.relative_to(path)) for file in sorted(_files_below(path, set(), {}))]
    except OSError as error:
        name = error.filename or path
        raise DataError(f"`dataset` must be a folder that can be read. Received: {name} ({error.strerror}).") from None


def _files_below(path, above, entered):
    """The files in a folder and in those below it, linked ones too. One that holds itself is not entered again."""
    place = path.resolve()
    if place in above:
        return
    if place in entered:
        raise DataError(f"`dataset` must have each folder once. Received: {path}, which is {entered[place]}.")
    entered[place] = path
    for entry in path.iterdir():
        if entry.is_dir():
            if not _is_hidden(entry.name):
                yield from _files_below(entry, {*above, place}, entered)
        elif entry.is_file() or entry.is_symlink():  # a link to nothing is said where it is read
            yield entry


def open_archive(path: pathlib.Path, reading: Reading, split: str = "train") -> dict[str, Source]:
    """The same of a .zip or .tar archive, which may be packed by gzip. It is of `split`, if its folders say nothing."""
    files = archives.unpacked(path)
    return _open(path, list(files), files.__getitem__, reading, split)


def readable(read: Callable[[str], bytes]) -> Callable[[str], bytes]:
    """What gives the content of a picture; of one that the machine does not give, that is what cannot be read."""

    def content(name):
        try:
            return read(name)
        except OSError as error:
            raise _UnreadableError(error.strerror or str(error)) from None

    return content


def _open(path, names, read, reading, split="train"):
    read = readable(read)
    found, num_others = pictures_by_set(names, path, split)
    paper = functools.cache(lambda: paper_of(found[split], read))  # one for all sets
    return {
        name: Source(
            functools.partial(_read, path, part, read, reading, num_others, paper), functools.partial(_crc, part, read)
        )
        for name, part in found.items()
    }


def pictures_by_set(names: list[str], path: pathlib.Path, wanted: str = "train") -> tuple[dict[str, list[str]], int]:
    """The pictures of each set, and how many other files there are; hidden ones are left out.

    The set that is wanted must be there; all pictures are of it if no folder says a set.

    Raises:
        DataError: a set has no pictures, or as of `_by_set`.
    """
    files = [name for name in names if not _is_hidden(name)]
    sets, num_others = _by_set(files, path, wanted), sum(not _is_picture(name) for name in files)
    found = {split: [name for name in part if _is_picture(name)] for split, part in sets.items()}
    for split, part in found.items():
        if not part:
            raise DataError(
                f"`dataset` must hold {split} pictures ({', '.join(FORMATS)}). Received: {path}, which holds none."
            )
    return found, num_others


def _is_picture(name):
    return pathlib.PurePath(name).suffix.lower() in _ENDINGS


def _is_hidden(name):
    return any(part.startswith(".") or part in _FOREIGN for part in pathlib.PurePath(name).parts)


def _by_set(names, path, wanted) -> dict[str, list[str]]:
    """The files of each set: it is the first folder on the way to a file whose name means one.

    A folder that all pictures are in does not count if the folders in it are the sets. Without any such folder, all
    files are of the set that is wanted.

    Raises:
        DataError: this set is not there, there are two folders for one set, or some pictures are in no set.
    """
    folders = {name: pathlib.PurePath(name).parts[:-1] for name in names}
    ways = [parts for name, parts in folders.items() if _is_picture(name)]
    levels = zip(*ways, strict=False)
    num_common = next((i for i, parts in enumerate(levels) if len(set(parts)) > 1), min(map(len, ways), default=0))
    below = [next(filter(None, map(set_named, parts[num_common:])), None) for parts in ways]
    if None not in below and len(set(below)) > 1:
        folders = {name: parts[num_common:] for name, parts in folders.items()}
    meaning = {part for parts in folders.values() for part in parts if set_named(part)}
    first = {name: next((part for part in parts if part in meaning), "") for name, parts in folders.items()}
    sets = by_set(sorted(set(first.values()) - {""}), str(path))
    if not sets:
        return {wanted: names}
    said = " and ".join(sets.values())
    if wanted not in sets:
        raise DataError(f"`dataset` must have a folder {wanted} beside {said}. Received: {path}.")
    others = [name for name, folder in first.items() if not folder and _is_picture(name)]
    if others:
        other = [*folders[others[0]], pathlib.PurePath(others[0]).name][0]
        raise DataError(
            f"`dataset` must have its pictures in {said} only, or in other folders named like train, valid and test. "
            f"Received: {path}, which has {other} beside them."
        )
    return {split: [name for name in names if first[name] == folder] for split, folder in sets.items()}


def _crc(names, read):
    checksum = 0
    for name in names:
        with contextlib.suppress(_UnreadableError):  # left out, or said when pictures are read
            checksum = zlib.crc32(read(name), zlib.crc32(os.fsencode(name), checksum))  # a name may be no text
    return checksum


def _read(path, names, read, reading, num_others, paper):
    found, skipped = decoded(names, read, path, reading, paper())
    check_bright(found, names, read, path)
    said = [f"{skipped} that cannot be read"] * bool(skipped) + [f"{num_others} other files"] * bool(num_others)
    empty = sum(map(_is_empty, found))
    if said:
        print(f"Left out of {path}: {' and '.join(said)}.", flush=True)
    if empty:
        print(f"Of one colour in {path}: {empty} of {len(found)} pictures.", flush=True)
    return found


def decoded(
    names: Sequence[str], read: Callable[[str], bytes], where: typing.Any, reading: Reading, paper: int | None = None
) -> tuple:
    """Pictures of one size as uint8 [n, H, W], and how many were skipped; [n, H, W, 3] if colour is kept and is there.

    They are float32 if values are kept, and some have 16 or 32 bits.

    Args:
        names, read: of the pictures, and what gives the content of one, see `readable`.
        where: they are, for errors.
        reading: see there.
        paper: the grey that transparent ones lie on. None: `paper_of` these pictures.

    Raises:
        DataError: a picture cannot be read, or their sizes differ and `image_size` is not given.
    """
    paper = paper_of(names, read) if paper is None else paper
    pictures, skipped = [], 0

    def one(name):
        try:
            return as_pixels(read(name), paper, reading)
        except _UnreadableError as error:
            return error

    def several(first):
        return [one(name) for name in names[first : first + _PIECE]]

    num_threads = 1
    with contextlib.suppress(_UnreadableError):
        num_threads = _THREADS if names and len(read(names[0])) > _SMALL else 1
    with concurrent.futures.ThreadPoolExecutor(num_threads) as threads:
        pieces = threads.map(several, range(0, len(names), _PIECE))
        is_quick = len(names) < _MANY or not sys.stdout.isatty()
        shown = rich.progress.track(
            pieces, f"Reading {where}", -(-len(names) // _PIECE), transient=True, disable=is_quick
        )
        for name, picture in zip(names, itertools.chain.from_iterable(shown), strict=True):
            if isinstance(picture, _UnreadableError):
                if not reading.skip_unreadable:
                    raise DataError(
                        f"`dataset` must hold readable pictures, or `skip_unreadable` be given. Received: {where}, "
                        f"{name} ({picture})."
                    )
                skipped += 1
                continue
            if not pictures:
                arrays.check_size(picture.nbytes * len(names), where)
            if pictures and picture.shape[:2] != pictures[0].shape[:2]:
                raise DataError(
                    "`dataset` must hold pictures of one size, or `image_size` must say to which one they are scaled, "
                    f"as 64,48 for height and width. Received: {where}, whose first is {_size(pictures[0])} and whose "
                    f"{name} is {_size(picture)}."
                )
            pictures.append(picture)
    if not pictures:
        raise DataError(f"`dataset` must hold readable pictures. Received: {where}, of which none is.")
    return _stacked(pictures), skipped


def _stacked(pictures):
    """Pictures that may be grey or of colour, as one array."""
    if all(picture.ndim == 2 for picture in pictures):
        return np.stack(pictures)
    x = np.stack([picture if picture.ndim == 3 else np.repeat(picture[..., np.newaxis], 3, -1) for picture in pictures])
    is_grey = (x[..., :1] == x).all()
    return x[..., 0] if is_grey else x


def check_bright(found: np.ndarray, names: Sequence[str], read: Callable[[str], bytes], where: typing.Any) -> None:
    """Says if pictures look like those of 10 or 12 bits in files of 16.

    Args:
        found: what `decoded` made of them.
        names, read, where: as of `decoded`.

    Raises:
        DataError: a file has more than 8 bits, and no pixel of any is above a sixteenth of white.
    """
    if found.dtype == "uint8" and found.max() <= _DARK and any(_is_deep(read, name) for name in names[:_PIECE]):
        raise DataError(
            "`dataset` must have pictures whose white is 65535 (16 bits) or 1 (32 bits), or another that `value_range` "
            "names, as 0,4095 for 12 bits of grey; those of colour must be saved with 8 bits. "
            f"Received: {where}, where no pixel is above a sixteenth of white."
        )


def _is_deep(read, name):
    """Whether a picture file can be read, and has more than 8 bits."""
    try:
        with Image.open(io.BytesIO(read(name)), formats=FORMATS) as picture:
            return picture.mode.startswith(("I", "F")) or _is_cut(picture)
    except Exception:
        return False


def _is_cut(picture):
    """Whether a picture that is not decoded yet has colours of 16 bits, of which Pillow reads the upper 8."""
    tiles = str(picture.tile).replace("BGR;16", "")  # a BMP of 16 bits for all three colours
    return ";16" in tiles and not picture.mode.startswith("I")


def _is_empty(picture):
    """Whether it has one colour."""
    return bool((picture == picture.flat[0]).all())


def _size(picture):
    return " x ".join(map(str, picture.shape[:2]))


def as_pixels(content: bytes, paper: int, reading: Reading) -> np.ndarray:
    """A picture file as [H, W] or [H, W, 3], uint8 or see `Reading`: upright, on paper of that grey.

    Raises:
        _UnreadableError: it is no such file, is damaged, or has several pictures or too many pixels.
    """
    try:
        bombs = warnings.catch_warnings(action="error", category=Image.DecompressionBombWarning)
        with bombs, Image.open(io.BytesIO(content), formats=FORMATS) as picture:
            num = getattr(picture, "n_frames", 1)
            if picture.format == "TIFF" and num > 1:
                raise ValueError(f"{num} pictures in one file")
            if reading.keep_values and _is_cut(picture):
                raise ValueError("colours of 16 bits, of which 8 are read; `value_range` can name those of grey only")
            pixels = _drawn(ImageOps.exif_transpose(picture), paper, reading)
            if reading.image_size:
                height, width = reading.image_size
                low, high = pixels.getextrema() if pixels.mode == "F" else (0, 255)  # LANCZOS goes beyond them
                pixels = ImageOps.fit(pixels, (width, height), Image.Resampling.LANCZOS)
                return np.clip(np.asarray(pixels), low, high)
            return np.asarray(pixels)
    except UnidentifiedImageError:
        raise _UnreadableError("no picture of these kinds") from None
    except Exception as error:  # there is no end of what readers make of a damaged file
        raise _UnreadableError(str(error) or type(error).__name__) from None


def is_one(path: pathlib.Path) -> bool:
    """Whether the path is that of a picture file, by its name."""
    return path.suffix.lower() in _ENDINGS and path.is_file()


def one(path: pathlib.Path, color: str, keep_values: bool = False) -> np.ndarray:
    """The picture of a file, as the only one of `decoded`, whose errors it has, and those of `check_bright`.

    Args:
        path: of the file.
        color: keep, or grey.
        keep_values: see `Reading`.
    """
    read = readable(lambda name: path.read_bytes())
    reading = Reading(keep_colour=color == "keep", keep_values=keep_values)
    found, _ = decoded([path.name], read, path.parent, reading)
    check_bright(found, [path.name], read, path)
    return found


def _drawn(picture, paper, reading):
    """A Pillow picture of any mode as one of 8 bits, or see `Reading`; of colour if it has some and that is kept."""
    mode = "RGB" if reading.keep_colour and not picture.mode.startswith(("1", "L", "I", "F")) else "L"
    if picture.mode.startswith(("I", "F")):  # 16 or 32 bits
        x = np.asarray(picture)
        if reading.keep_values:
            return Image.fromarray(x.astype("float32"))
        white = 1 if picture.mode == "F" else 65535
        if not (np.isfinite(x).all() and x.min() >= 0 and x.max() <= white):
            raise ValueError(f"values from {x.min():g} to {x.max():g}; `value_range` names those of black and white")
        return Image.fromarray(np.round(x * (255 / white)).astype("uint8"))
    if not picture.has_transparency_data:
        return picture.convert(mode)
    drawn = picture.convert("RGBA")
    on_paper = Image.new("RGBA", drawn.size, (paper, paper, paper, 255))
    on_paper.alpha_composite(drawn)
    return on_paper.convert(mode)


def paper_of(names: Sequence[str], read: Callable[[str], bytes]) -> int:
    """What transparent pictures lie on: white, unless one of them is then all of one colour, and on black is not.

    The first of them that is transparent says it, if it is one of the first 256 pictures.
    """
    for name in names[:_PIECE]:
        try:
            on_white, on_black = (as_pixels(read(name), paper, Reading()) for paper in (255, 0))
        except _UnreadableError:
            continue
        if not np.array_equal(on_white, on_black) and not (_is_empty(on_white) and _is_empty(on_black)):
            return 0 if _is_empty(on_white) else 255
    return 255


def resized(images: Mapping[str, np.ndarray], image_size: tuple[int, ...]) -> dict[str, np.ndarray]:
    """Images [n, H, W] or [n, H, W, 3], uint8 or float32, cropped to the aspect of (H, W), and scaled to it."""
    height, width = image_size

    def one(image):
        if image.ndim == 3 and image.dtype != "uint8":  # Pillow has no floats of colour
            return np.stack([one(image[..., channel]) for channel in range(3)], axis=-1)
        picture = ImageOps.fit(Image.fromarray(image), (width, height), Image.Resampling.LANCZOS)
        return np.clip(np.asarray(picture), 0, 255 if image.dtype == "uint8" else 1)

    return {
        name: x
        if x.shape[1:3] == (height, width)
        else np.array([one(image) for image in x], x.dtype).reshape(-1, height, width, *x.shape[3:])
        for name, x in images.items()
    }
