"""Models of grey and colour images: what they take, refuse, learn, and what is written of them."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_probability as tfp
from PIL import Image
from scipy import optimize, special

from tf_ldiaf import LDIAF, Config, data
from tf_ldiaf.errors import ConfigError, DataError
from tf_ldiaf.layers import AdditiveDecoder, DiscretizedLogistic, MaskedDecoder
from tf_ldiaf.results import comparison, evaluation, pictures, report, sampling, saved_model
from tf_ldiaf.results.run_folder import RunFolder
from tf_ldiaf.structure.graphs import with_edges
from tf_ldiaf.training import phases

SMALL = {"edges": [(2, 1)], "encoder_units": [8], "decoder_units": [8], "node_units": [8], "flow_units": [8]}


def grey(num, *shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (num, *shape)).astype("uint8")


def made(likelihood, x, **settings):
    keras.utils.set_random_seed(0)
    model = LDIAF(2, 2, 0, likelihood=likelihood, **SMALL | settings)
    model.compile(jit_compile=False, run_eagerly=True)
    model.fit(x, batch_size=4, verbose=0)
    return model


@pytest.fixture(scope="module")
def coloured():
    x = grey(8, 4, 8, 3)
    return made("discretized_logistic", x, likelihood_components=2, channels=(0, 0, 3)), x


def test_a_model_of_colours_is_used_saved_and_served(coloured, tmp_path):
    model, x = coloured
    model.save(tmp_path / "model.keras")
    copy = keras.models.load_model(tmp_path / "model.keras")
    assert copy.likelihood_layer.num_components == 2
    model.export(tmp_path / "served")
    served = tf.saved_model.load(tmp_path / "served")
    for images in (x, x.astype("float32") / 255):
        expected = model.log_likelihood(x, 3, seed=1)
        np.testing.assert_allclose(copy.log_likelihood(images, 3, seed=1), expected, rtol=1e-5)
        np.testing.assert_allclose(
            served.log_likelihood(tf.constant(images), 3, 1)["log_likelihood"], expected, rtol=1e-5
        )
        np.testing.assert_allclose(served.encode(tf.constant(images))["codes"], model.predict(x, verbose=0), atol=1e-5)
        assert copy.evaluate(images, verbose=0)[1] == pytest.approx(model.evaluate(x, verbose=0)[1], rel=1e-5)
    for drawn, again in (
        (model.sample(5, seed=2), served.sample(5, 2)),
        (model.reconstruct(x, 3), served.reconstruct(x, 3)),
    ):
        levels = 255 * drawn["images"].numpy()
        np.testing.assert_allclose(levels, np.round(levels), atol=1e-4)
        assert 0 <= drawn["probs"].numpy().min() < 0.9 < drawn["images"].numpy().max() <= 1
        assert drawn["probs"].shape[1:] == drawn["images"].shape[1:] == (4, 8, 3)
        for name in drawn:
            np.testing.assert_allclose(again[name], drawn[name], atol=1e-5)
    model.log_likelihood(model.sample(5)["images"], 2)  # draws are images again
    z = model.prior().sample(3, seed=1)
    kept = model.resample(z, [True, True])["probs"]
    np.testing.assert_allclose(kept, model.decode(z)["probs"])
    np.testing.assert_allclose(model.likelihood(z).mean() / 255, kept, atol=1e-6)


def test_terms_are_of_the_whole_numbers_and_the_encoder_sees_them_in_0_to_1(coloured):
    model, x = coloured
    terms = model(x, seed=3)
    expected = model.likelihood(terms.latents).log_prob(x.astype("float32"))
    np.testing.assert_allclose(terms.log_likelihood, expected, rtol=1e-6)
    features = model.encoder(x.reshape(8, -1).astype("float32") / 255)
    np.testing.assert_allclose(model.features(x), features, atol=1e-5)


@pytest.mark.parametrize("value", [0.5, -0.1, 1.1, np.nan, 128.0])
def test_pixels_that_256_values_do_not_have_are_one_sentence(value, coloured, tmp_path):
    model, x = coloured
    x = x.astype("float32") / 255
    x[3, 1, 2, 0] = value
    batches = tf.data.Dataset.from_tensor_slices(x).batch(8)
    uses = [lambda: model.fit(x, verbose=0), lambda: model.evaluate(x, verbose=0), lambda: model.predict(x, verbose=0)]
    uses += [lambda: model.features(x), lambda: model.train_on_batch(x), lambda: model.fit(batches, verbose=0)]
    for use in uses:
        with pytest.raises(
            DataError, match=r"^`x` must have pixels that are uint8 in 0-255, or float k / 255 for whole"
        ):
            use()


@pytest.mark.parametrize("decoder", ["additive", "masked"])
def test_decoders_by_node_draw_256_values(decoder):
    x, masks = grey(8, 4, 4), np.zeros((2, 4, 4))
    masks[0, :2] = masks[1, 2:] = 1
    own = MaskedDecoder(masks, 2, [8], numbers_per_pixel=2) if decoder == "masked" else decoder
    model = made("discretized_logistic", x, decoder=own)
    z = model.prior().sample(3, seed=0)
    assert pictures.node_pictures(model, num=3).shape == (2 * 60, 3 * 60)
    if decoder == "masked":  # the other node's part is as if nothing were said of it
        one = model.decoder.pictures(tf.reshape(z, [3, 4]))[0]
        means = model.likelihood_layer(tf.reshape(one, [3, 4, 4, 2]), image_shape=(4, 4)).mean().numpy()
        np.testing.assert_allclose(means[:, 2:], 127.5, atol=0.01)
        assert np.abs(means[:, :2] - 127.5).min() > 0.01


@keras.saving.register_keras_serializable("tests")
class SharedScale(keras.layers.Layer):
    """Somebody's likelihood: one logistic for each pixel, all of one scale, which is learned."""

    num_values = 256

    def numbers_per_pixel(self, image_shape):
        return 1

    def build(self, outputs_shape):
        self.log_scale = self.add_weight(name="log_scale", initializer="ones")
        self.built = True

    def call(self, outputs, image_shape):
        loc, scale = 128.0 + 50.0 * tf.squeeze(outputs, axis=-1), 20.0 * tf.exp(tf.convert_to_tensor(self.log_scale))
        logistic = tfp.distributions.Logistic(loc - 0.5, scale)
        return tfp.distributions.Independent(Rounded(logistic, low=0.0, high=255.0), len(image_shape))


