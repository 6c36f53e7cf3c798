"""The model in PyTorch: VARIANTS "eager" and "compile" written with care, "reference" as a first version would be."""

import functools
import math
import os
import time

import torch
import torch.nn.functional as F  # noqa: N812, the name that all give it
from torch import nn
from torch._inductor.compile_fx import compile_fx
from torch.distributions import Bernoulli, Normal

from benchmarks import peers

VARIANTS = ("eager", "compile", "reference")
_GATE_PROB, _TEMPERATURE = 0.5, 0.99

torch.set_num_threads(len(os.sched_getaffinity(0)))


def _parameter(kernel):
    return nn.Parameter(torch.tensor(kernel.T.copy()))  # [out, in], what F.linear takes


class Dense(nn.Module):
    """A linear layer from a [in, out] kernel, which a mask of the same shape may cover."""

    def __init__(self, kernel, bias, mask=None):
        super().__init__()
        self.weight, self.bias = _parameter(kernel), nn.Parameter(torch.tensor(bias))
        self.register_buffer("mask", None if mask is None else torch.tensor(mask.T.copy()))

    def forward(self, x):
        weight = self.weight if self.mask is None else self.mask * self.weight
        return F.linear(x, weight, self.bias)


def mlp(weights, name, linear_output=True):
    """The network `name` with an ELU after each layer, or after each but the last."""
    modules = []
    for kernel, bias in peers.layers(weights, name):
        modules += [Dense(kernel, bias), nn.ELU(inplace=True)]
    return nn.Sequential(*(modules[:-1] if linear_output else modules))


def convolution(weights, name):
    """A layer from Keras's kernel: [side, side, in, out] becomes [out, in, side, side]."""
    kernel, bias = torch.tensor(weights[f"{name}/kernel"]).permute(3, 2, 0, 1), torch.tensor(weights[f"{name}/bias"])
    num_out, num_in, side, _ = kernel.shape
    if name.startswith("decoder") and name.endswith("change"):
        layer = nn.ConvTranspose2d(num_out, num_in, side, stride=side)
    elif name.endswith("change") and side != 3:
        layer = nn.Conv2d(num_in, num_out, side, stride=side)
    else:
        layer = nn.Conv2d(num_in, num_out, side, padding=1)
    layer.weight, layer.bias = nn.Parameter(kernel.contiguous()), nn.Parameter(bias)
    return layer.to(memory_format=torch.channels_last)


class ResidualBlock(nn.Module):
    """x + convolution(elu(convolution(elu(x))))."""

    def __init__(self, weights, name):
        super().__init__()
        self.first, self.second = convolution(weights, f"{name}/0"), convolution(weights, f"{name}/1")

    def forward(self, x):
        return x + self.second(F.elu(self.first(F.elu(x)), inplace=True))


