"""The order of nodes whose numbers mean nothing yet: which may be whose parent, and the edges with it."""

import functools
import itertools
import typing
import warnings

import keras
import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tf_ldiaf import data
from tf_ldiaf.config import TrainingSettings
from tf_ldiaf.errors import NonFiniteError
from tf_ldiaf.fields import checked
from tf_ldiaf.layers.float32 import Float32Layer
from tf_ldiaf.layers.stacked import StackedDense
from tf_ldiaf.model.ldiaf import LDIAF
from tf_ldiaf.probability.activations import elu
from tf_ldiaf.probability.gaussians import positive
from tf_ldiaf.structure.graphs import check_draws_by_node, renumbered
from tf_ldiaf.structure.refits import apart, mean_and_stderr, num_launches

tfd = tfp.distributions

MOST_NODES = 8  # of the exact search
_UNITS = (64, 64)
_STEPS_PER_LAUNCH = 50
_BATCH = 500


class Order(typing.NamedTuple):
    """The best graph over nodes whose order was not given."""

    nodes: list[int]  # their numbers, the last child first and the root last
    edges: list[tuple[int, int]]  # pairs (parent, child) of the same numbers
    lead: float  # nats, prices included, before the best graph of the other orders that were tried; NaN if all agree
    lead_stderr: float  # over draws; how well the networks fit is not in it
    is_exact: bool  # whether all orders were compared


class Search(typing.NamedTuple):
    """What `search` found."""

    model: LDIAF  # its node n is the one that was nodes[n - 1]; its graph is fixed; it is not compiled
    edges: list[tuple[int, int]]  # pairs (parent, child) of its node numbers
    nodes: list[int]
    lead: float
    lead_stderr: float
    is_exact: bool


def search(
    model: LDIAF, x: np.ndarray, held_out: np.ndarray | None = None, *, seed: int = 0, **fit: typing.Any
) -> Search:
    """Finds the order of a model's nodes, and gives them numbers that say it.

    For a model whose nodes each draw a picture of their own. Their numbers are then an accident of the training. Train
    it without edges (`edges=[]`) first. This function draws all nodes of each image from the posterior, and passes the
    draws to `best_order`.

    The top-down networks of the model that is returned have not seen their new parents yet: train it on, and let
    `remove_edges` measure its edges.

    Args:
        model: a model with an `AdditiveDecoder` or a `MaskedDecoder`, trained. It is left as it is.
        x, held_out: [n, ...], images of 0 and 1 to fit on, and to compare graphs on. None: a random fifth of x.
        seed: of all draws.
        fit: the other arguments of `best_order`.

    Raises:
        ValueError: the model saw no images yet, or has another decoder, or edges; too few images, or streamed ones.
        DataError: pixels that the model cannot have.
        NonFiniteError: the fit diverged.
    """
    check_draws_by_node(model)
    if model.edges:
        raise ValueError(f"model must have no edges, in the training either. Received: {model.edges}.")
    if isinstance(x, data.Records):
        raise ValueError("x must be an array of images. Received: images that are streamed.")
    checked(TrainingSettings, seed=seed)
    x, held_out = apart(x, held_out, seed)
    drawn = [_draws(model, images, [seed, i]) for i, images in enumerate((x, held_out))]
    order = best_order(*drawn, seed=seed, **fit)
    number = {old: new for new, old in enumerate(order.nodes, start=1)}
    edges = sorted((number[parent], number[child]) for parent, child in order.edges)
    return Search(renumbered(model, order.nodes, edges), edges, order.nodes, *order[2:])


def _draws(model, x, seed):
    """One draw of the posterior for each image: [n, N, D]."""
    model.check_images(x)
    size = data.evaluation_batch_size(x, _BATCH)
    draw = tf.function(lambda batch, i: model.posterior(batch).sample(seed=tf.stack([seed[0] + i, seed[1]])))
    batches = enumerate(data.evaluation_batches(x, _BATCH))
    parts = [draw(batch, tf.constant(i * size)).numpy() for i, (batch, _, _) in batches]
    return np.concatenate(parts)[: len(x)]


