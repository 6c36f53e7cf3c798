"""The explorer's page in a real browser, with its server and without one."""

import base64
import io
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading

import numpy as np
import pytest
import tensorflow as tf
import uvicorn
from PIL import Image
from test_cli import REPO, environment
from test_explorer import as_npz

from tf_ldiaf import LDIAF
from tf_ldiaf.explorer import server
from tf_ldiaf.explorer.answers import Explorer

sync_api = pytest.importorskip("playwright.sync_api")
CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs the browser chromium")
SAVED_MODEL = REPO / "saved_models" / "mnist_ldiaf"


@pytest.fixture(scope="module")
def browser():
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def process(tmp_path_factory):
    """The command, as a user starts it, and the page's address."""
    line = [sys.executable, "-m", "tf_ldiaf.explore", f"--saved_model={SAVED_MODEL}", "--nobrowser"]
    with subprocess.Popen(
        line, cwd=tmp_path_factory.mktemp("elsewhere"), env=environment(), stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:  # fmt: skip
        address = re.fullmatch(r"Explorer of mnist_ldiaf: (http://127\.0\.0\.1:\d+/)\n", process.stdout.readline())
        assert address, process.stderr.read()
        assert process.stdout.readline() == "Ctrl-C ends it.\n"
        process.address = address.group(1)
        yield process
        process.kill()


@pytest.fixture(scope="module")
def static_page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("static") / "page"
    line = [sys.executable, "-m", "tf_ldiaf.explore", f"--saved_model={SAVED_MODEL}", f"--static={folder}"]
    done = subprocess.run(line, env=environment(), capture_output=True, text=True)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", f"Page: {folder}/index.html\n")
    return folder


@pytest.fixture
def opened(browser):
    """Opens a page. In the end it must have said nothing on the console, and asked no other host."""
    context = browser.new_context(accept_downloads=True)
    # The same seeds every time.
    context.add_init_script("let seeds = 0; crypto.getRandomValues = () => [2 * ++seeds];")
    page, said, asked = context.new_page(), [], []
    refused = "status of 400 (Bad Request)"  # the console's word for what the page says in a sentence
    page.on("console", lambda message: refused in message.text or said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))

    def open_page(address):
        page.goto(address)
        page.wait_for_function("state.latents !== null && document.getElementById('link').value !== ''")
        page.address = address
        return page

    yield open_page
    settle(page)
    assert said == []
    assert page.locator("#message").inner_text() == ""
    home = page.address.partition("#")[0].rsplit("/", 1)[0]
    assert [url for url in asked if not url.startswith((home, "data:", "blob:"))] == []
    context.close()


def settle(page):
    page.wait_for_function("!isBusy")


def centre_on(page, selector):
    page.locator(selector).evaluate("element => element.scrollIntoView({ block: 'center' })")
    return page.locator(selector).bounding_box()


def latents(page):
    settle(page)
    return np.array(page.evaluate("state.latents"))


def colours(page, canvas):
    """What a canvas shows: [H, W, 3], in 0-255."""
    settle(page)
    text = page.evaluate("id => document.getElementById(id).toDataURL()", canvas)
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(text.partition(",")[2]))).convert("RGB"))


def pixels(page, canvas):
    """The same of a grey picture, as ink in 0-1."""
    return 1 - colours(page, canvas)[..., 0] / 255


@pytest.fixture(scope="module")
def signatures():
    return tf.saved_model.load(str(SAVED_MODEL)).signatures


def decoded(signatures, z):
    return signatures["decode"](latents=tf.constant(z[np.newaxis], tf.float32))["probs"].numpy()[0]


def check_what_needs_no_encoder(page, signatures, tolerance):
    """Draw, draw a node anew, slide, shut an edge, mix, and go back by the link."""
    assert np.allclose(pixels(page, "picture"), decoded(signatures, latents(page)), atol=tolerance)
    before = latents(page)
    page.click("#draw")
    assert (latents(page) != before).all()
    before = latents(page)
    page.check("#node-4")
    assert page.inner_text("#redraw") == "Draw z4 anew, with z3, z2 and z1"
    page.click("#redraw")
    after = latents(page)
    assert (after[4] == before[4]).all()
    assert (after[:4] != before[:4]).all()
    # A slider moves one node, along one direction, to a quantile.
    page.locator(".slider input").first.fill("90")
    moved = latents(page)
    assert (np.delete(moved, 3, axis=0) == np.delete(after, 3, axis=0)).all()
    model = page.evaluate("model.directions[3]")
    places = (moved[3] - model["mean"]) @ np.transpose(model["components"])
    assert places[0] == pytest.approx(model["quantiles"][0][89], abs=1e-4)
    assert page.locator(".slider output").first.inner_text() == "90 %"
    assert np.allclose(pixels(page, "picture"), decoded(signatures, moved), atol=tolerance)
    # An edge that is shut: what is drawn with all edges open is the picture, after a draw from the prior.
    page.click("#draw")
    page.check("#edge-5-4")
    assert np.array_equal(pixels(page, "open"), pixels(page, "picture"))
    assert np.abs(pixels(page, "shut") - pixels(page, "picture")).max() > 0.5
    assert "without z5\u00a0→\u00a0z4" in page.inner_text("#comparison")
    # The link brings all of this back, to the numbers of float32.
    link, before, shut = page.input_value("#link"), latents(page), pixels(page, "shut")
    page.goto("about:blank")
    page.goto(link)
    page.wait_for_function("state.latents !== null && !isBusy")
    assert np.allclose(latents(page), before, atol=1e-6)
    assert page.is_checked("#edge-5-4")
    assert page.is_checked("#node-4")
    assert np.allclose(pixels(page, "shut"), shut, atol=0.01)
    page.uncheck("#edge-5-4")
    # A mixture has each node's code from the picture that was chosen for it.
    page.click("#keep-a")
    a = latents(page)
    page.click("#draw")
    b = latents(page)
    page.click("#keep-b")
    settle(page)
    page.locator("input[name=mix-5][value=b]").check()
    mixed = latents(page)
    assert np.array_equal(mixed, np.concatenate([a[:4], b[4:]]))


