"""Networks of one's own: our flow behind somebody's encoder, and somebody's encoder and decoder in our model."""

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp

from tf_ldiaf import LDIAF, Config, structure
from tf_ldiaf.layers import AdditiveDecoder, InverseAutoregressiveFlow

tfd = tfp.distributions


def test_a_flow_behind_somebodys_encoder_learns(images):
    """A variational autoencoder of Keras and TFP, written out."""
    keras.utils.set_random_seed(0)
    x = np.tile(images(2).reshape(2, 9), (16, 1))
    encoder = keras.Sequential([keras.layers.Dense(16, "relu"), keras.layers.Dense(4 + 3)])
    decoder = keras.Sequential([keras.layers.Dense(16, "relu"), keras.layers.Dense(9)])
    flow = InverseAutoregressiveFlow(node_dim=2, context_dim=3, units=(16,))
    prior, optimizer = tfd.MultivariateNormalDiag(tf.zeros(2)), keras.optimizers.Adam(0.01)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            loc, raw_scale, context = tf.split(encoder(x), [2, 2, 3], axis=-1)
            base = tfd.MultivariateNormalDiag(loc, tf.nn.softplus(raw_scale))
            posterior = tfd.TransformedDistribution(base, flow.bijector(context))
            z, log_q = posterior.experimental_sample_and_log_prob()
            likelihood = tfd.Independent(tfd.Bernoulli(logits=decoder(z)), 1)
            loss = -tf.reduce_mean(likelihood.log_prob(x) + prior.log_prob(z) - log_q)
        variables = [*encoder.trainable_variables, *decoder.trainable_variables, *flow.trainable_variables]
        optimizer.apply(tape.gradient(loss, [v.value for v in variables]), variables)
        return -loss

    encoder.build((None, 9))
    decoder.build((None, 2))
    flow.build()
    before = [v.numpy() for v in flow.trainable_variables]
    elbos = [float(step()) for _ in range(300)]
    assert np.mean(elbos[:5]) < -6
    assert -1.5 < np.mean(elbos[-20:]) < -np.log(2) + 0.1
    assert all((v.numpy() != old).any() for v, old in zip(flow.trainable_variables, before, strict=True))


def test_a_flow_in_somebodys_keras_model_is_fitted_and_saved(images, tmp_path):
    keras.utils.set_random_seed(0)
    z_0, h = keras.Input((2,)), keras.Input((3,))
    z, log_det = InverseAutoregressiveFlow(node_dim=2, context_dim=3, units=(8,))(z_0, keras.layers.Dense(3)(h))
    model = keras.Model([z_0, h], [z, log_det])
    model.compile("adam", loss=["mse", None])
    x, y = [tf.ones([8, 2]), tf.ones([8, 3])], tf.zeros([8, 2])
    losses = model.fit(x, [y, tf.zeros([8])], epochs=5, verbose=0).history["loss"]
    assert losses[-1] < losses[0]
    model.save(tmp_path / "model.keras")
    for one, other in zip(keras.models.load_model(tmp_path / "model.keras")(x), model(x), strict=True):
        np.testing.assert_array_equal(one, other)


def convolutions():
    """(encoder, decoder) for images [8, 8, 1] and two nodes of two dimensions."""
    x = keras.Input((8, 8, 1))
    features = keras.layers.Conv2D(4, 3, 2, "same", activation="elu")(x)
    encoder = keras.Model(x, keras.layers.Dense(6, "elu")(keras.layers.Flatten()(features)), name="somebodys")
    decoder = keras.Sequential([
        keras.Input((2, 2)), keras.layers.Flatten(), keras.layers.Dense(16), keras.layers.Reshape((4, 4, 1)),
        keras.layers.Conv2DTranspose(1, 3, 2, "same"),
    ])  # fmt: skip
    return encoder, decoder


