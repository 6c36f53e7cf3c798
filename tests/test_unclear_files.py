"""Files that can be read in two ways: they are asked about, or read in the way that is meant."""

import os
import pathlib
import shutil
import zipfile

import numpy as np
import pyarrow.parquet
import pytest
from test_files import LABELS, RNG, SQUARE, TEST, TRAIN, VALID, idx, mat5, npy, npz, pictures, png, save, table

from tf_ldiaf import Config, data
from tf_ldiaf.errors import DataError, FileError
from tf_ldiaf.paths import as_path

WIDE = RNG.integers(0, 256, (30, 4, 5)).astype("uint8")

# Depth and range


def deep(place, x):
    kind = "PNG" if x.dtype == "uint16" else "TIFF"
    for i, image in enumerate(x):
        save(place / f"{i:02}.{kind.lower()}", png(image, kind))
    return place


@pytest.mark.parametrize("stream", [False, True])
def test_pictures_of_12_bits_in_files_of_16_are_asked_for_their_white(stream, tmp_path):
    folder = deep(tmp_path / "a", TRAIN.astype("uint16") * 16)
    config = Config(dataset=folder, binarization="dynamic", stream=stream)
    with pytest.raises(DataError, match=r"`value_range` names, as 0,4095 for 12 bits.*no pixel is above"):
        data.load_training(config, seed=0)
    full = deep(tmp_path / "b", TRAIN.astype("uint16") * 257)
    images = data.load_training(Config(dataset=full, binarization="dynamic", stream=stream), seed=0)
    assert images.valid.mean() > 0.2


def test_pictures_of_more_than_8_bits_have_the_white_that_is_said(tmp_path):
    x = TRAIN.astype("uint16") * 16
    found = data.load(deep(tmp_path / "a", x), value_range=(0, 4095))["train"]
    np.testing.assert_allclose(found, x / 4095, rtol=1e-6)
    small = data.load(tmp_path / "a", value_range=(0, 4095), image_size=(4, 3))["train"]
    assert small.shape == (len(x), 4, 3)
    np.testing.assert_allclose(small.mean(), found.mean(), atol=0.02)
    floats = TRAIN.astype("float32")
    floats[::2] /= 255.0  # each picture alone would be taken for one of 0 to 1
    with pytest.raises(DataError, match=r"values from .* to 255; `value_range` names those of black and white"):
        data.load(deep(tmp_path / "b", floats))
    found = data.load(tmp_path / "b", value_range=(0, 255))["train"]
    np.testing.assert_allclose(found, floats / 255, rtol=1e-6)


@pytest.mark.parametrize("x", [TRAIN / 255 - 0.5, TRAIN / 255 - (TRAIN / 255).mean(0), TRAIN / 255 / 255])
def test_numbers_that_were_centred_or_scaled_twice_are_refused(x, tmp_path):
    with pytest.raises(DataError, match=r"others that `value_range` names\. Received: train with"):
        data.load(npz(tmp_path / "a.npz", train=x.astype("float32")))


def test_images_to_reconstruct_have_the_range_that_is_said(tmp_path):
    x = RNG.integers(0, 17, (9, 8, 6)).astype("uint8")
    file = npz(tmp_path / "a.npz", x=x)
    with pytest.raises(DataError, match=r"`file` .*`value_range` say.*whose images are all black"):
        data.read_images(file)
    np.testing.assert_array_equal(data.read_images(file, value_range=(0, 16)), x > 8)
    deep(tmp_path, TRAIN[:1].astype("uint16") * 16)
    with pytest.raises(DataError, match=r"`file` .*0,4095 for 12 bits"):
        data.read_images(tmp_path / "00.png")
    np.testing.assert_array_equal(data.read_images(tmp_path / "00.png", value_range=(0, 4095)), TRAIN[:1] > 127)


# Which axis, which column


def test_rows_are_images_of_the_size_that_is_said(tmp_path):
    file = npz(tmp_path / "a.npz", train=WIDE.reshape(30, 20))
    np.testing.assert_array_equal(data.load(file, image_size=(4, 5))["train"], WIDE)
    square = data.load(npz(tmp_path / "b.npz", train=SQUARE.reshape(30, 64)), image_size=(4, 4))["train"]
    assert (
        np.abs(square.astype(int) - data.load(npz(tmp_path / "c.npz", train=SQUARE), image_size=(4, 4))["train"]).max()
        == 0
    )
    for size in ((5, 5), (2, 5)):
        with pytest.raises(DataError, match=r"`image_size` must have as many pixels as a row has numbers, 20"):
            data.load(file, image_size=size)


@pytest.mark.parametrize("shape", [(25, 36), (9, 8, 6), (6, 9, 8)])
def test_matlab_arrays_whose_last_axis_may_be_another_are_refused(shape, tmp_path):
    with pytest.raises(DataError, match=r"which axis of an array the images are along"):
        data.load(mat5(tmp_path / "a.mat", X=np.zeros(shape, "uint8")))


