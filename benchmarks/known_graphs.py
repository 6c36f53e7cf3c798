"""Binary images whose latent graph is known.

A `KnownGraph` is a random graph of N nodes with a mechanism for each child: its mean is a nonlinear function of its
parents. The nodes are drawn from the root down. A picture is drawn from the nodes: patches side by side, one for each.

Where each node has a patch of its own, the true graph is the only smallest one for the given order of the nodes,
whatever the coordinates within a node are. So a method can be right or wrong.

`patches` are linear in the nodes, and made for models that are told which patch is whose. A model that has to find that
out needs `curved` pictures. Sums of linear pictures stay sums of linear pictures when the nodes are mixed, so no
additive decoder could tell.
"""

import numpy as np

_WAVES = (np.tanh, np.sin, np.abs, lambda a: a / np.sqrt(1 + a**2 / 4))
_PILOT = 50_000  # draws that signals are standardised with


class KnownGraph:
    """A random latent graph.

    Args:
        seed: of everything that is random in it.
        num_nodes, node_dim: N, D.
        noise: standard deviation of what the parents do not say of a child. Each node has variance 1.

    Attributes:
        adjacency: [N, N] of 0 and 1, adjacency[child, parent] with parent > child.
    """

    def __init__(self, seed: int, num_nodes: int = 5, node_dim: int = 2, noise: float = 0.4):
        self.seed, self.num_nodes, self.node_dim, self.noise = seed, num_nodes, node_dim, noise
        rng = np.random.default_rng([seed, 0])
        possible = np.triu_indices(num_nodes, 1)
        is_edge = np.zeros(len(possible[0]), bool)
        while not 0.3 <= is_edge.mean() <= 0.7:
            is_edge = rng.random(is_edge.size) < 0.5
        self.adjacency = np.zeros((num_nodes, num_nodes), int)
        self.adjacency[possible] = is_edge
        self._turns = np.linalg.qr(rng.standard_normal((num_nodes, num_nodes, node_dim, node_dim)))[0]
        self._waves = rng.integers(len(_WAVES), size=(num_nodes, num_nodes, node_dim))
        self._gains = rng.choice([-1, 1], (num_nodes, num_nodes, node_dim)) * rng.uniform(0.8, 1.2, (1, 1, node_dim))
        self._moments: dict[int, tuple] = {}
        self.nodes(_PILOT, seed)

    def nodes(self, num: int, seed: int) -> np.ndarray:
        """Draws of the nodes: [num, N, D]."""
        rng = np.random.default_rng([self.seed, 1, seed])
        z = rng.standard_normal((num, self.num_nodes, self.node_dim))
        for child in reversed(range(self.num_nodes)):
            parents = np.flatnonzero(self.adjacency[child])
            if parents.size:
                signal = sum(self._said(z[:, parent], child, parent) for parent in parents)
                mean, spread = self._moments.setdefault(child, (signal.mean(axis=0), signal.std(axis=0)))
                z[:, child] = np.sqrt(1 - self.noise**2) * (signal - mean) / spread + self.noise * z[:, child]
        return z

    def _said(self, z, child, parent):
        turned, waves = 2 * z @ self._turns[child, parent], self._waves[child, parent]
        return self._gains[child, parent] * np.stack([_WAVES[w](turned[:, d]) for d, w in enumerate(waves)], axis=1)

    def patches(self, z: np.ndarray, seed: int, side: int = 8, contrast: float = 4.0) -> np.ndarray:
        """[n, side, N * side] of 0 and 1: patches side by side, in which each pixel's logit is linear in its node."""
        rng = np.random.default_rng([self.seed, 2])
        slopes = contrast * rng.standard_normal((self.num_nodes, self.node_dim, side, side)) / np.sqrt(self.node_dim)
        offsets = 0.5 * rng.standard_normal((self.num_nodes, side, side))
        logits = np.einsum("bnd,ndhw->bhnw", z, slopes) + offsets.transpose(1, 0, 2)
        return self._drawn(logits.reshape(len(z), side, -1), seed)

    def curved(
        self, z: np.ndarray, seed: int, side: int = 8, contrast: float = 4.0, overlapping: bool = False
    ) -> np.ndarray:
        """[n, side, width] of 0 and 1: each pixel's logit is a soft step along some direction of its node's space.

        With `overlapping`, neighbouring patches share half of their columns, in which the logits add.
        """
        pictures = contrast * self._bent(z, side)
        pictures -= contrast * self._bent(self.nodes(_PILOT // 10, self.seed), side).mean(axis=1, keepdims=True)
        stride = side // 2 if overlapping else side
        logits = np.zeros((len(z), side, (self.num_nodes - 1) * stride + side))
        for n, picture in enumerate(pictures):
            logits[:, :, n * stride : n * stride + side] += picture
        return self._drawn(logits, seed)

    def _bent(self, z, side):
        """[N, n, side, side]: each pixel bends a direction of its node's space."""
        rng = np.random.default_rng([self.seed, 3])
        directions = rng.standard_normal((self.num_nodes, self.node_dim, side, side))
        directions *= 2 / np.sqrt((directions**2).sum(axis=1, keepdims=True))
        shifts = 2 * rng.standard_normal((self.num_nodes, 1, side, side))
        return np.tanh(np.einsum("bnd,ndhw->nbhw", z, directions) + shifts)

    def _drawn(self, logits, seed):
        rng = np.random.default_rng([self.seed, 4, seed])
        return (rng.random(logits.shape) < 1 / (1 + np.exp(-logits))).astype("uint8")


def patch_masks(num_nodes: int, side: int) -> np.ndarray:
    """Which pixels of `KnownGraph.patches` each node draws: [N, side, N * side]."""
    masks = np.zeros((num_nodes, side, num_nodes, side), "uint8")
    masks[np.arange(num_nodes), :, np.arange(num_nodes)] = 1
    return masks.reshape(num_nodes, side, -1)
