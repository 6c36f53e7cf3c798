"""Both bounds from S draws, taken in chunks so that memory does not grow with S."""

from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tf_ldiaf.probability.bounds import Terms

# Importance samples are drawn so many rows (samples x images) at a time; fewer, if the decoder gives many numbers.
_ROWS_PER_PASS, _NUMBERS_PER_PASS = 4096, 2**24


def importance_weighted(
    draw: Callable[[tf.Tensor, tf.Tensor], Terms],
    num_importance_samples: int | tf.Tensor,
    num_images: tf.Tensor,
    num_nodes: int,
    numbers_per_image: int = 1,
) -> dict[str, tf.Tensor]:
    """Both bounds and the terms of the ELBO, from the same S draws.

        Eq. iw: log p(x) >= E log (1/S) sum_s p(x, z_s) / q(z_s given x)

    It rises with S to log p(x), and is the ELBO at S = 1. Its effective sample size is

        Eq. ess: (sum_s w_s)^2 / sum_s w_s^2, with w_s = p(x, z_s) / q(z_s given x)

    which is S if all have one weight, and 1 if one draw has it all.

    Args:
        draw: a function of the place of the first sample and how many there are, to their `Terms`.
        num_importance_samples: S.
        num_images: B.
        num_nodes: N.
        numbers_per_image: how many the decoder gives.

    Returns:
        elbo, log_likelihood, reconstruction: [B], nats.
        kl_per_node: [B, N], nats.
        effective_samples: [B], in 1 .. S, of Eq. ess.

    Raises:
        ValueError: S is an int below 1.

    Source: Burda et al. 2016, arXiv 1509.00519, Eq. 8; Kish 1965 for Eq. ess.
    """
    if not tf.is_tensor(num_importance_samples):
        if not (isinstance(num_importance_samples, int | np.integer) and num_importance_samples >= 1):
            raise ValueError(
                f"num_importance_samples must be at least 1, a whole number. Received: {num_importance_samples}."
            )
        num_importance_samples = int(num_importance_samples)
    rows = max(1, min(_ROWS_PER_PASS, _NUMBERS_PER_PASS // numbers_per_image))
    most = tf.clip_by_value(rows // tf.maximum(num_images, 1), 1, num_importance_samples)
    num_chunks = -(-num_importance_samples // most)
    chunk = -(-num_importance_samples // num_chunks)  # equal, so that few draws are made in vain

    def add_chunk(i, log_sums, reconstruction, kl):
        terms = draw(i * chunk, chunk)
        # The last chunk may reach beyond S: draws there have weight 0.
        used = (i * chunk + tf.range(chunk) < num_importance_samples)[:, tf.newaxis]
        log_weights = tf.where(used, terms.elbo(), -np.inf)
        both = tf.stack([log_weights, 2.0 * log_weights], axis=1)  # of w, and of w^2
        return (
            i + 1,
            tf.reduce_logsumexp(tf.concat([log_sums[tf.newaxis], both], axis=0), axis=0),
            reconstruction + tf.reduce_sum(tf.where(used, terms.log_likelihood, 0.0), axis=0),
            kl + tf.reduce_sum(tf.where(used[:, :, tf.newaxis], terms.kl_per_node(), 0.0), axis=0),
        )

    zeros = tf.zeros([num_images])
    _, log_sums, reconstruction, kl = tf.while_loop(
        lambda i, *_: i < num_chunks,
        add_chunk,
        (0, tf.stack([zeros, zeros]) - np.inf, zeros, tf.zeros([num_images, num_nodes])),
        shape_invariants=tuple(tf.TensorShape(shape) for shape in ([], [2, None], [None], [None, num_nodes])),
    )
    log_sum, log_squares = tf.unstack(log_sums)
    num = tf.cast(num_importance_samples, tf.float32)
    reconstruction, kl = reconstruction / num, kl / num
    return {
        "elbo": reconstruction - tf.reduce_sum(kl, axis=-1),
        "log_likelihood": log_sum - tf.math.log(num),
        "reconstruction": reconstruction,
        "kl_per_node": kl,
        "effective_samples": tf.exp(2.0 * log_sum - log_squares),
    }
