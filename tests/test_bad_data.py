"""Bad data, broadly: .npz files and folders of pictures that cannot be used, by the commands."""

import io
import struct
import zipfile
import zlib

import numpy as np
import pytest
from PIL import Image
from test_bad_input import refusal
from test_cli import REPO


def npy(array):
    """The bytes of a .npy file."""
    with io.BytesIO() as stream:
        np.save(stream, array)
        return stream.getvalue()


def header(shape, descr="|u1", more=""):
    """A .npy file of nine bytes that says it is of this shape and type."""
    text = f"{{'descr': {descr!r}, 'fortran_order': False, 'shape': {shape}{more}}}".encode()
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + bytes(9)


def claiming(num_bytes):
    """An .npz file whose array of zeros says that it is of so many bytes: what a bomb says."""

    def write(file):
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
            info = zipfile.ZipInfo("train.npy")
            info.compress_type = zipfile.ZIP_DEFLATED
            with archive.open(info, "w", force_zip64=True) as stream:
                stream.write(header((num_bytes // 784, 28, 28)) + bytes(10**6))
            info.file_size = num_bytes

    return write


def raw(content, name="train.npy"):
    """An .npz file with a member of any content."""

    def write(file):
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr(name, content)

    return write


def arrays(**named):
    return lambda file: np.savez(file, **named)


def content(data):
    return lambda file: file.write_bytes(data)


def damaged(change, *, compressed=False):
    """A good .npz file whose bytes were changed."""

    def write(file):
        (np.savez_compressed if compressed else np.savez)(file, train=GOOD)
        file.write_bytes(change(file.read_bytes()))

    return write


GOOD = np.random.default_rng(0).integers(0, 256, (40, 4, 4)).astype("uint8")
NPZ = [
    content(b""), content(b"hello"), content(b"PK\x03\x04"), content(b"PK\x05\x06" + bytes(18)),
    content(b"\x80\x04K\x01."), damaged(lambda b: b[:-1]), damaged(lambda b: b[:200]), damaged(lambda b: b[100:]),
    damaged(lambda b: b.replace(b"NUMPY", b"NUMPI")),
    damaged(lambda b: b[:300] + bytes(100) + b[400:]),
    damaged(lambda b: b[:100] + b"\xff" * 50 + b[150:], compressed=True),
    arrays(), arrays(x=GOOD, z=GOOD), arrays(valid=GOOD), arrays(train=np.array([GOOD, "text"], dtype=object)),
    arrays(train=np.array([None])), arrays(train=np.array(["a", "b"])), arrays(train=np.array([b"a"])),
    arrays(train=np.zeros(3, [("a", "u1"), ("b", "f4")])), arrays(train=GOOD.astype("complex64")),
    arrays(train=GOOD + np.int32(300)), arrays(train=GOOD.astype("datetime64[s]")), arrays(train=GOOD / 255 - 0.1),
    arrays(train=GOOD / 200), arrays(train=np.full((9, 4, 4), np.nan)), arrays(train=np.uint8(3)),
    arrays(train=GOOD[:0]), arrays(train=GOOD[:1]), arrays(train=GOOD[:, :0]),
    arrays(train=GOOD[..., np.newaxis].repeat(2, 3)),
    arrays(train=GOOD, valid=GOOD[:0]), arrays(train=GOOD, valid=GOOD[:, :3]), arrays(train=GOOD, valid=GOOD / 255),
    arrays(train=GOOD, valid=GOOD.astype(object)), arrays(train=GOOD, valid=(GOOD > 9).astype("uint8")),
    raw(b""), raw(b"\x93NUMPY"), raw(header((3, 1, 3))[:-1]), raw(header((10**15, 28, 28))), raw(header((-9, 1, 1))),
    raw(header((2**62, 2**62, 2**62))), raw(header((9,), descr="|O")), raw(header((9,), descr="<f8")),
    raw(header((3, 1, 3), descr="wrong")), raw(header((3, 1, 3), more=", 'extra': 1")), raw(header("__import__('os')")),
    raw(b"\x93NUMPY\x02\x00" + struct.pack("<I", 2**32 - 1) + b"{"), raw(b"\x93NUMPY\x09\x00" + bytes(99)),
    raw(b"\x80\x04\x95cos\nsystem\n"), raw(npy(GOOD), name="../../train.npy"),
]  # fmt: skip


@pytest.mark.parametrize("write", NPZ)
def test_npz(write, place, output):
    write(place / "data.npz")
    refusal(["train", "--dataset=data.npz", "--epochs=1"], place, output)


@pytest.mark.parametrize("num_bytes", [10**10, 10**13, 10**18])
def test_npz_bombs(num_bytes, place, output):
    claiming(num_bytes)(place / "data.npz")
    assert "quarter of this machine's memory" in refusal(["train", "--dataset=data.npz"], place, output)


@pytest.mark.parametrize("write", NPZ[:12:4] + NPZ[-3:])
def test_npz_to_reconstruct(write, place, output):
    write(place / "data.npz")
    refusal(
        ["sample", f"--saved_model={REPO}/saved_models/mnist_ldiaf", "--out=a.png", "--reconstruct=data.npz"],
        place,
        output,
    )


def png(size=(4, 4), mode="L"):
    with io.BytesIO() as stream:
        Image.new(mode, size).save(stream, "PNG")
        return stream.getvalue()


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def claimed_png(width, height):
    """A PNG of a few bytes that says it is of this size."""
    data = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)) + chunk(
        b"IDAT", zlib.compress(bytes(9))
    )
    return b"\x89PNG\r\n\x1a\n" + data + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "files",
    [
        {}, {"a.txt": b"x"}, {"a.png": b""}, {"a.png": b"hello"}, {"a.png": png()[:-20]}, {"a.png": png()[:40]},
        {"a.png": png()[:20] + b"\xff" * 8 + png()[28:]}, {"a.png": png(), "b.png": png((5, 4))},
        {"a.png": png(mode="I;16")}, {"a.png": b"GIF89a" + bytes(20)}, {"a.png": claimed_png(4, 4)},
        {"a.png": claimed_png(0, 0)}, {"a.png": claimed_png(12_000, 12_000)}, {"a.png": claimed_png(60_000, 60_000)},
        {"a.png": claimed_png(2**31 - 1, 2**31 - 1)}, {"a.png": png()}, {"a.png/b.txt": b""},
        {"test/a.png": png()}, {"valid/a.png": png(), "test/a.png": png()}, {"train/a.txt": b""},
        {"train/a.png": png(), "valid/a.png": png((5, 5))}, {"train/a.png": png(), "valid/b.txt": b""},
    ],
)  # fmt: skip
def test_image_folders(files, place, output):
    (place / "images").mkdir()
    for name, data in files.items():
        (place / "images" / name).parent.mkdir(exist_ok=True)
        (place / "images" / name).write_bytes(data)
    refusal(["train", "--dataset=./images", "--epochs=1"], place, output)
