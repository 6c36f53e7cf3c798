"""Eq. worth: what the edges and the nodes of a model are worth, in nats."""

import itertools
import math
import typing

import keras
import numpy as np
import tensorflow as tf

from tf_ldiaf import data
from tf_ldiaf.model.ldiaf import LDIAF
from tf_ldiaf.structure.graphs import check_built, with_edges

_HELD_OUT_FRACTION = 0.2
_STEPS_PER_LAUNCH = 25
_EVALUATION_BATCH = 500


class EdgeWorth(typing.NamedTuple):
    """What each edge of a graph is worth, [N, N] with axes (child, parent); NaN where there is no edge."""

    nats: np.ndarray  # per image, mean over images
    stderr: np.ndarray  # of that mean


class NodeWorth(typing.NamedTuple):
    """What each node is worth, [N], in nats per image, as means over images and their standard errors."""

    kl: np.ndarray  # its KL term: how much its posterior says beyond its prior
    kl_stderr: np.ndarray
    reconstruction: np.ndarray  # log p(x given z) that is lost if the node is drawn from its prior
    reconstruction_stderr: np.ndarray


def edge_worth(
    model: LDIAF,
    x: np.ndarray,
    held_out: np.ndarray | None = None,
    *,
    refit: str = "model",
    num_steps: int = 400,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.0,
    binarization: str = "none",
    num_samples: int = 10,
    seed: int = 0,
    jit_compile: bool = True,
) -> EdgeWorth:
    """What the model loses without each of its edges, when it may make up for it.

        Eq. worth: W[n, j] = E_x [ ELBO(x) - ELBO'(x) ]

    Both ELBOs are of the model after `num_steps` more steps of training, from the same weights, with the same images
    and draws. ELBO' is that of the graph without the edge j -> n. Images that are not trained on measure both.

    `refit` says what may make up for the edge.

    - "model": every network. This is what the edge is worth to the model. It is little if other nodes can take over
      what the parent said, and it is about 0 if the child says nothing.
    - "node": the child's own networks, top-down, bottom-up and flow. Encoder, decoder and all other nodes are held, so
      that nodes go on to mean what they mean. This is what the parent says of the child. It is for decoders in which a
      node means something, such as `layers.MaskedDecoder`.

    Each edge is shut alone. Two edges that say the same are worth little each, and may be worth much together.

    Args:
        model: a model that is trained. It is left as it is.
        x: [n, ...], images to train on.
        held_out: [n, ...], images to measure on, with pixels 0 and 1. None: a random fifth of x, which these
            steps leave out. Better are images that the model never saw.
        refit: "model" or "node".
        num_steps: training steps, over which the learning rate falls to 0.
        batch_size: images of a step.
        learning_rate: of Adam, at the start.
        weight_decay: as in the training of the model.
        binarization: "dynamic" if `x` is grey, as in `LDIAF.compile`; `held_out` is needed then.
        num_samples: draws of each held-out image.
        seed: of the order of the images and of all draws.
        jit_compile: whether XLA compiles what is computed.

    Raises:
        ValueError: the model saw no images yet; an unknown `refit`; grey images without `held_out`.
        DataError: pixels that the model cannot have.
        NonFiniteError: the training diverged.

    Example:

        >>> import numpy as np, tf_ldiaf
        >>> x = np.random.default_rng(0).integers(0, 2, (64, 4, 4))
        >>> model = tf_ldiaf.LDIAF(2, 3, 0, edges=[(2, 1)], encoder_units=[8], decoder_units=[8])
        >>> model.compile()
        >>> _ = model.fit(x, verbose=0)
        >>> tf_ldiaf.structure.edge_worth(model, x, num_steps=10).nats.shape
        (2, 2)
    """
    if refit not in ("model", "node"):
        raise ValueError(f"refit must be model or node. Received: {refit}.")
    if held_out is None:
        if len(x) < 2:
            raise ValueError(f"x must be two images or more. Received: {len(x)}.")
        if binarization == "dynamic":
            raise ValueError("held_out must be images of 0 and 1 where x is grey. Received: None.")
        order = np.random.default_rng(seed).permutation(len(x))
        num = max(1, round(_HELD_OUT_FRACTION * len(x)))
        x, held_out = x[np.sort(order[num:])], x[np.sort(order[:num])]
    copy = with_edges(model, model.edges)
    copy.check_images(held_out)
    only = _only_one_node_learns(copy) if refit == "node" else None
    schedule: typing.Any = keras.optimizers.schedules.CosineDecay(learning_rate, num_steps)
    optimizer = keras.optimizers.AdamW(schedule, weight_decay=weight_decay)
    copy.compile(optimizer, seed=seed, binarization=binarization, kl_warmup_epochs=0, jit_compile=jit_compile)
    bounds = copy.compiled_bounds(num_samples, seed, jit_compile)
    variants = _Variants(copy, bounds, x, held_out, num_steps, batch_size, seed)
    nats, stderr = np.full((2, model.num_nodes, model.num_nodes), np.nan)
    edges, whole = model.edges, None
    for child, group in itertools.groupby(sorted(edges, key=lambda edge: edge[1]), key=lambda edge: edge[1]):
        if only is not None:
            only.assign(child - 1)
        if whole is None or only is not None:
            whole = variants.elbo(edges)
        for edge in group:
            lost = whole - variants.elbo([other for other in edges if other != edge])
            nats[child - 1, edge[0] - 1], stderr[child - 1, edge[0] - 1] = mean_and_stderr(lost)
    return EdgeWorth(nats, stderr)


