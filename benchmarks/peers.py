"""What the contenders share: names and initial values of the weights, masks, and the protocol. NumPy only.

Weights are a flat dict name -> float32 array. A dense network `name` has `name/i/kernel` [in, out] and `name/i/bias`
[out] for i = 0, 1, ..; the networks are those of `network_widths`. A flow step has `name/context/kernel` besides. The
convolutions of encoder and decoder are those of `convolutions`.
"""

import itertools
import json
import math
import os
import resource
import sys
import time

import numpy as np

SIZES = {
    "num_pixels": 784,
    "num_nodes": 5,
    "node_dim": 16,
    "num_flow_steps": 2,
    "encoder_units": [512, 512, 256, 128],
    "decoder_units": [256, 512, 512],
    "node_units": [64],
    "flow_units": [64, 64],
    "context_dim": 32,
    "channels": [],
    "residual_blocks": 2,
}
CONVOLUTIONS = SIZES | {"channels": [0, 32, 64], "encoder_units": [256, 128], "decoder_units": [256, 512]}
SCALE_OFFSET = 0.5413248546129181  # softplus of it is 1
MIN_SCALE = 1e-3
ROWS_PER_PASS = 4096


def resolutions(sizes):
    """For each resolution that has channels: how many, by what the side before is divided, and its own side."""
    found, before, whole = [], 0, math.isqrt(sizes["num_pixels"])
    for i, channels in enumerate(sizes["channels"]):
        if channels:
            found.append((channels, 2 ** (i - before), whole // 2**i))
            before = i
    return found


def convolutions(sizes):
    """Name of each convolution -> the shape of its kernel, and the places that it is applied at.

    `encoder/RESOLUTION/change` leads to a resolution, `decoder/RESOLUTION/change` away from it, to that before: its
    kernel is [side, side, out, in], the others' are [side, side, in, out]. `PART/RESOLUTION/BLOCK/0` and `/1` are those
    of a residual block.
    """
    found, before = {}, 1
    for i, (channels, factor, side) in enumerate(resolutions(sizes)):
        reach = 3 if factor == 1 else factor
        found[f"encoder/{i}/change"] = (reach, reach, before, channels), side**2
        found[f"decoder/{i}/change"] = (factor, factor, before, channels), side**2
        for part in ("encoder", "decoder"):
            for j in range(2 * sizes["residual_blocks"]):
                found[f"{part}/{i}/{j // 2}/{j % 2}"] = (3, 3, channels, channels), side**2
        before = channels
    return found


def network_widths(sizes):
    """Name of each dense network -> widths of its input, hidden layers and output."""
    num_nodes, dim, flow_steps = sizes["num_nodes"], sizes["node_dim"], sizes["num_flow_steps"]
    context = sizes["context_dim"] if flow_steps else 0
    outside = sizes["num_pixels"]
    for channels, _, side in resolutions(sizes):
        outside = channels * side**2
    widths = {
        "encoder": [outside, *sizes["encoder_units"]],
        "decoder": [num_nodes * dim, *sizes["decoder_units"], outside],
    }
    for n in range(num_nodes):
        widths[f"bottom_up/{n}"] = [sizes["encoder_units"][-1], *sizes["node_units"], 2 * dim + context]
        if n < num_nodes - 1:
            widths[f"top_down/{n}"] = [(num_nodes - 1 - n) * dim, *sizes["node_units"], 2 * dim]
        for t in range(flow_steps):
            widths[f"flow/{n}/{t}"] = [dim, *sizes["flow_units"], 2 * dim]
    return widths


def _products(sizes):
    """Multiplications of an image's matrix products: done once, and done for each draw of z. Masks are not deducted."""
    per_network = {
        name: sum(a * b for a, b in itertools.pairwise(widths)) for name, widths in network_widths(sizes).items()
    }
    for name, (shape, places) in convolutions(sizes).items():
        per_network[name] = math.prod(shape) * places
    num_flows = sum(name.startswith("flow") for name in per_network)
    once = sum(num for name, num in per_network.items() if name.startswith(("encoder", "bottom_up")))
    once += num_flows * sizes["context_dim"] * sizes["flow_units"][0]
    return once, sum(num for name, num in per_network.items() if name.startswith(("top_down", "flow", "decoder")))


def training_flops(sizes):
    """Floating-point operations of one image's training step: products forward, and twice as many backward, less the
    gradient with respect to the image, which nobody needs."""
    first = sizes["num_pixels"] * sizes["encoder_units"][0]
    if sizes["channels"]:
        shape, places = convolutions(sizes)["encoder/0/change"]
        first = math.prod(shape) * places
    return 2 * (3 * sum(_products(sizes)) - first)


def likelihood_flops(sizes, num_samples):
    """Floating-point operations of one image's importance-weighted bound."""
    once, per_draw = _products(sizes)
    return 2 * (once + num_samples * per_draw)


def init(sizes, seed):
    """Initial weights: name -> float32 array. He-normal before an ELU, uniform elsewhere, biases 0."""
    rng = np.random.default_rng(seed)

    def uniform(num_in, num_out, scale=1.0):
        limit = np.sqrt(6.0 * scale / (num_in + num_out))
        return rng.uniform(-limit, limit, (num_in, num_out))

    weights = {}
    for name, widths in network_widths(sizes).items():
        is_flow = name.startswith("flow")
        for i, (num_in, num_out) in enumerate(itertools.pairwise(widths)):
            is_last = i == len(widths) - 2
            if is_flow:
                kernel = uniform(num_in, num_out, 0.01 if is_last else 1.0)
            elif is_last and name != "encoder":
                kernel = uniform(num_in, num_out)
            else:
                kernel = rng.normal(0.0, np.sqrt(2.0 / num_in), (num_in, num_out))
            weights[f"{name}/{i}/kernel"] = kernel
            weights[f"{name}/{i}/bias"] = np.zeros(num_out)
        if is_flow:
            weights[f"{name}/context/kernel"] = uniform(sizes["context_dim"], widths[1])
    for name, (shape, _) in convolutions(sizes).items():
        is_from = name.startswith("decoder") and name.endswith("change")
        num_in = shape[3] if is_from else math.prod(shape[:3])
        weights[f"{name}/kernel"] = rng.normal(0.0, np.sqrt(1.0 / num_in), shape)
        weights[f"{name}/bias"] = np.zeros(shape[2 if is_from else 3])
    return {name: value.astype("float32") for name, value in weights.items()}


def layers(weights, name):
    """The (kernel, bias) pairs of the network `name`, first layer first."""
    prefixes = (f"{name}/{i}" for i in itertools.count())
    found = itertools.takewhile(lambda prefix: f"{prefix}/kernel" in weights, prefixes)
    return [(weights[f"{prefix}/kernel"], weights[f"{prefix}/bias"]) for prefix in found]


def flow_masks(sizes, t):
    """The 0/1 masks of flow step t, one [in, out] for each layer; the last one covers shift and gate_logit."""
    dim = sizes["node_dim"]
    order = np.arange(1, dim + 1)[:: -1 if t % 2 else 1]
    degrees = [order, *(np.arange(units) * dim // units for units in sizes["flow_units"])]
    masks = [below[:, None] <= above for below, above in itertools.pairwise(degrees)]
    masks.append(np.tile(degrees[-1][:, None] < order, 2))
    return [mask.astype("float32") for mask in masks]


def draws_per_pass(num_samples, batch):
    """How many draws of `batch` images go at once: passes of equal size, at most about ROWS_PER_PASS rows each."""
    most = min(max(ROWS_PER_PASS // batch, 1), num_samples)
    return -(-num_samples // -(-num_samples // most))


def main(contender, variants):
    """The command line of a peer: VARIANT [--first_step BATCH DATA.npy].

    Without the option, answers each JSON line of stdin by one of stdout.
    """
    start = float(os.environ.get("START_TIME") or _process_start())
    imported = time.time()
    variant, *options = sys.argv[1:]
    if variant not in variants:
        sys.exit(f"variant must be one of {', '.join(variants)}. Received: {variant}.")
    if options:
        _, batch_size, data = options
        _answer(_timeline(contender, variant, int(batch_size), data, start, imported))
        return
    session = _Session(contender, variant)
    for line in sys.stdin:
        request = json.loads(line)
        _answer(getattr(session, request.pop("do"))(**request))


def _answer(values):
    print(json.dumps(values), flush=True)


def _process_start():
    with open("/proc/self/stat") as stat, open("/proc/uptime") as uptime:
        ticks = int(stat.read().rpartition(")")[2].split()[19])
        age = float(uptime.read().split()[0]) - ticks / os.sysconf("SC_CLK_TCK")
    return time.time() - age


def _timeline(contender, variant, batch_size, data, start, imported):
    """Seconds from the start of the process to the end of each stage."""
    times = {"import": imported}
    images = np.load(data)
    times["data"] = time.time()
    model = contender(SIZES, init(SIZES, 0), batch_size, variant)
    model.load_data(images)
    times["build"] = time.time()
    for step in ("first_step", "second_step"):
        model.train(1)
        times[step] = time.time()
    if model.traced:
        times["tracing"] = model.traced
    return {stage: end - start for stage, end in times.items()}


class _Session:
    """One method for each request."""

    def __init__(self, contender, variant):
        self.contender, self.variant = contender, variant

    def setup(self, sizes, weights, batch_size, data):
        weights = dict(np.load(weights)) if weights else init(sizes, 0)
        self.model = self.contender(sizes, weights, batch_size, self.variant)
        self.model.load_data(np.load(data))
        return {"ready": True, "num_parameters": sum(value.size for value in weights.values())}

    def train(self, steps):
        start = time.perf_counter()
        loss = self.model.train(steps)
        return {"seconds": time.perf_counter() - start, "loss": loss}

    def elbo(self, x, eps, out):
        np.save(out, self.model.elbo(np.load(x), np.load(eps)))
        return {"done": True}

    def log_likelihood(self, x, num_samples):
        images = np.load(x)
        start = time.perf_counter()
        values = self.model.log_likelihood(images, num_samples)
        return {"seconds": time.perf_counter() - start, "mean": float(values.mean())}

    def profile(self, folder, what, **arguments):
        """Another request, answered while XLA's trace of it goes to `folder`; names what of it is a matrix product."""
        with self.model.recording(folder):
            answer = getattr(self, what)(**arguments)
        return answer | {"products": self.model.products}

    def memory(self):
        return {"peak_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}
