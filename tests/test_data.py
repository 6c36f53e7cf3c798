"""Data: splits, binarisation, batches, and what each source gives."""

import hashlib
import pathlib

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from tf_ldiaf import Config, data
from tf_ldiaf.errors import DataError

SHARED = pathlib.Path(__file__).parents[2] / "shared" / "data"
needs_mnist = pytest.mark.skipif(not (SHARED / "mnist.npz").is_file(), reason="no ../shared/data/mnist.npz")
needs_tfds = pytest.mark.skipif(not (SHARED / "tfds" / "mnist").is_dir(), reason="no ../shared/data/tfds")


def numbered(num, first=0):
    """Images that spell their index in binary, black and white."""
    bits = (np.arange(first, first + num)[:, None] >> np.arange(16)) & 1
    return (bits * 255).astype("uint8").reshape(num, 4, 4)


def numbers(images):
    """The indices that `numbered` images spell."""
    return (np.asarray(images).reshape(len(images), 16) @ 2 ** np.arange(16)).astype(int).tolist()


def grey(num, seed=0, shape=(4, 4)):
    return np.random.default_rng(seed).integers(2, 254, (num, *shape)).astype("uint8")


def save_pngs(folder, images):
    folder.mkdir(parents=True, exist_ok=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f"{i:04}.png")
    return str(folder)


def load(config):
    """All three sets: training, validation, test."""
    return [*data.load_training(config, config.seed), data.load_test(config)]


def epochs_of(batches, steps, num):
    """`num` epochs of batches, each [steps, B, H, W]."""
    taken = list(batches.take(steps * num).as_numpy_iterator())
    return [np.stack(taken[i * steps : (i + 1) * steps]) for i in range(num)]


# Splits


def test_splits_are_disjoint_and_cover_everything(npz):
    images = load(Config(dataset=npz(train=numbered(100)), validation_fraction=0.25))
    assert [len(x) for x in images] == [60, 20, 20]
    assert sorted(n for x in images for n in numbers(x)) == list(range(100))


def test_without_a_held_out_set_training_images_stand_in(npz):
    train, valid, test = load(Config(dataset=npz(train=numbered(100)), validation_fraction=0.0))
    assert [len(x) for x in (train, valid, test)] == [80, 16, 20]
    assert sorted(numbers(train) + numbers(test)) == list(range(100))
    assert set(numbers(valid)) <= set(numbers(train))


def test_only_the_validation_set_follows_the_seed(npz):
    file = npz(train=numbered(100))
    (*_, valid, test), (*_, other, same) = (load(Config(dataset=file, seed=seed)) for seed in (0, 1))
    assert numbers(test) == numbers(same)
    assert set(numbers(valid)) != set(numbers(other))


