"""The files that people have: each is written here in its own way, and read as its users expect."""

import gzip
import io
import struct
import tarfile
import zipfile

import h5py
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import scipy.io
import tensorflow as tf
from PIL import Image
from test_data import grey, load

from tf_ldiaf import Config, data
from tf_ldiaf.errors import DataError

RNG = np.random.default_rng(0)
TRAIN, VALID, TEST = (RNG.integers(0, 256, (num, 8, 6)).astype("uint8") for num in (30, 7, 5))
SQUARE = RNG.integers(0, 256, (30, 8, 8)).astype("uint8")
LABELS = np.arange(30) % 10


def idx(x):
    kind = {"uint8": 8, "int32": 12}[x.dtype.name]
    return struct.pack(f">BBBB{x.ndim}I", 0, 0, kind, x.ndim, *x.shape) + x.astype(x.dtype.newbyteorder(">")).tobytes()


def mnist(place, pack):
    ending, labels = ".gz" if pack else "", LABELS.astype("uint8")
    for name, x in (
        ("train-images-idx3", TRAIN),
        ("train-labels-idx1", labels),
        ("t10k-images-idx3", TEST),
    ):
        content = idx(x)
        (place / f"{name}-ubyte{ending}").write_bytes(gzip.compress(content) if pack else content)
    return place


def png(x, kind="PNG", **options):
    with io.BytesIO() as stream:
        Image.fromarray(x).save(stream, kind, **options)
        return stream.getvalue()


def save(file, content):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content if isinstance(content, bytes) else content.encode())
    return file


def npy(x):
    with io.BytesIO() as stream:
        np.save(stream, x)
        return stream.getvalue()


def npz(file, **arrays):
    np.savez(file, **arrays)
    return file


def hdf5(file, **arrays):
    with h5py.File(file, "w") as made:
        for name, x in arrays.items():
            made[name.replace("__", "/")] = x
    return file


def mat73(file, **arrays):
    with h5py.File(file, "w", userblock_size=512) as made:
        for name, x in arrays.items():
            made[name] = np.asarray(x).T
    with open(file, "r+b") as made:
        made.write(b"MATLAB 7.3 MAT-file, made by a test".ljust(124) + struct.pack("<HH", 0x0200, 0x4D49))
    return file


def mat5(file, **arrays):
    scipy.io.savemat(file, arrays)
    return file


def table(rows, separator, header="", form="{:g}"):
    lines = [separator.join(form.format(number) for number in row) for row in rows]
    return "\n".join([header] * bool(header) + lines) + "\n"


def with_labels(x, first):
    columns = [LABELS[:, np.newaxis], x.reshape(len(x), -1)]
    return np.concatenate(columns if first else columns[::-1], axis=1)


def archive(place, kind):
    names = {"set/train/a/%02d.png": TRAIN, "set/test/b/%02d.png": TEST, "__MACOSX/set/train/a/._%02d.png": TEST}
    files = {name % i: png(image) for name, x in names.items() for i, image in enumerate(x)}
    file = place / f"pictures.{kind}"
    if kind == "zip":
        with zipfile.ZipFile(file, "w") as made:
            for name, content in files.items():
                made.writestr(name, content)
    else:
        with tarfile.open(file, "w:gz") as made:
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                made.addfile(info, io.BytesIO(content))
    return file


def parquet(file, x, kind="struct"):
    file.parent.mkdir(exist_ok=True)
    rows = [png(image) for image in x] if kind != "pixels" else x.reshape(len(x), -1).tolist()
    rows = [{"bytes": row, "path": None} for row in rows] if kind == "struct" else rows
    pyarrow.parquet.write_table(pyarrow.table({"image": rows, "label": LABELS[: len(x)]}), file)
    return file


def shards(place):
    parquet(place / "data" / "train-00000-of-00002.parquet", TRAIN[:20])
    parquet(place / "data" / "train-00001-of-00002.parquet", TRAIN[20:])
    parquet(place / "data" / "test-00000-of-00001.parquet", TEST, "bytes")
    return place


def pictures(place, images, kind="PNG", **options):
    for i, image in enumerate(images):
        save(place / f"{i:02}.{kind.lower()}", png(image, kind, **options))
    return place


def two_npz(place):
    npz(place / "k-test-imgs.npz", arr_0=TEST)
    npz(place / "k-train-labels.npz", arr_0=LABELS)
    return npz(place / "k-train-imgs.npz", arr_0=TRAIN)


