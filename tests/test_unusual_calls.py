"""What notebooks hand to a model and to its parts, rightly or by mistake: it works, or one sentence says why not."""

import copy
import pickle
import warnings

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from test_fit_contract import small
from test_keras_users import GREY, X, batches

from tf_ldiaf import LDIAF, layers, structure
from tf_ldiaf.errors import DataError, NonFiniteError

tfd = tfp.distributions


def moved(model, before):
    return max(abs(a - b).max() for a, b in zip(before, model.get_weights(), strict=True))


# What `fit` watches


class Evaluates(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        self.model.evaluate(X[:8], verbose=0)


def test_an_evaluation_within_fit_does_not_hide_bad_pixels_and_nan():
    model = small([])
    with pytest.raises(DataError, match="pixels that are 0 or 1"):
        model.fit(batches(GREY / 255.0), callbacks=[Evaluates()], verbose=0)
    model.compile(keras.optimizers.SGD(1e30), jit_compile=False)
    with pytest.raises(NonFiniteError):
        model.fit(X, epochs=2, batch_size=8, callbacks=[Evaluates()], verbose=0)


def test_black_and_white_bytes_are_no_greys_in_a_data_set_either():
    model = small([(2, 1)])
    model.compile("adam", binarization="dynamic", jit_compile=False)
    binary = X.astype("uint8")
    with pytest.raises(DataError, match=r"255 is white in uint8\. Received: uint8 without any above 1"):
        model.fit(batches(binary), validation_data=(X, None), verbose=0)
    with pytest.raises(DataError, match="uint8 without any above 1"):
        model.fit(batches(binary), verbose=0)
    with pytest.raises(DataError, match="255 is white in uint8"):
        model.train_on_batch(binary)
    with pytest.raises(DataError, match="255 is white in uint8"):
        structure.edge_worth(model, binary, X, binarization="dynamic", num_steps=1)
    model.fit(batches(GREY), verbose=0)


def test_images_of_one_value_are_warned_of():
    with pytest.warns(UserWarning, match=r"All pixels of `x` are 1"):
        small([]).fit(np.ones_like(X), verbose=0)


def test_a_second_compile_that_begins_the_schedules_anew_is_warned_of():
    model = small()
    model.compile("adam", jit_compile=False, structure_epochs=2, kl_warmup_epochs=0)
    model.fit(X, epochs=2, verbose=0)
    model.compile("sgd", jit_compile=False, structure_epochs=20, kl_warmup_epochs=10)
    with pytest.warns(
        UserWarning, match=r"After 2 epochs .* falls from 1\.00 to 0\.27 and gates that were open are shut, because"
    ):
        model.fit(X, verbose=0)
    model = small()
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="After")
        model.compile("adam", jit_compile=False, structure_epochs=4, kl_warmup_epochs=3)
        for _ in range(5):
            model.fit(X, verbose=0)


# Images, labels and sizes


@pytest.mark.parametrize("images", [[X, X], (X, np.zeros(len(X))), list(X)])
def test_several_arrays_are_one_sentence(images):
    model = small([])
    for call in (model.fit, model.evaluate, model.predict):
        with pytest.raises(DataError, match=r"`x` must be one array of images.*Received: a (list|tuple) of"):
            call(images)


def test_one_array_in_a_list_is_taken():
    model = small([])
    model.fit([X], verbose=0)
    np.testing.assert_allclose(model.predict([X], verbose=0), model.predict(X, verbose=0), rtol=1e-5)


def test_labels_may_be_words():
    words, model = np.array(["a"] * len(X)), small([], run_eagerly=True)
    model.fit(X, words, validation_data=(X, words), shuffle=False, batch_size=len(X), verbose=0)
    assert np.isfinite(model.evaluate(X, words, return_dict=True, verbose=0)["loss"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"validation_split": 1.0}, "validation_split must leave an image"),
        ({"validation_split": 0.999}, "validation_split must leave an image"),
        ({"validation_split": -0.1}, "validation_split must leave an image"),
        ({"batch_size": 16.0}, r"batch_size must be a whole number from 1 on\. Received: 16\.0"),
        ({"sample_weight": np.full(len(X), np.nan)}, r"sample_weight must be numbers\. Received: NaN"),
        ({"x": np.zeros(10)}, r"`x` must be images, \[n, H, W\]"),
    ],
)
def test_what_fit_cannot_do_is_one_sentence(changes, words):
    with pytest.raises(ValueError, match=words):
        small([]).fit(**{"x": X, "verbose": 0, **changes})


