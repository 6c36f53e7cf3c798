"""Files that cannot be read, of every kind: one sentence, and nothing is executed."""

import gzip
import pickle
import zipfile

import h5py
import numpy as np
import pytest
from PIL import Image
from test_data import load
from test_files import TRAIN, hdf5, idx, mat5, npy, parquet, png, save

from tf_ldiaf import Config, data
from tf_ldiaf.errors import DataError


def half_mat5(file, **arrays):
    content = mat5(file.with_suffix(".mat"), **arrays).read_bytes()
    save(file, content[: len(content) // 2] if "X" in arrays and len(content) > 900 else content)


def external(file):
    with h5py.File(file, "w") as made:
        made.create_dataset("train", (30, 8, 6), "u1", external=[("/etc/hostname", 0, 1440)])


def linked(file):
    with h5py.File(file, "w") as made:
        made["train"] = h5py.ExternalLink("/etc/other.h5", "x")


def stacked_tiff(folder):
    folder.mkdir()
    frames = [Image.fromarray(image) for image in TRAIN]
    frames[0].save(folder / "a.tif", save_all=True, append_images=frames[1:])


def large_zip(file):
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as made:
        info = zipfile.ZipInfo("a.png")
        with made.open(info, "w", force_zip64=True) as stream:
            stream.write(bytes(1000))
        info.file_size = 10**13


BAD = {
    "an empty file": (lambda f: save(f, b""), "which is empty"),
    "a pickle": (lambda f: save(f, pickle.dumps(TRAIN)), "a pickle, which may run any program.*numpy.savez"),
    "a text": (lambda f: save(f, "hello\nthere\n"), "which is none of them"),
    "a picture": (lambda f: save(f, png(TRAIN[0])), "a folder of pictures, not one of them"),
    "half an idx": (lambda f: save(f, idx(TRAIN)[:500]), "must be a whole file"),
    "an idx header": (lambda f: save(f, idx(TRAIN)[:9]), "ends within its header"),
    "half a gz": (lambda f: save(f, gzip.compress(idx(TRAIN))[:300]), "must be a file that can be read"),
    "half an npy": (lambda f: save(f, npy(TRAIN)[:300]), r"readable \.npz or \.npy file"),
    "an npy of objects": (lambda f: save(f, npy(np.array([1, "a"], object))), "no pickled objects"),
    "half an HDF5": (lambda f: save(f, hdf5(f, train=TRAIN).read_bytes()[:900]), "readable HDF5 file"),
    "HDF5 with a link": (linked, "which has none"),
    "HDF5 with outer data": (external, "must have its numbers in the file itself"),
    "half a MATLAB": (lambda f: half_mat5(f, X=TRAIN), r"readable \.mat file"),
    "MATLAB without numbers": (lambda f: half_mat5(f, X={"a": 1}), "X of no numbers"),
    "a ragged table": (lambda f: save(f, "1,2,3\n1,2\n" * 9), "must be a table of numbers"),
    "half a Parquet": (lambda f: save(f, parquet(f, TRAIN).read_bytes()[:300]), "readable Parquet file"),
    "a large zip": (large_zip, "quarter of this machine's memory"),
    "a stack of pictures": (stacked_tiff, "30 pictures in one file"),
    "volumes": (lambda f: save(f, npy(np.zeros((5, 8, 8, 8)))), r"of \[5, 8, 8, 8\]"),
    "a NaN": (lambda f: save(f, npy(np.full((5, 8, 8), np.nan))), "NaN or infinity"),
}  # fmt: skip


@pytest.mark.parametrize("kind", BAD)
def test_what_cannot_be_read_is_one_sentence(kind, tmp_path):
    write, words = BAD[kind]
    write(tmp_path / "it")
    with pytest.raises(DataError, match=words) as caught:
        data.load(tmp_path / "it")
    assert "\n" not in str(caught.value)
    with pytest.raises(DataError, match=words):
        load(Config(dataset=tmp_path / "it"))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("ylecun/mnist", "must be `mnist`, which TFDS has, or a file or a folder; those of hubs"),
        ("someone/cats", "must be a file or a folder; those of hubs must be downloaded first"),
        ("cat.npy", "must be a file or a folder that exists. Received: cat.npy, which does not exist"),
    ],
)
def test_names_that_lead_nowhere_say_where_to_go(name, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=words):
        data.load_training(Config(dataset=name), seed=0)


def test_no_path_is_one_sentence(tmp_path):
    with pytest.raises(DataError, match="`path` must be a file or a folder that exists"):
        data.load(tmp_path / "missing")
