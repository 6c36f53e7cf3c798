"""The terms of the bound on log p(x), and their sum, Eq. elbo. Nats throughout."""

import math
import typing

import tensorflow as tf


class Terms(typing.NamedTuple):
    """What S draws of z say of B images. Everything the objective, the metrics and the bounds need."""

    log_likelihood: tf.Tensor  # [S, B], log p(x given z), nats
    log_prior: tf.Tensor  # [S, B, N], log p(z_n given its parents), nats
    log_posterior: tf.Tensor  # [S, B, N], log q(z_n given x and its parents), nats
    latents: tf.Tensor  # [S, B, N, D], z_T

    def elbo(self, kl_weight: float | tf.Tensor = 1.0) -> tf.Tensor:
        """[S, B], nats; see the function `elbo`."""
        return elbo(self.log_likelihood, self.log_prior, self.log_posterior, kl_weight)

    def kl_per_node(self) -> tf.Tensor:
        """[S, B, N], nats; see the function `kl_per_node`."""
        return kl_per_node(self.log_prior, self.log_posterior)


def elbo(
    log_likelihood: tf.Tensor, log_prior: tf.Tensor, log_posterior: tf.Tensor, kl_weight: float | tf.Tensor = 1.0
) -> tf.Tensor:
    """Eq. elbo: log p(x given z) + log p(z) - log q(z given x), for each draw of z.

    Args:
        log_likelihood: [S, B], log p(x given z), nats.
        log_prior: [S, B, N], log p(z_n given its parents), nats.
        log_posterior: [S, B, N], log q(z_n given x and its parents), nats.
        kl_weight: scalar; below 1 only while the KL term is warmed up, and then this is no bound.

    Returns:
        elbo: [S, B], nats; its expectation over draws is a lower bound of log p(x).

    Source: Kingma and Welling 2014, arXiv 1312.6114, Eq. 2.
    """
    return log_likelihood - kl_weight * tf.reduce_sum(kl_per_node(log_prior, log_posterior), axis=-1)


def kl_per_node(log_prior: tf.Tensor, log_posterior: tf.Tensor) -> tf.Tensor:
    """One-draw estimates of each node's KL term, log q - log p: [S, B, N], nats."""
    return log_posterior - log_prior


def bits_per_dim(log_likelihood: float, num_dims: int) -> float:
    """-log_likelihood in bits per observed dimension; `log_likelihood` in nats per example."""
    return -log_likelihood / (num_dims * math.log(2.0))