def test_a_model_without_weights_to_train_is_one_sentence():
    model = small([])
    model.build((None, 4, 4))
    model.trainable = False
    with pytest.raises(ValueError, match="weights that are trained"):
        model.fit(X, verbose=0)


@pytest.mark.parametrize("shape", [None, [None, None], [None, 4]])
def test_a_data_set_may_leave_sizes_open_if_the_model_knows_them(shape):
    def read(i):
        image = tf.numpy_function(lambda i: X[i], [i], tf.float32)
        return image if shape is None else tf.ensure_shape(image, shape)

    dataset = tf.data.Dataset.range(len(X)).map(read).batch(8)
    with pytest.raises(DataError, match=r"`x` must have images of a size that is known.*`model\.build`"):
        small([]).fit(dataset, verbose=0)
    model = small([])
    model.build((None, 4, 4))
    model.fit(dataset, validation_data=dataset, verbose=0)
    np.testing.assert_allclose(model.predict(dataset, verbose=0), model.predict(X, verbose=0), rtol=1e-5)


def test_one_label_beside_a_batch_is_no_number_of_steps():
    dataset = tf.data.Dataset.from_tensors((X, 0))
    model = small([])
    model.build((None, 4, 4))
    before = model.get_weights()
    assert np.isfinite(model.fit(dataset, verbose=0).history["loss"])
    assert moved(model, before) > 0


# Models


@pytest.mark.parametrize("edges", [[(2, 1)], None])
@pytest.mark.parametrize("by", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])  # noqa: S301
def test_a_copy_of_a_model_that_saw_no_images_is_fitted(by, edges):
    assert np.isfinite(by(small(edges)).fit(X, verbose=0).history["loss"])


def test_a_model_of_one_node_has_no_edges_to_give():
    with pytest.raises(ValueError, match="edges"):
        LDIAF(num_nodes=1, node_dim=2, edges=[(2, 1)])
    assert LDIAF(num_nodes=1, node_dim=2, edges=[]).edges == []


@pytest.mark.parametrize("network", [lambda x: x, [keras.layers.Dense(4)], keras.layers.Dense, "dense"])
def test_what_is_no_network_is_one_sentence(network):
    for name in ("encoder", "decoder"):
        with pytest.raises(ValueError, match=rf"{name} must be a Keras model"):
            LDIAF(**{name: network})


@pytest.mark.parametrize("likelihood", [layers.Categorical, None, lambda o: o])
def test_what_is_no_likelihood_is_one_sentence(likelihood):
    with pytest.raises(ValueError, match="likelihood must be bernoulli"):
        LDIAF(likelihood=likelihood)


def test_an_encoder_of_several_outputs_is_one_sentence():
    x = keras.Input((4, 4))
    flat = keras.layers.Flatten()(x)
    encoder = keras.Model(x, [keras.layers.Dense(4)(flat), keras.layers.Dense(4)(flat)])
    with pytest.raises(ValueError, match="encoder must have one output"):
        LDIAF(encoder=encoder).build((None, 4, 4))


class Pixels(keras.layers.Layer):
    """A likelihood whose events are what `reinterpreted` says: images, if it is 2."""

    num_values = 2

    def __init__(self, reinterpreted=2, **kwargs):
        super().__init__(**kwargs)
        self.reinterpreted = reinterpreted

    def numbers_per_pixel(self, image_shape):
        return 1

    def call(self, outputs, image_shape):
        return tfd.Independent(tfd.Bernoulli(tf.squeeze(outputs, -1), dtype=tf.float32), self.reinterpreted)