class Places(nn.Module):
    """Vectors [..., places * channels] as pictures [rows, channels, side, side], whose memory has the channels last."""

    def __init__(self, side):
        super().__init__()
        self.side = side

    def forward(self, x):
        return x.reshape(-1, self.side, self.side, x.shape[-1] // self.side**2).permute(0, 3, 1, 2)


class Vectors(nn.Module):
    """Back: [rows, places * channels]."""

    def forward(self, x):
        return x.permute(0, 2, 3, 1).flatten(1)


def blocks(sizes, weights, name):
    return [ResidualBlock(weights, f"{name}/{j}") for j in range(sizes["residual_blocks"])]


def encoder_of(sizes, weights):
    """Images [B, pixels] -> features [B, units]."""
    resolutions, modules = peers.resolutions(sizes), []
    for i in range(len(resolutions)):
        modules += [convolution(weights, f"encoder/{i}/change"), *blocks(sizes, weights, f"encoder/{i}")]
    if modules:
        modules = [Places(math.isqrt(sizes["num_pixels"])), *modules, nn.ELU(inplace=True), Vectors()]
    return nn.Sequential(*modules, *mlp(weights, "encoder", linear_output=False))


class Decoder(nn.Module):
    """Latents [..., N * D] -> logits [..., pixels]."""

    def __init__(self, sizes, weights):
        super().__init__()
        resolutions, modules = peers.resolutions(sizes), list(mlp(weights, "decoder"))
        if resolutions:
            modules += [Places(resolutions[-1][2])]
        for i in reversed(range(len(resolutions))):
            modules += [*blocks(sizes, weights, f"decoder/{i}"), nn.ELU(inplace=True)]
            modules += [convolution(weights, f"decoder/{i}/change")]
        self.layers = nn.Sequential(*modules)

    def forward(self, z):
        return self.layers(z).reshape(*z.shape[:-1], -1)


def gaussian(outputs, dim):
    """Splits a network's outputs [..., 2D + C] into loc, scale [..., D] and context [..., C]."""
    loc, raw_scale, context = outputs.split([dim, dim, outputs.shape[-1] - 2 * dim], dim=-1)
    return loc, F.softplus(raw_scale + peers.SCALE_OFFSET) + peers.MIN_SCALE, F.elu(context)


def fuse(prior_loc, prior_scale, loc, scale):
    """The normalised product of two Gaussians: its loc and scale."""
    total = torch.sqrt(prior_scale.square() + scale.square())
    ratio = prior_scale / total
    return torch.lerp(prior_loc, loc, ratio.square()), scale * ratio


class FlowStep(nn.Module):
    """z, context -> z of the next step and log s, both [..., D]."""

    def __init__(self, sizes, weights, n, t):
        super().__init__()
        name = f"flow/{n}/{t}"
        pairs = zip(peers.layers(weights, name), peers.flow_masks(sizes, t), strict=True)
        self.first, *rest = [Dense(*layer, mask) for layer, mask in pairs]
        self.rest = nn.ModuleList(rest)
        self.context = _parameter(weights[f"{name}/context/kernel"])

    def forward(self, z, context):
        hidden = self.first(z) + F.linear(context, self.context)
        for layer in self.rest:
            hidden = layer(F.elu(hidden, inplace=True))
        shift, gate_logit = hidden.chunk(2, dim=-1)
        gate_logit = gate_logit + 2.0
        return torch.lerp(shift, z, torch.sigmoid(gate_logit)), F.logsigmoid(gate_logit)


class VAE(nn.Module):
    """Encoder, decoder, a bottom-up and a top-down network for each node, and its flow."""

    def __init__(self, sizes, weights):
        super().__init__()
        num_nodes, steps = sizes["num_nodes"], sizes["num_flow_steps"]
        self.dim, self.num_nodes = sizes["node_dim"], num_nodes
        self.encoder, self.decoder = encoder_of(sizes, weights), Decoder(sizes, weights)
        self.bottom_up = nn.ModuleList(mlp(weights, f"bottom_up/{n}") for n in range(num_nodes))
        self.top_down = nn.ModuleList(mlp(weights, f"top_down/{n}") for n in range(num_nodes - 1))
        self.flows = nn.ModuleList(
            nn.ModuleList(FlowStep(sizes, weights, n, t) for t in range(steps)) for n in range(num_nodes)
        )

    def infer(self, x):
        """x [B, pixels] -> (loc, scale, context) of each node, each [B, ...]."""
        features = self.encoder(x)
        return [gaussian(network(features), self.dim) for network in self.bottom_up]

    def elbo(self, x, nodes, eps):
        """x [B, pixels], nodes of `infer`, eps [N, ..., B, D] -> [..., B], nats."""
        # Per dimension, log q(z) - log p(z); the constants of the two Gaussians cancel.
        kl = -0.5 * eps.square().sum(0)
        latents = []
        for n in reversed(range(self.num_nodes)):
            loc, scale, context = nodes[n]
            if latents:
                prior_loc, prior_scale, _ = gaussian(self.top_down[n](torch.cat(latents, dim=-1)), self.dim)
                loc, scale = fuse(prior_loc, prior_scale, loc, scale)
                kl = kl + torch.log(prior_scale / scale)
            else:
                kl = kl - torch.log(scale)
            z = loc + scale * eps[n]
            for step in self.flows[n]:
                z, log_s = step(z, context)
                kl = kl - log_s
            innovation = (z - prior_loc) / prior_scale if latents else z
            kl = kl + 0.5 * innovation.square()
            latents = [z, *latents]
        logits = self.decoder(torch.cat(latents, dim=-1))
        return (x * logits - F.softplus(logits)).sum(-1) - kl.sum(-1)

    def forward(self, x, *eps):
        return self.elbo(x, self.infer(x), *eps)


class ReferenceVAE(VAE):
    """The same, node by node with torch.distributions. Without eps (training) it draws its noise, and relaxed gates."""

    def infer(self, x):
        return self.encoder(x)

    def gate(self, shape):
        """A relaxed Bernoulli draw for each example: [*shape, 1]."""
        prob, u = torch.full((*shape, 1), _GATE_PROB), torch.rand(*shape, 1)
        opened = torch.pow(prob * u, 1.0 / _TEMPERATURE)
        shut = torch.pow((1.0 - prob) * (1.0 - u), 1.0 / _TEMPERATURE)
        return opened / (opened + shut)

    def elbo(self, x, features, eps=None):
        latents, log_prior, log_posterior = {}, 0.0, 0.0
        for n in reversed(range(self.num_nodes)):
            loc, scale, context = gaussian(self.bottom_up[n](features), self.dim)
            prior = Normal(torch.zeros_like(loc), torch.ones_like(scale))
            if n < self.num_nodes - 1:
                parents = []
                for j in range(n + 1, self.num_nodes):
                    z = latents[j]
                    parents.append(self.gate(z.shape[:-1]) * z if eps is None else z)
                prior_loc, prior_scale, _ = gaussian(self.top_down[n](torch.cat(parents, dim=-1)), self.dim)
                prior = Normal(prior_loc, prior_scale)
                loc, scale = fuse(prior_loc, prior_scale, loc, scale)
            posterior = Normal(loc, scale)
            z = posterior.rsample() if eps is None else loc + scale * eps[n]
            log_posterior = log_posterior + posterior.log_prob(z).sum(-1)
            for step in self.flows[n]:
                z, log_s = step(z, context)
                log_posterior = log_posterior - log_s.sum(-1)
            log_prior = log_prior + prior.log_prob(z).sum(-1)
            latents[n] = z
        logits = self.decoder(torch.cat([latents[n] for n in range(self.num_nodes)], dim=-1))
        return Bernoulli(logits=logits).log_prob(x).sum(-1) + log_prior - log_posterior


class Contender:
    """A model with its optimizer and data.

    Args:
        sizes: see `peers.SIZES`.
        weights: name -> array, see `peers.init`.
        batch_size: B of a training step.
        variant: one of VARIANTS.
    """

    def __init__(self, sizes, weights, batch_size, variant):
        torch.manual_seed(0)
        self.variant, self.batch_size = variant, batch_size
        self.eps_shape = (sizes["num_nodes"], batch_size, sizes["node_dim"])
        self.model = (ReferenceVAE if variant == "reference" else VAE)(sizes, weights)
        self.traced = None
        compiler = functools.partial(torch.compile, dynamic=False, backend=self._backend)
        compiled = compiler if variant == "compile" else lambda f: f
        self.loss = compiled(self._loss)
        self.infer, self.bound = compiled(self.model.infer), compiled(self.model.elbo)
        parameters, rate, epsilon = self.model.parameters(), 2e-3, 1e-7
        if variant == "reference":
            self.optimizer = torch.optim.Adam(parameters, rate, eps=epsilon, amsgrad=True)
        else:
            self.optimizer = torch.optim.Adam(parameters, rate, eps=epsilon, fused=True)

    def _backend(self, graph, inputs):
        """torch.compile's own; it is called with what was traced."""
        self.traced = self.traced or time.time()
        return compile_fx(graph, inputs)

    def load_data(self, images):
        """images: uint8 [num, pixels] of 0 and 1, kept for `train`."""
        self.data = torch.tensor(images)
        self.batches = iter(())

    def elbo(self, x, eps):
        """x [B, pixels], eps [N, B, D] -> one-draw ELBO [B], nats."""
        x, eps = torch.tensor(x, dtype=torch.float32), torch.tensor(eps, dtype=torch.float32)
        with torch.no_grad():
            return self.bound(x, self.infer(x), eps).numpy()

    def train(self, num_steps):
        """Runs so many steps and returns the loss of the last."""
        is_reference = self.variant == "reference"
        for _ in range(num_steps):
            x = self._next_batch()
            eps = [] if is_reference else [torch.randn(self.eps_shape)]
            self.optimizer.zero_grad(set_to_none=True)
            loss = self.loss(x, *eps)
            loss.backward()
            nn.utils.clip_grad_norm_(self.model.parameters(), 5.0, foreach=None if is_reference else True)
            self.optimizer.step()
            if is_reference:
                loss.item()
        return loss.item()

    def log_likelihood(self, x, num_samples):
        """x [B, pixels] -> importance-weighted bound [B], nats, from `num_samples` draws."""
        x = torch.tensor(x, dtype=torch.float32)
        num_nodes, _, dim = self.eps_shape
        draws = peers.draws_per_pass(num_samples, len(x))
        with torch.no_grad():
            nodes = self.infer(x)
            log_weights = []
            for first in range(0, num_samples, draws):
                # A compiled pass keeps its shape, and the draws beyond the last are dropped.
                num = draws if self.variant == "compile" else min(draws, num_samples - first)
                log_weights.append(self.bound(x, nodes, torch.randn(num_nodes, num, len(x), dim)))
            log_weights = torch.cat(log_weights)[:num_samples]
            return (torch.logsumexp(log_weights, dim=0) - math.log(num_samples)).numpy()

    def _loss(self, x, *eps):
        return -self.model(x, *eps).mean()

    def _next_batch(self):
        rows = next(self.batches, None)
        if rows is None:
            num = len(self.data) // self.batch_size * self.batch_size
            self.batches = iter(torch.randperm(len(self.data))[:num].split(self.batch_size))
            rows = next(self.batches)
        return self.data[rows].float()


if __name__ == "__main__":
    peers.main(Contender, VARIANTS)