def assert_same_uses(one, other, x):
    for name, value in one.bounds(x, 3, seed=1).items():
        np.testing.assert_allclose(other.bounds(x, 3, seed=1)[name], value, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(other.encode(x), one.encode(x), atol=1e-6)
    for part, value in one.sample(3, seed=2).items():
        np.testing.assert_allclose(other.sample(3, seed=2)[part], value, atol=1e-6)


@pytest.fixture(scope="module")
def fitted(images):
    keras.utils.set_random_seed(0)
    encoder, decoder = convolutions()
    sizes = {"edges": [(2, 1)], "node_units": [8], "flow_units": [8], "context_dim": 3}
    model = LDIAF(2, 2, 1, encoder=encoder, decoder=decoder, **sizes)
    model.compile(keras.optimizers.Adam(0.01))
    x = np.tile(images(2, (8, 8, 1)), (16, 1, 1, 1))
    history = model.fit(x, epochs=3, batch_size=8, verbose=0).history
    assert history["elbo"][-1] > history["elbo"][0]
    return model, x[:4]


def test_a_model_of_ones_own_networks_is_fitted_saved_and_loaded(fitted, tmp_path):
    model, x = fitted
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded) is LDIAF
    assert loaded.encoder.name == "somebodys"
    assert loaded.edges == [(2, 1)]
    assert_same_uses(model, loaded, x)
    assert model.likelihood(model.prior().sample(5)).event_shape == (8, 8, 1)
    loaded.fit(x, verbose=0)
    assert int(loaded.optimizer.iterations) == int(model.optimizer.iterations) + 1


def test_a_model_of_ones_own_networks_is_served(fitted, tmp_path):
    model, x = fitted
    model.export(tmp_path / "served")
    served = tf.saved_model.load(str(tmp_path / "served"))
    np.testing.assert_allclose(served.encode(x)["codes"], model.encode(x), atol=1e-5)
    found = served.log_likelihood(x, 7, 3)["log_likelihood"]
    np.testing.assert_allclose(found, model.log_likelihood(x, 7, seed=3), rtol=1e-5, atol=1e-4)
    for part, value in model.sample(3, seed=2).items():
        np.testing.assert_allclose(served.sample(3, 2)[part], value, atol=1e-5)
    for part, value in model.reconstruct(x, seed=2).items():
        np.testing.assert_allclose(served.reconstruct(x, 2)[part], value, atol=1e-5)


@keras.saving.register_keras_serializable("tests")
class Subclassed(keras.Model):
    """Somebody's registered model, which has no input shape that can be asked for."""

    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.width = width
        self.dense = keras.layers.Dense(width, "relu")

    def build(self, input_shape):
        self.dense.build(input_shape)
        self.built = True

    def call(self, x):
        return self.dense(x)

    def get_config(self):
        return super().get_config() | {"width": self.width}


def unbuilt():
    return keras.Sequential([keras.layers.Flatten(), keras.layers.Dense(6, "relu")])


@pytest.mark.parametrize(("make_encoder", "shape"), [(unbuilt, (3, 3)), (unbuilt, (9,)), (lambda: Subclassed(6), (9,))])
def test_an_encoder_without_an_input_shape_takes_the_images_as_they_are(make_encoder, shape, images, tmp_path):
    keras.utils.set_random_seed(0)
    model, x = LDIAF(2, 2, 0, encoder=make_encoder(), decoder_units=[8]), images(4, shape)
    model(x)
    np.testing.assert_allclose(model.features(x), model.encoder(x), atol=1e-6)
    assert np.any(model.features(x))
    assert model.sample(3)["images"].shape == (3, *shape)
    model.compile(jit_compile=False)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.encoder) is type(model.encoder)
    assert_same_uses(model, loaded, x)


def test_a_model_that_was_never_compiled_is_saved_and_loaded(images, tmp_path):
    encoder, decoder = convolutions()
    model, x = LDIAF(2, 2, 0, encoder=encoder, decoder=decoder), images(4, (8, 8, 1))
    model(x)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert not loaded.compiled
    assert_same_uses(model, loaded, x)


def dense(inputs, *outputs):
    x = keras.Input(inputs)
    y = keras.layers.Dense(int(np.prod(outputs)))(keras.layers.Flatten()(x))
    return keras.Model(x, keras.layers.Reshape(outputs)(y))


@pytest.mark.parametrize(
    ("networks", "words"),
    [
        ({"encoder": lambda: dense((8,), 6)}, r"encoder must take 9 numbers .* Received: .*\(8,\)\."),
        ({"decoder": lambda: dense((5,), 9)}, r"decoder must take 4 numbers .* Received: .*\(5,\)\."),
        ({"encoder": lambda: dense((9,), 3, 2)}, r"encoder must give features \[B, F\]\. Received: .*\(None, 3, 2\)\."),
        (
            {"decoder": lambda: dense((4,), 8)},
            r"decoder must give 9 numbers for an image, 1 for each pixel of \(3, 3\), .* Received: .*8\)\.",
        ),
    ],
)
def test_networks_that_do_not_fit_are_one_sentence(networks, words, images):
    model = LDIAF(2, 2, 0, **{name: make() for name, make in networks.items()})
    with pytest.raises(ValueError, match=f"^{words}") as raised:
        model.posterior(images(4))
    assert "\n" not in str(raised.value)


