"""What several test files share: a quiet TensorFlow, and small configurations, images and weights."""

import os
import shutil
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# The commands that tests start keep compiled programs: not in the home of who runs the tests.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp(prefix="tf_ldiaf-cache-")

import numpy as np
import pytest

# The files that take longest, which begin first: otherwise one of two processes ends with them alone.
LONGEST = (
    "distribution", "training", "keras_users", "users_files", "cli", "structure", "own_networks", "docs",
    "explorer_page",
)  # fmt: skip


def pytest_collection_modifyitems(items):
    names = [f"test_{name}" for name in LONGEST]
    items.sort(key=lambda item: names.index(item.path.stem) if item.path.stem in names else len(names))


def pytest_unconfigure():
    shutil.rmtree(os.environ["XDG_CACHE_HOME"], ignore_errors=True)


@pytest.fixture
def place(tmp_path):
    """An empty folder to work in."""
    (tmp_path / "place").mkdir()
    return tmp_path / "place"


@pytest.fixture
def output(tmp_path):
    """An empty folder for what a command prints."""
    (tmp_path / "output").mkdir()
    return tmp_path / "output"


@pytest.fixture(scope="session")
def tiny():
    """Makes a `Config` of narrow networks, by default 3 nodes of 2 dimensions where the method admits them."""
    from tf_ldiaf import Config

    def make(method="ldiaf", **changes):
        settings = {"node_dim": 2, "encoder_units": (8,), "decoder_units": (8,), "node_units": (8,)}
        if method in ("fc_vae", "graph_vae", "ldiaf"):
            settings |= {"num_nodes": 3}
        if method in ("vae_iaf", "ldiaf"):
            settings |= {"flow_units": (16, 16), "context_dim": 4}
        if method in ("graph_vae", "ldiaf") and "edges" not in changes:
            settings |= {"structure_epochs": 1}
        return Config(
            method=method, **(settings | {"epochs": 1, "kl_warmup_epochs": 0, "jit_compile": False} | changes)
        )

    return make


@pytest.fixture(scope="session")
def images():
    """Makes `num` images of 0 and 1."""

    def make(num, shape=(3, 3), seed=0):
        return (np.random.default_rng(seed).random((num, *shape)) < 0.5).astype("float32")

    return make


@pytest.fixture(scope="session")
def randomise():
    """Adds normal noise to every trainable variable, so that nothing holds only near the initial weights."""

    def add_noise(layer, scale=0.3, seed=0):
        rng = np.random.default_rng(seed)
        for variable in layer.trainable_variables:
            variable.assign_add(scale * rng.normal(size=variable.shape).astype("float32"))
        return layer

    return add_noise


@pytest.fixture
def build(tiny, randomise):
    """A built model with random weights, for 3 x 3 images."""

    import keras

    from tf_ldiaf import LDIAF
    from tf_ldiaf.layers.gates import edges_of

    def make(method="ldiaf", adjacency=None, shape=(3, 3), **changes):
        keras.utils.set_random_seed(0)
        model = LDIAF.from_settings(tiny(method, **changes), None if adjacency is None else edges_of(adjacency))
        model.build((None, *shape))
        return randomise(model)

    return make


@pytest.fixture(scope="session")
def compiled(tiny):
    """A model compiled as its settings say, at a constant learning rate unless they say otherwise; not built."""

    from tf_ldiaf import LDIAF
    from tf_ldiaf.layers.gates import edges_of
    from tf_ldiaf.model.trainer import Objective
    from tf_ldiaf.training.optimizers import make_optimizer

    def make(method="ldiaf", adjacency=None, optimizer=None, run_eagerly=False, **changes):
        config = tiny(method, **{"learning_rate_schedule": "constant"} | changes)
        model = LDIAF.from_settings(config, None if adjacency is None else edges_of(adjacency))
        objective = {name: getattr(config, name) for name in Objective._fields}
        optimizer = optimizer or make_optimizer(config, num_steps=1)
        model.compile(optimizer, **objective, jit_compile=config.jit_compile, run_eagerly=run_eagerly)
        return model

    return make


@pytest.fixture
def npz(tmp_path):
    """Writes arrays to an .npz file and gives its name."""

    def write(**arrays):
        np.savez(tmp_path / "data.npz", **arrays)
        return str(tmp_path / "data.npz")

    return write
