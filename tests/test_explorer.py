"""The explorer's answers and its server, against the model that it explores."""

import asyncio
import concurrent.futures
import io
import json
import pathlib
import shutil
import socket
import zipfile

import keras
import numpy as np
import pytest
import uvicorn
from PIL import Image
from starlette.testclient import TestClient

from tf_ldiaf import LDIAF
from tf_ldiaf.errors import ConfigError, FileError
from tf_ldiaf.explorer import server, static
from tf_ldiaf.explorer.answers import Explorer
from tf_ldiaf.explorer.directions import directions

SHAPE = (8, 6)
ALL = [[True] * 3] * 3


@pytest.fixture(scope="module")
def model(randomise):
    keras.utils.set_random_seed(0)
    small = {"encoder_units": [8], "decoder_units": [8, 8], "node_units": [8], "flow_units": [8], "context_dim": 2}
    model = LDIAF(num_nodes=3, node_dim=2, num_flow_steps=1, edges=[(3, 2), (2, 1)], **small)
    model.build((None, *SHAPE))
    randomise(model, scale=0.1)
    # A posterior near the prior, so that importance weights have a finite variance.
    for layer in (model.graph.top_down.stack[-1], model.graph.bottom_up.stack[-1], model.decoder.layers[-1]):
        layer.kernel.assign(0.4 * layer.kernel)
    model.graph.bottom_up.stack[-1].bias.assign_add(np.tile([0.0, 0.0, 3.0, 3.0, 0.0, 0.0], (3, 1, 1)))
    model.graph.flows.stack[-1].bias.assign_add(np.tile([0.0, 0.0, 3.0, 3.0], (3, 1, 1)))
    return model


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("explored") / "small"
    model.export(folder)
    return folder


@pytest.fixture(scope="module")
def explorer(folder):
    return Explorer(folder)


@pytest.fixture(scope="module")
def client(explorer):
    return TestClient(server.make_app(explorer), base_url="http://127.0.0.1")


@pytest.fixture(scope="module")
def x():
    return (np.random.default_rng(0).random((3, *SHAPE)) < 0.5).astype("float32")


def ask(client, question, **asked):
    answer = client.post(f"/api/{question}", content=json.dumps(asked))
    assert answer.status_code == 200, answer.text
    return answer.json()


# Right answers


def test_answers_are_the_model_s(client, model, x):
    latents = np.random.default_rng(1).normal(size=(2, 3, 2)).astype("float32").tolist()
    assert np.allclose(ask(client, "decode", latents=latents)["probs"], model.decode(latents)["probs"], atol=1e-5)
    drawn = ask(client, "sample", num=4, seed=9)
    assert np.allclose(drawn["probs"], model.sample(4, seed=9)["probs"], atol=1e-5)
    assert np.allclose(drawn["probs"], model.decode(drawn["latents"])["probs"], atol=1e-5)
    keep, adjacency = [True, False, False], [[True, False, True], [True] * 3, [True] * 3]
    found = ask(client, "resample", latents=latents, keep=keep, adjacency=adjacency, seed=5)
    for name, value in model.resample(latents, keep, 5, adjacency).items():
        assert np.allclose(found[name], value, atol=1e-5)
    found = ask(client, "encode", images=x.astype(int).tolist())
    assert np.allclose(found["latents"], model.encode(x), atol=1e-5)
    assert np.allclose(found["probs"], model.decode(model.encode(x))["probs"], atol=1e-5)


def test_bounds_are_within_their_errors_of_the_model_s(client, model, x):
    """5 standard errors, of the answer and of the model's own draws: a right one fails for 2 seeds in a million."""
    found = ask(client, "bounds", image=x[0].astype(bool).tolist(), seed=1)
    assert found["num_importance_samples"] == 250
    elbo = model(x[:1], seed=2, num_samples=4000).elbo().numpy()[:, 0].astype("float64")
    w = np.exp(elbo - elbo.max())
    theirs = {"elbo": (elbo.mean(), elbo.std())}
    theirs["log_likelihood"] = (elbo.max() + np.log(w.mean()), w.std() / w.mean())
    for name, (value, spread) in theirs.items():
        stderr = found[f"{name}_stderr"]
        assert abs(found[name] - value) < 5 * np.hypot(stderr, spread / np.sqrt(4000)), name
        assert stderr == pytest.approx(spread / np.sqrt(250), rel=0.3)
    assert found["log_likelihood"] > found["elbo"]


