"""Prior and posterior of a latent graph's nodes, as TFP distributions over z [N, D]."""

import typing

import numpy as np
import tensorflow as tf
import tensorflow_probability as tfp

from tf_ldiaf.execution.private import bijector_values_forgotten
from tf_ldiaf.layers.networks import GaussianParameters
from tf_ldiaf.probability.gaussians import fuse
from tf_ldiaf.probability.noise import stateless_seed

tfb, tfd = tfp.bijectors, tfp.distributions


class Draw(typing.NamedTuple):
    """S draws of z from the posterior of B images."""

    z: tf.Tensor  # [S, B, N, D], z_T
    innovation: tf.Tensor  # [S, B, N, D], what of z_T the prior did not foresee: see `log_prior`
    log_prior: tf.Tensor  # [S, B, N], nats
    log_posterior: tf.Tensor  # [S, B, N], nats


class _OverNodes(tfd.Distribution):
    """What prior and posterior share: event shape [N, D], and the sum over the nodes' log-probabilities."""

    def __init__(self, graph, gates, parameters, name):
        self._graph, self._gates = graph, gates
        super().__init__(
            dtype=tf.float32,
            reparameterization_type=tfd.FULLY_REPARAMETERIZED,
            validate_args=False,
            allow_nan_stats=False,
            parameters=parameters,
            name=name,
        )

    def log_prob_parts(self, z: tf.Tensor) -> tf.Tensor:
        """Log-probability of each node's part given its parents: [..., N] nats, of z [..., N, D]."""
        raise NotImplementedError

    def _log_prob(self, z):
        return tf.reduce_sum(self.log_prob_parts(z), axis=-1)

    def _event_shape(self):
        return tf.TensorShape([self._graph.num_nodes, self._graph.node_dim])

    def _event_shape_tensor(self):
        return tf.constant([self._graph.num_nodes, self._graph.node_dim])

    def _is_product_of_gaussians(self):
        fixed = self._graph.gates.fixed
        return fixed is not None and not fixed.any()