def _only_one_node_learns(model):
    """A variable with the index of the one node whose networks learn; all else stays at its weights of now."""
    only, graph = tf.Variable(tf.constant(0), trainable=False), model.graph
    model.encoder.trainable = model.decoder.trainable = False
    networks = [(part, 1) for part in (graph.bottom_up, graph.top_down) if part is not None]
    networks += [(graph.flows, graph.num_flow_steps)] if graph.flows is not None else []
    if graph.root is not None:
        graph.root.trainable = False
    for network, rows_of_each in networks:
        for variable in network.trainable_variables:
            variable.constraint = _only_rows_of(only, rows_of_each, tf.constant(variable.numpy()))
    return only


def _only_rows_of(only, rows_of_each, start):
    def constraint(values):
        is_its = tf.range(start.shape[0]) // rows_of_each == only
        return tf.where(tf.reshape(is_its, [-1, *[1] * (len(start.shape) - 1)]), values, start)

    return constraint


class _Variants:
    """A compiled model that is trained a little further with one graph or another, always from the same weights."""

    def __init__(self, model, bounds, x, held_out, num_steps, batch_size, seed):
        self.model, self.bounds, self.held_out = model, bounds, held_out
        model.optimizer.build(model.trainable_variables)
        self.variables = [*model.trainable_variables, *model.optimizer.variables]
        self.start = [variable.numpy() for variable in self.variables]
        self.batches = data.training_launches(x, batch_size=batch_size, seed=seed, steps_per_launch=_STEPS_PER_LAUNCH)
        per_launch = data.steps_per_epoch(x, batch_size) / data.launches_per_epoch(x, batch_size, _STEPS_PER_LAUNCH)
        self.num_launches = math.ceil(num_steps / per_launch)

    def elbo(self, edges):
        """The ELBO of each held-out image after training with `edges`: [n], nats."""
        for variable, value in zip(self.variables, self.start, strict=True):
            variable.assign(value)
        self.model.gates.fix(edges)
        self.model.fit(self.batches, steps_per_epoch=self.num_launches, verbose=0)
        size, parts = data.evaluation_batch_size(self.held_out, _EVALUATION_BATCH), []
        for i, (x, _, _) in enumerate(data.evaluation_batches(self.held_out, _EVALUATION_BATCH)):
            parts.append(self.bounds(x, tf.constant(i * size))["elbo"].numpy())
        return np.concatenate(parts)[: len(self.held_out)].astype("float64")


def node_worth(
    model: LDIAF, x: np.ndarray, *, num_samples: int = 10, batch_size: int = 500, seed: int = 0
) -> NodeWorth:
    """What each node says of the images: its KL term, and what the pictures lose without it.

    The reconstruction without a node is that of latents in which this node is drawn from its prior, given its parents,
    while all others are as the posterior drew them.

    Args:
        model: a model that is trained.
        x: [n, ...], images with pixels 0 and 1.
        num_samples: draws of each image.
        batch_size: images at a time.
        seed: of the draws.

    Raises:
        ValueError: the model saw no images yet.
        DataError: pixels that are not 0 or 1.
    """

    def of_batch(x, first):
        seeds = tf.random.split([seed, 5], 3)
        features = model.features(x)
        terms = model.terms(x, features, seeds[0], num_samples, first=(0, first))
        shape = (num_samples, tf.shape(x)[0])
        drawn = model.prior().given(terms.latents, model.graph.noise(shape, seeds[1], (0, first)), seeds[2])

        def lost(n):
            is_it = tf.one_hot(n, model.num_nodes)[:, tf.newaxis]
            without = model.likelihood(is_it * drawn + (1.0 - is_it) * terms.latents)
            return tf.reduce_mean(terms.log_likelihood - without.log_prob(tf.cast(x, tf.float32)), axis=0)

        return tf.reduce_mean(terms.kl_per_node(), axis=0), tf.stack([lost(n) for n in range(model.num_nodes)], axis=1)

    check_built(model)
    model.check_images(x)
    step = tf.function(of_batch, jit_compile=model.loops_can_be_compiled, autograph=False)
    size = data.evaluation_batch_size(x, batch_size)
    batches = enumerate(data.evaluation_batches(x, batch_size))
    parts = [step(batch, tf.constant(i * size)) for i, (batch, _, _) in batches]
    kl, reconstruction = (np.concatenate(part)[: len(x)] for part in zip(*parts, strict=True))
    return NodeWorth(*mean_and_stderr(kl), *mean_and_stderr(reconstruction))


def mean_and_stderr(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of values for each image, [n, ...]: their mean, and its standard error; NaN of one image."""
    values = np.asarray(values, "float64")
    if len(values) == 1:
        return values[0], values[0] * np.nan
    return values.mean(axis=0), values.std(axis=0, ddof=1) / len(values) ** 0.5
