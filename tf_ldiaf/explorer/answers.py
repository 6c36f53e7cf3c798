"""What the page asks of a SavedModel, and what it is answered."""

import json
import os
import typing

import numpy as np
import tensorflow as tf

from tf_ldiaf import data, paths
from tf_ldiaf.errors import FileError
from tf_ldiaf.explorer import asked
from tf_ldiaf.explorer.directions import directions
from tf_ldiaf.results import pictures, sampling

_NUM_SEEN = 512  # images that directions are found from
_NUM_EXAMPLES = 24
_NUM_COPIES = 250  # of an image whose bounds are asked for: one importance sample each
_QUESTIONS = ("sample", "encode", "log_likelihood", "decode", "resample")

Answer = dict[str, typing.Any]


class Explorer:
    """A SavedModel and the questions of the page. Arrays may be given as nested lists; answers are arrays and numbers.

    Pixels of images are whole numbers, 0 and 1 or 0 to 255, as the model has them; `probs` are means in 0-1. Images of
    colour are [n, H, W, 3] wherever [n, H, W] is said.

    Args:
        saved_model: a folder that `tf_ldiaf.export` or `LDIAF.export` wrote.
        images: to pick from, of which the first are taken: whole numbers [n, H, W], or the path of what
            `data.read_images` takes; None: draws of the model.
        value_range: values of black and white, in `images` and in uploaded .npz files; None: they say it.

    Raises:
        FileError: a folder without such a SavedModel, or images of another size or of other numbers.

    Example:

        >>> import tempfile, tf_ldiaf
        >>> from tf_ldiaf.explorer.answers import Explorer
        >>> model = tf_ldiaf.LDIAF(num_nodes=2, node_dim=3, num_flow_steps=1, encoder_units=[8], decoder_units=[8])
        >>> model.build((None, 4, 4))
        >>> folder = tempfile.mkdtemp()
        >>> model.export(folder)
        >>> Explorer(folder).sample(num=5, seed=0)["probs"].shape
        (5, 4, 4)
    """

    def __init__(
        self,
        saved_model: str | os.PathLike,
        images: np.ndarray | str | os.PathLike | None = None,
        value_range: tuple[float, float] | None = None,
    ):
        self.path = paths.as_path(saved_model, "saved_model")
        self.name, self.value_range = self.path.resolve().name, value_range
        self.model = sampling.load(self.path, *_QUESTIONS)
        shapes = {name: self._ask(name).structured_input_signature[1] for name in ("encode", "decode")}
        self.image_shape = tuple(shapes["encode"]["images"].shape[1:])
        self.num_nodes, self.node_dim = shapes["decode"]["latents"].shape[1:]
        self.num_values = sampling.num_values(self.model)
        if len(self.image_shape) != 2 and self.image_shape[2:] != (3,):
            raise FileError(
                "`saved_model` must draw images (H, W) or (H, W, 3), which is what the page can show. "
                f"Received: {saved_model}, of {self.image_shape}."
            )
        if isinstance(images, str | os.PathLike):
            path = os.fspath(images)
            images = data.read_images(path, "images", self.num_values == 2, value_range, self.image_shape)
        if images is not None:
            images = np.asarray(images)[:_NUM_EXAMPLES]
            if images.shape[1:] != self.image_shape:
                raise FileError(f"`images` must be images of {self.image_shape}. Received: {images.shape[1:]}.")
            if not np.isin(images, range(self.num_values)).all():
                raise FileError(f"`images` must have whole numbers from 0 to {self.num_values - 1}. Received: others.")
        self.graph = self._graph()
        seen = self._ask("sample")(num=tf.constant(_NUM_SEEN), seed=tf.constant(0))["images"].numpy()
        seen = np.round(seen * self._white).astype("uint8")
        codes = self._codes(seen)
        self.directions = [directions(codes[:, n]) for n in range(self.num_nodes)]
        self.examples = seen[:_NUM_EXAMPLES] if images is None else images

    def describe(self) -> Answer:
        """What the page shows before anything is asked: the model's sizes, graph, directions and examples."""
        nodes, dead = self.graph.nodes(data=True), pictures.dead_nodes(self.graph)
        edges = [
            {"parent": int(a[1:]), "child": int(b[1:]), **edge} for a, b, edge in self.graph.edges(data=True)
        ]  # nodes are z1 .. zN
        return {
            "name": self.name,
            "image_shape": self.image_shape,
            "num_values": self.num_values,
            "node_dim": self.node_dim,
            "nodes": [{"kl": about.get("kl"), "is_dead": node in dead} for node, about in nodes],
            "edges": edges,
            "directions": self.directions,
            "num_seen": _NUM_SEEN,
            "examples": {"images": self.examples.astype("uint8"), "latents": self._codes(self.examples)},
        }

    def sample(self, num: int, seed: int) -> Answer:
        """Draws of the prior: `latents` [num, N, D] and `probs` [num, H, W]."""
        num = asked.whole("num", num, 1, asked.MOST_AT_ONCE)
        none, shape = [False] * self.num_nodes, (num, self.num_nodes, self.node_dim)
        return self.resample(np.zeros(shape), none, np.ones([self.num_nodes] * 2, bool), seed)

    def decode(self, latents: typing.Any) -> Answer:
        """`probs` [n, H, W] of latents [n, N, D]."""
        return _arrays(self._ask("decode")(latents=self._latents(latents)))

    def resample(self, latents: typing.Any, keep: typing.Any, adjacency: typing.Any, seed: int) -> Answer:
        """`latents` and `probs` as the SavedModel's `resample` draws them; `keep` is [N], `adjacency` [N, N]."""
        keep = asked.switches("keep", keep, (self.num_nodes,))
        adjacency = asked.switches("adjacency", adjacency, (self.num_nodes, self.num_nodes))
        return _arrays(
            self._ask("resample")(
                latents=self._latents(latents), keep=keep, adjacency=adjacency, seed=asked.seed("seed", seed)
            )
        )

    def encode(self, images: typing.Any) -> Answer:
        """The codes of images [n, H, W], `latents`, and their reconstruction `probs`: what these codes decode to."""
        codes = self._codes(asked.images("images", images, (None, *self.image_shape), self.num_values))
        return {"latents": codes} | _arrays(self._ask("decode")(latents=tf.constant(codes)))

    def bounds(self, image: typing.Any, seed: int) -> Answer:
        """ELBO and log-likelihood of an image [H, W], nats, with standard errors, from the same S draws.

        Returns:
            elbo, elbo_stderr: mean of log w over the draws, with w = p(x, z) / q(z given x).
            log_likelihood, log_likelihood_stderr: log of the mean of w; its error by the delta method.
            num_importance_samples: S.
        """
        image = asked.images("image", image, self.image_shape, self.num_values) / self._white
        log_w = self._ask("log_likelihood")(
            images=tf.constant(np.stack([image] * _NUM_COPIES)),  # each copy has a draw of its own
            num_importance_samples=tf.constant(1),
            seed=asked.seed("seed", seed),
        )["log_likelihood"]
        log_w = log_w.numpy().astype("float64")
        w = np.exp(log_w - log_w.max())
        return {
            "elbo": log_w.mean(),
            "elbo_stderr": _stderr(log_w),
            "log_likelihood": log_w.max() + np.log(w.mean()),
            "log_likelihood_stderr": _stderr(w) / w.mean(),
            "num_importance_samples": _NUM_COPIES,
        }

    @property
    def _white(self):
        return np.float32(self.num_values - 1)

    def _ask(self, question):
        return self.model.signatures[question]

    def _codes(self, images):
        return self._ask("encode")(images=tf.constant(images / self._white, tf.float32))["codes"].numpy()

    def _latents(self, latents):
        return asked.latents("latents", latents, (None, self.num_nodes, self.node_dim))

    def _graph(self):
        if not (self.path / "graph.json").exists():  # LDIAF.export writes none
            return pictures.latent_graph(self.model.adjacency.numpy())
        graph, nodes = sampling.read_graph(self.path), [f"z{n + 1}" for n in range(self.num_nodes)]
        if list(graph) != nodes:
            raise FileError(
                f"`saved_model` must have a graph.json of {', '.join(nodes)}. Received: {', '.join(graph)}."
            )
        return graph


def as_json(answer: Answer) -> str:
    """The answer with lists in place of arrays."""
    return json.dumps(answer, default=lambda value: value.tolist())  # all else in it are arrays and numbers of numpy


def _arrays(answer):
    return {name: value.numpy() for name, value in answer.items()}


def _stderr(x):
    return x.std(ddof=1) / np.sqrt(len(x))