class Rounded(tfp.distributions.QuantizedDistribution):
    def _mean(self):
        return self.distribution.mean() + 0.5


def test_a_likelihood_of_ones_own_is_learned_and_saved(tmp_path):
    x = grey(8, 4, 4)
    model = made(SharedScale(), x)
    assert float(model.likelihood_layer.log_scale) != 1.0
    model.save(tmp_path / "model.keras")
    copy = keras.models.load_model(tmp_path / "model.keras")
    z = model.prior().sample(8, seed=0)
    expected = model.likelihood(z).log_prob(x.astype("float32"))
    for other in (copy, with_edges(model, [(2, 1)])):
        np.testing.assert_allclose(other.likelihood(z).log_prob(x.astype("float32")), expected, rtol=1e-6)
    assert model.decode(z)["probs"].shape == (8, 4, 4)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (
            {"likelihood": "gaussian"},
            r"likelihood must be bernoulli, discretized_logistic, categorical, or a layer with",
        ),
        ({"likelihood": keras.layers.Dense(3)}, r"num_values of 2 or 256\. Received: a Dense\."),
        ({"likelihood_components": 3}, "likelihood_components need discretized_logistic. Received: 3"),
        ({"likelihood_components": 0, "likelihood": "discretized_logistic"}, r"must be in \[1, 1000\]. Received: 0"),
    ],
)
def test_a_model_says_which_likelihoods_there_are(settings, words):
    with pytest.raises(ValueError, match=words) as raised:
        LDIAF(**settings)
    assert "\n" not in str(raised.value)


def test_what_goes_with_bernoulli_alone_is_refused_with_others():
    with pytest.raises(ValueError, match=r"num_components must be at least 1\. Received: 0"):
        DiscretizedLogistic(0)
    with pytest.raises(ValueError, match=r"binarization must be none with a likelihood of 256 values\. Received"):
        LDIAF(likelihood="categorical").compile(binarization="dynamic")
    for binarization in ("dynamic", "threshold"):
        with pytest.raises(ConfigError, match=r"`binarization` must be none with `likelihood=categorical`\. Received"):
            Config(likelihood="categorical", binarization=binarization)
    with pytest.raises(ConfigError, match="needs the likelihood discretized_logistic, which this ldiaf lacks"):
        Config(likelihood="categorical", likelihood_components=2)
    assert Config().binarization == "threshold"
    config = Config(likelihood="categorical")
    assert (config.binarization, config.to_flags()) == ("none", ["--method=ldiaf", "--likelihood=categorical"])
    with pytest.raises(ValueError, match=r"decoder must give 32 numbers for an image, 2 for each pixel of \(4, 4\)"):
        LDIAF(2, 2, decoder=AdditiveDecoder(2, 2, (4, 4)), likelihood="discretized_logistic").build((None, 4, 4))


