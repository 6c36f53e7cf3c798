"""The model in JAX: VARIANTS "jit", one call a step, and "scan", one call for each 25 steps."""

import math
import re
import time
import typing

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from benchmarks import peers

VARIANTS = ("jit", "scan")
_STEPS_PER_SCAN = 25


def mlp(params, name, x):
    """The network `name`: ELU between its layers, none after the last."""
    *hidden, (kernel, bias) = peers.layers(params, name)
    for hidden_kernel, hidden_bias in hidden:
        x = jax.nn.elu(x @ hidden_kernel + hidden_bias)
    return x @ kernel + bias


def gaussian(outputs, dim):
    """Splits a network's outputs [..., 2D + C] into loc, scale [..., D] and context [..., C]."""
    loc, raw_scale, context = jnp.split(outputs, [dim, 2 * dim], axis=-1)
    return loc, jax.nn.softplus(raw_scale + peers.SCALE_OFFSET) + peers.MIN_SCALE, jax.nn.elu(context)


def fuse(prior_loc, prior_scale, loc, scale):
    """The normalised product of two Gaussians: its loc and scale."""
    total = jnp.sqrt(jnp.square(prior_scale) + jnp.square(scale))
    ratio = prior_scale / total
    return prior_loc + jnp.square(ratio) * (loc - prior_loc), scale * ratio


def flow_step(params, sizes, n, t, z, context):
    """z [..., D], context [..., C] -> z of the next step and log s, both [..., D]."""
    name = f"flow/{n}/{t}"
    pairs = zip(peers.layers(params, name), peers.flow_masks(sizes, t), strict=True)
    (kernel, bias), *rest = [(mask * kernel, bias) for (kernel, bias), mask in pairs]
    hidden = z @ kernel + bias + context @ params[f"{name}/context/kernel"]
    for kernel, bias in rest:
        hidden = jax.nn.elu(hidden) @ kernel + bias
    shift, gate_logit = jnp.split(hidden, 2, axis=-1)
    gate_logit = gate_logit + 2.0
    return shift + jax.nn.sigmoid(gate_logit) * (z - shift), jax.nn.log_sigmoid(gate_logit)


def infer(params, sizes, x):
    """x [B, pixels] -> (loc, scale, context) of each node, each [B, ...]."""
    features = jax.nn.elu(mlp(params, "encoder", x))
    return [gaussian(mlp(params, f"bottom_up/{n}", features), sizes["node_dim"]) for n in range(sizes["num_nodes"])]


def elbo(params, sizes, x, nodes, eps):
    """x [B, pixels], nodes of `infer`, eps [N, ..., B, D] -> [..., B], nats."""
    # Per dimension, log q(z) - log p(z); the constants of the two Gaussians cancel.
    kl = -0.5 * jnp.square(eps).sum(0)
    latents = []
    for n in reversed(range(sizes["num_nodes"])):
        loc, scale, context = nodes[n]
        prior_loc, prior_scale = 0.0, 1.0
        if latents:
            outputs = mlp(params, f"top_down/{n}", jnp.concatenate(latents, axis=-1))
            prior_loc, prior_scale, _ = gaussian(outputs, sizes["node_dim"])
            loc, scale = fuse(prior_loc, prior_scale, loc, scale)
        z = loc + scale * eps[n]
        kl += jnp.log(prior_scale / scale)
        for t in range(sizes["num_flow_steps"]):
            z, log_s = flow_step(params, sizes, n, t, z, context)
            kl -= log_s
        kl += 0.5 * jnp.square((z - prior_loc) / prior_scale)
        latents = [z, *latents]
    logits = mlp(params, "decoder", jnp.concatenate(latents, axis=-1))
    return (x * logits - jax.nn.softplus(logits)).sum(-1) - kl.sum(-1)