@pytest.mark.parametrize("num", [5, 30])
def test_matlab_arrays_of_squares_have_the_images_where_the_squares_are_not(num, tmp_path):
    for x, name in ((SQUARE[:num], "a.mat"), (np.moveaxis(SQUARE[:num], 0, -1), "b.mat")):
        np.testing.assert_array_equal(data.load(mat5(tmp_path / name, X=x))["train"], SQUARE[:num])
    colour = RNG.integers(0, 256, (num, 8, 6, 3)).astype("uint8")
    np.testing.assert_array_equal(data.load(mat5(tmp_path / "c.mat", X=np.moveaxis(colour, 0, -1)))["train"], colour)


def test_what_one_array_of_a_file_leaves_open_another_one_says(tmp_path):
    rows = RNG.integers(0, 256, (65, 36)).astype("uint8")
    found = data.load(mat5(tmp_path / "a.mat", train=rows[:40], test=rows[40:]))  # 40 is no square, 25 and 36 are
    assert [x.shape for x in found.values()] == [(40, 6, 6), (25, 6, 6)]
    high = RNG.integers(0, 256, (8, 6, 30)).astype("uint8")
    found = data.load(mat5(tmp_path / "b.mat", train=high, test=high[..., :5]))
    np.testing.assert_array_equal(found["test"], np.moveaxis(high[..., :5], -1, 0))
    found = data.load(mat5(tmp_path / "c.mat", X=high[..., :5].reshape(8, 6, 1, 5)))
    np.testing.assert_array_equal(found["train"], np.moveaxis(high[..., :5], -1, 0))


def test_as_many_pictures_as_they_are_high_are_pictures(tmp_path):
    x = RNG.integers(0, 256, (8, 8, 12)).astype("uint8")
    np.testing.assert_array_equal(data.load(pictures(tmp_path, x))["train"], x)
    np.testing.assert_array_equal(data.load(save(tmp_path / "images", idx(x)))["train"], x)


def test_arrays_with_the_images_last_are_refused_unless_said(tmp_path):
    x = RNG.integers(0, 256, (8, 8, 12)).astype("uint8")
    with pytest.raises(DataError, match=r"along the first axis.*x\[\.\.\., None\] says that they are there"):
        data.load(save(tmp_path / "a.npy", npy(x)))
    np.testing.assert_array_equal(data.load(save(tmp_path / "b.npy", npy(x[..., np.newaxis])))["train"], x)


def test_columns_of_tables_are_labels_only_if_nothing_else_may_be(tmp_path):
    rows = np.concatenate([LABELS[:, np.newaxis], SQUARE.reshape(30, 64)], axis=1)
    rows[:, -1] = LABELS % 2  # a pixel at the border, of 0 and 1
    one_class = np.concatenate([SQUARE.reshape(30, 64), np.full((30, 1), 3)], axis=1)
    for name, found in (("a.csv", rows), ("b.csv", one_class)):
        with pytest.raises(DataError, match="after a line of names if one column is labels"):
            data.load(save(tmp_path / name, table(found, ",")))
    numbers = ",".join(map(str, range(64)))
    pandas = save(tmp_path / "c.csv", table(SQUARE.reshape(30, 64), ",", numbers))
    np.testing.assert_array_equal(data.load(pandas)["train"], SQUARE)
    with_index = np.concatenate([np.arange(30)[:, np.newaxis], SQUARE.reshape(30, 64)], axis=1)
    np.testing.assert_array_equal(
        data.load(save(tmp_path / "d.csv", table(with_index, ",", f",{numbers}")))["train"], SQUARE
    )


# Which file, which array


@pytest.mark.parametrize("name", ["x_test.npy", "t10k-images-idx3-ubyte"])
def test_a_file_of_test_images_is_reconstructed_although_training_images_lie_beside_it(name, tmp_path):
    write = npy if name.endswith("npy") else idx
    save(tmp_path / {"x_test.npy": "x_train.npy"}.get(name, "train-images-idx3-ubyte"), write(TRAIN))
    np.testing.assert_array_equal(data.read_images(save(tmp_path / name, write(TEST))), TEST > 127)


def test_a_zip_of_windows_has_folders(tmp_path):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as made:
        for split, x in (("train", TRAIN), ("test", TEST)):
            for i, image in enumerate(x):
                made.writestr(zipfile.ZipInfo(f"data/{split}/{i:02}.png"), png(image))
    content = (tmp_path / "a.zip").read_bytes()
    for split in ("train", "test"):
        content = content.replace(f"data/{split}/".encode(), f"data\\{split}\\".encode())
    found = data.load(save(tmp_path / "b.zip", content))
    np.testing.assert_array_equal(found["train"], TRAIN)
    np.testing.assert_array_equal(found["test"], TEST)


