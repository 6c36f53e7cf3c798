"""tf_ldiaf as shipped, with the peers' weights and protocol. VARIANTS "launch" (steps_per_execution=25) and "step"."""

import math
import os
import time
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")  # as our commands do

import keras
import numpy as np
import tensorflow as tf

from benchmarks import peers
from tf_ldiaf import LDIAF, data
from tf_ldiaf.layers.gates import all_gates_open, edges_of

VARIANTS = ("launch", "step")


def make_model(sizes, weights, optimizer="adam"):
    """A compiled `LDIAF` with all gates open and these weights (name -> array, see `peers.init`)."""
    names = ["num_nodes", "node_dim", "num_flow_steps", "encoder_units", "decoder_units", "node_units"]
    names += ["flow_units", "context_dim", "channels", "residual_blocks"]
    edges = edges_of(all_gates_open(sizes["num_nodes"]))
    model = LDIAF(**{name: sizes[name] for name in names}, edges=edges)
    model.compile(optimizer)
    model.build((None, *_image_shape(sizes)))
    to_features, to_pixels = [], peers.layers(weights, "decoder")
    for i in range(len(peers.resolutions(sizes))):
        change, *blocks = _convolutions(sizes, weights, f"encoder/{i}")
        to_features += [change, *blocks]
    for i in reversed(range(len(peers.resolutions(sizes)))):
        change, *blocks = _convolutions(sizes, weights, f"decoder/{i}")
        to_pixels += [*blocks, change]
    to_features += peers.layers(weights, "encoder")
    for network, values in ((model.encoder, to_features), (model.decoder, to_pixels)):
        for layer, arrays in zip([layer for layer in network.layers if layer.weights], values, strict=True):
            layer.set_weights(arrays)
    graph = model.graph
    steps = [f"flow/{n}/{t}" for n in range(model.num_nodes) for t in range(model.num_flow_steps)]
    _fill(graph.bottom_up.stack, weights, [f"bottom_up/{n}" for n in range(model.num_nodes)])
    if graph.top_down is not None:
        _fill(graph.top_down.stack, weights, [f"top_down/{n}" for n in range(model.num_nodes - 1)])
    if graph.flows is not None:
        _fill(graph.flows.stack, weights, steps)
        graph.flows.context.kernel.assign(np.stack([weights[f"{step}/context/kernel"] for step in steps]))
    return model


def _image_shape(sizes):
    side = math.isqrt(sizes["num_pixels"])
    return (side, side) if sizes["channels"] else (sizes["num_pixels"],)


def _convolutions(sizes, weights, name):
    """The arrays of a resolution's layers: of the one that leads to it or away from it, and of each residual block."""
    names = [["change"], *([f"{j}/0", f"{j}/1"] for j in range(sizes["residual_blocks"]))]
    return [[weights[f"{name}/{part}/{kind}"] for part in parts for kind in ("kernel", "bias")] for parts in names]


def _fill(stack, weights, names):
    networks = [peers.layers(weights, name) for name in names]
    for layer, pairs in zip(stack, zip(*networks, strict=True), strict=True):
        width = layer.kernel.shape[1]
        layer.kernel.assign(np.stack([np.pad(kernel, [(width - len(kernel), 0), (0, 0)]) for kernel, _ in pairs]))
        layer.bias.assign(np.stack([bias[np.newaxis] for _, bias in pairs]))


class Contender:
    """A model with its optimizer and data; arguments and methods as those of the peers."""

    def __init__(self, sizes, weights, batch_size, variant):
        self.batch_size, self.steps_per_launch = batch_size, 25 if variant == "launch" else 1
        self.image_shape = _image_shape(sizes)
        self.model = make_model(sizes, weights, keras.optimizers.Adam(2e-3))
        self.bound = tf.function(self._bound, jit_compile=True, autograph=False)
        self.bounds = tf.function(self.model.log_likelihood, jit_compile=True, autograph=False)
        self.traced = None
        self.model.train_step = self._traced(self.model.train_step)

    def _traced(self, step):
        def wrapped(*args):
            result = step(*args)
            self.traced = self.traced or time.time()
            return result

        return wrapped

    def load_data(self, images):
        """images: uint8 [num, pixels] of 0 and 1, kept for `train`."""
        images = images.reshape(-1, *self.image_shape)
        sizes = {"batch_size": self.batch_size, "seed": 0}
        if self.steps_per_launch == 1:
            self.batches = iter(data.training_batches(images, **sizes))
        else:
            self.batches = iter(data.training_launches(images, **sizes, steps_per_launch=self.steps_per_launch))

    def elbo(self, x, eps):
        """x [B, pixels], eps [N, B, D] -> one-draw ELBO [B], nats."""
        x = x.reshape(-1, *self.image_shape)
        return self.bound(tf.constant(x), tf.constant(eps, tf.float32)).numpy()

    def _bound(self, x, eps):
        with mock.patch.object(self.model.graph, "noise", return_value=eps[:, tf.newaxis]):
            return self.model(x).elbo()[0]

    def train(self, num_steps):
        """Runs so many steps, a multiple of those in a launch, as `fit` does; returns the mean loss."""
        self.model.optimizer.build(self.model.trainable_variables)
        self.model.make_train_function()
        self.model.reset_metrics()
        for _ in range(-(-num_steps // self.steps_per_launch)):
            logs = self.model.train_function(self.batches)
        return -float(logs["elbo"])

    products = "MatMul|dot"

    def recording(self, folder):
        """While it is open XLA's trace goes to `folder`, where matrix products are called `products`, a pattern."""
        return tf.profiler.experimental.Profile(folder, tf.profiler.experimental.ProfilerOptions(host_tracer_level=3))

    def log_likelihood(self, x, num_samples):
        """x [B, pixels] -> importance-weighted bound [B], nats, from `num_samples` draws."""
        return self.bounds(tf.constant(x.reshape(-1, *self.image_shape)), num_samples).numpy()


if __name__ == "__main__":
    peers.main(Contender, VARIANTS)