def test_with_a_server(process, opened, signatures, tmp_path):
    page = opened(process.address)
    check_what_needs_no_encoder(page, signatures, tolerance=0.003)
    # Click on the graph: its nodes stand on a circle, z5 on top.
    box = centre_on(page, "#graph")
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 45)
    assert page.inner_text("#tooltip") == "z5: KL 9.28 nats"
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + 45)
    assert page.is_checked("#node-5")
    # From there down to the right is the edge to z4.
    for away in range(30, 60):
        page.mouse.move(box["x"] + box["width"] / 2 + away, box["y"] + 45 + 0.6 * away)
        if page.inner_text("#tooltip").startswith("z5 → z4"):
            break
    assert page.inner_text("#tooltip") == "z5 → z4: worth 5.53 ± 0.04 nats. Click shuts it."
    page.mouse.down()
    page.mouse.up()
    assert page.is_checked("#edge-5-4")
    page.uncheck("#edge-5-4")
    # An image that is picked
    page.locator("#examples button").nth(2).click()
    settle(page)
    example = np.array(page.evaluate("model.examples.images[2]"), "float32")
    codes = signatures["encode"](images=tf.constant(example[np.newaxis]))["codes"].numpy()[0]
    assert np.allclose(latents(page), codes, atol=1e-5)
    assert np.array_equal(pixels(page, "original"), example)
    assert np.allclose(pixels(page, "reconstruction"), decoded(signatures, codes), atol=0.003)
    assert re.fullmatch(
        r"ELBO -\d+\.\d\d ± \d\.\d\d nats, log-likelihood -\d+\.\d\d ± \d\.\d\d nats, from the same 250 samples\. .*",
        page.inner_text("#bounds"),
    )
    # An edge below nodes that are held
    page.check("#edge-3-1")
    keep, adjacency = [False, True, True, True, True], np.full((5, 5), True)
    ask = {"latents": tf.constant(codes[np.newaxis]), "seed": tf.constant(page.evaluate("state.seed"))}
    for canvas in ("open", "shut"):
        expected = signatures["resample"](**ask, keep=tf.constant(keep), adjacency=tf.constant(adjacency))["probs"]
        assert np.allclose(pixels(page, canvas), expected[0], atol=0.003)
        adjacency[0, 2] = False
    page.uncheck("#edge-3-1")
    # One that is drawn with the mouse
    box = centre_on(page, "#pad")
    page.mouse.move(box["x"] + 70, box["y"] + 30)
    page.mouse.down()
    page.mouse.move(box["x"] + 70, box["y"] + 110, steps=5)
    page.mouse.up()
    drawn = pixels(page, "original")
    assert set(np.unique(drawn)) == {0, 1}
    assert drawn[7:21, 14].all()
    assert not drawn[:, :11].any()
    # One from a file
    page.set_input_files(
        "#upload", {"name": "x.npz", "mimeType": "", "buffer": as_npz(np.stack([example, 1 - example]))}
    )
    page.wait_for_function("document.querySelectorAll('#examples button').length === 2")
    settle(page)
    assert np.array_equal(pixels(page, "original"), example)
    # What is saved
    with page.expect_download() as download:
        page.click("#save-codes")
    with np.load(download.value.path()) as codes_file:
        assert np.allclose(codes_file["latents"], latents(page)[np.newaxis], atol=1e-6)
    with page.expect_download() as download:
        page.click("#save-picture")
    page.set_input_files("#upload", download.value.path())
    settle(page)
    assert np.array_equal(pixels(page, "original"), decoded(signatures, codes) > 0.5)


def test_a_file_that_holds_no_images_is_said(process, opened):
    page = opened(process.address)
    page.set_input_files("#upload", {"name": "x.png", "mimeType": "image/png", "buffer": b"text"})
    page.wait_for_function("document.getElementById('message').textContent !== ''")
    assert page.inner_text("#message").startswith("file must be a picture (PNG, ")
    page.click("#draw")  # and the sentence goes
    settle(page)
    assert page.inner_text("#message") == ""


