"""What the explorer answers of models whose pixels have 256 values, in grey and in colour."""

import io
import json

import keras
import numpy as np
import pytest
from PIL import Image, ImageOps
from starlette.testclient import TestClient
from test_explorer import as_npz, ask

from tf_ldiaf import LDIAF
from tf_ldiaf.errors import FileError
from tf_ldiaf.explorer import server, static
from tf_ldiaf.explorer.answers import Explorer


@pytest.fixture(scope="module", params=[(8, 6), (8, 6, 3)], ids=["grey", "colour"])
def explored(request, randomise, tmp_path_factory):
    """A model of 256 values, and its `Explorer`."""
    keras.utils.set_random_seed(0)
    small = {"encoder_units": [8], "decoder_units": [8], "likelihood": "discretized_logistic"}
    model = LDIAF(num_nodes=2, node_dim=2, num_flow_steps=0, edges=[(2, 1)], **small)
    model.build((None, *request.param))
    randomise(model, scale=0.2)
    folder = tmp_path_factory.mktemp("explored")
    model.export(folder)
    return model, Explorer(folder)


@pytest.fixture
def client(explored):
    return TestClient(server.make_app(explored[1]), base_url="http://127.0.0.1")


def pixels(*shape):
    return np.random.default_rng(0).integers(0, 256, shape).astype("uint8")


def test_pixels_are_whole_numbers_and_answers_the_model_s(client, explored):
    model, explorer = explored
    x = pixels(3, *model.image_shape)
    found = ask(client, "encode", images=x.tolist())
    np.testing.assert_allclose(found["latents"], model.encode(x), atol=1e-5)
    np.testing.assert_allclose(found["probs"], model.decode(model.encode(x))["probs"], atol=1e-4)
    examples = client.get("/api/model").json()["examples"]
    drawn = 255 * model.sample(512, seed=0)["images"].numpy()[:24]
    np.testing.assert_allclose(examples["images"], drawn, atol=1e-3)
    np.testing.assert_allclose(examples["latents"], model.encode(np.round(drawn).astype("uint8")), atol=1e-5)
    assert client.get("/api/model").json()["num_values"] == 256
    np.testing.assert_array_equal(Explorer(explorer.path, x).describe()["examples"]["images"], x)


def test_bounds_are_of_the_image(client, explored):
    """The ELBO within five of its standard errors, as of 4,000 draws of the model's own: fails once in 10^6 seeds."""
    model, _ = explored
    x = pixels(1, *model.image_shape)
    found = ask(client, "bounds", image=x[0].tolist(), seed=1)
    elbo = model(x, seed=2, num_samples=4000).elbo().numpy()[:, 0]
    error = np.hypot(found["elbo_stderr"], elbo.std() / np.sqrt(4000))
    assert abs(found["elbo"] - elbo.mean()) < 5 * error


def test_a_picture_is_cropped_and_scaled_as_in_training(client, explored):
    model, _ = explored
    picture = Image.fromarray(pixels(40, 60, 3)).convert("RGB" if len(model.image_shape) == 3 else "L")
    file = io.BytesIO()
    picture.save(file, "PNG")
    found = client.post("/api/read", content=file.getvalue()).json()["images"]
    np.testing.assert_array_equal(found, [ImageOps.fit(picture, (6, 8), Image.Resampling.LANCZOS)])
    x = pixels(70, *model.image_shape)
    np.testing.assert_array_equal(client.post("/api/read", content=as_npz(x)).json()["images"], x[:64])


@pytest.mark.parametrize("pixel", [-1, 256, 0.5])
def test_pixels_that_an_image_cannot_have_are_one_sentence(client, explored, pixel):
    x = pixels(1, *explored[0].image_shape).astype(float)
    x.flat[7] = pixel
    answer = client.post("/api/encode", content=json.dumps({"images": x.tolist()}))
    assert answer.status_code == 400
    assert "images must be whole numbers from 0 to 255 of shape [1 to 64, 8, 6" in answer.json()["error"]


def test_they_have_no_page_without_a_server(explored, tmp_path):
    with pytest.raises(FileError, match=r"`static` needs a model of 0 and 1 .*, of 256 values\."):
        static.write(explored[1], tmp_path / "page")


def test_images_of_other_shapes_are_one_sentence(tmp_path, randomise):
    model = LDIAF(num_nodes=1, node_dim=2, num_flow_steps=0, encoder_units=[4], decoder_units=[4])
    model.build((None, 4, 4, 2))
    model.export(tmp_path)
    with pytest.raises(FileError, match=r"images \(H, W\) or \(H, W, 3\).* Received: .*, of \(4, 4, 2\)\."):
        Explorer(tmp_path)