def test_a_likelihood_of_pixels_that_are_no_images_is_one_sentence():
    with pytest.raises(ValueError, match=r"likelihood must give a distribution whose events are images, \(4, 4\)"):
        LDIAF(2, 2, encoder_units=[4], decoder_units=[4], likelihood=Pixels(0))(X)


@pytest.mark.parametrize("policy", ["mixed_float16", "float64"])
def test_own_networks_and_likelihoods_work_under_any_policy(policy):
    keras.config.set_dtype_policy(policy)
    try:
        encoder = keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(8)])
        model = LDIAF(2, 2, edges=[(2, 1)], encoder=encoder, decoder_units=[4], likelihood=Pixels())
        model.compile("adam", jit_compile=False, clip_norm=1.0)
        assert np.isfinite(model.fit(X, verbose=0).history["loss"])
        assert model.sample(2)["probs"].dtype == "float32"
    finally:
        keras.config.set_dtype_policy("float32")


def test_a_copy_with_other_edges_has_own_layers_of_a_notebook():
    class Doubled(keras.layers.Layer):
        def call(self, x):
            return 2 * x

    inner = [keras.layers.Lambda(lambda x: x - 1), Doubled(), keras.layers.Flatten(), keras.layers.Dense(8)]
    model = LDIAF(2, 2, edges=[(2, 1)], encoder=keras.Sequential([keras.Input((4, 4)), *inner]), decoder_units=[4])
    model.build((None, 4, 4))
    other = structure.with_edges(model, model.edges)
    np.testing.assert_array_equal(other.encode(X), model.encode(X))


# Copies and parts


def test_the_kl_weight_of_a_model_that_was_loaded_does_not_fall_silently(tmp_path):
    model = small([])
    model.compile("adam", jit_compile=False, kl_warmup_epochs=0)
    model.fit(X, epochs=2, verbose=0)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    again.compile("sgd", jit_compile=False, kl_warmup_epochs=10)
    with pytest.warns(UserWarning, match=r"the weight of the KL term falls from 1\.00 to 0\.27"):
        again.fit(X, verbose=0)


def test_an_epoch_that_is_begun_again_has_the_same_kl_weight(tmp_path):
    model = small([])
    model.compile("adam", jit_compile=False, kl_warmup_epochs=10)
    model.fit(X, epochs=2, verbose=0)
    model.epochs_done.assign(1)
    model.save(tmp_path / "model.keras")
    for weight in (None, 4.0):  # a callback may have set it
        again = keras.models.load_model(tmp_path / "model.keras")
        again.kl_weight.assign(weight or model.kl_weight)
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message=".*the weight of the KL term falls")
            again.fit(X, verbose=0)


@pytest.mark.parametrize(
    ("more", "less"),
    [
        ({"root_components": 3}, {}),
        ({"encoder_units": [8, 8]}, {"encoder_units": [8]}),
        ({"num_flow_steps": 2}, {"num_flow_steps": 0}),
    ],
)
def test_weights_of_a_model_with_more_parts_are_an_error(tmp_path, more, less):
    models = [
        LDIAF(2, 2, edges=[(2, 1)], **{"num_flow_steps": 0, "decoder_units": [8]} | kind) for kind in (more, less)
    ]
    for model, name in zip(models, ("more", "less"), strict=True):
        model.build((None, 4, 4))
        model.save_weights(tmp_path / f"{name}.weights.h5")
    for model, name in zip(models, ("less", "more"), strict=True):
        with pytest.raises(ValueError, match="could not be loaded"):
            model.load_weights(tmp_path / f"{name}.weights.h5")
    with pytest.raises(ValueError, match=r"a model with the same parts, \d+ arrays in all"):
        models[1].load_weights(tmp_path / "more.weights.h5")
    models[1].load_weights(tmp_path / "less.weights.h5")


def test_a_model_of_observed_nodes_draws_no_pictures():
    model = structure.ObservedNodes(3, 2, 0, edges=[(2, 1)])
    model.build((None, 3, 2))
    for call in (model.sample, model.encode, model.predict, model.export):
        with pytest.raises(ValueError, match=r"`model\.prior\(\)\.sample` draws them"):
            call(3)
    assert model.prior().sample(3).shape == (3, 3, 2)


