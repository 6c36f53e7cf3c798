"""What a trained model is used for: draws, codes and bounds."""

import typing
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from tf_ldiaf.model.estimator import importance_weighted
from tf_ldiaf.model.trainer import Trainer
from tf_ldiaf.probability.noise import seed_number


class Questions(Trainer):
    """A model that answers questions about images and latents.

    A subclass has `prior`, `posterior`, `likelihood`, `features` and `terms`, its latent `graph`, and what a `Trainer`
    needs.
    """

    def sample(
        self, num: int | tf.Tensor, seed: int | tf.Tensor = 0, given: Mapping[int, typing.Any] | None = None
    ) -> dict[str, tf.Tensor]:
        """Draws `num` images from the prior; the same seed, a scalar int, gives the same images.

        Args:
            num: how many images.
            seed: scalar int.
            given: latents of some nodes by the nodes' numbers, each [D] or [num, D], such as {5: z5}. These nodes are
                held at them. All others are drawn given their parents: a node does not learn from its held descendants.

        Returns:
            probs: [num, ...], means of p(x given z), in 0-1: of pixels of 0 and 1 the probability of 1, of 256 values
                the mean / 255.
            images: [num, ...], draws: 0 and 1, or k / 255.

        Raises:
            ValueError: the model was neither fitted, loaded, called nor built; `num` is an int below 1; or `given` has
                other nodes or shapes.
        """
        self._check_built("sample")
        if not tf.is_tensor(num) and not (isinstance(num, int | np.integer) and num >= 1):
            raise ValueError(f"num must be at least 1, a whole number. Received: {num}.")
        noise_seed, image_seed = _seeds(seed)
        latents, keep = self._held(given or {}, tf.cast(num, tf.int32))
        return self._pictures(self.prior().resampled(latents, keep, noise_seed), image_seed)

    def decode(self, latents) -> dict[str, tf.Tensor]:
        """The picture of given latents: `probs` as in `sample`, [n, ...], of latents [n, N, D]."""
        self._check_built("decode")
        return {"probs": self._probs(self.likelihood(self._latents(latents)))}

    def resample(self, latents, keep, seed: int | tf.Tensor = 0, adjacency=None) -> dict[str, tf.Tensor]:
        """Keeps some nodes, and draws the others anew: each from its prior given its parents, from the root down.

        The noise of a node depends on the seed, the node and the row of `latents`. So the same seed with one edge shut
        shows what this edge changes. If no node is kept, the draws are those of `sample`.

        Args:
            latents: [n, N, D].
            keep: [N] or [n, N], bool: the nodes that keep their latents.
            seed: scalar int.
            adjacency: [N, N], bool, adjacency[child, parent]: which of the model's edges are open; None: all. An edge
                that the model lacks stays shut.

        Returns:
            latents: [n, N, D].
            probs: [n, ...], means of p(x given latents), as in `sample`.

        Raises:
            ValueError: a model as in `sample`, or an argument of another shape.
        """
        self._check_built("resample")
        latents, num = self._latents(latents), self.num_nodes
        keep = _shaped("keep", keep, tf.bool, [num], [latents.shape[0], num])
        if adjacency is not None:
            adjacency = _shaped("adjacency", adjacency, tf.bool, [num, num])
        noise_seed, _ = _seeds(seed)
        drawn = self.graph.prior(adjacency).resampled(latents, keep, noise_seed)
        return {"latents": drawn, "probs": self._probs(self.likelihood(drawn))}

    def _latents(self, latents):
        return _shaped("latents", latents, tf.float32, [None, self.num_nodes, self.node_dim])

    def _held(self, given, num):
        """The latents that `given` says, [num, N, D], and which nodes have them, [N]."""
        nodes = [tf.zeros([num, self.node_dim])] * self.num_nodes
        for node, latents in given.items():
            if not isinstance(node, (int, np.integer)) or not 1 <= node <= self.num_nodes:
                raise ValueError(f"given must name nodes from 1 to {self.num_nodes}. Received: {node}.")
            shapes = [self.node_dim], [tf.get_static_value(num), self.node_dim]
            latents = _shaped(f"given[{node}]", latents, tf.float32, *shapes)
            nodes[node - 1] = tf.broadcast_to(latents, [num, self.node_dim])
        return tf.stack(nodes, axis=1), tf.constant([n + 1 in given for n in range(self.num_nodes)])

    def encode(self, x) -> tf.Tensor:
        """The latent code of each image x [B, ...]: z_T where every Gaussian draw is at its loc, [B, N, D]."""
        return self.codes_and_innovations(self.features(x))[0]

    def codes_and_innovations(self, features) -> tuple[tf.Tensor, tf.Tensor]:
        """The codes of `encode`, and what of them the prior did not foresee: `Draw.innovation`.

        Args:
            features: [B, F], what `features` returns.

        Returns:
            codes, innovations: [B, N, D].
        """
        drawn = self.graph.posterior(features).from_noise(self.graph.no_noise())
        return drawn.z[0], drawn.innovation[0]

    def reconstruct(self, x, seed: int | tf.Tensor = 0) -> dict[str, tf.Tensor]:
        """Each image from one draw of its posterior: `probs` and `images` as in `sample`, [B, ...]."""
        noise_seed, image_seed = tf.unstack(tf.random.split(tf.stack([seed_number(seed), 3])))
        return self._pictures(self.posterior(x).sample(seed=noise_seed), image_seed)

    def _pictures(self, z, seed):
        likelihood = self.likelihood(z)
        return {"probs": self._probs(likelihood), "images": self.scaled(likelihood.sample(seed=seed))}

    def _probs(self, likelihood):
        return self.scaled(likelihood.mean())

    def scaled(self, values: tf.Tensor) -> tf.Tensor:
        """Pixels in 0-1 of those that `likelihood` speaks of, 0 .. num_values - 1."""
        return values if self.num_values == 2 else values / (self.num_values - 1.0)

    def log_likelihood(self, x, num_importance_samples=100, seed=0) -> tf.Tensor:
        """The importance-weighted bound on log p(x), Eq. iw.

        Args:
            x: [B, ...], images, see `LDIAF`.
            num_importance_samples: S; memory does not grow with it.
            seed: scalar int.

        Returns:
            log_likelihood: [B], nats.
        """
        return self.bounds(x, num_importance_samples, seed)["log_likelihood"]

    def bounds(self, x, num_importance_samples, seed=0, first_image=0, jit_compile=False) -> dict[str, tf.Tensor]:
        """Both bounds and the terms of the ELBO, from the same S draws; the encoder runs once.

        Args:
            x, num_importance_samples, seed: as in `log_likelihood`.
            first_image: place of the first of `x` among all images, see `noise.uniform`.
            jit_compile: whether XLA compiles what is computed of each chunk of samples, but not the loop over them.

        Returns:
            elbo, log_likelihood, reconstruction: [B], nats.
            kl_per_node: [B, N], nats.
            effective_samples: [B], effective sample size, Eq. ess.
            innovations: [B, N, D], see `codes_and_innovations`.
        """
        features, seed = self.features(x), seed_number(seed)

        def draw(x, features, first_sample, num):
            return self.terms(x, features, [seed, 4], num, first=(first_sample, first_image))

        if jit_compile:
            draw = tf.function(draw, jit_compile=True, autograph=False)
        found = importance_weighted(
            lambda first_sample, num: draw(x, features, first_sample, num),
            num_importance_samples,
            tf.shape(features)[0],
            self.num_nodes,
            self.numbers_per_image,
        )
        return found | {"innovations": self.codes_and_innovations(features)[1]}

    def compiled_bounds(
        self, num_importance_samples: int, seed: int = 0, jit_compile: bool = True
    ) -> tf.types.experimental.PolymorphicFunction:
        """`bounds` as a compiled function of (x, first_image).

        Args:
            num_importance_samples, seed: as in `log_likelihood`.
            jit_compile: whether XLA compiles it, as far as that is faster.
        """
        is_whole = self.loops_can_be_compiled

        def bounds(x, first_image=0):
            return self.bounds(x, num_importance_samples, seed, first_image, jit_compile and not is_whole)

        return tf.function(bounds, jit_compile=jit_compile and is_whole, autograph=False)


def _seeds(seed):
    """Of the latents, and of the images."""
    return tf.unstack(tf.random.split(tf.stack([seed_number(seed), 2])))


def _shaped(name, value, dtype, *shapes):
    """`value` as a tensor of one of the shapes.

    Raises:
        ValueError: it has another one.
    """
    value = tf.cast(value, dtype)
    if not any(value.shape.is_compatible_with(shape) for shape in shapes):
        wanted = " or ".join(f"[{', '.join('n' if side is None else str(side) for side in shape)}]" for shape in shapes)
        raise ValueError(f"{name} must have the shape {wanted}. Received: {list(value.shape)}.")
    return value