@pytest.mark.parametrize("prefix", ["", "x_"])
def test_given_splits_are_kept(npz, prefix):
    parts = {"train": numbered(30), "valid": numbered(10, 30), "test": numbered(7, 40)}
    images = load(Config(dataset=npz(**{prefix + name: x for name, x in parts.items()})))
    assert [numbers(x) for x in images] == [numbers(x // 255) for x in parts.values()]


def test_a_given_test_set_is_kept_and_validation_is_held_out_of_training(npz):
    train, valid, test = load(Config(dataset=npz(x_train=numbered(50), x_test=numbered(5, 50), y_train=np.arange(50))))
    assert numbers(test) == list(range(50, 55))
    assert sorted(numbers(train) + numbers(valid)) == list(range(50))


def test_limit_train_takes_a_part_of_the_training_images_only(npz):
    file = npz(train=numbered(100))
    whole, limited, all_of_them = (
        data.load_training(Config(dataset=file, limit_train=limit), seed=0) for limit in (0, 17, 10**6)
    )
    assert len(limited.train) == 17
    assert set(numbers(limited.train)) < set(numbers(whole.train))
    assert numbers(limited.valid) == numbers(whole.valid)
    assert len(all_of_them.train) == 64


def test_digits_are_binary_images():
    images = load(Config())
    assert sum(len(x) for x in images) == 1797
    assert all(x.shape[1:] == (8, 8) and set(np.unique(x)) == {0, 1} for x in images)


# Binarisation


def test_threshold_is_above_one_half(npz):
    pixels = np.array([0, 127, 128, 255], "uint8").reshape(1, 2, 2).repeat(5, axis=0)
    assert (data.load_test(Config(dataset=npz(train=pixels))) == [[0, 0], [1, 1]]).all()
    pixels = np.array([0, 0.5, 0.51, 1], "float64").reshape(1, 2, 2).repeat(5, axis=0)
    assert (data.load_test(Config(dataset=npz(train=pixels))) == [[0, 0], [1, 1]]).all()


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_none_passes_binary_images_and_refuses_grey_ones(npz, dtype):
    binary = (numbered(50) // 255).astype(dtype)
    images = load(Config(dataset=npz(train=binary), binarization="none"))
    assert sorted(n for x in images for n in numbers(x)) == list(range(50))
    pixels = grey(50) if dtype == "uint8" else (grey(50) / 255).astype(dtype)
    with pytest.raises(DataError, match=r"`binarization=none` needs pixels that are all 0 or 1.*grey train"):
        load(Config(dataset=npz(train=pixels), binarization="none"))


@pytest.mark.parametrize("binarization", ["threshold", "dynamic", "none"])
def test_uint8_zeros_and_ones_are_black_and_white(npz, binarization):
    train, _, test = load(Config(dataset=npz(train=numbered(50) // 255), binarization=binarization))
    assert sorted(numbers(test)) == sorted(numbers(data.load_test(Config(dataset=npz(train=numbered(50))))))
    [batch] = data.training_batches(train, batch_size=32, seed=0).take(1).as_numpy_iterator()
    assert set(numbers(batch // batch.max())) <= set(range(50))


@pytest.mark.parametrize("as_float", [False, True])
def test_dynamic_training_images_stay_grey(npz, as_float):
    pixels = (grey(50) / 255).astype("float32") if as_float else grey(50)
    config = Config(dataset=npz(train=pixels, valid=pixels, test=pixels), binarization="dynamic")
    train = data.load_training(config, seed=0).train
    [batch] = data.training_batches(train, batch_size=50, seed=0).take(1).as_numpy_iterator()
    assert batch.dtype == pixels.dtype
    np.testing.assert_array_equal(sorted(map(tuple, batch.reshape(50, -1))), sorted(map(tuple, pixels.reshape(50, -1))))


def test_dynamic_validation_and_test_sets_are_drawn_once_whatever_the_seed(npz):
    file = npz(train=grey(20), valid=grey(500, 1), test=grey(500, 1))
    (*_, valid, test), (*_, again, same) = (
        load(Config(dataset=file, binarization="dynamic", seed=seed)) for seed in (0, 1)
    )
    assert np.array_equal(valid, again)
    assert np.array_equal(test, same)
    assert not np.array_equal(valid, test)  # the same grey, other draws
    p = grey(500, 1) / 255
    for drawn in (valid, test):
        assert set(np.unique(drawn)) == {0, 1}
        # 5 standard errors of the mean: below 1e-6.
        assert abs((drawn - p).mean()) < 5 * np.sqrt((p * (1 - p)).sum()) / p.size


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_pixels_are_drawn_with_the_probability_of_their_grey(dtype):
    levels = np.arange(256).astype("uint8")
    pixels = np.tile(levels if dtype == "uint8" else (levels / 255).astype("float32"), (20_000, 1))
    drawn = data.draw(tf.constant(pixels), [7, 8]).numpy()
    assert drawn.dtype == "float32"
    assert set(np.unique(drawn)) == {0, 1}
    assert not drawn[:, 0].any()
    assert drawn[:, 255].all()
    p = levels / 255
    # 6 standard errors in 256 levels: a false alarm has probability below 1e-6.
    assert (np.abs(drawn.mean(axis=0) - p) <= 6 * np.sqrt(p * (1 - p) / len(drawn))).all()
    assert not np.array_equal(drawn, data.draw(tf.constant(pixels), [7, 9]))


def digest(images):
    return hashlib.sha256(np.ascontiguousarray(images)).hexdigest()[:8]


@pytest.mark.parametrize(
    ("binarization", "expected"),
    [
        ("threshold", ["dc28abc7", "04e1e7bb", "4964cd5a"]),
        ("dynamic", ["dbf5b32b", "39ef077e", "a488ce5b"]),
    ],
)
def test_the_images_of_a_seed_are_those_that_published_numbers_are_of(binarization, expected):
    """The digests were written down when the numbers were: other images would be other numbers."""
    assert [digest(x) for x in load(Config(binarization=binarization, seed=3))] == expected


# Batches


@pytest.mark.parametrize("binarization", ["threshold", "dynamic"])
def test_each_epoch_is_another_permutation(npz, binarization):
    train = data.load_training(Config(dataset=npz(train=numbered(70)), binarization=binarization), seed=0).train
    assert data.steps_per_epoch(train, 8) == 5  # 45 images; the last 5 are left out
    batches = epochs_of(data.training_batches(train, batch_size=8, seed=0), 5, 6)
    epochs = [numbers(epoch.reshape(-1, 16) // train.max()) for epoch in batches]
    every = set(numbers(train // train.max()))
    assert all(len(set(epoch)) == 40 and set(epoch) <= every for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) == 6
    assert set().union(*epochs) == every  # what is left out differs


@pytest.mark.parametrize("binarization", ["threshold", "dynamic"])
def test_order_is_a_function_of_seed_and_epoch(npz, binarization):
    train = data.load_training(Config(dataset=npz(train=grey(60)), binarization=binarization), seed=5).train
    steps = data.steps_per_epoch(train, 8)
    whole = epochs_of(data.training_batches(train, batch_size=8, seed=5), steps, 4)
    later = epochs_of(data.training_batches(train, batch_size=8, seed=5, first_epoch=2), steps, 2)
    assert np.array_equal(whole[2:], later)
    assert not np.array_equal(whole[0], epochs_of(data.training_batches(train, batch_size=8, seed=6), steps, 1)[0])


@pytest.mark.parametrize("binarization", ["threshold", "dynamic"])
@pytest.mark.parametrize(("most", "sizes"), [(1, [1] * 5), (2, [2, 2, 1]), (3, [3, 2]), (5, [5]), (100, [5])])
def test_launches_are_the_batches_in_order(npz, binarization, most, sizes):
    """Five steps an epoch; also from a later epoch on."""
    train = data.load_training(Config(dataset=npz(train=grey(70)), binarization=binarization), seed=0).train
    assert data.launches_per_epoch(train, 8, most) == len(sizes)
    batches = epochs_of(data.training_batches(train, batch_size=8, seed=0, first_epoch=1), 5, 2)

    def launches_from(first_launch):
        launches = data.training_launches(
            train, batch_size=8, seed=0, steps_per_launch=most, first_epoch=1, first_launch=first_launch
        )
        return list(launches.take(2 * len(sizes)).as_numpy_iterator())

    launches = launches_from(0)
    assert [used for _, used in launches] == 2 * sizes
    assert {x.shape for x, _ in launches} == {(sizes[0], 8, 4, 4)}
    np.testing.assert_array_equal(np.concatenate([x[:used] for x, used in launches]), np.concatenate(batches))
    assert not any(x[used:].any() for x, used in launches)
    rest = launches_from(len(sizes) - 1)
    assert [used for _, used in rest] == [0] * (len(sizes) - 1) + sizes[-1:] + sizes
    for (x, used), (same, _) in zip(rest, launches, strict=True):
        np.testing.assert_array_equal(x[:used], same[:used])


def test_a_batch_larger_than_the_data_is_all_of_them(npz):
    train = data.load_training(Config(dataset=npz(train=numbered(25))), seed=0).train
    assert data.steps_per_epoch(train, 1000) == 1
    [batch] = data.training_batches(train, batch_size=1000, seed=0).take(1).as_numpy_iterator()
    assert batch.dtype == "uint8"
    assert sorted(numbers(batch)) == sorted(numbers(train))


@pytest.mark.parametrize(("num", "size", "num_batches"), [(10, 4, 3), (8, 4, 2), (3, 100, 1), (5, 1, 5)])
def test_evaluation_batches_keep_order_and_weigh_padding_zero(num, size, num_batches):
    batches = list(data.evaluation_batches(numbered(num) // 255, size).as_numpy_iterator())
    assert len(batches) == num_batches
    assert {len(part) for batch in batches for part in batch} == {min(size, num)}
    x, target, weight = (np.concatenate(parts) for parts in zip(*batches, strict=True))
    assert np.array_equal(x, target)
    assert set(np.unique(weight)) <= {0, 1}
    assert numbers(x[weight > 0]) == list(range(num))
    assert (weight[:num] == 1).all()


# Sources


def test_flat_images_are_squares_or_one_row(npz):
    assert data.load_test(Config(dataset=npz(train=grey(20).reshape(20, 16)))).shape == (4, 4, 4)
    assert data.load_test(Config(dataset=npz(train=grey(20, shape=(7,))))).shape == (4, 1, 7)
    assert data.load_test(Config(dataset=npz(train=grey(20, shape=(3, 5, 1))))).shape == (4, 3, 5)


def test_float_and_uint8_files_give_the_same_images(npz):
    whole = load(Config(dataset=npz(train=grey(40))))
    for scaled in (grey(40) / 255, (grey(40) / 255).astype("float32")):
        assert all(np.array_equal(a, b) for a, b in zip(whole, load(Config(dataset=npz(train=scaled))), strict=True))


def test_folder_of_pngs_is_split(tmp_path):
    images = load(Config(dataset=save_pngs(tmp_path / "png", numbered(50))))
    assert sorted(n for x in images for n in numbers(x)) == list(range(50))


def test_folder_with_splits_and_rgb_pngs(tmp_path):
    parts = {"train": numbered(20), "valid": numbered(5, 20), "test": numbered(4, 25)}
    for name, x in parts.items():
        save_pngs(tmp_path / name, np.stack([x] * 3, axis=-1))
    images = load(Config(dataset=str(tmp_path)))
    assert [numbers(x) for x in images] == [numbers(x // 255) for x in parts.values()]


def test_read_images_takes_the_first_array_and_thresholds_it(npz):
    x = data.read_images(npz(a=grey(6).reshape(6, 16), b=np.arange(3)))
    assert x.dtype == "float32"
    assert np.array_equal(x, grey(6) > 127)


def as_multiset(*parts):
    rows = np.concatenate(parts).reshape(-1, 784) > 0
    return sorted(row.tobytes() for row in np.packbits(rows, axis=1))


@needs_tfds
@needs_mnist
def test_mnist_of_tfds_is_mnist():
    images = load(Config(dataset="mnist", data_dir=str(SHARED / "tfds")))
    with np.load(SHARED / "mnist.npz") as file:
        train, test = file["x_train"] > 127, file["x_test"] > 127
    assert [len(x) for x in images] == [48000, 12000, 10000]
    assert as_multiset(*images[:2]) == as_multiset(train)
    assert as_multiset(images[2]) == as_multiset(test)


@needs_tfds
def test_binarized_mnist_of_tfds_keeps_its_splits():
    images = load(Config(dataset="binarized_mnist", data_dir=str(SHARED / "tfds"), binarization="none"))
    assert [x.shape for x in images] == [(50000, 28, 28), (10000, 28, 28), (10000, 28, 28)]
    with np.load(SHARED / "static_binarized_mnist.npz") as file:
        for ours, name in zip(images, ("train", "valid", "test"), strict=True):
            assert as_multiset(ours) == as_multiset(np.unpackbits(file[name], axis=1))
