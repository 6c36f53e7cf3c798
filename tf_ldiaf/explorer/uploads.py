"""A file that somebody brings, as images for the model."""

import io
import pathlib
import tempfile
import zipfile

import numpy as np
from PIL import Image, UnidentifiedImageError

from tf_ldiaf import data
from tf_ldiaf.data.pictures import FORMATS, Reading, as_pixels
from tf_ldiaf.errors import DataError, RequestError
from tf_ldiaf.explorer.asked import MOST_AT_ONCE

_MOST_PIXELS = 50_000_000
_MOST_UNPACKED = 100_000_000  # bytes
_PAPER = 255  # what transparent pictures lie on: white


def images_of(
    file: bytes, image_shape: tuple[int, ...], num_values: int, value_range: tuple[float, float] | None = None
) -> np.ndarray:
    """Images [n, H, W] or [n, H, W, 3], whole numbers, at most 64, of a picture file or an .npz file.

    A picture is scaled to the model's size. For a model of 0 and 1 its pixels are thresholded at one half; ink is 1: in
    a picture that is mostly light, the dark pixels. For a model of 256 values it is cropped to the aspect before. Of an
    .npz file the first array is taken, as `data.read_images` reads it.

    Args:
        file: its content.
        image_shape: (H, W), or (H, W, 3).
        num_values: of a pixel: 2, or 256.
        value_range: of an .npz file, as `data.read_images` takes it.

    Raises:
        RequestError: it is neither, or its images have another size.
    """
    if file.startswith(b"PK"):
        return _of_npz(file, image_shape, num_values == 2, value_range)
    return _of_picture(file, image_shape, num_values == 2)


def _of_npz(file, image_shape, is_binary, value_range):
    try:
        unpacked = sum(member.file_size for member in zipfile.ZipFile(io.BytesIO(file)).infolist())
    except (zipfile.BadZipFile, OSError, ValueError):
        unpacked = 0  # the reader says what is wrong
    if unpacked > _MOST_UNPACKED:
        raise RequestError(f"`file` must unpack to at most {_MOST_UNPACKED:,} bytes. Received: {unpacked:,}.")
    with tempfile.TemporaryDirectory() as place:
        path = pathlib.Path(place) / "the upload.npz"
        path.write_bytes(file)
        try:
            found = data.read_images(str(path), "file", is_binary, value_range, image_shape)[:MOST_AT_ONCE]
        except DataError as error:
            raise RequestError(str(error).replace(str(path), path.stem)) from None
    if found.shape[1:] != image_shape:
        raise RequestError(f"`file` must hold images of {image_shape}. Received: {found.shape[1:]}.")
    return found


def _of_picture(file, image_shape, is_binary):
    try:
        with Image.open(io.BytesIO(file), formats=FORMATS) as picture:
            if picture.width * picture.height > _MOST_PIXELS:
                raise RequestError(
                    f"`file` must have at most {_MOST_PIXELS:,} pixels. Received: {picture.width} x {picture.height}."
                )
        reading = Reading(() if is_binary else image_shape[:2], keep_colour=len(image_shape) == 3)
        pixels = as_pixels(file, _PAPER, reading)
    except RequestError:
        raise
    except UnidentifiedImageError:
        raise RequestError(
            f"`file` must be a picture ({', '.join(FORMATS)}) or an .npz file of images. Received: another file."
        ) from None
    except Exception as error:  # there is no end of what readers make of a damaged file
        raise RequestError(f"`file` must be a readable picture. Received: {error}.") from None
    if not is_binary:
        images = pixels[np.newaxis]
        return data.as_coloured(images) if len(image_shape) == 3 else images
    scaled = Image.fromarray(pixels).resize(image_shape[1::-1], Image.Resampling.BOX)
    light = np.asarray(scaled) > 127
    return (light if light.mean() <= 0.5 else ~light).astype("float32")[np.newaxis]
