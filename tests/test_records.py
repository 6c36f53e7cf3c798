"""Streams: every image once an epoch, in an order of seed and epoch, of which each worker reads its own part."""

import dataclasses
import itertools
import os
import shutil

import numpy as np
import pytest
import tensorflow as tf
from test_data import load, numbered, numbers

from tests.test_cli import SMALL, command, environment
from tf_ldiaf import Config, data
from tf_ldiaf.data import records, tfds
from tf_ldiaf.errors import DataError, LDIAFError

FILES, IMAGES = 6, 100


def prepare(folder, name, splits, num_files=FILES):
    """Images [n, H, W] by split, as a data set that TFDS prepares in `folder` under `name`."""
    import tensorflow_datasets as tfds

    class Numbers(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            [shape] = {x.shape[1:] for x in splits.values()}
            features = tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(*shape, 1))})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {
                split: [(i, {"image": image[..., np.newaxis]}) for i, image in enumerate(x)]
                for split, x in splits.items()
            }

        def _generate_examples(self):
            raise NotImplementedError

    Numbers.name = name
    builder = Numbers(data_dir=folder)
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=num_files))
    assert len(builder.info.splits["train"].filepaths) == num_files
    return str(folder)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return prepare(tmp_path_factory.mktemp("tfds"), "hundred", {"train": numbered(IMAGES)})


@pytest.fixture
def hundred(data_dir):
    """100 images in six files; each is its number, black and white."""
    return tfds.open_stream("hundred", data_dir)["train"]