# From digits to a report


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A run on the grey digits, which have 17 of the 256 values."""
    config = Config(
        method="vae", node_dim=12, likelihood="discretized_logistic", epochs=30, batch_size=64, kl_warmup_epochs=5,
        encoder_units=(128,), decoder_units=(128,), learning_rate=4e-3, jit_compile=False,
    )  # fmt: skip
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "grey")
    folder.create(config)
    images = data.load_training(config, config.seed)
    phases.train(config, images, folder)
    metrics = evaluation.evaluate(folder, 10, batch_size=400)
    folder.metrics_file.write_text(json.dumps(metrics))
    return folder, images, metrics


def bits_of_pixels_alone(train, test):
    """Bits per pixel of the best single discretised logistic of each pixel, with no latents; float64."""
    x = np.unique(test)

    def log_probs(loc, log_scale, values):
        upper, lower = special.log_expit((values[:, None] + [0.5, -0.5] - loc) / np.exp(log_scale)).T
        upper, lower = np.where(values == 255, 0.0, upper), np.where(values == 0, -np.inf, lower)
        return upper + np.log(-np.expm1(np.minimum(lower - upper, -1e-12)))

    total = 0.0
    for pixel, held_out in zip(train.reshape(len(train), -1).T, test.reshape(len(test), -1).T, strict=True):
        share, seen = (np.array([(values == value).mean() for value in x]) for values in (pixel, held_out))
        best = optimize.minimize(
            lambda p, share=share: -share @ log_probs(*p, x), [pixel.mean(), 3.0], method="Nelder-Mead"
        )
        total -= seen @ log_probs(*best.x, x)
    return total / train[0].size / np.log(2)


def test_digits_in_grey_are_learned_better_than_pixel_by_pixel(digits):
    """0.25 bits per pixel better, which 30 epochs of a small network reach."""
    folder, images, metrics = digits
    config = folder.read_config()
    test = data.load_test(config)
    assert {part.dtype for part in (*images, test)} == {np.dtype("uint8")}
    assert set(np.unique(test)) <= set(np.round(255 * np.arange(17) / 16))
    without = bits_of_pixels_alone(images.train, test.astype("float64"))
    assert metrics["test_elbo_bits_per_dim"] == pytest.approx(-metrics["test_elbo"] / 64 / np.log(2))
    assert metrics["test_elbo_bits_per_dim"] < without - 0.25
    assert metrics["test_bits_per_dim"] < metrics["test_elbo_bits_per_dim"]


def test_tables_have_bits_and_pictures_are_as_the_images(digits, tmp_path):
    folder, images, metrics = digits
    bits = f"{metrics['test_elbo_bits_per_dim']:.4f} +- {metrics['test_elbo_bits_per_dim_stderr']:.4f}"
    table = report.metrics_table(metrics)
    assert f"| ELBO, bits per dimension     | {bits}" in table
    assert "digits, 256 values, discretized_logistic, 359 test images" in table
    assert "the same in bits per dimension" in folder.report_file.read_text()
    assert f"{metrics['test_bits_per_dim']:.4f}" in comparison.table([folder])
    saved_model.export(folder, tmp_path / "model")
    card = (tmp_path / "model" / "README.md").read_text()
    assert "8 x 8 images of 256 values" in card
    assert bits in card
    # Reconstructions are light where the images are: the corners of a digit are black.
    shown = np.asarray(Image.open(folder.reconstructions_file))
    assert np.array_equal(shown[2:58, 2:58], images.valid[0].repeat(7, axis=0).repeat(7, axis=1))
    np.savez(tmp_path / "in.npz", x=images.valid[:5])
    arrays = sampling.write_images(str(tmp_path / "model"), str(tmp_path / "out.png"), 4, 0, str(tmp_path / "in.npz"))
    with np.load(arrays) as file:
        np.testing.assert_array_equal(np.round(255 * file["originals"]), images.valid[:4])
        assert np.abs(file["probs"] - file["originals"]).mean() < 0.15
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out.png"))[2:58, 2:58], shown[2:58, 2:58])


def test_grey_float_files_become_the_nearest_of_256_values(npz):
    x = np.random.default_rng(0).random((40, 4, 4)).astype("float32")
    config = Config(dataset=npz(train=x), likelihood="categorical", validation_fraction=0.25)
    images = data.load_training(config, seed=0)
    whole = np.sort(np.round(255 * x.astype("float64")).astype("uint8").ravel())
    every = np.concatenate([*images, data.load_test(config)])
    np.testing.assert_array_equal(np.sort(every.ravel()), whole)
    assert "of 256 values" in data.described(config, images)


def test_pictures_of_colours_and_of_light():
    colours = np.zeros((2, 60, 60, 3), "float32")
    colours[0, :, :, 0] = 1.0
    picture = pictures.grid(colours, columns=2)
    assert picture.shape == (64, 128, 3)
    assert picture[30, 30].tolist() == [255, 0, 0]
    assert picture[30, 94].tolist() == [0, 0, 0]
    assert picture[0, 0].tolist() == [255, 255, 255]
    light = colours[..., 0]
    assert np.array_equal(pictures.grid(light, ink=False)[2:62, 2:62], np.full((60, 60), 255))
    assert np.array_equal(pictures.grid(light[..., np.newaxis])[2:62, 2:62], np.zeros((60, 60)))
    assert pictures.pairs(colours, colours).shape == (128, 128, 3)