def test_a_description_has_the_model_s_sizes_graph_and_examples(client, model, explorer, x, npz):
    found = client.get("/api/model").json()
    assert (found["name"], found["image_shape"], found["node_dim"]) == ("small", list(SHAPE), 2)
    assert [(edge["parent"], edge["child"]) for edge in found["edges"]] == [(2, 1), (3, 2)]
    assert found["nodes"] == [{"kl": None, "is_dead": False}] * 3  # not measured
    images = np.array(found["examples"]["images"])
    assert np.array_equal(images, model.sample(512, seed=0)["images"][: len(images)])
    assert np.allclose(found["examples"]["latents"], model.encode(images.astype("float32")), atol=1e-5)
    for images in (x, npz(x=x), pathlib.Path(npz(x=x))):
        assert np.array_equal(Explorer(explorer.path, images).describe()["examples"]["images"], x)


def test_numbers_of_the_graph_are_told(folder, tmp_path):
    graph = {"directed": True, "multigraph": False, "graph": {}}
    graph["nodes"] = [{"id": "z1", "kl": 0.001}, {"id": "z2", "kl": 2.5}, {"id": "z3", "kl": 4.0}]
    graph["edges"] = [{"source": "z3", "target": "z2", "weight": 1.5, "stderr": 0.25}]
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    (other / "graph.json").write_text(json.dumps(graph))
    found = Explorer(other).describe()
    assert found["nodes"] == [{"kl": 0.001, "is_dead": True}, *({"kl": kl, "is_dead": False} for kl in (2.5, 4.0))]
    assert found["edges"] == [{"parent": 3, "child": 2, "weight": 1.5, "stderr": 0.25}]
    graph["nodes"] = [*graph["nodes"][:2], {"id": "z4"}]
    graph["edges"] = []
    (other / "graph.json").write_text(json.dumps(graph))
    with pytest.raises(FileError, match=r"must have a graph.json of z1, z2, z3\. Received: z1, z2, z4\."):
        Explorer(other)


def test_directions_are_those_of_the_largest_variance():
    """Codes with known directions: of 10,000 draws the share is right within 5 standard errors of 1.4 %."""
    rng = np.random.default_rng(0)
    turned, _ = np.linalg.qr(rng.normal(size=(6, 6)))
    scales = np.array([3.0, 2.0, 1.0, 0.05, 0.0, 0.0])
    found = directions((rng.normal(size=(10_000, 6)) * scales) @ turned.T + 7)
    assert found["components"].shape == (3, 6)  # the fourth explains 0.02 %
    assert np.allclose(np.abs(np.sum(found["components"] * turned.T[:3], axis=1)), 1, atol=0.01)
    assert np.allclose(found["shares"], scales[:3] ** 2 / 14, rtol=0.07)
    assert np.allclose(found["mean"], 7, atol=0.2)
    assert found["quantiles"].shape == (3, 99)
    assert np.allclose(found["quantiles"][:, 49], 0, atol=0.2)
    assert np.allclose(found["quantiles"][:, 97], 2.054 * scales[:3], rtol=0.1)  # the normal's quantile of 98 %
    assert directions(np.zeros((10, 6)))["components"].shape == (0, 6)


def test_twenty_clients_at_once_get_right_answers(client, model):
    latents = np.random.default_rng(3).normal(size=(60, 1, 3, 2)).astype("float32")
    expected = [model.decode(z)["probs"].numpy() for z in latents]

    def one(i):
        if i % 3:
            return np.allclose(ask(client, "decode", latents=latents[i].tolist())["probs"], expected[i], atol=1e-5)
        drawn = ask(client, "sample", num=2, seed=i)
        return np.allclose(drawn["probs"], model.sample(2, seed=i)["probs"], atol=1e-5)

    with concurrent.futures.ThreadPoolExecutor(20) as threads:
        assert all(threads.map(one, range(60)))


# What is brought


def as_png(pixels, mode="L"):
    buffer = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(buffer, format="PNG")
    return buffer.getvalue()


def as_npz(array):
    buffer = io.BytesIO()
    np.savez(buffer, array)
    return buffer.getvalue()


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA", "1"])
@pytest.mark.parametrize("is_light", [False, True])
@pytest.mark.parametrize("zoom", [1, 5])
def test_a_picture_that_is_brought_is_its_ink(client, mode, is_light, zoom):
    ink = np.zeros(SHAPE, bool)
    ink[2:6, 1:3] = True
    pixels = np.where(ink ^ is_light, 255, 0).astype("uint8").repeat(zoom, axis=0).repeat(zoom, axis=1)
    found = client.post("/api/read", content=as_png(pixels, mode))
    assert np.array_equal(found.json()["images"], [ink])


def test_a_picture_of_sixteen_bits_keeps_its_greys(client):
    """A level of 300 is nearly black, not white."""
    ink = np.zeros(SHAPE, bool)
    ink[2:6, 1:3] = True
    found = client.post("/api/read", content=as_png(np.where(ink, 40_000, 300).astype("uint16"), "I;16"))
    assert np.array_equal(found.json()["images"], [ink])