class LatentPrior(_OverNodes):
    """p(z): batch shape [], event shape [N, D].

        Eq. prior: p(z given c) = p(z_N) prod_n N(z_n; loc^_n, scale^_n), from MLP_TD_n(concat_j c[n,j] z_j)

    p(z_N) is N(0, I), or the `MixturePrior` of Eq. root. A node without open gates is N(0, I), too. With
    `prior_flow_steps`, z_n is such a draw behind a masked autoregressive flow. Its context h_n is from MLP_TD_n, and 0
    for a node without open gates. A density takes one pass of the flow's networks, and a draw takes D. Eq. fusion takes
    the Gaussian before the flow. So where the image says nothing of a node, its posterior is near its prior, not equal.

    Args:
        graph: a built `LatentGraph`.
        gates: what its `draw_gates` returns.
    """

    def __init__(self, graph, gates: tf.Tensor, name: str = "LatentPrior"):
        super().__init__(graph, gates, dict(locals()), name)

    @bijector_values_forgotten()
    def from_noise(
        self, noise: tf.Tensor, seed: typing.Any, held: tuple[tf.Tensor, tf.Tensor] | None = None
    ) -> tf.Tensor:
        """Draws whose normal part is given.

        Args:
            noise: [N, S, B, D], standard normal.
            seed: [2], int32, a stateless seed, for what is not normal in it.
            held: latents [S, B, N, D], and which nodes have them instead of being drawn: [S, B, N], bool.

        Returns:
            z: [S, B, N, D].
        """
        graph = self._graph
        root = noise[-1] if graph.root is None else graph.root.from_noise(noise[-1], seed)

        def visit(n, is_root, prior):
            drawn = tf.where(is_root, root, prior.loc + prior.scale * noise[n])
            if graph.prior_flows is not None:
                flow = graph.prior_flows.bijector_of(n, _as_rows(prior.context))
                drawn = tf.reshape(flow.forward(_as_rows(drawn)), tf.shape(drawn))
            if held is None:
                return [drawn]
            latents, are_held = held
            return [tf.where(are_held[:, :, n, tf.newaxis], latents[:, :, n], drawn)]

        [z] = graph.descend(tf.shape(noise)[1:3], self._gates, visit, num_parts=1)
        return tf.transpose(z, [1, 2, 0, 3])

    def resampled(self, z: tf.Tensor, keep: tf.Tensor, seed: typing.Any = None) -> tf.Tensor:
        """Draws in which some nodes keep the latents they have. The others are drawn given their parents.

        Args:
            z: [n, N, D].
            keep: [N] or [n, N], bool: which nodes keep theirs. If none does, the draws are those of `sample`.
            seed: as of `sample`. The noise of a node depends on the seed, the node and the row, and on nothing else.

        Returns:
            z: [n, N, D].
        """
        keep = tf.broadcast_to(keep, tf.shape(z)[:2])
        return self._drawn(tf.shape(z)[0], seed, (z[tf.newaxis], keep[tf.newaxis]))

    @bijector_values_forgotten()
    def given(self, z: tf.Tensor, noise: tf.Tensor, seed: typing.Any) -> tf.Tensor:
        """Each node drawn given its parents in z, not given each other.

        Args:
            z: [S, B, N, D].
            noise, seed: as of `from_noise`.

        Returns:
            [S, B, N, D].
        """
        graph, prior = self._graph, self._at(tf.transpose(z, [2, 0, 1, 3]))
        drawn = prior.loc + prior.scale * noise
        if graph.root is not None:
            drawn = tf.concat([drawn[:-1], graph.root.from_noise(noise[-1], seed)[tf.newaxis]], axis=0)
        if graph.prior_flows is not None:
            flow = graph.prior_flows.bijector_of_all(_as_rows(prior.context))
            drawn = tf.reshape(flow.forward(_as_rows(drawn)), tf.shape(drawn))
        return _by_draw(drawn)

    @bijector_values_forgotten()
    def log_prob_parts(self, z: tf.Tensor) -> tf.Tensor:
        z, lead = _as_draws(z, self._batch_shape_tensor(), self._graph)
        nodes = tf.transpose(z, [2, 0, 1, 3])
        return _with_lead(log_prior(self._graph, nodes, self._at(nodes))[0], lead)

    def _at(self, nodes):
        """The Gaussian of each node, given its parents in `nodes` [N, S, B, D]."""
        visit = _given(nodes, lambda n, z_n, is_root, prior: prior)
        _, *prior = self._graph.descend(tf.shape(nodes)[1:3], self._gates, visit, num_parts=4)
        return GaussianParameters(*prior)

    def _sample_n(self, n, seed=None):
        return self._drawn(n, seed)

    def _drawn(self, n, seed, held=None):
        seed = stateless_seed(seed)
        return self.from_noise(self._graph.noise((1, n), seed), tf.random.fold_in(seed, 1), held)[0]

    def _batch_shape(self):
        return tf.TensorShape([])

    def _batch_shape_tensor(self):
        return tf.constant([], tf.int32)

    def _mean(self):
        if self._graph.prior_flows is not None or not self._is_product_of_gaussians():
            raise NotImplementedError("The mean of a LatentPrior has a closed form only without flows and edges.")
        mean = self.from_noise(self._graph.no_noise(), tf.constant([0, 0]))[0, 0]
        root = self._graph.root
        return mean if root is None else tf.concat([mean[:-1], root.distribution().mean()[tf.newaxis]], axis=0)


