"""Which images are training images, and which are the test's: in files beside each other, in folders, in links."""

import io
import struct
import tarfile
import zipfile
import zlib

import numpy as np
import pytest
from test_files import LABELS, RNG, SQUARE, TEST, TRAIN, VALID, hdf5, npz, pictures, png, save

from tf_ldiaf import Config, data
from tf_ldiaf.errors import ConfigError, DataError

PAIR = {"train": TRAIN, "test": TEST}


def assert_sets(found, **expected):
    assert set(found) == set(expected)
    for name, x in expected.items():
        np.testing.assert_array_equal(found[name], x)


def numbered(names, images):
    return {f"{names}{i:02}.png": png(image) for i, image in enumerate(images)}


def zipped(file, files):
    with zipfile.ZipFile(file, "w") as made:
        for name, content in files.items():
            made.writestr(name, content)
    return file


# Files


@pytest.mark.parametrize("write", [npz, hdf5])
def test_a_lone_file_has_the_sets_that_its_arrays_are_whatever_it_is_called(write, tmp_path):
    file = write(tmp_path / f"training_data.{write.__name__.replace('hdf5', 'h5')}",
                 x_train=TRAIN, x_val=VALID, x_test=TEST)  # fmt: skip
    for path in (file, tmp_path):
        assert_sets(data.load(path), train=TRAIN, valid=VALID, test=TEST)


def test_a_file_for_each_set_may_name_its_arrays_by_the_set(tmp_path):
    file = npz(tmp_path / "train.npz", x_train=TRAIN, y_train=LABELS)
    npz(tmp_path / "test.npz", x_test=TEST, y_test=LABELS[:5])
    for path in (file, tmp_path):
        assert_sets(data.load(path), **PAIR)


def test_a_file_of_all_sets_beside_one_of_the_test_is_asked_about(tmp_path):
    file = npz(tmp_path / "train.npz", x_train=TRAIN, x_test=VALID)
    npz(tmp_path / "test.npz", x_test=TEST)
    with pytest.raises(DataError, match=r"one file of all sets.*train\.npz, which has train and test, beside test"):
        data.load(file)