NAMES = ",".join(["label", *(f"pixel{i}" for i in range(64))])
BITS = RNG.integers(0, 2, (30, 16, 16)).astype("uint8")
ALL_THREE, TWO, ONE = {"train": TRAIN, "valid": VALID, "test": TEST}, {"train": TRAIN, "test": TEST}, {"train": TRAIN}
FILES = {
    "idx": (lambda p: save(p / "images", idx(TRAIN)), ONE),
    "idx of int32, packed": (lambda p: save(p / "images.gz", gzip.compress(idx(TRAIN.astype("int32")))), ONE),
    "the folder of MNIST": (lambda p: mnist(p, pack=False), TWO),
    "the folder of MNIST, packed": (lambda p: mnist(p, pack=True), TWO),
    "one of its files": (lambda p: mnist(p, pack=True) / "train-images-idx3-ubyte.gz", TWO),
    "npy": (lambda p: save(p / "cat.npy", npy(TRAIN)), ONE),
    "npy of flat rows": (lambda p: save(p / "cat.npy", npy(SQUARE.reshape(30, 64))), {"train": SQUARE}),
    "npz of one array": (lambda p: npz(p / "a.npz", arr_0=TRAIN), ONE),
    "npz by set": (two_npz, TWO),
    "MedMNIST": (
        lambda p: npz(p / "a.npz", train_images=TRAIN, val_images=VALID, test_images=TEST, test_labels=LABELS),
        ALL_THREE,
    ),
    "dSprites": (
        lambda p: npz(p / "a.npz", metadata=np.array({"a": 1}, object), imgs=TRAIN, latents_classes=np.zeros((30, 6))),
        ONE,
    ),
    "packed bits": (
        lambda p: npz(p / "a.npz", train=np.packbits(BITS.reshape(30, -1), axis=1)), {"train": 255 * BITS},
    ),
    "int64": (lambda p: npz(p / "a.npz", train=TRAIN.astype("int64")), ONE),
    "float of 0-255": (lambda p: npz(p / "a.npz", train=TRAIN.astype("float64")), ONE),
    "bool": (lambda p: npz(p / "a.npz", train=TRAIN > 99), {"train": np.uint8(255) * (TRAIN > 99)}),
    "HDF5": (lambda p: hdf5(p / "a.h5", images=TRAIN, labels=np.zeros((30, 6))), ONE),
    "HDF5 in groups": (lambda p: hdf5(p / "a.h5", train__data=TRAIN, train__target=LABELS, test__data=TEST), TWO),
    "MATLAB 5": (lambda p: mat5(p / "a.mat", X=np.moveaxis(TRAIN, 0, -1), y=LABELS), ONE),
    "MATLAB 7.3": (lambda p: mat73(p / "a.mat", train=np.moveaxis(TRAIN, 0, -1), y=LABELS), ONE),
    "amat": (
        lambda p: save(p / "a.amat", table(with_labels(SQUARE / 255, first=False), "   ", form="{:.9g}")),
        {"train": SQUARE},
    ),
    "CSV with labels": (lambda p: save(p / "a.csv", table(with_labels(SQUARE, first=True), ",")), {"train": SQUARE}),
    "CSV with a header": (
        lambda p: save(p / "a.csv.gz", gzip.compress(table(with_labels(SQUARE, True), ",", NAMES).encode())),
        {"train": SQUARE},
    ),
    "CSV without labels": (lambda p: save(p / "a.csv", table(SQUARE.reshape(30, 64), ",")), {"train": SQUARE}),
    "Parquet": (lambda p: parquet(p / "a.parquet", TRAIN), ONE),
    "Parquet of pixels": (lambda p: parquet(p / "a.parquet", SQUARE, "pixels"), {"train": SQUARE}),
    "shards of Parquet": (shards, TWO),
    "zip of pictures": (lambda p: archive(p, "zip"), TWO),
    "tar.gz of pictures": (lambda p: archive(p, "tar.gz"), TWO),
    "BMP pictures": (lambda p: pictures(p, TRAIN, "BMP"), ONE),
    "GIF pictures": (lambda p: pictures(p, TRAIN, "GIF"), ONE),
    "TIFF pictures": (lambda p: pictures(p, TRAIN, "TIFF"), ONE),
    "WebP pictures": (lambda p: pictures(p, np.stack([TRAIN] * 3, -1), "WEBP", lossless=True), ONE),
}  # fmt: skip


@pytest.mark.parametrize("kind", FILES)
def test_a_file_is_read_as_its_users_expect(kind, tmp_path):
    write, expected = FILES[kind]
    (tmp_path / "place").mkdir()
    path = write(tmp_path / "place")
    found = data.load(path)
    assert list(found) == list(expected)
    for name, x in expected.items():
        if found[name].dtype != "uint8":
            assert np.abs(found[name] - x / np.float32(255)).max() < 1e-6
        else:
            np.testing.assert_array_equal(found[name], x)
    train, _, test = load(Config(dataset=path))
    assert train.shape[1:] == test.shape[1:] == expected["train"].shape[1:]
    if "test" in expected:
        np.testing.assert_array_equal(test, expected["test"] > 127)