def test_an_additive_decoder_by_name_is_the_layer_and_is_saved_with_the_model(images, tmp_path):
    sizes = {"node_units": [8], "encoder_units": [8], "decoder_units": [6, 5]}
    with pytest.raises(ValueError, match=r"decoder must be a Keras model, additive or None\. Received: Additive\."):
        LDIAF(2, 3, 0, decoder="Additive", **sizes)
    model = LDIAF.from_settings(Config(num_nodes=2, node_dim=3, edges="all", decoder="additive", **sizes))
    model.compile(jit_compile=False)
    model.fit(images(8), verbose=0)
    assert isinstance(model.decoder, AdditiveDecoder)
    assert model.decoder.units == (6, 5)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    copy = LDIAF.from_config(model.get_config())
    copy.build((None, *images(1).shape[1:]))
    copy.set_weights(model.get_weights())
    for other in (again, copy):
        np.testing.assert_array_equal(other.encode(images(4)), model.encode(images(4)))
        z = model.encode(images(4))
        np.testing.assert_array_equal(other.likelihood(z).mean(), model.likelihood(z).mean())


def learnt_in_one_step(encoder, x):
    """A model of a node with this encoder, after one step of plain descent at rate 0.1 on the whole of x."""
    keras.utils.set_random_seed(0)
    decoder = keras.Sequential([keras.Input((2,)), keras.layers.Dense(9)])
    model = LDIAF(1, 2, 0, encoder=encoder, decoder=decoder)
    model.compile(keras.optimizers.SGD(0.1), clip_norm=0.0, kl_warmup_epochs=0, jit_compile=False)
    model.fit(x, batch_size=len(x), verbose=0)
    return model


def test_regularisers_and_losses_of_own_layers_count(images):
    """The step differs by the gradient of what they add: 2 * 3 * kernel of L2, and 0.5 of a loss of the biases' sum."""

    @keras.saving.register_keras_serializable("test")
    class Priced(keras.layers.Dense):
        def call(self, inputs):
            self.add_loss(tf.repeat(tf.reduce_sum(self.bias), 2) / 4)  # Keras adds up what a loss has
            return super().call(inputs)

    x, found = images(8), []
    for kind, regularizer in ((keras.layers.Dense, None), (Priced, keras.regularizers.L2(3.0))):
        layer = kind(4, kernel_initializer=keras.initializers.GlorotUniform(1), kernel_regularizer=regularizer)
        encoder = keras.Sequential([keras.Input((9,)), layer])
        before = layer.kernel.numpy()
        learnt_in_one_step(encoder, x)
        found.append((layer.kernel.numpy() - before, layer.bias.numpy()))
    (plain, bias), (regularised, lowered) = found
    np.testing.assert_allclose(regularised - plain, -0.1 * 6.0 * before, atol=1e-6)
    np.testing.assert_allclose(lowered - bias, -0.1 * 0.5, atol=1e-6)


def test_own_layers_know_when_they_are_trained(images):
    x = images(8)
    norm, dropout = keras.layers.BatchNormalization(momentum=0.9), keras.layers.Dropout(0.5, seed=1)
    encoder = keras.Sequential([keras.Input((9,)), norm, keras.layers.Dense(4), dropout])
    model = learnt_in_one_step(encoder, x)
    np.testing.assert_allclose(norm.moving_mean, 0.1 * x.reshape(8, 9).mean(axis=0), rtol=1e-5)
    kept = norm.moving_mean.numpy()
    model.evaluate(x, verbose=0)
    np.testing.assert_array_equal(norm.moving_mean, kept)
    np.testing.assert_array_equal(model.features(x), model.features(x))
    dropped = model.features(x, training=True) == 0.0
    assert 0.2 < np.mean(dropped) < 0.8
    assert not np.array_equal(dropped, model.features(x, training=True) == 0.0)
    model(x, training=True)
    assert not np.array_equal(norm.moving_mean, kept)


# What is refused, or must not be misled by


