"""Sources: one sentence for every input that cannot be used."""

import concurrent.futures
import shutil
import time

import numpy as np
import pytest
from PIL import Image
from test_data import grey, load, numbered, save_pngs

from tf_ldiaf import Config, data
from tf_ldiaf.data import arrays as arrays_in_memory
from tf_ldiaf.data import records, sources
from tf_ldiaf.errors import DataError

# Inputs that cannot be used


@pytest.mark.parametrize(
    ("words", "arrays"),
    [
        ("which has test", {"test": grey(9)}),
        ("no pickled objects.*convert it", {"train": np.array([{"a": 1}] * 9, dtype=object)}),
        ("NaN or infinity", {"train": np.full((9, 4, 4), np.nan)}),
        ("NaN or infinity", {"train": np.full((9, 4, 4), np.inf, "float32")}),
        ("with 0 to 256", {"train": np.array([0, 256] * 8).reshape(1, 4, 4).repeat(9, axis=0)}),
        ("with -2 to -2", {"train": np.full((9, 4, 4), -2.0)}),
        ("with 0 to 1.5", {"train": np.array([0, 1.5] * 8).reshape(1, 4, 4).repeat(9, axis=0)}),
        ("complex", {"train": np.ones((9, 4, 4), "complex64")}),
        (r"\[9, 4, 4, 2\]", {"train": np.ones((9, 4, 4, 2), "uint8")}),
        (r"\[9, 4, 4, 4, 3\]", {"train": np.ones((9, 4, 4, 4, 3), "uint8")}),
        (r"\[9\]", {"train": np.ones(9, "uint8")}),
        (r"\[9, 0, 4\]", {"train": np.ones((9, 0, 4), "uint8")}),
        (r"\[28, 28, 700\]; numpy.moveaxis", {"train": np.ones((28, 28, 700), "uint8")}),
        (r"\[9, 785\], a picture of 28 x 28 and a label", {"train": np.ones((9, 785), "uint8")}),
        ("one range of values.*-1 to 1 and 0 to 1", {"train": -np.ones((9, 4, 4)), "valid": np.ones((9, 4, 4))}),
        ("one image size and type in all sets", {"train": grey(9), "valid": grey(9, shape=(5, 5))}),
        ("one image size and type in all sets", {"train": grey(9), "valid": grey(9) / 255}),
        ("NaN or infinity", {"train": grey(9), "test": np.full((9, 4, 4), np.nan)}),
        ("at least one image.*no train image", {"train": grey(0)}),
        ("at least one image.*no test image", {"train": grey(9), "test": grey(0)}),
        ("at least one image.*no valid image", {"train": grey(2)}),
    ],
)
def test_arrays_that_cannot_be_used(npz, words, arrays):
    with pytest.raises(DataError, match=words):
        load(Config(dataset=npz(**arrays)))


def not_a_zip(file):
    file.write_text("hello")


def truncated(file):
    np.savez(file, train=grey(100))
    file.write_bytes(file.read_bytes()[:-200])


@pytest.mark.parametrize("write", [not_a_zip, truncated])
def test_files_that_cannot_be_read(tmp_path, write):
    write(tmp_path / "data.npz")
    with pytest.raises(DataError, match=r"readable \.npz or \.npy file"):
        load(Config(dataset=str(tmp_path / "data.npz")))


def test_one_damaged_byte_is_one_sentence_or_harmless(tmp_path):
    file = tmp_path / "data.npz"
    np.savez_compressed(file, train=grey(100))
    content = file.read_bytes()
    refused = 0
    for i in range(0, len(content), 23):
        file.write_bytes(content[:i] + bytes([content[i] ^ 0x5A]) + content[i + 1 :])
        try:
            load(Config(dataset=str(file)))
        except DataError:
            refused += 1
    assert refused > 10


def test_folders_that_cannot_be_used(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"must hold train pictures.*holds none"):
        load(Config(dataset=str(tmp_path / "empty")))
    folder = save_pngs(tmp_path / "sizes", [grey(1)[0], grey(1, shape=(5, 5))[0]])
    with pytest.raises(
        DataError, match=r"pictures of one size.*`image_size`.*first is 4 x 4 and whose 0001\.png is 5 x 5"
    ):
        load(Config(dataset=folder))
    folder = save_pngs(tmp_path / "corrupt", numbered(9))
    file = tmp_path / "corrupt" / "0003.png"
    for content in (b"not a picture", file.read_bytes()[:45]):
        file.write_bytes(content)
        with pytest.raises(DataError, match=r"readable pictures.*`skip_unreadable`.*0003\.png"):
            load(Config(dataset=folder))


@pytest.mark.parametrize(
    "name",
    ["missing.npz", "missing", "file.txt", "n" * 300,
     "~nobody-of-this-name/data"],
)  # fmt: skip
def test_paths_that_lead_nowhere(tmp_path, name):
    (tmp_path / "file.txt").write_text("")
    with pytest.raises(DataError, match="`dataset` must be"):
        load(Config(dataset=name if name.startswith("~") else str(tmp_path / name)))


