"""tf_ldiaf as shipped, with the peers' weights and protocol. VARIANTS "launch" (steps_per_execution=25) and "step"."""

import os
import time
from unittest import mock

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf

from benchmarks import peers
from tf_ldiaf import LDIAF, Config
from tf_ldiaf.data import images as data
from tf_ldiaf.layers.gates import all_gates_open
from tf_ldiaf.model import schedules

VARIANTS = ("launch", "step")


def make_config(sizes, batch_size, **changes):
    """The `Config` of these sizes, whatever N and T are."""
    num_nodes, num_steps = sizes["num_nodes"], sizes["num_flow_steps"]
    method = {(True, False): "fc_vae", (True, True): "ldiaf", (False, False): "vae", (False, True): "vae_iaf"}
    names = ["node_dim", "encoder_units", "decoder_units", "node_units"]
    names += ["num_flow_steps", "flow_units", "context_dim"] if num_steps else []
    settings = {name: sizes[name] for name in names} | {"batch_size": batch_size} | changes
    return Config(method=method[num_nodes > 1, num_steps > 0], num_nodes=num_nodes, **settings)


def make_model(sizes, weights, config):
    """A compiled `LDIAF` with all gates open and these weights (name -> array, see `peers.init`)."""
    model = LDIAF(config, all_gates_open(config.num_nodes)).compile(schedules.make_optimizer(config))
    model.build((None, sizes["num_pixels"]))
    for network in (model.encoder, model.decoder):
        for layer, pair in zip(network.layers, peers.layers(weights, network.name), strict=True):
            layer.set_weights(pair)
    graph = model.graph
    steps = [f"flow/{n}/{t}" for n in range(config.num_nodes) for t in range(config.num_flow_steps)]
    _fill(graph.bottom_up.stack, weights, [f"bottom_up/{n}" for n in range(config.num_nodes)])
    if graph.top_down is not None:
        _fill(graph.top_down.stack, weights, [f"top_down/{n}" for n in range(config.num_nodes - 1)])
    if graph.flows is not None:
        _fill(graph.flows.stack, weights, steps)
        graph.flows.context.kernel.assign(np.stack([weights[f"{step}/context/kernel"] for step in steps]))
    return model


def _fill(stack, weights, names):
    networks = [peers.layers(weights, name) for name in names]
    for layer, pairs in zip(stack, zip(*networks, strict=True), strict=True):
        width = layer.kernel.shape[1]
        layer.kernel.assign(np.stack([np.pad(kernel, [(width - len(kernel), 0), (0, 0)]) for kernel, _ in pairs]))
        layer.bias.assign(np.stack([bias[np.newaxis] for _, bias in pairs]))


class Contender:
    """A model with its optimizer and data; arguments and methods as those of the peers."""

    def __init__(self, sizes, weights, batch_size, variant):
        num = 25 if variant == "launch" else 1
        self.config = make_config(sizes, batch_size, steps_per_execution=num)
        self.model = make_model(sizes, weights, self.config)
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
        self.images = images
        if self.config.steps_per_execution == 1:
            self.batches = iter(data.training_batches(images, self.config))
        else:
            self.batches = iter(data.training_launches(images, self.config))

    def elbo(self, x, eps):
        """x [B, pixels], eps [N, B, D] -> one-draw ELBO [B], nats."""
        return self.bound(tf.constant(x), tf.constant(eps, tf.float32)).numpy()

    def _bound(self, x, eps):
        with mock.patch.object(self.model.graph, "noise", return_value=eps[:, tf.newaxis]):
            return self.model(x).elbo()[0]

    def train(self, num_steps):
        """Runs so many steps, a multiple of those in a launch, as `fit` does; returns the mean loss."""
        self.model.optimizer.build(self.model.trainable_variables)
        self.model.make_train_function()
        self.model.reset_metrics()
        for _ in range(-(-num_steps // self.config.steps_per_execution)):
            logs = self.model.train_function(self.batches)
        return -float(logs["elbo"])

    products = "MatMul|dot"

    def recording(self, folder):
        """While it is open XLA's trace goes to `folder`, where matrix products are called `products`, a pattern."""
        return tf.profiler.experimental.Profile(folder, tf.profiler.experimental.ProfilerOptions(host_tracer_level=3))

    def log_likelihood(self, x, num_samples):
        """x [B, pixels] -> importance-weighted bound [B], nats, from `num_samples` draws."""
        return self.bounds(tf.constant(x), num_samples).numpy()


if __name__ == "__main__":
    peers.main(Contender, VARIANTS)
