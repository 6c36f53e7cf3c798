"""The ELBO in float64 NumPy, as the equations state it: what every contender must agree with before it is timed."""

import numpy as np

from benchmarks import peers


def perturbed(weights, seed):
    """The weights with noise, more of it in the flows: s then spreads over (0, 1)."""
    rng = np.random.default_rng(seed)
    changed = {}
    for name, value in weights.items():
        size = 0.2 if name.startswith("flow") else 0.02
        changed[name] = (value + rng.normal(0.0, size, value.shape)).astype("float32")
    return changed


def elbo(sizes, weights, x, eps):
    """The one-draw ELBO [B] in float64, term by term as the equations state it; also every s of the flows."""
    weights = {name: value.astype("float64") for name, value in weights.items()}
    dim, num_nodes = sizes["node_dim"], sizes["num_nodes"]

    def elu(v):
        return np.where(v > 0, v, np.expm1(np.minimum(v, 0.0)))

    def softplus(v):
        return np.logaddexp(v, 0.0)

    def log_normal(v, loc, scale):
        return (-0.5 * ((v - loc) / scale) ** 2 - np.log(scale) - 0.5 * np.log(2.0 * np.pi)).sum(-1)

    def dense(name, v, depth, elu_last=False):
        for i in range(depth):
            v = v @ weights[f"{name}/{i}/kernel"] + weights[f"{name}/{i}/bias"]
            if i < depth - 1 or elu_last:
                v = elu(v)
        return v

    def network(name, v):
        out = dense(name, v, len(sizes["node_units"]) + 1)
        return out[:, :dim], softplus(out[:, dim : 2 * dim] + 0.5413248546129181) + 1e-3, elu(out[:, 2 * dim :])

    def convolved(name, v):
        kernel, reach = weights[f"{name}/kernel"], len(weights[f"{name}/kernel"]) // 2
        padded = np.pad(v, [(0, 0), (reach, reach), (reach, reach), (0, 0)])
        windows = np.lib.stride_tricks.sliding_window_view(padded, kernel.shape[:2], axis=(1, 2))
        return np.einsum("bijckl,klcd->bijd", windows, kernel, optimize=True) + weights[f"{name}/bias"]

    def blocks(name, v):
        for j in range(sizes["residual_blocks"]):
            v = v + convolved(f"{name}/{j}/1", elu(convolved(f"{name}/{j}/0", elu(v))))
        return v

    resolutions = peers.resolutions(sizes)
    features = x.astype("float64")
    for i, (_, factor, side) in enumerate(resolutions):
        name = f"encoder/{i}/change"
        if factor == 1:
            features = convolved(name, features.reshape(len(x), side, side, -1))
        else:
            cells = features.reshape(len(x), side, factor, side, factor, -1)
            kernel, bias = weights[f"{name}/kernel"], weights[f"{name}/bias"]
            features = np.einsum("biajkc,akcd->bijd", cells, kernel, optimize=True) + bias
        features = blocks(f"encoder/{i}", features)
    if resolutions:
        features = elu(features).reshape(len(x), -1)
    features = dense("encoder", features, len(sizes["encoder_units"]), elu_last=True)
    z, total, all_s = {}, 0.0, []
    for n in range(num_nodes - 1, -1, -1):
        loc, scale, context = network(f"bottom_up/{n}", features)
        prior_loc, prior_scale = np.zeros_like(loc), np.ones_like(loc)
        if n < num_nodes - 1:
            parents = np.concatenate([z[j] for j in range(n + 1, num_nodes)], -1)
            prior_loc, prior_scale, _ = network(f"top_down/{n}", parents)
            precision = prior_scale**-2 + scale**-2
            loc = (prior_loc * prior_scale**-2 + loc * scale**-2) / precision
            scale = precision**-0.5
        value = loc + scale * eps[n]
        log_q = log_normal(value, loc, scale)
        for t in range(sizes["num_flow_steps"]):
            name, order = f"flow/{n}/{t}", np.arange(1, dim + 1)
            order = order[::-1] if t % 2 else order
            degrees = [order, *(np.arange(u) * dim // u for u in sizes["flow_units"]), np.concatenate([order, order])]
            hidden = value
            for i in range(len(degrees) - 1):
                last = i == len(degrees) - 2
                sees = np.less if last else np.less_equal
                mask = sees(degrees[i][:, None], degrees[i + 1][None, :])
                hidden = hidden @ (mask * weights[f"{name}/{i}/kernel"]) + weights[f"{name}/{i}/bias"]
                if i == 0:
                    hidden = hidden + context @ weights[f"{name}/context/kernel"]
                hidden = hidden if last else elu(hidden)
            s = 1.0 / (1.0 + np.exp(-hidden[:, dim:] - 2.0))
            value = s * value + (1.0 - s) * hidden[:, :dim]
            log_q = log_q - np.log(s).sum(-1)
            all_s.append(s)
        z[n] = value
        total = total + log_normal(value, prior_loc, prior_scale) - log_q
    logits = dense("decoder", np.concatenate([z[n] for n in range(num_nodes)], -1), len(sizes["decoder_units"]) + 1)
    for i, (channels, factor, side) in reversed(list(enumerate(resolutions))):
        name = f"decoder/{i}"
        v = elu(blocks(name, logits.reshape(len(x), side, side, channels)))
        cells = np.einsum("bijc,akdc->biajkd", v, weights[f"{name}/change/kernel"], optimize=True)
        logits = cells.reshape(len(x), side * factor, side * factor, -1) + weights[f"{name}/change/bias"]
    logits = logits.reshape(len(x), -1)
    return total + (x * logits - softplus(logits)).sum(-1), np.array(all_s)