@pytest.mark.parametrize(
    "last",
    [
        [keras.layers.Dense(9, "sigmoid")],
        [keras.layers.Dense(9), keras.layers.Activation("tanh"), keras.layers.Reshape((3, 3))],
        [keras.Sequential([keras.layers.Dense(9), keras.layers.Softmax()])],
        [keras.layers.Dense(9), keras.layers.ReLU()],
    ],
)
def test_a_decoder_that_ends_with_probabilities_is_refused(last):
    model = LDIAF(num_nodes=1, node_dim=2, decoder=keras.Sequential([keras.Input((2,)), *last]))
    with pytest.raises(ValueError, match=r"^decoder must give logits.*Received: one that ends with \w+\."):
        model.build((None, 3, 3))


@pytest.mark.parametrize("shape", [(5, 4), (5, 4, 1), (2, 10)])
def test_networks_whose_sides_are_others_are_refused(shape):
    encoder = keras.Sequential([keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(6)])
    with pytest.raises(ValueError, match=r"^encoder must take 20 numbers for each image, of shape \(4, 5\)"):
        LDIAF(num_nodes=1, node_dim=2, encoder=encoder).build((None, 4, 5))
    decoder = keras.Sequential([keras.Input((2,)), keras.layers.Dense(20), keras.layers.Reshape(shape)])
    with pytest.raises(ValueError, match=r"^decoder must give 20 numbers for an image"):
        LDIAF(num_nodes=1, node_dim=2, decoder=decoder).build((None, 4, 5))


@pytest.mark.parametrize("image", [(4, 5), (20,)])
@pytest.mark.parametrize("shape", [(20,), (4, 5), (4, 5, 1), (1, 4, 5)])
def test_networks_whose_axes_are_joined_or_split_are_taken(shape, image):
    encoder = keras.Sequential([keras.Input(shape), keras.layers.Flatten(), keras.layers.Dense(6)])
    decoder = keras.Sequential([keras.Input((2, 2)), keras.layers.Flatten(), keras.layers.Dense(20, "linear")])
    decoder.add(keras.layers.Reshape(shape))
    LDIAF(num_nodes=2, node_dim=2, encoder=encoder, decoder=decoder).build((None, *image))


def test_a_decoder_that_goes_on_after_an_activation_is_taken():
    z = keras.Input((2,))
    decoder = keras.Model(z, 10.0 * keras.layers.Dense(9, "tanh")(z))
    LDIAF(num_nodes=1, node_dim=2, decoder=decoder).build((None, 3, 3))
    bounded = keras.Model(z, keras.layers.Reshape((3, 3))(keras.ops.sigmoid(keras.layers.Dense(9)(z))))
    with pytest.raises(ValueError, match=r"^decoder must give logits.*ends with sigmoid"):
        LDIAF(num_nodes=1, node_dim=2, decoder=bounded).build((None, 3, 3))


def test_an_encoder_that_was_adapted_stays_so_in_copies_with_other_edges():
    x = np.random.default_rng(0).integers(0, 256, (30, 3, 3)).astype("uint8")
    norm = keras.layers.Normalization(axis=None)
    norm.adapt(x / 255)
    encoder = keras.Sequential([keras.Input((3, 3)), norm, keras.layers.Flatten(), keras.layers.Dense(6)])
    model = LDIAF(num_nodes=2, node_dim=2, edges=[(2, 1)], encoder=encoder, likelihood="discretized_logistic")
    model.build((None, 3, 3))
    np.testing.assert_array_equal(structure.with_edges(model, [(2, 1)]).encode(x), model.encode(x))


def test_embeddings_and_weights_without_a_gradient_are_fitted(images):
    class Patches(keras.layers.Layer):
        def build(self, shape):
            self.places, self.unused = keras.layers.Embedding(9, 4), self.add_weight((3,), name="unused")
            self.places.build((9,))

        def call(self, x):
            return keras.ops.reshape(x, (-1, 9, 1)) * self.places(keras.ops.arange(9))

    encoder = keras.Sequential([keras.Input((3, 3)), Patches(), keras.layers.Flatten(), keras.layers.Dense(6)])
    model = LDIAF(num_nodes=1, node_dim=2, encoder=encoder)
    model.compile("adam", jit_compile=False)
    model.build((None, 3, 3))
    before = model.encoder.layers[0].places.get_weights()[0]
    model.fit(images(16), batch_size=4, epochs=2, verbose=0)
    assert (model.encoder.layers[0].places.get_weights()[0] != before).all(axis=1).any()