def test_an_array_that_is_chosen_is_read_from_the_test_file_too(tmp_path):
    file = npz(tmp_path / "k-train.npz", imgs=TRAIN, masks=TRAIN // 2)
    npz(tmp_path / "k-test.npz", imgs=TEST, masks=TEST // 2)
    assert_sets(data.load(file, arrays={"train": "imgs"}), **PAIR)


def test_an_array_of_another_name_in_the_test_file_is_found_by_its_own(tmp_path):
    file = npz(tmp_path / "k-train.npz", tr=TRAIN, more=TRAIN // 2)
    npz(tmp_path / "k-test.npz", te=TEST)
    assert_sets(data.load(file, arrays={"train": "tr"}), **PAIR)


@pytest.mark.parametrize("inner", ["", "{set}/", "all/{set}/"])
def test_an_archive_of_test_pictures_beside_one_of_training_pictures_is_the_test_set(inner, tmp_path):
    for name, x in PAIR.items():
        zipped(tmp_path / f"{name}.zip", numbered(inner.format(set=name), x))
    assert_sets(data.load(tmp_path / "train.zip"), **PAIR)


def test_a_table_may_have_the_ends_of_lines_of_old_macs(tmp_path):
    (tmp_path / "a.csv").write_text("\r".join(",".join(map(str, row)) for row in SQUARE.reshape(30, -1)))
    assert_sets(data.load(tmp_path / "a.csv"), train=SQUARE)


@pytest.mark.parametrize("header", ["label," + ",".join(f"pixel{i}" for i in range(784)), ""])
@pytest.mark.parametrize("num", [1, 3])
def test_a_table_may_have_a_long_first_line_a_single_row_and_a_mark(header, num, tmp_path):
    x = RNG.integers(0, 256, (num, 784)).astype("uint8")
    rows = np.concatenate([np.arange(num)[:, np.newaxis], x], axis=1) if header else x
    text = "\n".join([header] * bool(header) + [",".join(map(str, row)) for row in rows])
    (tmp_path / "a.csv").write_text(text + "\n", encoding="utf-8-sig")
    assert_sets(data.load(tmp_path / "a.csv"), train=x.reshape(num, 28, 28))


# Folders


def test_a_folder_above_all_pictures_says_no_set_if_those_in_it_do(tmp_path):
    for name, x in PAIR.items():
        pictures(tmp_path / "training images" / name, x)
    save(tmp_path / "README.txt", "about the training images")
    assert_sets(data.load(tmp_path), **PAIR)


def test_a_class_may_be_called_like_a_set(tmp_path):
    for name in ("train", "airport"):
        pictures(tmp_path / "train" / name, TRAIN[:15])
    assert len(data.load(tmp_path)["train"]) == 30


def test_pictures_that_all_are_in_one_folder_are_of_its_set(tmp_path):
    pictures(tmp_path / "train" / "a", TRAIN)
    assert_sets(data.load(tmp_path), train=TRAIN)
    pictures(tmp_path / "other" / "test" / "a", TEST)
    with pytest.raises(DataError, match=r"must have a folder train beside test"):
        data.load(tmp_path / "other")


def test_links_to_nothing_are_pictures_that_cannot_be_read(tmp_path):
    folder = pictures(tmp_path / "a", TRAIN)
    (folder / "30.png").symlink_to(tmp_path / "not mounted.png")
    with pytest.raises(DataError, match=r"`skip_unreadable` be given\. Received: .*30\.png \(No such file"):
        data.load(folder)
    assert_sets(data.load(folder, skip_unreadable=True), train=TRAIN)


def test_links_in_an_archive_are_followed_in_it(tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as made:
        for i, image in enumerate(TRAIN):
            info = tarfile.TarInfo(f"{i:02}.png")
            info.size = len(png(image))
            made.addfile(info, io.BytesIO(png(image)))
        for i, kind in enumerate((tarfile.LNKTYPE, tarfile.SYMTYPE)):
            info = tarfile.TarInfo(f"{30 + i}.png")
            info.type, info.linkname = kind, f"{i:02}.png"
            made.addfile(info)
        info = tarfile.TarInfo("99.png")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        made.addfile(info)
    with pytest.raises(DataError, match=r"99\.png"):
        data.load(tmp_path / "a.tar")
    assert_sets(data.load(tmp_path / "a.tar", skip_unreadable=True), train=np.concatenate([TRAIN, TRAIN[:2]]))


@pytest.mark.parametrize("run_dir", ["images/run", "images/a/run", "images", "linked/run"])
def test_a_run_lies_outside_the_folder_of_its_images(run_dir, tmp_path):
    config = Config(dataset=pictures(tmp_path / "images", TRAIN))
    (tmp_path / "linked").symlink_to(tmp_path / "images")
    with pytest.raises(ConfigError, match=r"`run_dir` must be outside the folder of pictures"):
        data.check_apart(config, tmp_path / run_dir)
    data.check_apart(config, tmp_path / "images of a run")
    data.check_apart(Config(dataset="digits"), tmp_path / run_dir)
    (tmp_path / "arrays").mkdir()
    npz(tmp_path / "arrays" / "train.npz", x=TRAIN)
    data.check_apart(Config(dataset=tmp_path / "arrays"), tmp_path / "arrays" / "run")


# Colour, depth and paper


def test_a_test_set_that_happens_to_be_grey_is_of_colour_as_the_others(tmp_path):
    colour = RNG.integers(0, 256, (30, 8, 6, 3)).astype("uint8")
    pictures(tmp_path / "train", colour)
    pictures(tmp_path / "test", np.repeat(TEST[..., np.newaxis], 3, axis=-1))
    assert_sets(data.load(tmp_path), train=colour, test=np.repeat(TEST[..., np.newaxis], 3, axis=-1))
    config = Config(dataset=tmp_path, likelihood="discretized_logistic")
    assert data.load_training(config, seed=0).valid.shape[1:] == (8, 6, 3)
    np.testing.assert_array_equal(data.as_coloured(data.load_test(config))[..., 1], TEST)
    found = data.read_images(tmp_path / "test", is_binary=False, image_shape=(8, 6, 3))
    np.testing.assert_array_equal(found[..., 2], TEST)


def test_rows_to_reconstruct_have_the_model_s_size(tmp_path):
    file = npz(tmp_path / "a.npz", x=TRAIN[:, :5, :4].reshape(30, 20))
    found = data.read_images(file, is_binary=False, image_shape=(5, 4))
    np.testing.assert_array_equal(found, TRAIN[:, :5, :4])


def test_errors_of_images_to_reconstruct_advise_what_there_is(tmp_path):
    pictures(tmp_path, TRAIN)
    save(tmp_path / "30.png", png(TRAIN[0][:5]))
    with pytest.raises(DataError, match=r"`reconstruct` .*of one size.*`tf_ldiaf\.data\.load` has these arguments"):
        data.read_images(tmp_path, "reconstruct")


def png_of_16_bits(image):
    """A picture [H, W, 3] of uint16, which Pillow cannot write."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in image)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", image.shape[1], image.shape[0], 16, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def test_colours_of_16_bits_keep_the_upper_8_and_take_no_range(tmp_path):
    colour = RNG.integers(0, 256, (30, 8, 6, 3)).astype("uint8")
    for i, image in enumerate(colour):
        save(tmp_path / "a" / f"{i:02}.png", png_of_16_bits(image.astype("uint16") * 257))
        save(tmp_path / "b" / f"{i:02}.png", png_of_16_bits(image.astype("uint16") * 16))  # 12 bits
    assert_sets(data.load(tmp_path / "a"), train=colour)
    with pytest.raises(DataError, match=r"no pixel is above a sixteenth of white"):
        data.load(tmp_path / "b")
    with pytest.raises(DataError, match=r"colours of 16 bits.*`value_range` can name those of grey only"):
        data.load(tmp_path / "b", value_range=(0, 4095))


def test_transparent_pictures_of_all_sets_lie_on_the_same_paper(tmp_path):
    for name, ink, num in (("train", 0, 30), ("test", 255, 5)):
        drawn = np.full((num, 8, 6, 4), ink, "uint8")
        drawn[..., 3] = 255 * (RNG.random((num, 8, 6)) < 0.2)
        pictures(tmp_path / name, drawn)
    found = data.load(tmp_path)
    assert found["train"].mean() > 128  # black on white
    assert (found["test"] == 255).all()  # white on white