def test_unknown_name_comes_with_a_hint(tmp_path):
    with pytest.raises(DataError, match=r"TFDS name.*Received: mnst. Did you mean mnist"):
        load(Config(dataset="mnst", data_dir=str(tmp_path)))


def test_unprepared_data_set_without_a_network(tmp_path, monkeypatch):
    import tensorflow_datasets as tfds
    from tensorflow_datasets.core.download import downloader

    def no_network(self):
        raise ConnectionError("no route to host")

    monkeypatch.setattr(tfds.core.DatasetBuilder, "download_and_prepare", no_network)
    retries = downloader.MAX_RETRIES
    with pytest.raises(DataError, match=r"not prepared in .*no route to host.*`tfds build mnist`.*`data_dir`"):
        load(Config(dataset="mnist", data_dir=str(tmp_path)))
    assert retries == downloader.MAX_RETRIES


def read_tfds(name, data_dir):
    config = Config(dataset=name, data_dir=str(data_dir))
    return sources.read(sources.open_splits(config), ["train", "valid", "test"], config)


def test_two_that_need_a_data_set_prepare_it_once(tmp_path):
    """Two threads, which lock files as two processes do."""
    import tensorflow_datasets as tfds

    times = []

    class WantedByTwo(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(4, 4, 1))})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            times.append(1)
            time.sleep(1)
            return {"train": [(i, {"image": np.full((4, 4, 1), i, "uint8")}) for i in range(5)]}

        def _generate_examples(self):
            raise NotImplementedError

    with concurrent.futures.ThreadPoolExecutor(2) as threads:
        found = list(threads.map(lambda _: read_tfds("wanted_by_two", tmp_path), range(2)))
    assert times == [1]
    for sets in found:
        assert sorted(sets["train"][:, 0, 0]) == [0, 1, 2, 3, 4]


ONES = np.ones((9, 4, 4), "uint8")


@pytest.mark.parametrize(
    ("read", "parts"),
    [
        ("load_training", {"train": ONES, "test": grey(9)}),
        ("load_training", {"train": ONES, "valid": grey(9), "test": ONES}),
        ("load_training", {"train": grey(9), "valid": ONES, "test": grey(9)}),
        ("load_test", {"train": grey(9), "test": ONES}),
        ("load_test", {"train": ONES, "valid": grey(9), "test": ONES}),
        ("load_test", {"train": ONES, "valid": grey(9)}),
    ],
)
def test_one_set_of_ones_and_one_of_255_is_refused(npz, read, parts):
    arguments = {"seed": 0} if read == "load_training" else {}
    with pytest.raises(DataError, match=r"one range of values in all sets. Received: 0 to 1 and 0 to 255"):
        getattr(data, read)(Config(dataset=npz(**parts)), **arguments)


def test_a_test_folder_without_a_train_folder_is_refused(tmp_path):
    save_pngs(tmp_path / "test", numbered(9))
    with pytest.raises(DataError, match="must have a folder train beside test"):
        load(Config(dataset=str(tmp_path)))


@pytest.mark.parametrize("arrays", [{}, {"x": np.zeros((0, 4, 4), "uint8")}])
def test_a_file_without_images_cannot_be_reconstructed(npz, arrays):
    with pytest.raises(DataError, match=r"`file` must be a file with images"):
        data.read_images(npz(**arrays))


# What is not needed is not read


def object_array(num):
    return np.array([None] * num, dtype=object)


def test_neither_needs_the_others_array(npz):
    expected = grey(9) > 127
    assert np.array_equal(data.load_test(Config(dataset=npz(train=object_array(9), test=grey(9)))), expected)
    config = Config(dataset=npz(x_train=grey(9), x_valid=grey(9), x_test=object_array(9)))
    assert all(np.array_equal(x, expected) for x in data.load_training(config, seed=0))


def test_neither_needs_the_others_folder(tmp_path):
    for name in ("train", "valid", "test"):
        save_pngs(tmp_path / name, grey(9))
    (tmp_path / "test" / "0003.png").write_bytes(b"not a picture")
    train = data.load_training(Config(dataset=str(tmp_path)), seed=0).train
    assert np.array_equal(train, grey(9) > 127)
    save_pngs(tmp_path / "test", grey(9))
    (tmp_path / "train" / "0003.png").write_bytes(b"not a picture")
    assert np.array_equal(data.load_test(Config(dataset=str(tmp_path))), train)


@pytest.mark.parametrize("stream", [False, True])
def test_neither_needs_the_others_files_of_tfds(stripes, tmp_path, stream):
    name = stripes[0].name
    config = Config(dataset=name, data_dir=str(tmp_path), stream=stream)
    shutil.copytree(stripes[0].data_dir_root, tmp_path, dirs_exist_ok=True)
    train, valid, test = load(config)
    for file in tmp_path.rglob("*train.tfrecord*"):
        file.write_bytes(b"")
    assert np.array_equal(data.load_test(config), test)
    with pytest.raises(DataError, match="must have readable files"):
        data.load_training(Config(dataset=name, data_dir=str(tmp_path)), seed=0)
    shutil.copytree(stripes[0].data_dir_root, tmp_path, dirs_exist_ok=True)
    for file in tmp_path.rglob("*test.tfrecord*"):
        file.unlink()
    found = data.load_training(config, seed=0)
    assert np.array_equal(found.valid, valid)
    assert np.array_equal(*(x.array() if stream else x for x in (found.train, train)))


