"""In which directions the codes of a node vary."""

import typing

import numpy as np

_MOST = 8
_SMALLEST_SHARE = 0.01
_NO_VARIANCE = 1e-6
# Where the sliders of the page can stand.
_LEVELS = np.arange(1, 100) / 100


def directions(codes: np.ndarray) -> dict[str, typing.Any]:
    """The principal directions of a node's codes, those that explain at least 1 % of their variance, at most 8.

    Args:
        codes: [n, D].

    Returns:
        mean: [D].
        components: [K, D], of length 1; the largest entry of each is positive.
        shares: [K], of the variance that each explains.
        quantiles: [K, 99], from 1 % to 99 %, of (code - mean) . component.
    """
    mean = codes.mean(axis=0)
    _, singular_values, components = np.linalg.svd(codes - mean, full_matrices=False)
    variances = singular_values**2 / len(codes)
    shares = variances / max(variances.sum(), _NO_VARIANCE)
    num = min(_MOST, int((shares >= _SMALLEST_SHARE).sum())) if variances.sum() > _NO_VARIANCE else 0
    components = components[:num]
    largest = np.take_along_axis(components, np.abs(components).argmax(axis=1, keepdims=True), axis=1)
    components = components * np.sign(largest)
    quantiles = np.quantile((codes - mean) @ components.T, _LEVELS, axis=0).T
    return {"mean": mean, "components": components, "shares": shares[:num], "quantiles": quantiles}
