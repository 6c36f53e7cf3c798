"""python -m benchmarks.primitives: every part that we wrote, or once wrote, ourselves, beside the library's.

Each row is a model that differs from the shipped one in one part. The models take turns in one process. A row's figure
is the median over turns of its time over the shipped model's time in the same turn. Below 1 the part in the row is
faster than what is shipped. A part of our own stays if the library's costs at least 10 % of a training step or of a
log-likelihood, alone or together with others of its kind, or if it lacks an exactness that we need.
"""

import argparse
import contextlib
import json
import math
import pathlib
import statistics
import time
from unittest import mock

import numpy as np
import tensorflow as tf

from benchmarks import peer_tf_ldiaf, peers
from tf_ldiaf.layers import encoders, flows, latent_distributions, latent_graph, networks, stacked
from tf_ldiaf.model import trainer
from tf_ldiaf.probability import gaussians, iaf, likelihoods

BATCH_SIZE, STEPS, NUM_SAMPLES = 128, 25, 100


def tfp_log_prob(self, event):
    return super(likelihoods.Bernoulli, self)._log_prob(event)


def stateless_normal(shape, seed, first=(0, 0)):
    # Draws that did not depend on `first` would be made once for all chunks of samples, and so would all else.
    return tf.random.stateless_normal(shape, tf.random.fold_in(seed, first[0]))


class OurGaussian:
    """In place of `tfd.MultivariateNormalDiag`."""

    def __init__(self, loc, scale):
        self.loc, self.scale = loc, scale

    def log_prob(self, z):
        standardized = (z - self.loc) / self.scale
        return tf.reduce_sum(
            -0.5 * tf.square(standardized) - tf.math.log(self.scale) - 0.5 * math.log(2.0 * math.pi), axis=-1
        )


class OurFlow:
    """In place of the TFP chain: step and log-determinant by hand, in one pass."""

    def __init__(self, networks):
        self.networks = networks

    def forward(self, z):
        self.log_det = 0.0
        for network in self.networks:
            m, gate_logit = network(z)
            log_s = tf.math.log_sigmoid(gate_logit + 2.0)
            z = m + tf.exp(log_s) * (z - m)
            self.log_det += log_s
        return z

    def forward_log_det_jacobian(self, z, event_ndims):
        return tf.reduce_sum(self.log_det, axis=-1)


class OurNode:
    """In place of a node's `tfd.TransformedDistribution`."""

    def __init__(self, _, bijector):
        self.bijector = self
        *self.flow, self.shift, self.scale = bijector

    def forward(self, noise):
        z = self.shift.shift + self.scale.scale * noise
        return self.flow[0].forward(z) if self.flow else z

    def forward_log_det_jacobian(self, noise, event_ndims):
        log_det = tf.reduce_sum(tf.math.log(self.scale.scale), axis=-1)
        return log_det + self.flow[0].forward_log_det_jacobian(noise, event_ndims) if self.flow else log_det


def parts():
    """Name of each row -> whose it is that the row has, and the patches that put it there."""
    patch = mock.patch.object
    elu = [patch(module, "elu", tf.nn.elu) for module in (stacked, networks, encoders)]
    softplus = [patch(module, "softplus", tf.nn.softplus) for module in (gaussians, iaf, likelihoods)]
    bias = [patch(stacked, "_shared_at", lambda bias, n: bias[n])]
    norm = [patch(trainer, "global_norm", tf.linalg.global_norm)]
    by_hand = [patch(iaf.tfb, "Chain", lambda steps, name: steps), patch(flows, "inverse_autoregressive_flow", OurFlow)]
    return {
        "ELU": ("library", elu),
        "softplus": ("library", softplus),
        "bias at a loop's index": ("library", bias),
        "norm for clipping": ("library", norm),
        "these four": ("library", elu + softplus + bias + norm),
        "Bernoulli density": ("library", [patch(likelihoods.Bernoulli, "_log_prob", tfp_log_prob)]),
        "normal draws": ("library", [patch(latent_graph, "standard_normal", stateless_normal)]),
        "Gaussian densities": ("ours", [patch(latent_distributions.tfd, "MultivariateNormalDiag", OurGaussian)]),
        "flow and its log-determinant": (
            "ours",
            [*by_hand, patch(latent_distributions.tfd, "TransformedDistribution", OurNode)],
        ),
    }


def contender(patches):
    """The peers' contender with a part exchanged, after its first launch and likelihood."""
    with contextlib.ExitStack() as stack:
        for patch in patches:
            stack.enter_context(patch)
        made = peer_tf_ldiaf.Contender(peers.SIZES, peers.init(peers.SIZES, 0), BATCH_SIZE, "launch")
        made.load_data(IMAGES)
        made.train(STEPS)
        made.log_likelihood(IMAGES[:BATCH_SIZE], NUM_SAMPLES)
    return made


def in_turns(works, rounds):
    """name -> the median over turns of its seconds over those of the first, and its median seconds."""
    seconds = {name: [] for name in works}
    for turn in range(rounds):
        for name in list(works)[:: -1 if turn % 2 else 1]:
            started = time.perf_counter()
            works[name]()
            seconds[name].append(time.perf_counter() - started)
    first = seconds[next(iter(works))]
    return {
        name: (statistics.median(a / b for a, b in zip(found, first, strict=True)), statistics.median(found))
        for name, found in seconds.items()
    }


def main():
    """Prints the table, and writes it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", default="benchmarks/results/primitives.json")
    arguments = parser.parse_args()
    rows = {"as shipped": ("", [])} | parts()
    made = {name: contender(patches) for name, (_, patches) in rows.items()}
    steps = {name: lambda c=c: c.train(2 * STEPS) for name, c in made.items()}
    draws = {name: lambda c=c: c.log_likelihood(IMAGES[:BATCH_SIZE], NUM_SAMPLES) for name, c in made.items()}
    training, likelihood = in_turns(steps, arguments.rounds), in_turns(draws, arguments.rounds)
    found = {
        name: {"in the row": whose, "training": training[name][0], "likelihood": likelihood[name][0]}
        for name, (whose, _) in rows.items()
    }
    print("| part | in the row | training step | log-likelihood |\n|---|---|---|---|")
    for name, row in found.items():
        cells = [f"{row[what]:.2f}" if what in row else "-" for what in ("training", "likelihood")]
        print(f"| {name} | {row['in the row'] or '-'} | {' | '.join(cells)} |")
    milliseconds = training["as shipped"][1] / (2 * STEPS) * 1e3
    print(f"As shipped: {milliseconds:.1f} ms a step, {1e3 * likelihood['as shipped'][1]:.0f} ms a likelihood.")
    pathlib.Path(arguments.out).write_text(json.dumps(found, indent=1) + "\n")


IMAGES = np.random.default_rng(0).integers(0, 2, (48_000, 784)).astype("uint8")

if __name__ == "__main__":
    main()