def test_no_click_is_lost_while_another_is_answered(process, opened):
    page = opened(process.address)
    settle(page)
    page.evaluate("by('draw').click(); by('keep-a').click(); by('draw').click()")
    settle(page)
    assert page.evaluate("state.mixed.a !== null")
    assert page.evaluate("JSON.stringify(state.mixed.a) !== JSON.stringify(state.latents)")  # drawn after it was taken


def test_a_link_of_another_model_is_said(process, opened):
    page = opened(f"{process.address}#z=AAAA&node=99")
    page.wait_for_function("!isBusy")
    assert page.inner_text("#message") == "The link is of another model, or was cut off."
    assert pixels(page, "picture").any()
    page.click("#draw")


def test_without_a_server(static_page, opened, signatures):
    assert sum(file.stat().st_size for file in static_page.iterdir()) < 10e6
    page = opened(f"file://{static_page}/index.html")
    z = np.random.default_rng(0).normal(size=(20, 5, 16)).astype("float32")
    found = page.evaluate("async z => (await backend.ask('decode', { latents: z })).probs", z.tolist())
    assert np.allclose(found, signatures["decode"](latents=tf.constant(z))["probs"], atol=2e-3)
    check_what_needs_no_encoder(page, signatures, tolerance=0.005)
    page.locator("#examples button").nth(2).click()
    settle(page)
    assert np.allclose(latents(page), page.evaluate("model.examples.latents[2]"))
    assert not page.is_visible("#pad")
    assert page.is_visible("#no-encoder")


def test_priors_without_a_server_are_the_model_s(static_page, opened, signatures):
    """4,000 draws of z_4 given z_5 by TensorFlow, against loc and scale in the browser: 64 comparisons at 5 standard
    errors, and float16's error; a right page fails for 1 seed in 25,000."""
    page = opened(f"file://{static_page}/index.html")
    z, keep = np.random.default_rng(0).normal(size=(1, 5, 16)).astype("float32"), [False, False, False, False, True]
    ask = {"latents": tf.constant(z.repeat(4000, axis=0)), "keep": tf.constant(keep), "seed": tf.constant(0)}
    for is_open in (True, False):
        adjacency = np.full((5, 5), True)
        adjacency[3, 4] = is_open
        drawn = signatures["resample"](**ask, adjacency=tf.constant(adjacency))["latents"].numpy()[:, 3]
        prior = page.evaluate("([z, adjacency]) => network.prior(3, z, adjacency)", [z[0].tolist(), adjacency.tolist()])
        loc, scale = np.array(prior["loc"]), np.array(prior["scale"])
        assert (np.abs(drawn.mean(axis=0) - loc) < 5 * scale / np.sqrt(4000) + 0.005).all()
        assert (np.abs(drawn.std(axis=0) / scale - 1) < 5 / np.sqrt(8000) + 0.005).all()
        assert (loc == 0).all() == (not is_open)
    # And the browser's own draws follow them: each row and node has noise of its own.
    found = page.evaluate(
        "z => network.resample({ latents: new Array(2000).fill(z), keep: new Array(5).fill(false), seed: 3,"
        " adjacency: new Array(5).fill(new Array(5).fill(false)) }).latents",
        z[0].tolist(),
    )
    found = np.reshape(found, (2000, 80))
    assert (np.abs(np.mean(found, axis=0)) < 5 / np.sqrt(2000)).all()
    assert (np.abs(np.std(found, axis=0) - 1) < 5 / np.sqrt(4000)).all()
    assert np.abs(np.corrcoef(np.transpose(found)) - np.eye(80)).max() < 5.5 / np.sqrt(2000)


def test_a_model_of_colour_is_shown_in_colour(browser, opened, tmp_path):
    """In a thread here, because no model of colour is shipped."""
    model = LDIAF(2, 2, 0, edges=[], encoder_units=[8], decoder_units=[8], likelihood="discretized_logistic")
    model.build((None, 12, 8, 3))
    model.export(tmp_path / "coloured")
    explorer = Explorer(tmp_path / "coloured")
    with socket.create_server(("127.0.0.1", 0)) as listening:
        running = uvicorn.Server(uvicorn.Config(server.make_app(explorer), log_level="error"))
        thread = threading.Thread(target=running.run, args=[[listening]])
        thread.start()
        try:
            page = opened(f"http://127.0.0.1:{listening.getsockname()[1]}/")
            assert not page.is_visible("#pad")
            expected = np.round(255 * explorer.decode([latents(page).tolist()])["probs"][0])
            np.testing.assert_allclose(colours(page, "picture"), expected, atol=1)
            photo = np.random.default_rng(0).integers(0, 256, (12, 8, 3)).astype("uint8")
            Image.fromarray(photo).save(tmp_path / "photo.png")
            page.set_input_files("#upload", tmp_path / "photo.png")
            page.wait_for_selector("text=log-likelihood")
            np.testing.assert_array_equal(colours(page, "original"), photo)
        finally:
            running.should_exit = True
            thread.join()


def test_ctrl_c_ends_it_with_one_line(process):
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    assert (output, errors.strip(), process.returncode) == ("", "explore: interrupted.", 130)