# Data sets of TFDS


@pytest.fixture(scope="module", params=[1, 3], ids=["grey", "colour"])
def stripes(request, tmp_path_factory):
    """A small data set, written in two files by TFDS: its builder, and its images by split, [n, H, W, channels]."""
    import tensorflow_datasets as tfds

    pictures = {
        name: np.random.default_rng(num).integers(0, 256, (num, 6, 5, request.param)).astype("uint8")
        for name, num in {"train": 40, "validation": 11, "test": 12}.items()
    }
    for x in pictures.values():
        x[:, 0, 0] = 6 * np.arange(len(x))[:, np.newaxis]  # TFDS writes images in an order of its own

    class Stripes(tfds.core.GeneratorBasedBuilder):
        name = f"stripes{request.param}"
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = {"label": np.int64, "image": tfds.features.Image(shape=(6, 5, request.param))}
            return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

        def _split_generators(self, dl_manager):
            return {
                name: [(i, {"label": i, "image": image}) for i, image in enumerate(x)] for name, x in pictures.items()
            }

        def _generate_examples(self):
            raise NotImplementedError

    builder = Stripes(data_dir=tmp_path_factory.mktemp("tfds"))
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(num_shards=2))
    assert len(builder.info.splits["train"].filepaths) == 2
    return builder, pictures


def read_stripes(stripes, monkeypatch):
    monkeypatch.setattr(records, "_READ_BATCH", 7)
    return read_tfds(stripes[0].name, stripes[0].data_dir_root)


def test_images_of_tfds_are_read_and_colour_becomes_grey(stripes, monkeypatch, caplog):
    found = read_stripes(stripes, monkeypatch)
    assert not caplog.records  # TFDS warns of its own old names
    assert set(found) == {"train", "valid", "test"}
    for name, expected in stripes[1].items():
        if expected.shape[-1] == 3:
            expected = np.round(expected @ [0.2989, 0.5870, 0.1140])[..., np.newaxis]
        x = found["valid" if name == "validation" else name].astype(int)
        assert np.abs(x[np.argsort(x[:, 0, 0])] - expected[..., 0]).max() <= 1


def test_a_file_format_that_cannot_be_read_is_refused(stripes, monkeypatch):
    import tensorflow_datasets as tfds

    monkeypatch.setattr(tfds.core.DatasetInfo, "file_format", tfds.core.FileFormat.ARRAY_RECORD)
    with pytest.raises(DataError, match=r"prepared by TFDS as tfrecord.*Received: stripes\d as array_record"):
        read_stripes(stripes, monkeypatch)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda content: b"", r"must have readable files.*expected to contain \d+ elements but contained only 0"),
        (lambda content: content[:-9], "must have readable files"),
        (lambda content: content[:50] + b"?" + content[51:], "must have readable files"),
        (None, "must have readable files"),
    ],
    ids=["empty", "cut", "changed", "missing"],
)
def test_a_damaged_file_of_tfds_is_refused(stripes, monkeypatch, damage, words):
    file = stripes[0].info.splits["train"].filepaths[1]
    content = file.read_bytes()
    try:
        file.unlink()
        if damage is not None:
            file.write_bytes(damage(content))
        with pytest.raises(DataError, match=words):
            read_stripes(stripes, monkeypatch)
    finally:
        file.write_bytes(content)


def test_a_data_set_larger_than_memory_should_be_holds_is_refused_and_told_of_the_stream(stripes, monkeypatch):
    monkeypatch.setattr(arrays_in_memory, "most_bytes", lambda: 63 * 6 * 5 - 1)
    with pytest.raises(DataError, match=r"must fit into a quarter.*1,889 bytes, or be read with `stream`.* of 1,890"):
        read_stripes(stripes, monkeypatch)


def test_a_folder_with_a_name_of_tfds_is_one_or_the_other(place, monkeypatch):
    monkeypatch.chdir(place)
    (place / "mnist").mkdir()
    for i in range(20):
        Image.fromarray(np.full((4, 4), 200 * (i % 2), "uint8")).save(place / "mnist" / f"{i}.png")
    with pytest.raises(DataError, match=r"mean one thing\. Received: mnist, .*; \./mnist is the folder"):
        data.load_training(Config(dataset="mnist"), seed=0)
    assert len(data.load_training(Config(dataset="./mnist"), seed=0).train) == 13
    with pytest.raises(DataError, match="is not prepared in"):
        data.load_training(Config(dataset="mnist", data_dir=str(place / "tfds")), seed=0)