def epoch_of(stream, batch_size, seed=0, epoch=0, **part):
    batches = stream.batches(batch_size, seed, tf.constant(epoch, tf.int64), **part)
    return [numbers(x // 255) for x in batches.as_numpy_iterator()]


def flat(lists):
    return list(itertools.chain.from_iterable(lists))


@pytest.mark.parametrize("batch_size", [1, 6, 8, 25, 100])
def test_an_epoch_has_every_image_once_in_full_batches(hundred, batch_size):
    batches = epoch_of(hundred, batch_size)
    assert {len(batch) for batch in batches} == {batch_size}
    assert len(batches) == hundred.steps(batch_size)
    seen = flat(batches)
    assert len(set(seen)) == len(seen)
    # What fills no batch is left out: less than a batch, and less than an image of each stream.
    assert set(seen) <= set(range(IMAGES))
    assert IMAGES - len(seen) < batch_size + FILES


def test_the_order_is_a_function_of_seed_and_epoch(hundred):
    first = epoch_of(hundred, 5)
    assert first == epoch_of(hundred, 5)
    for other in (epoch_of(hundred, 5, epoch=1), epoch_of(hundred, 5, seed=1)):
        assert other != first
        # 100 numbers in random order agree in one place on average, and in more than ten once in 10^8 times.
        assert sum(a == b for a, b in zip(flat(first), flat(other), strict=True)) <= 10
    assert flat(first) != sorted(flat(first))


@pytest.mark.parametrize("num_parts", [2, 4, 12])
def test_parts_are_slices_of_the_whole_batches(hundred, num_parts):
    """Also where they are not a divisor of the streams, of which there are six."""
    parts = [epoch_of(hundred, 12, part=part, num_parts=num_parts) for part in range(num_parts)]
    assert [flat(batch) for batch in zip(*parts, strict=True)] == epoch_of(hundred, 12)


def test_a_part_reads_its_own_files_only(data_dir, tmp_path):
    shutil.copytree(data_dir, tmp_path / "copy")
    stream = tfds.open_stream("hundred", str(tmp_path / "copy"))["train"]
    before = epoch_of(stream, 12, part=1, num_parts=3)
    for part in stream.parts[:1] + stream.parts[5:]:  # the second third of the images begins and ends in files 2 and 4
        os.remove(part.path)
    assert epoch_of(stream, 12, part=1, num_parts=3) == before
    with pytest.raises(tf.errors.NotFoundError):
        epoch_of(stream, 12, part=0, num_parts=3)


def test_records_are_shuffled_within_bounds(hundred, monkeypatch):
    monkeypatch.setattr(records, "_SHUFFLED", 60)  # ten of each stream
    in_files = numbers(hundred.array() // 255)
    place = {number: i for i, number in enumerate(in_files)}
    batches = epoch_of(hundred, 6)
    num_seen = 0
    for stream in range(FILES):
        start, stop = stream * IMAGES // FILES, (stream + 1) * IMAGES // FILES
        places = [place[batch[stream]] for batch in batches]
        assert set(places) <= set(range(start, stop))
        if len(hundred._range(start, stop)) == 1:  # of one file, so in its order from somewhere on, but for the shuffle
            first = sorted(places[:10])
            gaps = np.diff([*first, first[0] + stop - start])
            assert gaps.max() >= stop - start - 9  # the first ten are neighbours, the last beside the first
            assert places[:10] != first
            num_seen += 1
    assert num_seen


def test_a_stream_of_one_file_begins_elsewhere_in_every_epoch(data_dir, monkeypatch):
    monkeypatch.setattr(records, "_SHUFFLED", 60)
    stream = tfds.open_stream("hundred", data_dir)["train"]
    stream = dataclasses.replace(stream, parts=stream.parts[:1])
    firsts = [set(flat(epoch_of(stream, 1, epoch=epoch)[:5])) for epoch in range(8)]
    assert len(set(map(frozenset, firsts))) > 4


@pytest.mark.parametrize("fraction", [0.0, 0.1, 0.5, 1.0])
def test_what_is_held_out_is_not_in_the_rest(hundred, fraction):
    held, rest = hundred.held_out(fraction)
    assert len(held) == fraction * IMAGES
    assert sorted(numbers(held.array() // 255) + numbers(rest.array() // 255)) == list(range(IMAGES))
    assert {part.path for part in held.parts} == {part.path for part in hundred.parts} or not fraction


def test_a_stream_is_the_data_set(data_dir):
    stream, valid, test = load(Config(dataset="hundred", data_dir=data_dir, stream=True))
    assert [len(x) for x in (stream, valid, test)] == [64, 16, 20]
    assert stream.shape == (64, 4, 4)
    batches = data.training_batches(stream, batch_size=8, seed=0)
    train = np.concatenate(list(batches.take(8).as_numpy_iterator()))
    seen = [number for x in (train, valid, test) for number in numbers(x)]
    assert len(seen) == len(set(seen)) == 100
    assert data.steps_per_epoch(stream, 8) == 8


@pytest.mark.parametrize("binarization", ["threshold", "dynamic", "none"])
@pytest.mark.parametrize("top", [1, 255])
def test_streams_are_binarised_as_arrays_are(binarization, top, tmp_path):
    place = prepare(
        tmp_path, "binary", {"train": numbered(60) // 255 * top, "validation": numbered(9, 60) // 255 * top}
    )
    images = data.load_training(
        Config(dataset="binary", data_dir=place, stream=True, binarization=binarization), seed=0
    )
    batches = data.training_batches(images.train, batch_size=6, seed=0)
    x = np.concatenate(list(batches.take(5).as_numpy_iterator()))
    assert set(np.unique(x)) == {0, 255 if binarization == "dynamic" else 1}
    assert x.dtype == "uint8"
    assert set(numbers(images.valid)) <= set(range(60, 69))
    assert set(numbers(x // x.max())) < set(range(60))


@pytest.mark.parametrize(
    ("binarization", "train", "others"),
    [("none", numbered(60) // 2, numbered(9)), ("threshold", numbered(60), numbered(9) // 255)],
)
def test_training_images_that_are_not_like_the_others_are_one_sentence(binarization, train, others, tmp_path):
    place = prepare(tmp_path, "mixed", {"train": train, "validation": others, "test": others})
    config = Config(dataset="mixed", data_dir=place, stream=True, binarization=binarization)
    stream = data.load_training(config, seed=0).train
    with (
        pytest.raises(DataError, match=r"must have readable files.*training images are not only black"),
        stream.readable(),
    ):
        next(iter(data.training_batches(stream, batch_size=6, seed=0)))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"dataset": "digits"}, "`stream` needs a `dataset` of TFDS, or a folder of pictures. Received: digits"),
        ({"dataset": "images.npz"}, "must be a file or a folder that exists. Received: images.npz"),
        ({"dataset": __file__}, "`stream` needs a `dataset` of TFDS, or a folder of pictures. Received: /"),
        ({"dataset": "hundred", "limit_train": 9}, "`stream` takes no `limit_train`. Received: 9"),
        ({"dataset": "hundret"}, "digits, a TFDS name"),
    ],
)
def test_what_cannot_be_streamed_is_one_sentence(settings, words, data_dir):
    with pytest.raises(LDIAFError, match=words):
        load(Config(data_dir=data_dir, stream=True, **settings))


def without_the_last_record(content):
    """TFRecord's framing: 8 bytes of length, 4 of its checksum, the record, 4 of its checksum."""
    place = 0
    while place < len(content):
        last, place = place, place + 16 + int.from_bytes(content[place : place + 8], "little")
    return content[:last]


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda content: b"", "must have readable files.*expected to contain"),
        (lambda content: content[:-9], "must have readable files.*truncated record"),
        (lambda content: content[:50] + b"?" + content[51:], "must have readable files.*corrupted record"),
        (without_the_last_record, "must have readable files.*expected to contain"),
        (None, "must have readable files.*No such file"),
    ],
    ids=["empty", "cut", "changed", "short", "missing"],
)
@pytest.mark.parametrize("is_graph", [False, True])
def test_a_file_that_is_damaged_while_training_ends_it_with_a_sentence(is_graph, damage, words, data_dir, tmp_path):
    """Whether Python asks for the next batch or a TensorFlow function, as in training."""
    shutil.copytree(data_dir, tmp_path / "copy")
    stream = tfds.open_stream("hundred", str(tmp_path / "copy"))["train"]
    with open(stream.parts[2].path, "rb+") as file:
        content = file.read()
    os.remove(stream.parts[2].path)
    if damage is not None:
        with open(stream.parts[2].path, "wb") as file:
            file.write(damage(content))
    batches = iter(stream.batches(6, 0, tf.constant(0, tf.int64)))
    read = tf.function(lambda: next(batches)) if is_graph else lambda: next(batches)

    def read_all():
        for _ in range(stream.steps(6)):
            read()

    with pytest.raises(DataError, match=words), stream.readable():
        read_all()


def test_errors_that_are_not_of_reading_pass(hundred):
    with pytest.raises(tf.errors.InvalidArgumentError), hundred.readable():
        tf.reshape(tf.zeros(3), [2, 2])


def test_a_stream_trains_by_the_command_and_goes_on_with_its_own_files(data_dir, tmp_path):
    shutil.copytree(data_dir, tmp_path / "copy")
    (tmp_path / "small.cfg").write_text(SMALL.replace("--limit_train=64", "") + "\n--dataset=hundred\n--stream\n")
    flags = ["--flagfile=small.cfg", "--data_dir=copy", "--run_dir=run"]
    done = command("train", *flags, cwd=tmp_path, env=environment())
    assert (done.returncode, done.stderr) == (0, "")
    assert "Best validation ELBO" in done.stdout
    file = tfds.open_stream("hundred", str(tmp_path / "copy"))["train"].parts[0].path
    with open(file, "ab") as stream:
        stream.write(b"more")
    done = command("train", "--run_dir=run", "--resume", cwd=tmp_path, env=environment())
    assert done.returncode == 2
    assert "resumed with the images that it began with" in done.stderr


def test_of_a_launch_of_a_stream_nothing_changes_when_it_is_not_the_first(data_dir):
    stream = data.load_training(Config(dataset="hundred", data_dir=data_dir, stream=True), seed=0).train
    whole, later = (
        list(
            data.training_launches(
                stream, batch_size=6, seed=0, steps_per_launch=3, first_epoch=1, first_launch=first_launch
            )
            .take(4)
            .as_numpy_iterator()
        )
        for first_launch in (0, 2)
    )
    assert [used for _, used in later] == [0, 0, *(used for _, used in whole[2:])]
    for (x, _), (y, _) in zip(whole[2:], later[2:], strict=True):
        np.testing.assert_array_equal(x, y)


def test_a_stream_of_zeros_and_ones_and_others_of_255_is_refused(tmp_path):
    ones, grey = numbered(9) // 255, numbered(9)
    place = prepare(tmp_path, "mixed", {"train": numbered(60), "validation": ones, "test": grey})
    config = Config(dataset="mixed", data_dir=place, stream=True)
    with pytest.raises(DataError, match="one range of values in all sets"):
        data.load_training(config, seed=0)
    assert sorted(numbers(data.load_test(config))) == list(range(9))
