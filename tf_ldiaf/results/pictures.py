"""Pictures: grids of images, the latent graph, and the curves of a training."""

import io
import json
import os
import pathlib
from collections.abc import Sequence

import matplotlib.figure
import matplotlib.style
import networkx as nx
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from PIL import Image, PngImagePlugin

from tf_ldiaf.model.ldiaf import LDIAF
from tf_ldiaf.paths import MARK

DEAD = 0.01  # nats: a node whose KL term is less says nothing of the image
_SMALLEST_TILE = 56  # pixels on the screen: small images are enlarged to at least this
# What a user has set for figures does not count here, such as LaTeX for all text; and "$" is one in a run's name.
_OUR_STYLE = matplotlib.style.context(["default", {"text.parse_math": False}])


def grid(images: npt.ArrayLike, columns: int | None = None, ink: bool = True) -> np.ndarray:
    """Images side by side.

    Args:
        images: [n, H, W] or [n, H, W, C] in 0-1.
        columns: images per row; a square grid by default.
        ink: whether a grey 1 is dark, as ink on paper, which pixels of 0 and 1 mostly are. Otherwise it is light, as in
            a photograph. Colours are always as they are.

    Returns:
        picture: [height, width], uint8; of three channels [height, width, 3]. Of other channels the mean is drawn.
    """
    light = _light(images, ink)
    zoom = max(1, -(-_SMALLEST_TILE // max(light.shape[1:3])))
    light = light.repeat(zoom, axis=1).repeat(zoom, axis=2)
    return _side_by_side(np.pad(light, [(0, 0), (2, 2), (2, 2), (0, 0)], constant_values=1), columns)


def tiles(images: npt.ArrayLike, columns: int | None = None, ink: bool = True) -> np.ndarray:
    """As `grid`, but of the images' own size and without margins."""
    return _side_by_side(_light(images, ink), columns)


def pairs(originals: npt.ArrayLike, reconstructions: npt.ArrayLike, ink: bool = True) -> np.ndarray:
    """A row of originals, below it the row of their reconstructions, and so on; as of `grid`."""
    both = [_light(images, ink) for images in (originals, reconstructions)]
    num, *size = both[0].shape
    columns = max(1, int(np.ceil(np.sqrt(2 * num))))
    padding = [(0, -num % columns), (0, 0), (0, 0), (0, 0)]
    rows = [np.pad(images, padding, constant_values=1).reshape(-1, 1, columns, *size) for images in both]
    return grid(np.concatenate(rows, axis=1).reshape(-1, *size), columns, ink=False)


def _light(images, ink):
    """[n, H, W, 1 or 3] in 0-1, 1 being light."""
    images = np.asarray(images, "float32").clip(0, 1)
    if images.ndim == 3:
        images = images[..., np.newaxis]
    if images.shape[-1] == 3:
        return images
    images = images.mean(axis=-1, keepdims=True)
    return 1 - images if ink else images


def _side_by_side(light, columns):
    num, height, width, depth = light.shape
    columns = columns or int(np.ceil(np.sqrt(num)))
    padded = np.pad(light, [(0, -num % columns), (0, 0), (0, 0), (0, 0)], constant_values=1)
    rows = padded.reshape(-1, columns, height, width, depth).swapaxes(1, 2)
    picture = np.round(255 * rows.reshape(-1, columns * width, depth)).astype("uint8")
    return picture[..., 0] if depth == 1 else picture


def node_pictures(model: LDIAF, num: int = 8, seed: int = 0) -> np.ndarray:
    """What each node of a model with an `AdditiveDecoder` draws: a row for each node, with `num` draws of the prior.

    Returns:
        picture: [height, width], uint8. Grey pixels are those that the node leaves to others.
    """
    z = model.prior().sample(num, seed=seed)
    outputs = tf.reshape(model.decoder.pictures(tf.reshape(z, [num, -1])), [-1, *model.numbers_shape])
    means = model.likelihood_layer(outputs, image_shape=model.image_shape).mean()
    return grid(model.scaled(means), columns=num, ink=model.num_values == 2)


def as_png(picture: np.ndarray) -> bytes:
    """A PNG file of a uint8 picture, grey [height, width] or RGB [height, width, 3]."""
    buffer = io.BytesIO()
    about = PngImagePlugin.PngInfo()
    about.add_text("Software", MARK)
    Image.fromarray(picture).save(buffer, format="PNG", pnginfo=about)
    return buffer.getvalue()


def latent_graph(
    adjacency: npt.ArrayLike,
    weights: npt.ArrayLike | None = None,
    stderr: npt.ArrayLike | None = None,
    kl: Sequence[float] | None = None,
) -> nx.DiGraph:
    """The latent graph, edges from parent to child.

    Args:
        adjacency: [N, N], adjacency[child, parent].
        weights: [N, N], of the edges: gate probabilities, or what they are worth; the adjacency itself by default.
        stderr: [N, N], of what they are worth.
        kl: [N], KL terms of the nodes.

    Returns:
        A networkx.DiGraph with nodes z1 .. zN, edge attributes `weight`, and `stderr` if it is given; and the node
        attribute `kl`, if it is.
    """
    adjacency = np.asarray(adjacency)
    weights = adjacency if weights is None else np.asarray(weights)
    graph = nx.DiGraph(made_by=MARK)
    for n in range(len(adjacency)):
        graph.add_node(f"z{n + 1}", **({} if kl is None else {"kl": round(float(kl[n]), 4)}))
    for child, parent in np.argwhere(adjacency > 0):
        error = {} if stderr is None else {"stderr": round(float(np.asarray(stderr)[child, parent]), 4)}
        graph.add_edge(f"z{parent + 1}", f"z{child + 1}", weight=round(float(weights[child, parent]), 4), **error)
    return graph


def learned_graph(
    adjacency: npt.ArrayLike,
    edges: list[dict],
    gate_probs: npt.ArrayLike | None = None,
    kl: Sequence[float] | None = None,
) -> nx.DiGraph:
    """The `latent_graph` of a run, with what its edges were worth when it was learned.

    Args:
        adjacency: [N, N], adjacency[child, parent].
        edges: as in gates.json.
        gate_probs: [N, N], of the gates when they had been learned, in place of worths that were not measured.
        kl: [N], KL terms of the nodes.
    """
    worths = [edge for edge in edges if edge["kept"] and "nats" in edge]
    return graph_of_worths(adjacency, worths, kl) if worths else latent_graph(adjacency, gate_probs, kl=kl)


def graph_of_worths(adjacency: npt.ArrayLike, edges: list[dict], kl: Sequence[float] | None = None) -> nx.DiGraph:
    """The `latent_graph` with what its edges are worth.

    Args:
        adjacency: [N, N], adjacency[child, parent].
        edges: `parent`, `child`, `nats` and `stderr` of each.
        kl: [N], KL terms of the nodes.
    """
    values = np.zeros((2, *np.shape(adjacency)))
    for edge in edges:
        values[:, edge["child"] - 1, edge["parent"] - 1] = edge["nats"], edge["stderr"]
    return latent_graph(adjacency, *values, kl=kl)


def dead_nodes(graph: nx.DiGraph) -> list[str]:
    """The nodes of a `latent_graph` that say nothing of the image: their KL term is below 0.01 nats."""
    return [node for node, kl in nx.get_node_attributes(graph, "kl").items() if kl < DEAD]


def weight_text(edge: dict) -> str:
    """The weight of an edge of a `latent_graph`, with its standard error if it has one."""
    return f"{edge['weight']:.2f}" + (f" +- {edge['stderr']:.2f} nats" if "stderr" in edge else "")


@_OUR_STYLE
def draw_graph(graph: nx.DiGraph) -> np.ndarray:
    """The latent graph as a picture: root on top, the weight beside each edge.

    The more nats a node says of the image, the larger it is. A dead node is grey, and its edges are dashed.

    Args:
        graph: a `latent_graph`.

    Returns:
        picture: [height, width, 3], uint8.
    """
    nodes = list(graph)
    num = len(nodes)
    # On a circle, the root at the top and the order clockwise: no edge hides behind a node.
    angle = {node: np.pi / 2 - 2 * np.pi * (num - 1 - i) / max(num, 1) for i, node in enumerate(nodes)}
    position = {node: (np.cos(a), np.sin(a)) for node, a in angle.items()}
    figure = matplotlib.figure.Figure(figsize=(4.5, 4.5), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    axes.set_axis_off()
    axes.margins(0.15)
    weights = nx.get_edge_attributes(graph, "weight")
    largest = max([1.0, *weights.values()])
    kl, dead = nx.get_node_attributes(graph, "kl"), dead_nodes(graph)
    most = max([1.0, *kl.values()])
    sizes = [500 + 800 * kl[node] / most if kl else 900 for node in nodes]
    colours = ["#dddddd" if node in dead else "#dbe9f6" for node in nodes]
    outlines = ["#888888" if node in dead else "#26547c" for node in nodes]
    nx.draw_networkx_nodes(graph, position, ax=axes, node_size=sizes, node_color=colours, edgecolors=outlines)
    nx.draw_networkx_labels(graph, position, ax=axes, font_size=11)
    nx.draw_networkx_edges(
        graph,
        position,
        ax=axes,
        node_size=sizes,
        style=["dashed" if {a, b} & {*dead} else "solid" for a, b in graph.edges],
        width=[0.5 + 2 * max(weight, 0.0) / largest for weight in weights.values()],
        edge_color="#26547c",
        arrowsize=14,
    )
    labels = {
        (a, b): weight_text(edge).replace(" +- ", "\n\N{PLUS-MINUS SIGN}").removesuffix(" nats")
        for a, b, edge in graph.edges(data=True)
        if "stderr" in edge or edge["weight"] != 1
    }
    nx.draw_networkx_edge_labels(graph, position, labels, ax=axes, font_size=8, label_pos=0.62, rotate=False)
    return _as_pixels(figure)


@_OUR_STYLE
def draw_curves(rows: list[dict]) -> np.ndarray:
    """ELBO of training and validation images by epoch, one phase after the other.

    Args:
        rows: those of history.csv.

    Returns:
        picture: [height, width, 3], uint8.
    """
    epochs = np.arange(1, len(rows) + 1)
    curves = {"training": [row["elbo"] for row in rows], "validation": [row["val_elbo"] for row in rows]}
    figure = matplotlib.figure.Figure(figsize=(6, 3.6), dpi=120, layout="constrained")
    axes = figure.add_subplot(xlabel="epoch", ylabel="ELBO, nats")
    for (label, values), colour in zip(curves.items(), ("#26547c", "#c1440e"), strict=True):
        axes.plot(epochs, values, label=label, color=colour, marker="." if len(rows) < 20 else "", linewidth=1.2)
    structure = sum(row["phase"] == "structure" for row in rows)
    if structure:
        axes.axvline(structure + 0.5, color="grey", linestyle=":", label="gates are fixed")
    _finish(axes, [values[i] for values in curves.values() for i in _late(rows)])
    return _as_pixels(figure)


@_OUR_STYLE
def draw_histories(histories: dict[str, list[dict]]) -> np.ndarray:
    """The validation ELBO by epoch of several runs; a dotted line where a run's gates are fixed.

    Args:
        histories: rows of each run's history.csv, by its name.

    Returns:
        picture: [height, width, 3], uint8.
    """
    figure = matplotlib.figure.Figure(figsize=(7, 4.2), dpi=120, layout="constrained")
    axes = figure.add_subplot(xlabel="epoch", ylabel="validation ELBO, nats")
    shown = []
    for name, rows in histories.items():
        values = [row["val_elbo"] for row in rows]
        label = f" {name}" if name.startswith("_") else name  # which matplotlib leaves out
        (line,) = axes.plot(range(1, len(rows) + 1), values, label=label, linewidth=1.2)
        structure = sum(row["phase"] == "structure" for row in rows)
        if structure:
            axes.axvline(structure + 0.5, color=line.get_color(), linestyle=":", linewidth=1)
        shown += [values[i] for i in _late(rows)]
    _finish(axes, shown)
    return _as_pixels(figure)


def _late(rows):
    """Places of the rows behind the steep tenth with which each phase begins: it would leave no room for the rest."""
    structure = sum(row["phase"] == "structure" for row in rows)
    return [*range(structure // 10, structure), *range(structure + (len(rows) - structure) // 10, len(rows))]


def _finish(axes, shown):
    """Limits that show these values, whole epochs, a grid and a legend."""
    margin = 0.05 * (max(shown) - min(shown)) + 0.1
    axes.set_ylim(min(shown) - margin, max(shown) + margin)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")


def _as_pixels(figure):
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return np.asarray(Image.open(buffer).convert("RGB"))


def save_graph(graph: nx.DiGraph, path: str | os.PathLike) -> None:
    """Writes a `latent_graph` as a picture (.png), as DOT (.dot) or as node-link JSON (.json), by the suffix."""
    path = pathlib.Path(path)
    if path.suffix == ".dot":
        dead = dead_nodes(graph)
        nodes = (f"  {node} [style=dashed, color=grey];" if node in dead else f"  {node};" for node in graph)
        edges = (f'  {a} -> {b} [label="{weight_text(edge)}"];' for a, b, edge in graph.edges(data=True))
        path.write_text("\n".join([f"// {MARK}", "digraph latent {", *nodes, *edges, "}", ""]))
    elif path.suffix == ".json":
        path.write_text(json.dumps(nx.node_link_data(graph, edges="edges"), indent=2))
    else:
        path.write_bytes(as_png(draw_graph(graph)))