class LatentPosterior(_OverNodes):
    """q(z given x) of B images: batch shape [B], event shape [N, D].

        Eq. density: log q(z_nT) = log N(z_n0; loc_n, scale_n) - log |det dz_nT/dz_n0|

    Each node is a `tfd.TransformedDistribution` of standard normal noise: through the Gaussian of Eq. fusion, and then
    through the node's flow, Eq. iaf. `log_prob` holds for any z, by the inverse of the flows. It is -inf where
    the inverse is beyond float32.

    Args:
        graph: a built `LatentGraph`.
        inferred: the `GaussianParameters` of its bottom-up networks, [N, B, ...].
        gates: what its `draw_gates` returns.
    """

    def __init__(self, graph, inferred, gates: tf.Tensor, name: str = "LatentPosterior"):
        parameters = dict(locals())
        self._inferred = inferred
        self._flow = graph.flows.bijectors(inferred.context) if graph.flows is not None else None
        super().__init__(graph, gates, parameters, name)

    def _node(self, n, is_root, prior) -> tfp.distributions.TransformedDistribution:  # pyright: ignore[reportInvalidTypeForm]
        """Of z_nT, given the prior that its parents give it."""
        own = self._inferred.loc[n], self._inferred.scale[n]
        fused = fuse((prior.loc, prior.scale), own)
        loc, scale = (tf.where(is_root, *pair) for pair in zip(own, fused, strict=True))
        steps = [tfb.Shift(loc), tfb.Scale(scale)]
        if self._flow is not None:
            steps.insert(0, self._flow(n))
        return tfd.TransformedDistribution(self._noise(), tfb.Chain(steps, name="code"))

    def _noise(self):
        return tfd.Sample(tfd.Normal(0.0, 1.0), self._graph.node_dim)

    @bijector_values_forgotten()
    def from_noise(self, noise: tf.Tensor) -> Draw:
        """Draws from it, with what the bounds need to know of them.

        Args:
            noise: [N, S, B, D], standard normal; or the graph's `no_noise()`, and every Gaussian is at its loc.

        Returns:
            a `Draw`.
        """

        def visit(n, is_root, prior):
            bijector, noise_n = self._node(n, is_root, prior).bijector, noise[n]
            z = bijector.forward(noise_n)
            return z, bijector.forward_log_det_jacobian(noise_n, event_ndims=1), *prior

        shape = tf.concat([tf.shape(noise)[1:2], tf.shape(self._inferred.loc)[1:2]], axis=0)
        # The densities of all nodes at once: many small operations fewer than in the loop.
        z, log_det, *prior = self._graph.descend(shape, self._gates, visit, num_parts=5)
        log_posterior = self._noise().log_prob(noise) - log_det
        of_prior, innovation = log_prior(self._graph, z, GaussianParameters(*prior))
        parts = z, innovation, of_prior, log_posterior
        # One node and a batch of unknown size broadcast to a number of nodes that TensorFlow does not know.
        return Draw(*(_by_draw(tf.ensure_shape(p, [self._graph.num_nodes, *p.shape[1:]])) for p in parts))

    @bijector_values_forgotten()
    def log_prob_parts(self, z: tf.Tensor) -> tf.Tensor:
        z, lead = _as_draws(z, self._batch_shape_tensor(), self._graph)
        nodes = tf.transpose(z, [2, 0, 1, 3])
        visit = _given(nodes, lambda n, z_n, *known: [self._node(n, *known).log_prob(z_n)])
        _, parts = self._graph.descend(tf.shape(z)[:2], self._gates, visit, num_parts=2)
        # Far out the inverse of a flow is beyond float32, and infinity less infinity is not a number.
        known = tf.math.is_finite(nodes) & tf.math.is_finite(self._inferred.loc)[:, tf.newaxis]
        is_far = tf.math.is_nan(parts) & tf.reduce_all(known, axis=-1)
        return _with_lead(tf.where(is_far, -np.inf, parts), lead)

    def _sample_n(self, n, seed=None):
        return self._drawn(n, seed).z

    def _sample_and_log_prob(self, sample_shape, seed, **kwargs):
        drawn = self._drawn(tf.reduce_prod(tf.cast(sample_shape, tf.int32)), seed)
        lead = tf.concat([tf.cast(tf.reshape(sample_shape, [-1]), tf.int32), self._batch_shape_tensor()], axis=0)
        z = tf.reshape(drawn.z, tf.concat([lead, self._event_shape_tensor()], axis=0))
        return z, tf.reshape(tf.reduce_sum(drawn.log_posterior, axis=-1), lead)

    def _drawn(self, n, seed):
        return self.from_noise(self._graph.noise((n, self._batch_shape_tensor()[0]), stateless_seed(seed)))

    def _batch_shape(self):
        return self._inferred.loc.shape[1:2]

    def _batch_shape_tensor(self):
        return tf.shape(self._inferred.loc)[1:2]

    def _mean(self):
        if self._flow is not None or not self._is_product_of_gaussians():
            raise NotImplementedError("The mean of a LatentPosterior has a closed form only without flows and edges.")
        return self.from_noise(self._graph.no_noise()).z[0]

    _mode = _mean


