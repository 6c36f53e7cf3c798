"""Models with another graph."""

import typing
from collections.abc import Sequence

import keras

from tf_ldiaf.layers.decoders import AdditiveDecoder, MaskedDecoder
from tf_ldiaf.model.ldiaf import LDIAF


def check_built(model: LDIAF) -> None:
    """Says if a model does not know the size of its images.

    Raises:
        ValueError: it saw none yet.
    """
    if not model.built:
        raise ValueError("model must know the size of its images. Received: one that saw none yet.")


def check_draws_by_node(model: LDIAF) -> None:
    """Says if the nodes of a model have no pictures of their own.

    Raises:
        ValueError: the model saw no images yet, or has another decoder than an `AdditiveDecoder`.
    """
    check_built(model)
    if not isinstance(model.decoder, AdditiveDecoder):
        raise ValueError(
            "model must have a decoder in which each node draws a picture of its own, an AdditiveDecoder or a "
            f"MaskedDecoder. Received: {type(model.decoder).__name__}."
        )


def with_edges(model: LDIAF, edges: Sequence[tuple[int, int]]) -> LDIAF:
    """A copy of a model with the same weights and another graph. It is not compiled.

    Args:
        model: the model. If it learns its gates, those of the copy are fixed.
        edges: pairs (parent, child) of node numbers.

    Raises:
        ValueError: the model saw no images yet; or edges that are no such pairs.
    """
    check_built(model)
    config: dict[str, typing.Any] = {**model.get_config(), "edges": list(edges)}
    classes = dict(_classes(list(model.parts().values())))
    own = {
        name: keras.saving.deserialize_keras_object(config[name], classes, safe_mode=False)  # nothing is from a file
        for name in ("encoder", "decoder", "likelihood")
        if isinstance(config[name], dict)
    }
    copy = type(model)(**config | own)
    copy.build((None, *model.image_shape))
    for name, part in copy.parts().items():
        if name != "gates":
            part.set_weights(model.parts()[name].get_weights())
            _finalize(part)
    return copy


def _classes(layers):
    """The class of each of these layers, and of those in them, by name: a class in a notebook has no other place."""
    for layer in layers:
        yield type(layer).__name__, type(layer)
        yield from _classes(getattr(layer, "layers", []))


def _finalize(layer):
    """Keras's preprocessing layers compute with numbers that they make of their weights, and not when these are set."""
    if hasattr(layer, "finalize_state"):
        layer.finalize_state()
    for inner in getattr(layer, "layers", []):
        _finalize(inner)


def renumbered(model: LDIAF, nodes: Sequence[int], edges: Sequence[tuple[int, int]]) -> LDIAF:
    """A copy of a model whose node n is what was node nodes[n - 1], and with another graph. It is not compiled.

    The top-down networks, the prior's flows, and a mixture at the root, are copied as they are. They belonged to nodes
    of other numbers.

    Args:
        model: a model with an `AdditiveDecoder` or a `MaskedDecoder`.
        nodes: the numbers 1 to N, each once.
        edges: pairs (parent, child) of the new numbers.

    Raises:
        ValueError: the model saw no images yet, or has another decoder; nodes or edges that are no such numbers.
    """
    check_draws_by_node(model)
    if sorted(nodes) != list(range(1, model.num_nodes + 1)):
        raise ValueError(f"nodes must be the numbers 1 to {model.num_nodes}, each once. Received: {list(nodes)}.")
    copy, order = with_edges(model, edges), [number - 1 for number in nodes]
    for layer in (copy.decoder, copy.graph.bottom_up, copy.graph.flows):
        if layer is not None:  # the first axis of every weight is the nodes, or the nodes and each one's flow steps
            weights = [(weight, weight.reshape(len(order), -1, *weight.shape[1:])) for weight in layer.get_weights()]
            layer.set_weights([by_node[order].reshape(weight.shape) for weight, by_node in weights])
    if isinstance(copy.decoder, MaskedDecoder):
        copy.decoder.masks = copy.decoder.masks[order]
    return copy
