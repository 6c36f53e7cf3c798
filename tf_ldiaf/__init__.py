"""Variational autoencoders with a learned latent graph and inverse autoregressive flow posteriors.

    LDIAF         the model, a Keras model with explicit arguments
    Config        every setting of a training command
    layers        its parts, each usable alone
    data          from files to batches of images

Symbols, everywhere:
    B batch, S importance samples, N latent nodes, D node_dim, X observed dimensions, T flow steps.
Axes: [S, B, N, D] in this order. Nodes are z_1 .. z_N; node N is the root; index n - 1 holds z_n.
    adjacency[child, parent] is 1 where the child depends on the parent; parents have larger numbers.
Units: every log-quantity is in nats per example; only `bounds.bits_per_dim` changes the unit.
Signs: `elbo` is maximised; the loss is minus its mean.
"""

import importlib
import os
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tf_ldiaf import data, layers, structure
    from tf_ldiaf.config import Config
    from tf_ldiaf.model.ldiaf import LDIAF

__version__ = "0.1.0"
__all__ = ["LDIAF", "Config", "data", "layers", "structure"]


def __getattr__(name: str) -> Any:
    if name in ("data", "layers", "structure"):
        return importlib.import_module(f"tf_ldiaf.{name}")
    homes = {"Config": "tf_ldiaf.config", "LDIAF": "tf_ldiaf.model.ldiaf"}
    if name in homes:
        return getattr(importlib.import_module(homes[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


# A command imports the package first, and TensorFlow itself as soon as its flags are known to be right. `python -m
# tf_ldiaf.train` is known as "-m" meanwhile.
_program = os.path.basename((sys.argv or [""])[0])
if not (_program.startswith("tf-ldiaf") or (_program == "-m" and any("tf_ldiaf" in part for part in sys.orig_argv))):
    import keras

    if keras.backend.backend() != "tensorflow":
        raise ImportError(f"Keras must have the backend tensorflow. Received: {keras.backend.backend()}.")
    importlib.import_module("tf_ldiaf.model.ldiaf")  # so that keras.models.load_model knows all classes