def log_prior(graph, z: tf.Tensor, prior: GaussianParameters) -> tuple[tf.Tensor, tf.Tensor]:
    """The nodes' prior, at nodes that are known.

    Args:
        graph: a built `LatentGraph`.
        z: [N, S, B, D].
        prior: what the top-down networks give, [N, S, B, ...].

    Returns:
        log p(z_n given its parents): [N, S, B], nats.
        innovation: [N, S, B, D], z_n less the prior's loc; where the prior has a flow, both before the flow.
    """
    log_det = 0.0
    if graph.prior_flows is not None:
        rows, flow = _as_rows(z), graph.prior_flows.bijector_of_all(_as_rows(prior.context))
        log_det = tf.reshape(flow.inverse_log_det_jacobian(rows, event_ndims=1), tf.shape(z)[:-1])
        z = tf.reshape(flow.inverse(rows), tf.shape(z))
    of_each = tfd.MultivariateNormalDiag(prior.loc, prior.scale).log_prob(z)
    if graph.root is not None:
        of_each = tf.concat([of_each[:-1], graph.root.distribution().log_prob(z[-1:])], axis=0)
    return of_each + log_det, z - prior.loc


def _given(nodes, visit):
    """A visit of `descend` that takes z from `nodes` [N, S, B, D] and gives what `visit(n, z_n, ...)` returns, too."""

    def visit_given(n, *prior):
        return nodes[n], *visit(n, nodes[n], *prior)

    return visit_given


def check_latents(z: tf.Tensor, num_nodes: int, node_dim: int) -> None:
    """Says if z is no latents [..., N, D].

    Raises:
        ValueError: it is not.
    """
    if not z.shape[-2:].is_compatible_with([num_nodes, node_dim]):
        raise ValueError(f"z must be latents [..., {num_nodes}, {node_dim}]. Received: {list(z.shape)}.")


def _as_draws(z, batch_shape, graph):
    """z [..., N, D] as [S, B, N, D], and the shape [...] of its log-probability; B is 1 where `batch_shape` is []."""
    z = tf.convert_to_tensor(z)
    check_latents(z, graph.num_nodes, graph.node_dim)
    lead = tf.broadcast_dynamic_shape(tf.shape(z)[:-2], batch_shape)
    z = tf.broadcast_to(z, tf.concat([lead, tf.shape(z)[-2:]], axis=0))
    return tf.reshape(z, tf.concat([[-1], lead[-1:] if batch_shape.shape[0] else [1], tf.shape(z)[-2:]], axis=0)), lead


def _as_rows(part):
    """[..., S, B, D] as [..., S * B, D]."""
    return tf.reshape(part, [*part.shape[:-3], -1, part.shape[-1]])


def _with_lead(parts, lead):
    """Each node's part, [N, S, B], as [..., N]."""
    return tf.reshape(_by_draw(parts), tf.concat([lead, tf.shape(parts)[:1]], axis=0))


def _by_draw(part):
    """[N, S, B, ...] as [S, B, N, ...]."""
    return tf.transpose(part, [1, 2, 0, *range(3, len(part.shape))])