def best_order(
    z: np.ndarray,
    held_out: np.ndarray | None = None,
    *,
    edge_cost: float = TrainingSettings.edge_cost,
    num_steps: int = 4000,
    batch_size: int = 256,
    learning_rate: float = 2e-3,
    seed: int = 0,
) -> Order:
    """The graph over nodes that explains draws of them best, whatever their order.

        Eq. order: the largest sum_n E[ log p(z_n given its parents) ] - edge_cost * number of edges

    For each node, one network learns log p(z_n given the nodes of a set), a Gaussian, for all sets at once: each row
    of a batch hides other nodes from it. A graph's score is the held-out mean of the sum over nodes, less `edge_cost`
    for each edge. Up to 8 nodes, all orders and all sets of parents are compared. With more, a warning says so. Then
    one node at a time is moved in the order, and one parent at a time is added or removed, as long as that helps. A
    better graph may be missed.

    The Gaussian is what tells a parent from a child: in the wrong direction, a nonlinear dependence does not look
    Gaussian. If two nodes depend on each other linearly, both directions fit equally well, and the lead is about 0.

    Args:
        z: [n, N, D], draws of the nodes.
        held_out: [n, N, D], draws to compare graphs on. None: a random fifth of z.
        edge_cost: nats that an edge must be worth.
        num_steps: steps of the fit, over which the learning rate falls to 0.
        batch_size: draws of a step.
        learning_rate: of Adam, at the start.
        seed: of the networks' first weights, and of what is hidden.

    Raises:
        ValueError: z of another shape, or not finite; too few draws.
        ConfigError: another argument that is out of its range.
        NonFiniteError: the fit diverged.

    Source: Silander and Myllymaki 2006, arXiv 1206.6875, for a score of each set of parents; Peters et al. 2014,
    arXiv 1309.6779, for what tells the direction.
    """
    checked(TrainingSettings, edge_cost=edge_cost, batch_size=batch_size, learning_rate=learning_rate, seed=seed)
    z, held_out = _checked_draws(z, held_out, seed)
    num_nodes = z.shape[1]
    is_exact = num_nodes <= MOST_NODES
    if not is_exact:
        warnings.warn(
            f"The exact search takes at most {MOST_NODES} nodes. Received: {num_nodes}. The order is searched one step "
            "at a time instead, and a better one may be missed.",
            stacklevel=2,
        )
    fitted = _fitted(z, num_steps, batch_size, learning_rate, seed)
    of_images = tf.function(lambda is_parent: fitted.log_prob(held_out, is_parent), jit_compile=True)

    def log_prob(parents):
        """log p(z_n given these) of every node, for each image: [N, n]."""
        found = of_images(tf.constant([float(n in parents) for n in range(num_nodes)])).numpy()
        if not np.isfinite(found).all():
            raise NonFiniteError("log-probabilities of the search must be finite: learning_rate is too large for it.")
        return found

    @functools.cache
    def score(parents):
        return log_prob(parents).mean(axis=1, dtype="float64") - edge_cost * len(parents)

    parents_of = functools.cache(functools.partial(_best_of_all if is_exact else _best_one_by_one, score))

    @functools.cache
    def graph_of(order):
        return _best_graph(order, parents_of)

    def total(graph):
        return sum(score(parents)[child] for child, parents in enumerate(graph))

    start = tuple(reversed(range(num_nodes)))
    orders = (
        itertools.permutations(start) if is_exact else _orders_by_moves(start, lambda order: total(graph_of(order)))
    )
    best, *others = sorted(dict.fromkeys(map(graph_of, orders)), key=total, reverse=True)
    lead = lead_stderr = np.nan
    if others:
        gains = [log_prob(best[n])[n] - log_prob(others[0][n])[n] for n in range(num_nodes) if best[n] != others[0][n]]
        lead, lead_stderr = total(best) - total(others[0]), mean_and_stderr(np.sum(gains, axis=0))[1]
    edges = sorted((parent + 1, child + 1) for child, parents in enumerate(best) for parent in parents)
    return Order(_sorted_by(best), edges, float(lead), float(lead_stderr), is_exact)


def _checked_draws(z, held_out, seed):
    """Draws to fit on, and to compare graphs on: float32."""
    for part in (z, held_out):
        if part is not None and (np.ndim(part) != 3 or np.shape(part)[1:] != np.shape(z)[1:]):
            raise ValueError(f"z and held_out must be draws [n, N, D]. Received: an array of shape {np.shape(part)}.")
    held_out = None if held_out is None else np.asarray(held_out)
    z, held_out = (np.asarray(part, "float32") for part in apart(np.asarray(z), held_out, seed))
    if not (np.isfinite(z).all() and np.isfinite(held_out).all()):
        raise ValueError("z must be finite. Received: NaN or infinity.")
    return z, held_out


