"""What a SavedModel of a model answers and refuses, and what a model says of its own arguments."""

import numpy as np
import pytest
import tensorflow as tf
from test_keras_users import X, make, other

from tf_ldiaf import LDIAF
from tf_ldiaf.errors import DataError


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    folder = tmp_path_factory.mktemp("served") / "model"
    model = make(channels=[2, 3])  # a convolutional one has an edge and flows
    model.export(folder)
    return model, tf.saved_model.load(folder)


@pytest.fixture(scope="module")
def answers(served):
    """What the model itself says of X."""
    model, _ = served
    return {
        "encode": model.encode(X),
        "log_likelihood": model.log_likelihood(X, 3, 5),
        "reconstruct": model.reconstruct(X, 5)["probs"],
        "sample": model.sample(3, 5)["probs"],
        "decode": model.decode(tf.ones([3, 2, 2]))["probs"],
    }


@pytest.mark.parametrize(
    ("pixels", "counts"),
    [(pixels, None) for pixels in ("float32", "float64", "uint8", "int32", "int64", "bool")]
    + [("float32", (tf.int32, tf.int32)), ("float32", (tf.int64, tf.int64))],
)
def test_a_saved_model_takes_numbers_of_every_type(pixels, counts, served, answers):
    _, loaded = served
    x = tf.constant(X.astype(pixels))
    num, seed = (3, 5) if counts is None else (tf.constant(3, counts[0]), tf.constant(5, counts[1]))
    latents = tf.ones([3, 2, 2], "float64" if pixels == "float64" else "float32")
    found = {
        "encode": loaded.encode(x)["codes"],
        "log_likelihood": loaded.log_likelihood(x, num, seed)["log_likelihood"],
        "reconstruct": loaded.reconstruct(x, seed)["probs"],
        "sample": loaded.sample(num, seed)["probs"],
        "decode": loaded.decode(latents)["probs"],
    }
    for name, expected in answers.items():
        np.testing.assert_allclose(found[name], expected, atol=1e-4 if name == "log_likelihood" else 1e-5)


@pytest.mark.parametrize("keep", [[False, True], [[True, False], [False, True], [False, False]]])
def test_a_saved_model_resamples_like_the_model(keep, served):
    model, loaded = served
    z, keep = tf.constant(np.random.default_rng(2).normal(size=(3, 2, 2)), tf.float32), tf.constant(keep)
    adjacency = tf.cast(loaded.adjacency, tf.bool)
    np.testing.assert_array_equal(loaded.adjacency, model.gates.adjacency())
    for edges in (adjacency, ~adjacency):
        ours = model.resample(z, keep, 7, edges)
        replies = [loaded.resample(z, keep, edges, seed) for seed in (7, tf.constant(7), tf.constant(7, tf.int64))]
        replies.append(loaded.signatures["resample"](latents=z, keep=keep, adjacency=edges, seed=tf.constant(7)))
        for theirs in replies:
            np.testing.assert_allclose(theirs["latents"], ours["latents"], atol=1e-5)
            np.testing.assert_allclose(theirs["probs"], ours["probs"], atol=1e-5)
    assert (ours["latents"].numpy() != model.resample(z, keep, 7)["latents"].numpy()).any()


def test_a_saved_model_refuses_what_it_cannot_answer(served):
    _, loaded = served
    ask = loaded.signatures
    for num in (0, -3):
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"num must be at least 1\. Received:"):
            ask["sample"](num=tf.constant(num), seed=tf.constant(0))
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"num_importance_samples must be at least 1\."):
            ask["log_likelihood"](images=X, num_importance_samples=tf.constant(num), seed=tf.constant(0))
    for num, seed in ((2**32 + 1, 0), (2, 2**40)):  # as int32 they would be 1 and 0
        with pytest.raises(tf.errors.InvalidArgumentError, match=r"must be below 2\^31\. Received:"):
            loaded.sample(tf.constant(num, tf.int64), tf.constant(seed, tf.int64))
    for x in (X * 255, other(np.nan)):
        with pytest.raises(tf.errors.InvalidArgumentError, match="pixels that are 0 or 1"):
            ask["encode"](images=tf.constant(x))
    for latents in (tf.fill([1, 2, 2], np.nan), tf.fill([1, 2, 2], np.inf)):
        with pytest.raises(tf.errors.InvalidArgumentError, match="latents must be finite"):
            ask["decode"](latents=latents)


def test_a_model_whose_gates_are_still_learned_is_served(tmp_path):
    small = {"encoder_units": [8], "decoder_units": [8], "node_units": [8]}
    model = LDIAF(num_nodes=3, node_dim=2, num_flow_steps=0, initial_gate_prob=0.7, **small)
    model.build((None, 4, 4))
    model.export(tmp_path / "model")
    loaded = tf.saved_model.load(tmp_path / "model")
    np.testing.assert_array_equal(loaded.adjacency, np.triu(np.ones((3, 3)), 1))
    np.testing.assert_allclose(loaded.sample(3, 5)["probs"], model.sample(3, 5)["probs"], atol=1e-5)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"num_nodes": 0}, r"`num_nodes` must be in \[1, 1000\]\. Received: 0\."),
        ({"node_dim": 2.5}, r"`node_dim` must be a whole number\. Received: 2\.5\."),
        ({"num_flow_steps": -1}, r"`num_flow_steps` must be in \[0, 1000\]\. Received: -1\."),
        ({"encoder_units": 8}, r"`encoder_units` must be a list of whole numbers\. Received: 8\."),
        ({"edges": [(1, 2)]}, r"edges must be pairs \(parent, child\)"),
    ],
)
def test_a_model_speaks_of_its_own_arguments(settings, words):
    with pytest.raises(ValueError, match=words):
        LDIAF(**settings)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"binarization": "grey"}, "binarization must be dynamic or none. Received: grey"),
        ({"on_nonfinite": "ignore"}, "`on_nonfinite` must be one of stop, skip. Received: ignore"),
        ({"kl_warmup_epochs": -1}, "`kl_warmup_epochs` must be at least 0. Received: -1"),
        ({"seed": None}, "`seed` must be a whole number. Received: null"),
    ],
)
def test_compile_speaks_of_its_own_arguments(settings, words):
    with pytest.raises(ValueError, match=words.replace(".", r"\.")):
        LDIAF().compile(**settings)


def test_fit_speaks_of_its_own_arguments():
    model = make()
    with pytest.raises(DataError, match=r"`x` must have at least one image\. Received: an array of shape \(0, 4, 4\)"):
        model.fit(X[:0])
    with pytest.raises(ValueError, match=r"batch_size must be a whole number from 1 on\. Received: 0\."):
        model.fit(X, batch_size=0)
    with pytest.raises(ValueError, match=r"num must be at least 1, a whole number\. Received: 0\."):
        model.sample(0)