@pytest.mark.parametrize(("low", "high"), [(-1, 1), (0, 1)])
def test_values_say_their_range(low, high, tmp_path):
    x = (low + TRAIN / 255 * (high - low)).astype("float32")
    x[0, 0, :2] = low, high
    found = data.load(npz(tmp_path / "a.npz", train=x))["train"]
    np.testing.assert_allclose(found[1:], TRAIN[1:] / 255, atol=1e-6)


def test_values_that_no_white_says_are_refused(tmp_path):
    """Of scikit-learn's digits, for example, which are of 0 to 16."""
    file = npz(tmp_path / "a.npz", train=(TRAIN // 16).astype("float64"))
    with pytest.raises(DataError, match=r"others that `value_range` names\. Received: train with 0 to 15\."):
        data.load(file)
    np.testing.assert_allclose(data.load(file, value_range=(0, 15))["train"], TRAIN // 16 / 15, atol=1e-6)


def test_images_in_columns_are_those_of_matlab(tmp_path):
    columns = TRAIN[:, :6].reshape(30, 36).T
    np.testing.assert_array_equal(data.load(mat5(tmp_path / "a.mat", X=columns))["train"], TRAIN[:, :6])
    np.testing.assert_array_equal(data.load(mat5(tmp_path / "b.mat", X=columns.T))["train"], TRAIN[:, :6])


def test_other_ranges_and_arrays_are_named(tmp_path):
    file = npz(tmp_path / "a.npz", one=TRAIN * 16.0 - 50, other=TRAIN)
    with pytest.raises(DataError, match=r"`arrays` must say which.*one \[30, 8, 6\], other \[30, 8, 6\]"):
        data.load(file)
    with pytest.raises(DataError, match="others that `value_range` names"):
        data.load(file, arrays={"train": "one"})
    found = data.load(file, arrays={"train": "one"}, value_range=(-50, 16 * 255 - 50))["train"]
    np.testing.assert_allclose(found, TRAIN / 255, atol=1e-6)


def test_colour_is_kept_or_becomes_grey_by_what_the_eye_sees(tmp_path):
    colour = RNG.integers(0, 256, (9, 8, 6, 3)).astype("uint8")
    of_test = np.sort(np.random.default_rng(0).permutation(9)[:2])  # a fifth of the images is the test set
    expected = tf.image.rgb_to_grayscale(colour)[..., 0].numpy().astype(int)
    for path in (npz(tmp_path / "a.npz", train=colour), pictures(tmp_path / "place", colour)):
        np.testing.assert_array_equal(data.load(path)["train"], colour)
        np.testing.assert_array_equal(data.load_test(Config(dataset=path, likelihood="categorical")), colour[of_test])
        assert np.abs(data.load(path, color="grey")["train"] - expected).max() <= 1
        assert data.load_test(Config(dataset=path)).shape == (2, 8, 6)


@pytest.mark.parametrize("ink", [0, 255])
def test_a_drawing_in_the_alpha_channel_is_seen(ink, tmp_path):
    drawn = np.full((30, 8, 6, 4), ink, "uint8")
    drawn[..., 3] = TRAIN
    found = data.load(pictures(tmp_path, drawn))["train"]
    np.testing.assert_allclose(found, TRAIN if ink else 255 - TRAIN, atol=1)


def test_pictures_of_any_size_mode_and_turn_are_scaled(tmp_path, capfd):
    big = np.kron(TRAIN, np.ones((4, 4), "uint8"))
    options = [{}, {"quality": 95}]
    for i, image in enumerate(big[:20]):
        save(tmp_path / f"{i:02}.x", png(image, ["PNG", "JPEG"][i % 2], **options[i % 2]))
        (tmp_path / f"{i:02}.x").rename(tmp_path / f"{i:02}.{['png', 'jpg'][i % 2]}")
    turned = Image.fromarray(np.rot90(big[20]))
    turned.save(tmp_path / "20.jpg", exif=exif_turn(), quality=95)
    Image.fromarray(big[21].astype("uint16") * 257).save(tmp_path / "21.png")
    Image.fromarray(np.stack([big[22]] * 3, -1)).convert("CMYK").save(tmp_path / "22.jpg", quality=95)
    wide = np.concatenate([np.zeros((32, 8), "uint8"), big[23], np.zeros((32, 8), "uint8")], axis=1)
    save(tmp_path / "23.png", png(wide))
    save(tmp_path / "._23.png", b"of a Mac")
    save(tmp_path / "Thumbs.db", b"of Windows")
    with pytest.raises(DataError, match=r"`image_size` must say.*first is 32 x 24 and whose 23\.png is 32 x 40"):
        data.load(tmp_path)
    found = data.load(tmp_path, image_size=(8, 6))["train"].astype(int)
    assert "1 other files" in capfd.readouterr().out
    smooth = [np.asarray(Image.fromarray(x).resize((6, 8), Image.Resampling.LANCZOS)).astype(int) for x in big[:24]]
    assert np.abs(found - smooth).mean() < 2


def exif_turn():
    """Says that the picture is to be turned by a quarter, clockwise."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return exif


def test_arrays_are_scaled_too(tmp_path):
    big = np.kron(TRAIN, np.ones((4, 4), "uint8"))
    file = npz(tmp_path / "a.npz", train=big, test=big[:5])
    images = data.load_training(Config(dataset=file, image_size=(8, 6)), seed=0)
    assert images.train.shape[1:] == (8, 6)
    expected = [np.asarray(Image.fromarray(x).resize((6, 8), Image.Resampling.LANCZOS)) for x in big]
    np.testing.assert_array_equal(data.load(file, image_size=(8, 6))["train"], expected)


def test_a_corrupt_picture_is_named_or_left_out(tmp_path, capfd):
    pictures(tmp_path, TRAIN)
    save(tmp_path / "07.png", png(TRAIN[7])[:60])
    with pytest.raises(DataError, match=r"`skip_unreadable` be given\. Received: .*07\.png"):
        data.load(tmp_path)
    found = data.load(tmp_path, skip_unreadable=True)["train"]
    np.testing.assert_array_equal(found, np.delete(TRAIN, 7, axis=0))
    assert "Left out" in capfd.readouterr().out


@pytest.mark.parametrize("layout", ["{set}/{kind}/{i}.png", "a/b/{set}/{i}.png", "{kind}/{set}/{i}.png"])
def test_sets_are_found_at_any_depth(layout, tmp_path):
    for name, x in (("train", TRAIN), ("val", VALID), ("test", TEST)):
        for i, image in enumerate(x):
            save(tmp_path / layout.format(set=name, kind="cat" if i < 3 else "dog", i=f"{i:02}"), png(image))
    found = data.load(tmp_path)
    assert {name: len(x) for name, x in found.items()} == {"train": 30, "valid": 7, "test": 5}
    np.testing.assert_array_equal(found["train"], TRAIN)


@pytest.mark.parametrize("name", ["mine.png", "folder", "a.npy"])
def test_images_to_reconstruct_may_be_of_any_kind(name, tmp_path):
    write = {
        "mine.png": lambda: save(tmp_path / name, png(TRAIN[0])),
        "folder": lambda: pictures(tmp_path / name, TRAIN[:1]),
        "a.npy": lambda: save(tmp_path / name, npy(TRAIN[:1])),
    }
    np.testing.assert_array_equal(data.read_images(write[name]()), TRAIN[:1] > 127)


def test_linked_folders_are_entered_and_one_that_is_there_twice_is_refused(tmp_path):
    for name, x in (("train", TRAIN), ("test", TEST)):
        (tmp_path / "disk" / name).mkdir(parents=True)
        pictures(tmp_path / "disk" / name, x)
        (tmp_path / "data" / ".trash").mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).symlink_to(tmp_path / "disk" / name)
    (tmp_path / "disk" / "train" / "round").symlink_to(tmp_path / "disk" / "train")
    (tmp_path / "data" / ".trash" / "test").symlink_to(tmp_path / "disk" / "test")  # hidden
    found = data.load(tmp_path / "data")
    np.testing.assert_array_equal(found["train"], TRAIN)
    np.testing.assert_array_equal(found["test"], TEST)
    (tmp_path / "data" / "latest").symlink_to(tmp_path / "disk" / "test")
    with pytest.raises(DataError, match=r"each folder once\. Received: .*, which is .*"):
        data.load(tmp_path / "data")


def test_a_data_set_that_tfds_prepared_is_opened_by_its_path(tmp_path):
    import tensorflow_datasets as tfds

    class Prepared(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            features = tfds.features.FeaturesDict({"image": tfds.features.Image(shape=(4, 4, 1))})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, dl_manager):
            return {"train": [(i, {"image": image[..., np.newaxis]}) for i, image in enumerate(grey(9))]}

        def _generate_examples(self):
            raise NotImplementedError

    Prepared(data_dir=tmp_path).download_and_prepare()
    for folder in ("prepared", "prepared/1.0.0"):
        found = data.load(tmp_path / folder)["train"]
        assert sorted(found.sum(axis=(1, 2))) == sorted(grey(9).sum(axis=(1, 2)))