def test_a_column_of_parquet_is_the_one_that_is_said(tmp_path):
    rows = {name: [png(image) for image in x] for name, x in (("image", TRAIN), ("mask", TRAIN[::-1]))}
    pyarrow.parquet.write_table(pyarrow.table(rows), tmp_path / "a.parquet")
    np.testing.assert_array_equal(data.load(tmp_path / "a.parquet")["train"], TRAIN)
    np.testing.assert_array_equal(data.load(tmp_path / "a.parquet", arrays={"train": "mask"})["train"], TRAIN[::-1])
    with pytest.raises(DataError, match=r"`arrays` must say it.*which has image, mask"):
        data.load(tmp_path / "a.parquet", arrays={"train": "masks"})


@pytest.mark.parametrize(
    "write", [pictures, lambda p, x: save(p / "a.npy", npy(x)), lambda p, x: save(p / "a", idx(x))]
)
def test_arrays_are_not_named_where_they_have_no_names(write, tmp_path):
    with pytest.raises(DataError, match=r"`arrays` needs a file whose arrays or columns have names.*train:x for"):
        data.load(write(tmp_path, TRAIN), arrays={"train": "x"})


def test_an_array_of_images_whose_name_says_no_set_is_asked_about(tmp_path):
    file = npz(tmp_path / "a.npz", x_train=TRAIN, x_holdout=TEST, y_train=LABELS, mean=TRAIN.mean(axis=0))
    with pytest.raises(DataError, match=r"as train:x_train\. Received: .*in which x_holdout may be images, too"):
        data.load(file)
    found = data.load(file, arrays={"train": "x_train", "test": "x_holdout"})
    np.testing.assert_array_equal(found["test"], TEST)


def test_a_folder_called_digits_is_asked_about(tmp_path, monkeypatch):
    pictures(tmp_path / "digits", TRAIN)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"must mean one thing.*\./digits is the folder"):
        data.load_training(Config(dataset="digits"), seed=0)
    assert data.load_training(Config(dataset="./digits"), seed=0).valid.shape[1:] == (8, 6)
    shutil.rmtree("digits")
    save(tmp_path / "digits" / "config.json", "{}")  # a run
    assert data.load_training(Config(dataset="digits"), seed=0).valid.shape[1:] == (8, 8)


def test_a_table_of_labels_beside_pictures_is_no_table_of_images(tmp_path):
    pictures(tmp_path / "train", TRAIN)
    pictures(tmp_path / "test", TEST)
    save(tmp_path / "train.csv", "id,label\n" + "".join(f"{i},{label}\n" for i, label in enumerate(LABELS)))
    found = data.load(tmp_path)
    np.testing.assert_array_equal(found["train"], TRAIN)
    np.testing.assert_array_equal(found["test"], TEST)


@pytest.mark.parametrize("stream", [False, True])
def test_pictures_whose_names_are_no_text_are_read(stream, tmp_path):
    pictures(tmp_path, TRAIN)
    (tmp_path / "00.png").rename(os.fsdecode(os.fsencode(tmp_path) + b"/Ma\xdf.png"))
    config = Config(dataset=tmp_path, stream=stream)
    assert data.test_checksum(config)
    images = data.load_training(config, seed=0)
    train = images.train.array() if stream else images.train
    assert len(train) + len(images.valid) + len(data.load_test(config)) == 30


def test_a_picture_that_may_not_be_read_is_one_that_cannot(tmp_path, monkeypatch):
    pictures(tmp_path, TRAIN)
    read = pathlib.Path.read_bytes

    def denied(path):
        if path.name == "00.png":
            raise PermissionError(13, "Permission denied")
        return read(path)

    monkeypatch.setattr(pathlib.Path, "read_bytes", denied)
    with pytest.raises(DataError, match=r"readable pictures.*00\.png \(Permission denied\)"):
        data.load(tmp_path)
    np.testing.assert_array_equal(data.load(tmp_path, skip_unreadable=True)["train"], TRAIN[1:])
    assert data.test_checksum(Config(dataset=tmp_path))


# Sets and places


def test_nothing_is_held_out_of_data_that_have_validation_images_either(tmp_path):
    file = npz(tmp_path / "a.npz", train=TRAIN, val=VALID, test=TEST)
    images = data.load_training(Config(dataset=file, validation_fraction=0), seed=0)
    np.testing.assert_array_equal(images.train, np.concatenate([TRAIN, VALID]) > 127)
    assert len(images.valid) == round(0.2 * 37)


@pytest.mark.parametrize("path", ["gs://bucket/run", "s3://a/b", "file:///tmp/run"])
def test_an_address_is_no_path(path):
    with pytest.raises(FileError, match=r"`run_dir` must be a path\..*an address"):
        as_path(path, "run_dir")
