"""Pictures and arrays from a SavedModel."""

import json
import os
import pathlib
import typing
import zipfile

import networkx as nx
import numpy as np
import tensorflow as tf

from tf_ldiaf import data, paths
from tf_ldiaf.errors import FileError
from tf_ldiaf.results import pictures


def write_images(
    saved_model: str,
    out: str,
    num: int,
    seed: int,
    reconstruct: str = "",
    value_range: tuple[float, float] | None = None,
) -> pathlib.Path:
    """Writes samples, or reconstructions below their originals, as a picture and as arrays.

    Args:
        saved_model: a SavedModel of `tf_ldiaf.export`.
        out: the picture, .png.
        num: samples; or how many images of the file are reconstructed, at most.
        seed: seed of the draws.
        reconstruct: images as `data.read_images` takes them; "" for samples.
        value_range: of these images, as it takes it, too.

    Returns:
        The .npz file beside the picture: `probs`, `images`, and `originals` of reconstructions.

    Raises:
        DataError: the file with images cannot be read.
        FileError: the SavedModel cannot be read, the images do not fit it, or `out` is not to be written.
    """
    picture_file = paths.as_path(out, "out")
    arrays = picture_file.with_suffix(".npz")
    for file in (picture_file, arrays):
        paths.check_free(file, "out")
    if reconstruct and arrays.exists() and arrays.samefile(paths.as_path(reconstruct, "reconstruct")):
        raise FileError(f"`out` must have another name than `reconstruct`. Received: {out} for {reconstruct}.")
    model = load(saved_model, "sample", "reconstruct")
    signatures, is_binary = model.signatures, num_values(model) == 2
    sizes = tuple(signatures["reconstruct"].structured_input_signature[1]["images"].shape[1:])
    if len(sizes) not in (2, 3):
        raise FileError(f"`saved_model` must draw images (H, W) or (H, W, C). Received: {saved_model}, of {sizes}.")
    if reconstruct:
        x = data.read_images(reconstruct, "reconstruct", is_binary, value_range, sizes)[:num]
        if x.shape[1:] != sizes:
            raise FileError(f"`reconstruct` must hold images of {sizes}. Received: {x.shape[1:]}.")
        x = x if is_binary else x / np.float32(255)
        drawn = signatures["reconstruct"](images=tf.constant(x), seed=tf.constant(seed))
        picture, kept = pictures.pairs(x, drawn["probs"], ink=is_binary), {"originals": x}
    else:
        drawn = signatures["sample"](num=tf.constant(num), seed=tf.constant(seed))
        picture, kept = pictures.grid(drawn["probs"].numpy(), ink=is_binary), {}
    try:
        picture_file.write_bytes(pictures.as_png(picture))
        np.savez_compressed(arrays, **kept, **{name: value.numpy() for name, value in drawn.items()})
        with zipfile.ZipFile(arrays, "a") as archive:
            archive.comment = paths.MARK.encode()
    except OSError as error:
        raise FileError(f"`out` must be a file that can be written. Received: {out} ({error.strerror}).") from None
    return arrays


def write_graph(saved_model: str, out: str) -> None:
    """Writes the latent graph of a SavedModel: picture, DOT or JSON by the suffix of `out`.

    Raises:
        FileError: the SavedModel has no readable graph.json, or `out` cannot be written.
    """
    out_file = paths.as_path(out, "graph")
    paths.check_free(out_file, "graph")
    graph = read_graph(saved_model)
    try:
        graph.graph["made_by"] = paths.MARK
        pictures.save_graph(graph, out_file)
    except OSError as error:
        raise FileError(f"`graph` must be a file that can be written. Received: {out} ({error.strerror}).") from None


def read_graph(saved_model: str | os.PathLike) -> nx.DiGraph:
    """The latent graph of a SavedModel, a `pictures.latent_graph`.

    Raises:
        FileError: the SavedModel has no readable graph.json.
    """
    file = paths.as_path(saved_model, "saved_model") / "graph.json"
    try:
        graph = nx.node_link_graph(json.loads(file.read_text()), edges="edges")
        for _, _, weight in graph.edges(data="weight"):
            float(weight)
        return graph
    except Exception as error:  # there is no end of what readers make of a damaged file
        raise FileError(f"`saved_model` must hold a readable graph.json. Received: {file} ({error}).") from None


def num_values(model: typing.Any) -> int:
    """How many values a pixel has for a SavedModel: 2, or 256."""
    return int(model.num_values) if hasattr(model, "num_values") else 2  # which earlier versions did not say


def load(saved_model: str | os.PathLike, *questions: str) -> typing.Any:
    """The SavedModel in a folder.

    Args:
        saved_model: a folder that `tf_ldiaf.export` or `LDIAF.export` wrote.
        questions: what it must be able to answer, see `ServedModel`.

    Raises:
        FileError: it is none, or does not answer one of them.
    """
    try:
        model = tf.saved_model.load(paths.as_path(saved_model, "saved_model"))
        signatures = model.signatures
    except Exception as error:  # as above
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise FileError(f"`saved_model` must be a SavedModel. Received: {saved_model} ({reason}).") from None
    missing = [question for question in questions if question not in signatures]
    if missing:
        raise FileError(
            f"`saved_model` must be one that this version's tf_ldiaf.export wrote. Received: {saved_model}, which does "
            f"not answer {', '.join(missing)}."
        )
    return model