def test_files_of_images_are_brought(client, x):
    for array in (x, x.astype("uint8"), (255 * x).astype("uint8"), x.reshape(3, *SHAPE, 1)):
        assert np.array_equal(client.post("/api/read", content=as_npz(array)).json()["images"], x)
    many = client.post("/api/read", content=as_npz(np.tile(x, (40, 1, 1)))).json()["images"]
    assert np.shape(many) == (64, *SHAPE)


BUFFER = io.BytesIO()
with zipfile.ZipFile(BUFFER, "w", zipfile.ZIP_DEFLATED) as archive:
    archive.writestr("x.npy", bytes(100_000_001))
LARGE_NPZ = BUFFER.getvalue()  # 97 kB


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "file must be a picture (PNG, JPEG, GIF, BMP, WEBP, TIFF) or an .npz file of images. Received: another"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "or an .npz file of images. Received: another file."),
        (b"PK\3\4", "file must be a readable .npz or .npy file of numbers. Received: the upload"),
        (as_npz(np.tile(np.eye(5), (2, 1, 1))), "file must hold images of (8, 6). Received: (5, 5)."),
        (as_npz(np.array(["a"])), "file must be numbers from 0 to 255"),
        (as_png(np.zeros((9, 9), "uint8"))[:45], "file must be a readable picture"),
        (LARGE_NPZ, "file must unpack to at most 100,000,000 bytes. Received: 100,000,"),
        (as_png(np.zeros((8000, 8000), "uint8"), "1"), "at most 50,000,000 pixels. Received: 8000 x 8000"),
    ],
    ids=["nothing", "eps", "broken npz", "size", "text", "broken png", "large npz", "large"],
)  # fmt: skip
def test_a_file_that_holds_no_images_is_one_sentence(client, content, words):
    answer = client.post("/api/read", content=content)
    assert answer.status_code == 400
    assert words in answer.json()["error"]
    assert "/tmp" not in answer.json()["error"]


# What is refused

Z = [[[0.5, 0.5]] * 3]
RESAMPLE = {"latents": Z, "keep": [True] * 3, "adjacency": ALL, "seed": 0}


@pytest.mark.parametrize(
    ("question", "asked", "words"),
    [
        ("sample", {"num": 0, "seed": 0}, "num must be a whole number from 1 to 64. Received: 0."),
        ("sample", {"num": 10**9, "seed": 0}, "num must be a whole number from 1 to 64. Received: 1000000000."),
        ("sample", {"num": 2.5, "seed": 0}, "num must be a whole number"),
        ("sample", {"num": True, "seed": 0}, "num must be a whole number"),
        ("sample", {"num": "1" * 99, "seed": 0}, "num must be a whole number from 1 to 64. Received: '1111"),
        ("sample", {"num": 1, "seed": 2**31}, "seed must be a whole number from 0 to 2147483647."),
        ("sample", {"num": 1, "seed": None}, "seed must be a whole number"),
        ("sample", {"num": 1}, "A request must have num, seed. Received: num."),
        ("sample", {"num": 1, "seed": 0, "size": 3}, "A request must have num, seed. Received: num, seed, size."),
        ("sample", [1, 0], "A request must have num, seed. Received: no object."),
        ("decode", {"latents": [[[0.5, float("nan")]] * 3]}, "numbers of shape [1 to 64, 3, 2] from -1000"),
        ("decode", {"latents": [[[0.5, float("inf")]] * 3]}, "Received: numbers of shape [1, 3, 2] from 0.5 to inf."),
        ("decode", {"latents": [[[0.5, 1e30]] * 3]}, "latents must be numbers"),
        ("decode", {"latents": [[[0.5, 10**400]] * 3]}, "latents must be numbers"),
        ("decode", {"latents": [[[0.5]] * 3]}, "Received: numbers of shape [1, 3, 1]"),
        ("decode", {"latents": [[[0.5], [0.5, 0.5], []]]}, "Received: something else."),
        ("decode", {"latents": [[["0.5", "0.5"]] * 3]}, "Received: something else."),
        ("decode", {"latents": [[[True, True]] * 3]}, "Received: true and false"),
        ("decode", {"latents": Z * 65}, "Received: numbers of shape [65, 3, 2]"),
        ("decode", {"latents": []}, "Received: numbers of shape [0]."),
        ("decode", {"latents": 3}, "Received: numbers of shape []"),
        ("decode", {"latents": {"z1": [0, 0]}}, "Received: something else."),
        ("decode", {"latents": None}, "Received: something else."),
        ("resample", RESAMPLE | {"keep": [1, 1, 1]}, "keep must be true and false of shape [3]. Received: numbers"),
        ("resample", RESAMPLE | {"keep": [True] * 4}, "keep must be true and false of shape [3]."),
        ("resample", RESAMPLE | {"adjacency": [True] * 9}, "adjacency must be true and false of shape [3, 3]."),
        ("resample", RESAMPLE | {"latents": [Z]}, "latents must be numbers"),
        ("encode", {"images": [[[2] * 6] * 8]}, "images must be 0 and 1 of shape [1 to 64, 8, 6]."),
        ("encode", {"images": [[0] * 6] * 8}, "images must be 0 and 1 of shape [1 to 64, 8, 6]."),
        ("bounds", {"image": [[0.5] * 6] * 8, "seed": 0}, "image must be 0 and 1 of shape [8, 6]."),
        ("bounds", {"image": [[0] * 6] * 8, "seed": -1}, "seed must be a whole number"),
    ],
)  # fmt: skip
def test_a_request_that_cannot_be_answered_is_one_sentence(client, question, asked, words):
    answer = client.post(f"/api/{question}", content=json.dumps(asked))
    assert answer.status_code == 400
    assert set(answer.json()) == {"error"}
    assert words in answer.json()["error"]
    assert "`" not in answer.json()["error"]


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b"[" * 100_000, b"null"])
def test_a_request_that_is_no_object_is_one_sentence(client, content):
    answer = client.post("/api/sample", content=content)
    assert answer.status_code == 400
    assert answer.json()["error"].startswith("A request must ")


