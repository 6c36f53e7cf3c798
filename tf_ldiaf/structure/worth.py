"""Eq. worth: what the edges and the nodes of a model are worth, in nats."""

import typing

import numpy as np
import tensorflow as tf

from tf_ldiaf import data
from tf_ldiaf.config import TrainingSettings
from tf_ldiaf.fields import checked
from tf_ldiaf.model.ldiaf import LDIAF
from tf_ldiaf.structure.graphs import check_built
from tf_ldiaf.structure.refits import REFIT_STEPS, Refits, as_images, check_counts, mean_and_stderr


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
    num_steps: int = REFIT_STEPS,
    batch_size: int = 128,
    learning_rate: float = 1e-3,
    weight_decay: float = 0.0,
    binarization: str = "none",
    num_samples: int = 10,
    seed: int = 0,
    jit_compile: bool = True,
) -> EdgeWorth:
    """What the model loses without each of its edges, when all its networks may make up for it.

        Eq. worth: W[n, j] = E_x [ ELBO(x) - ELBO'(x) ]

    Both ELBOs are of the model after `num_steps` more steps of training, from the same weights, with the same images
    and draws. ELBO' is that of the graph without the edge j -> n. Images that are not trained on measure both.

    An edge is worth little if other nodes can take over what the parent said, and about 0 if the child says nothing.
    Each edge is shut alone. Two edges that say the same are worth little each, and may be worth much together.

    Args:
        model: a model that is trained. It is left as it is.
        x: [n, ...], images to train on.
        held_out: [n, ...], images to measure on; of 0 and 1 if `x` is grey. None: a random fifth of x, which these
            steps leave out. Better are images that the model never saw.
        num_steps: training steps, over which the learning rate falls to 0.
        batch_size: images of a step.
        learning_rate: of Adam, at the start.
        weight_decay: as in the training of the model.
        binarization: "dynamic" if `x` is grey, as in `LDIAF.compile`; `held_out` is needed then.
        num_samples: draws of each held-out image.
        seed: of the order of the images and of all draws.
        jit_compile: whether XLA compiles what is computed.

    Raises:
        ValueError: the model saw no images yet; fewer than two images of either kind; grey images without `held_out`.
        DataError: pixels that the model cannot have.
        NonFiniteError: the training diverged.

    Example:

        >>> import numpy as np, tf_ldiaf
        >>> x = np.random.default_rng(0).integers(0, 2, (64, 4, 4))
        >>> model = tf_ldiaf.LDIAF(2, 3, 0, edges=[(2, 1)], encoder_units=[8], decoder_units=[8])
        >>> model.compile(jit_compile=False)
        >>> _ = model.fit(x, verbose=0)
        >>> tf_ldiaf.structure.edge_worth(model, x, num_steps=10, jit_compile=False).nats.shape
        (2, 2)
    """
    refits = Refits(
        *(model, x, held_out, num_steps, batch_size, learning_rate, weight_decay, binarization, num_samples),
        *(seed, jit_compile),
    )
    nats, stderr = np.full((2, model.num_nodes, model.num_nodes), np.nan)
    for parent, child in model.edges:
        nats[child - 1, parent - 1], stderr[child - 1, parent - 1] = refits.worth((parent, child))
    return EdgeWorth(nats, stderr)


def node_worth(
    model: LDIAF, x: np.ndarray, *, num_samples: int = 10, batch_size: int = 500, seed: int = 0
) -> NodeWorth:
    """What each node says of the images: its KL term, and what the pictures lose without it.

    The reconstruction without a node is that of latents in which this node is drawn from its prior, given its parents,
    while all others are as the posterior drew them.

    Args:
        model: a model that is trained.
        x: [n, ...], images.
        num_samples: draws of each image.
        batch_size: images at a time.
        seed: of the draws.

    Raises:
        ValueError: the model saw no images yet, or a seed or a number that is out of range.
        DataError: pixels that the model cannot have.
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
            return tf.reduce_mean(terms.log_likelihood - without.log_prob(model.values(x)), axis=0)

        return tf.reduce_mean(terms.kl_per_node(), axis=0), tf.stack([lost(n) for n in range(model.num_nodes)], axis=1)

    check_built(model)
    check_counts(num_samples=num_samples, batch_size=batch_size)
    checked(TrainingSettings, seed=seed)
    x = as_images(x)
    model.check_images(x)
    step = tf.function(of_batch, jit_compile=model.loops_can_be_compiled, autograph=False)
    size = data.evaluation_batch_size(x, batch_size)
    batches = enumerate(data.evaluation_batches(x, batch_size))
    parts = [step(batch, tf.constant(i * size)) for i, (batch, _, _) in batches]
    kl, reconstruction = (np.concatenate(part)[: len(x)] for part in zip(*parts, strict=True))
    return NodeWorth(*mean_and_stderr(kl), *mean_and_stderr(reconstruction))
