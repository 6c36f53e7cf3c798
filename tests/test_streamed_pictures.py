"""Folders of pictures as streams: every picture once an epoch, as the same pictures in memory have it."""

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from test_data import load, numbered, numbers, save_pngs
from test_records import epoch_of, flat, prepare

from tf_ldiaf import Config, data
from tf_ldiaf.data import pictures, streamed_pictures
from tf_ldiaf.errors import ConfigError, DataError


def opened(path, **reading):
    return streamed_pictures.open_stream(path, pictures.Reading(**reading))["train"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """60 pictures, each its number in black and white, in folders of ten."""
    path = tmp_path_factory.mktemp("pictures")
    for i in range(6):
        save_pngs(path / f"class{i}", numbered(10, 10 * i))
    (path / "notes.txt").write_text("not a picture")
    return path


@pytest.mark.parametrize("num_parts", [1, 2])
def test_an_epoch_has_every_picture_once_in_an_order_of_seed_and_epoch(folder, num_parts):
    stream = opened(folder)
    parts = [epoch_of(stream, 10, part=part, num_parts=num_parts) for part in range(num_parts)]
    first = flat(flat(batch) for batch in zip(*parts, strict=True))
    assert sorted(first) == list(range(60))
    assert first == flat(epoch_of(stream, 10))
    for other in (epoch_of(stream, 10, epoch=1), epoch_of(stream, 10, seed=1)):
        # 60 numbers in random order agree in one place on average, and in more than ten once in 10^8 times.
        assert sum(a == b for a, b in zip(first, flat(other), strict=True)) <= 10
    assert sorted(numbers(stream.array() // 255)) == list(range(60))


def test_its_sets_are_disjoint_and_cover_the_folder(folder):
    train, valid, test = load(Config(dataset=str(folder), stream=True))
    assert [len(x) for x in (train, valid, test)] == [38, 10, 12]
    batches = data.training_batches(train, batch_size=2, seed=0)
    seen = np.concatenate(list(batches.take(19).as_numpy_iterator()))
    assert sorted(number for x in (seen, valid, test) for number in numbers(x)) == list(range(60))


def test_sets_that_the_folder_has_are_kept(tmp_path):
    for name, x in {"train": numbered(12), "val": numbered(3, 12), "test": numbered(5, 15)}.items():
        save_pngs(tmp_path / name, x)
    train, valid, test = load(Config(dataset=str(tmp_path), stream=True))
    assert (len(train), numbers(valid), numbers(test)) == (12, [12, 13, 14], [15, 16, 17, 18, 19])


def test_mixed_colours_and_sizes_are_those_of_the_folder_in_memory(tmp_path):
    """One of three is grey, and none has the size that is asked for."""
    rng = np.random.default_rng(0)
    for i, shape in enumerate([(9, 7), (12, 12, 3), (8, 16, 3), (5, 5)] * 3):
        Image.fromarray(rng.integers(0, 256, shape).astype("uint8")).save(tmp_path / f"{i:02}.png")
    stream = opened(tmp_path, image_size=(6, 4), keep_colour=True)
    assert stream.shape == (12, 6, 4, 3)
    expected = data.load(tmp_path, image_size=(6, 4))["train"]
    assert sorted(x.tobytes() for x in stream.array()) == sorted(x.tobytes() for x in expected)
    [batch] = stream.batches(12, 0, tf.constant(0, tf.int64)).as_numpy_iterator()
    assert sorted(x.tobytes() for x in batch) == sorted(x.tobytes() for x in expected)


def test_drawings_on_transparent_paper_all_lie_on_the_same(tmp_path):
    """On black, as the first one says, although the second would be drawn on white if it were read alone."""
    for i, ink in enumerate((255, 0)):
        drawing = np.full((4, 4, 2), ink, "uint8")
        drawing[:2, :, 1] = 0
        Image.fromarray(drawing, "LA").save(tmp_path / f"{i}.png")
    expected = np.zeros((2, 4, 4))
    expected[0, 2:] = 255
    np.testing.assert_array_equal(opened(tmp_path).array(), expected)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("5.png", b"\x89PNG", r"must hold readable pictures\. Received: .*, 5\.png \(no picture"),
        ("5.png", np.zeros((4, 5), "uint8"), r"must hold pictures of one size, .* 5\.png is 4 x 5"),
        ("5.png", np.arange(48, dtype="uint8").reshape(4, 4, 3), r"must be all of colour, or `color` be grey\."),
        ("5.png", None, r"must hold readable pictures\. .* 5\.png \(.*No such file"),
    ],
)
def test_a_picture_that_cannot_be_read_ends_the_training_with_a_sentence(name, content, words, tmp_path, monkeypatch):
    monkeypatch.setattr(streamed_pictures, "_FIRST", 4)
    save_pngs(tmp_path, numbered(5))
    file = tmp_path / name
    file.write_bytes((tmp_path / "0004.png").read_bytes())
    stream = opened(tmp_path, keep_colour=True)
    file.unlink()
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content is not None:
        Image.fromarray(content).save(file)
    with pytest.raises(DataError, match=words), stream.readable():
        list(stream.batches(6, 0, tf.constant(0, tf.int64)))


def test_a_stream_of_tfds_is_scaled_like_the_same_images_in_memory(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (20, 8, 6)).astype("uint8")
    name = {"dataset": "large", "data_dir": prepare(tmp_path, "large", {"train": x}, num_files=1)}
    settings = {"image_size": (4, 4), "likelihood": "categorical"}
    streamed, memory = (Config(**name, **settings, stream=stream) for stream in (True, False))
    train, valid, test = load(streamed)
    found = np.concatenate([train.array(), valid, test])
    expected = np.concatenate(load(memory))
    assert found.shape == (20, 4, 4)
    assert sorted(image.tobytes() for image in found) == sorted(image.tobytes() for image in expected)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"skip_unreadable": True}, "`stream` takes no `skip_unreadable`. Received: True"),
        ({"value_range": "0,9"}, "`stream` takes no `value_range`. Received: 0,9"),
    ],
)
def test_what_a_stream_does_not_take(settings, words):
    with pytest.raises(ConfigError, match=words):
        Config(stream=True, **settings)