def log_likelihood(params, sizes, x, key, num_samples):
    """x [B, pixels] -> importance-weighted bound [B], nats, from `num_samples` draws."""
    nodes = infer(params, sizes, x)
    draws = peers.draws_per_pass(num_samples, len(x))

    def log_weights(key):
        eps = jax.random.normal(key, (sizes["num_nodes"], draws, len(x), sizes["node_dim"]))
        return elbo(params, sizes, x, nodes, eps)

    passes = lax.map(log_weights, jax.random.split(key, -(-num_samples // draws)))
    used = passes.reshape(-1, len(x))[:num_samples]  # the last pass may reach beyond
    return jax.nn.logsumexp(used, axis=0) - math.log(num_samples)


class State(typing.NamedTuple):
    """What a training step changes."""

    params: dict
    optimizer: typing.Any
    key: jax.Array
    order: jax.Array  # [num], this epoch's order of the images
    count: jax.Array  # steps so far


def make_step(sizes, batch_size, optimizer):
    """A training step: (state, images [num, pixels]) -> (state, loss)."""

    def loss(params, x, eps):
        return -elbo(params, sizes, x, infer(params, sizes, x), eps).mean()

    def step(state, images):
        key, order_key, eps_key = jax.random.split(state.key, 3)
        position = state.count % (len(images) // batch_size)
        order = lax.cond(
            position == 0, lambda order: jax.random.permutation(order_key, order), lambda order: order, state.order
        )
        rows = lax.dynamic_slice_in_dim(order, position * batch_size, batch_size)
        x = images[rows].astype(jnp.float32)
        eps = jax.random.normal(eps_key, (sizes["num_nodes"], batch_size, sizes["node_dim"]))
        value, gradients = jax.value_and_grad(loss)(state.params, x, eps)
        updates, moments = optimizer.update(gradients, state.optimizer)
        return State(optax.apply_updates(state.params, updates), moments, key, order, state.count + 1), value

    return step


class Contender:
    """A model with its optimizer and data.

    Args:
        sizes: see `peers.SIZES`.
        weights: name -> array, see `peers.init`.
        batch_size: B of a training step.
        variant: one of VARIANTS.
    """

    def __init__(self, sizes, weights, batch_size, variant):
        self.variant = variant
        self.key = jax.random.key(1)
        optimizer = optax.chain(optax.clip_by_global_norm(5.0), optax.adam(2e-3, eps=1e-7))
        params = {name: jnp.array(value) for name, value in weights.items()}
        self.state = State(params, optimizer.init(params), jax.random.key(0), jnp.arange(0), jnp.array(0))
        body = make_step(sizes, batch_size, optimizer)
        self.traced = None

        def step(state, images):
            result = body(state, images)
            self.traced = self.traced or time.time()
            return result

        def steps(state, images, num):
            state, losses = lax.scan(lambda state, _: step(state, images), state, length=num)
            return state, losses[-1]

        def bound(params, x, eps):
            return elbo(params, sizes, x, infer(params, sizes, x), eps)

        def iw_bound(params, x, key, num_samples):
            return log_likelihood(params, sizes, x, key, num_samples)

        # The state is given up to each call, which writes the next one in its place.
        self.step = jax.jit(step, donate_argnums=0)
        self.steps = jax.jit(steps, static_argnums=2, donate_argnums=0)
        self.bound = jax.jit(bound)
        self.iw_bound = jax.jit(iw_bound, static_argnums=3)

    def load_data(self, images):
        """images: uint8 [num, pixels] of 0 and 1, kept for `train`."""
        self.images = jnp.array(images)
        self.state = self.state._replace(order=jnp.arange(len(images)), count=jnp.array(0))

    def elbo(self, x, eps):
        """x [B, pixels], eps [N, B, D] -> one-draw ELBO [B], nats."""
        return np.asarray(self.bound(self.state.params, jnp.asarray(x, jnp.float32), jnp.asarray(eps, jnp.float32)))

    def train(self, num_steps):
        """Runs so many steps and returns the loss of the last. Under "scan" each new remainder of 25 is compiled."""
        if self.variant == "scan":
            whole, rest = divmod(num_steps, _STEPS_PER_SCAN)
            for num in [_STEPS_PER_SCAN] * whole + [rest] * (rest > 0):
                self.state, loss = self.steps(self.state, self.images, num)
        else:
            for _ in range(num_steps):
                self.state, loss = self.step(self.state, self.images)
        return float(loss)

    @property
    def products(self):
        """A pattern for what 25 steps' trace calls a matrix product: XLA gives it to a library under other names."""
        program = self.steps.lower(self.state, self.images, _STEPS_PER_SCAN).compile().as_text()
        names = re.findall(r"%(\S+) = [^\n]*/dot_general\"", program)
        return "|".join(f"{re.escape(name)}$" for name in names) or "(?!)"  # without names nothing matches

    def recording(self, folder):
        """While it is open XLA's trace goes to `folder`."""
        options = jax.profiler.ProfileOptions()
        options.host_tracer_level, options.python_tracer_level = 3, 0
        return jax.profiler.trace(folder, profiler_options=options)

    def log_likelihood(self, x, num_samples):
        """x [B, pixels] -> importance-weighted bound [B], nats, from `num_samples` draws."""
        self.key, key = jax.random.split(self.key)
        return np.asarray(self.iw_bound(self.state.params, jnp.asarray(x, jnp.float32), key, num_samples))


if __name__ == "__main__":
    peers.main(Contender, VARIANTS)