def test_a_history_of_another_elimination_is_one_sentence(built):
    history = [structure.Measured(3, 2, 0.1, 0.01, 3)]
    with pytest.raises(ValueError, match=r"history must be .* Received: edge 3-2 where 2-1 was measured"):
        structure.remove_edges(built, X, history=history, num_steps=1, num_samples=1, jit_compile=False)


# Latents, seeds and counts


@pytest.fixture(scope="module")
def built():
    model = small([(2, 1)])
    model.build((None, 4, 4))
    return model


@pytest.mark.parametrize("shape", [(5, 2, 3), (5, 6, 1), (5, 6), (5, 3, 1)])
def test_latents_of_another_shape_are_one_sentence(built, shape):
    z = tf.zeros(shape)
    for call in (built.likelihood, built.prior().log_prob, built.posterior(X[:5]).log_prob):
        with pytest.raises(ValueError, match=r"z must be latents \[\.\.\., 3, 2\]"):
            call(z)


@pytest.mark.parametrize(
    "seed", [None, 2**31, -(2**31) - 1, 1.5, "1", tf.constant(2**32 + 1, tf.int64), tf.constant(1.9)]
)
def test_a_seed_that_is_none_is_one_sentence(built, seed):
    for call in (
        lambda: built.sample(2, seed=seed),
        lambda: built.reconstruct(X, seed=seed),
        lambda: built.bounds(X, 2, seed=seed),
    ):
        with pytest.raises(ValueError, match="seed must be a whole number of 32 bits"):
            call()


def test_seeds_and_counts_may_be_numpy_s_and_tensorflow_s(built):
    for seed in (np.int64(7), tf.constant(7, tf.int64)):
        np.testing.assert_array_equal(built.sample(2, seed=seed)["images"], built.sample(np.int64(2), 7)["images"])
        np.testing.assert_array_equal(built.bounds(X, np.int64(3), seed)["elbo"], built.bounds(X, 3, 7)["elbo"])


@pytest.mark.parametrize("num", [0, -1, 3.0, np.int64(0)])
def test_counts_that_are_none_are_one_sentence(built, num):
    with pytest.raises(ValueError, match="num must be at least 1, a whole number"):
        built.sample(num)
    with pytest.raises(ValueError, match="num_importance_samples must be at least 1, a whole number"):
        built.bounds(X, num)
    with pytest.raises(ValueError, match="num_samples must be at least 1, a whole number"):
        structure.node_worth(built, X, num_samples=num)
    with pytest.raises(ValueError, match="num_steps must be at least 1, a whole number"):
        structure.edge_worth(built, X, num_steps=num)


@pytest.mark.parametrize(("name", "value"), [("edge_cost", np.nan), ("edge_cost", -1.0), ("learning_rate", -1.0)])
def test_prices_and_rates_that_are_none_are_one_sentence(built, name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        structure.remove_edges(built, X, **{name: value})


@pytest.mark.parametrize("seed", [-1, 2**31])
def test_seeds_of_structure_that_are_none_are_one_sentence(built, seed):
    model = LDIAF(2, 2, 0, edges=[], decoder=layers.AdditiveDecoder(2, 2, (4, 4), units=[4]), encoder_units=[4])
    model.build((None, 4, 4))
    calls = lambda: structure.node_worth(built, X, seed=seed), lambda: structure.search(model, X, seed=seed)
    for call in calls:
        with pytest.raises(ValueError, match=rf"`seed` must be .* Received: {seed}"):
            call()


def test_structure_takes_tensors_and_refuses_data_sets(built):
    worth = structure.node_worth(built, tf.constant(X))
    np.testing.assert_array_equal(worth.kl, structure.node_worth(built, X).kl)
    for call in (structure.edge_worth, structure.node_worth):
        with pytest.raises(ValueError, match="x must be an array of images"):
            call(built, batches(X))