class _GivenAnySet(Float32Layer):
    """log p(z_n given any set of the other nodes), a Gaussian whose parameters one network for each n gives."""

    def __init__(self, z, seed):
        super().__init__()
        self.loc, self.scale = z.mean(axis=0), z.std(axis=0) + 1e-6
        self.num_nodes, self.node_dim = z.shape[1:]
        self.draws = keras.random.SeedGenerator(seed)
        first = keras.initializers.HeNormal(self.draws)
        widths = [*_UNITS, 2 * self.node_dim]
        self.stack = [StackedDense(self.num_nodes, width, first) for width in widths]

    def log_prob(self, z, is_parent):
        """[N, B], nats and a constant, of z [B, N, D]; `is_parent` broadcasts to [N, B, N]. No node is its own."""
        z = (z - self.loc) / self.scale
        shape = (self.num_nodes, tf.shape(z)[0], self.num_nodes)
        is_parent = tf.broadcast_to(is_parent, shape) * (1.0 - tf.eye(self.num_nodes)[:, tf.newaxis])
        shown = tf.reshape(z * is_parent[..., tf.newaxis], [*shape[:2], self.num_nodes * self.node_dim])
        outputs = tf.concat([shown, is_parent], axis=-1)
        for i, layer in enumerate(self.stack):
            outputs = layer(elu(outputs) if i else outputs)
        loc, raw_scale = tf.split(outputs, 2, axis=-1)
        return tf.reduce_sum(tfd.Normal(loc, positive(raw_scale)).log_prob(tf.transpose(z, [1, 0, 2])), axis=-1)

    def train(self, z, optimizer):
        """One step, in which each row of z [B, N, D] hides other nodes from each network."""
        shape = (self.num_nodes, tf.shape(z)[0], self.num_nodes)
        share: typing.Any = keras.random.uniform((*shape[:2], 1), seed=self.draws)
        is_parent = tf.where(keras.random.uniform(shape, seed=self.draws) < share, 1.0, 0.0)
        with tf.GradientTape() as tape:
            loss = -tf.reduce_mean(tf.reduce_sum(self.log_prob(z, is_parent), axis=0))
        optimizer.apply(tape.gradient(loss, self.trainable_variables), self.trainable_variables)


def _fitted(z, num_steps, batch_size, learning_rate, seed):
    networks = _GivenAnySet(z, seed)
    networks.log_prob(z[:1], 0.0)  # builds them
    schedule: typing.Any = keras.optimizers.schedules.CosineDecay(learning_rate, num_steps)
    optimizer = keras.optimizers.Adam(schedule)
    optimizer.build(networks.trainable_variables)

    @functools.partial(tf.function, jit_compile=True)
    def launch(z, num):
        tf.while_loop(lambda i: i < num, lambda i: (networks.train(z[i], optimizer), i + 1)[1:], [0])

    batches = data.training_launches(z, batch_size=batch_size, seed=seed, steps_per_launch=_STEPS_PER_LAUNCH)
    for step in batches.take(num_launches(z, batch_size, _STEPS_PER_LAUNCH, num_steps)):
        launch(*step)
    return networks


# A graph is a tuple: of each child, the tuple of its parents, in rising order. An order is a tuple from the root on.


def _best_of_all(score, child, allowed):
    """The set of `allowed` nodes with the best score."""
    sets = (parents for size in range(len(allowed) + 1) for parents in itertools.combinations(allowed, size))
    return max(sets, key=lambda parents: score(parents)[child])


def _best_one_by_one(score, child, allowed):
    """Parents of `allowed` nodes: the best is added, or the worst removed, as long as the score rises."""
    parents = ()
    while True:
        others = [tuple(sorted(set(parents) ^ {node})) for node in allowed]
        best = max([parents, *others], key=lambda other: score(other)[child])
        if best == parents:
            return parents
        parents = best


def _best_graph(order, parents_of):
    """The best graph in which every parent comes before its children in `order`."""
    found = {child: parents_of(child, tuple(sorted(order[:i]))) for i, child in enumerate(order)}
    return tuple(found[child] for child in sorted(found))


def _orders_by_moves(start, total_of):
    """All orders that are tried: one node is moved to another place, the best such move each time, while that helps."""
    order, is_better = start, True
    while is_better:
        yield order
        moved = [_moved(order, node, place) for node in order for place in range(len(order)) if order[place] != node]
        yield from moved
        best = max(moved, key=total_of)
        is_better = total_of(best) > total_of(order)
        order = best


def _moved(order, node, place):
    rest = [other for other in order if other != node]
    return (*rest[:place], node, *rest[place:])


def _sorted_by(graph):
    """Node numbers, every child before its parents; those that may come in any order by number."""
    left, nodes = list(range(len(graph))), []
    while left:
        last = next(n for n in left if not any(n in graph[child] for child in left))
        left.remove(last)
        nodes.append(last + 1)
    return nodes
