"""Images in Parquet files: encoded pictures, as on Hugging Face, or lists of pixels."""

import functools
import pathlib
from collections.abc import Collection, Sequence

import numpy as np

from tf_ldiaf.data import arrays, compressed, pictures, splits
from tf_ldiaf.data.splits import Source
from tf_ldiaf.errors import DataError

_NAMES = ("image", "img", "images", "picture", "pixels")


def open_splits(
    files: Sequence[pathlib.Path], where: pathlib.Path, reading: pictures.Reading, columns: Collection[str] = ()
) -> dict[str, Source]:
    """The sets of files whose names say train, valid or test, each of one file or of several; of others, train.

    Args:
        files, where: they are, and the folder or file that was named.
        reading: see there.
        columns: what the column of images is called, if that is said.
    """
    named: dict[str, list[pathlib.Path]] = {}
    for file in sorted(files):
        named.setdefault(
            splits.set_named(str(file.relative_to(where.parent if where == file else where))) or "", []
        ).append(file)
    others = named.pop("", [])
    if named and others:
        raise DataError(
            f"`dataset` must have one kind of names. Received: {where}, whose {others[0].name} says no set."
        )
    named = named or {"train": others}
    if "train" not in named:
        named = {"train": named.pop(min(named))} if len(named) == 1 else named
    if "train" not in named:
        raise DataError(f"`dataset` must have a training set. Received: {where}, which has {', '.join(named)}.")
    return {
        split: Source(functools.partial(_read, part, reading, columns), functools.partial(_checksum, part))
        for split, part in named.items()
    }


def _checksum(files):
    return splits.checksum(compressed.whole(file) for file in files)


def _read(files, reading, columns):
    found = [_one(file, reading, columns) for file in files]
    if any(x.ndim == 4 for x in found):
        found = [arrays.as_coloured(x) for x in found]
    if len({x.shape[1:] for x in found}) > 1:
        raise DataError(f"`dataset` must hold images of one size. Received: {files[0].parent}.")
    return np.concatenate(found)


def _one(file, reading, columns):
    import pyarrow
    import pyarrow.parquet

    try:
        opened = pyarrow.parquet.ParquetFile(file)
        schema = opened.schema_arrow
        fitting = [field for field in schema if _is_image(field.type)]
        wanted = [field for field in fitting if field.name in (columns or _NAMES)] or ([] if columns else fitting)
        if len(wanted) != 1:
            raise DataError(
                f"`dataset` must have one column of pictures or pixels, or one that is named image, or `arrays` must "
                f"say it, as train:NAME. Received: {file}, which has "
                f"{', '.join(field.name for field in fitting) or 'none'}."
            )
        size = sum(
            opened.metadata.row_group(i).column(j).total_uncompressed_size
            for i in range(opened.num_row_groups)
            for j in range(opened.metadata.num_columns)
        )
        arrays.check_size(size, file)
        column = opened.read(columns=[wanted[0].name]).column(0).to_pylist()
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"`dataset` must be a readable Parquet file. Received: {file} ({error}).") from None
    if column and isinstance(column[0], (bytes, dict)):
        contents = [row["bytes"] if isinstance(row, dict) else row for row in column]
        names = [str(i) for i in range(len(contents))]

        def content(name):
            return contents[int(name)] or b""

        found, skipped = pictures.decoded(names, content, file, reading)
        pictures.check_bright(found, names, content, file)
        if skipped:
            print(f"Left out of {file}: {skipped} that cannot be read.", flush=True)
        return found
    try:
        return np.asarray(column)
    except ValueError as error:
        raise DataError(f"`dataset` must have rows of equal length. Received: {file} ({error}).") from None


def _is_image(kind):
    import pyarrow

    types = pyarrow.types
    if types.is_struct(kind):
        return kind.get_field_index("bytes") >= 0
    is_list = types.is_list(kind) or types.is_fixed_size_list(kind) or types.is_large_list(kind)
    return types.is_binary(kind) or types.is_large_binary(kind) or is_list