def test_what_is_too_large_or_elsewhere_is_one_sentence(client):
    answer = client.post("/api/sample", content=b"x" * 16_000_001)
    assert (answer.status_code, set(answer.json())) == (413, {"error"})
    assert answer.json()["error"] == "A request must have at most 16,000,000 bytes. Received: more."
    for wrong in (client.get("/api/sample"), client.get("/api/nothing"), client.post("/index.html")):
        assert wrong.status_code in (404, 405)
        assert set(wrong.json()) == {"error"}
    assert client.get("/", headers={"host": "elsewhere.org"}).status_code == 400
    ours = str(client.base_url).rstrip("/")
    for origin, code in ((ours, 200), ("http://elsewhere.org", 403), ("null", 403)):
        answer = client.post("/api/sample", json={"num": 1, "seed": 0}, headers={"origin": origin})
        assert answer.status_code == code
    assert answer.json()["error"] == "A request must come from this page. Received: one from null."


def test_the_page_and_its_parts_are_served(client):
    page = client.get("/").text
    for name in [file.name for file in server.PAGE.iterdir()]:
        assert client.get(f"/{name}").status_code == 200
    assert '<script src="server.js"' in page
    assert "//" not in page.replace("<!--", "")  # no other host


def test_what_cannot_be_explored_is_one_sentence(explorer, folder, tmp_path, x):
    with pytest.raises(FileError, match="`saved_model` must be a SavedModel"):
        Explorer(tmp_path)
    with pytest.raises(FileError, match=r"`images` must be images of \(8, 6\)\. Received: \(6, 8\)\."):
        Explorer(folder, x.transpose(0, 2, 1))
    with pytest.raises(FileError, match=r"`images` must have whole numbers from 0 to 1\. Received: others\."):
        Explorer(folder, x / 255.0)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=rf"`port` must be one that is free\. Received: {port} \("):
            server.serve(explorer, port, browser=False)


def test_a_notebook_s_loop_does_not_keep_the_page_from_being_served(explorer, monkeypatch):
    asked = []

    def run(server, sockets):
        asked.append(asyncio.run(asyncio.sleep(0, "served")))  # fails in a thread whose loop runs

    monkeypatch.setattr(uvicorn.Server, "run", run)

    async def notebook():
        server.serve(explorer, browser=False)

    asyncio.run(notebook())
    server.serve(explorer, browser=False)
    assert asked == ["served", "served"]


# Without a server


def test_a_page_needs_a_folder_of_its_own_and_a_dense_decoder(explorer, tmp_path, randomise):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "index.html").write_text("precious")
    with pytest.raises(FileError, match=r"`static` must be a new folder, or a page that tf_ldiaf wrote\. Received: "):
        static.write(explorer, tmp_path / "thesis")
    for _ in range(2):
        static.write(explorer, tmp_path / "page")
    index = (tmp_path / "page" / "index.html").read_text()
    assert "model.js" in index
    assert "server.js" not in index
    assert sorted(file.name for file in tmp_path.iterdir()) == ["page", "thesis"]
    small = {"encoder_units": [8], "decoder_units": [8], "node_units": [8], "prior_flow_steps": 1, "flow_units": [8]}
    additive = LDIAF(num_nodes=2, node_dim=2, num_flow_steps=0, edges=[(2, 1)], decoder="additive", **small)
    additive.build((None, *SHAPE))
    additive.export(tmp_path / "additive")
    found = "with another decoder, with a flow in its prior"
    with pytest.raises(FileError, match=rf"`static` needs a model of 0 and 1 .*, {found}\."):
        static.write(Explorer(tmp_path / "additive"), tmp_path / "other")
