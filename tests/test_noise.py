"""Threefry against published answers; draws against the normal distribution."""

import numpy as np
import pytest
import tensorflow as tf
from scipy import stats

from tf_ldiaf.probability.noise import standard_normal, stateless_seed, threefry, uniform


@pytest.mark.parametrize(
    ("counter", "key", "answer"),
    [
        ((0, 0), (0, 0), (0x6B200159, 0x99BA4EFE)),
        ((0xFFFFFFFF, 0xFFFFFFFF), (0xFFFFFFFF, 0xFFFFFFFF), (0x1CB996FC, 0xBB002BE7)),
        ((0x243F6A88, 0x85A308D3), (0x13198A2E, 0x03707344), (0xC4923A9C, 0x483DF7A0)),
    ],
)
def test_known_answers_of_threefry_2x32_20(counter, key, answer):
    found = threefry(*([tf.constant(word, tf.uint32) for word in words] for words in (key, counter)))
    assert tuple(int(word) for word in found) == answer


@pytest.mark.parametrize("shape", [(1, 1, 200, 1000), (4, 50, 1000, 1), (5, 40, 1000, 1), (2, 2, 2, 25_000)])
def test_draws_are_standard_normal_and_independent(shape):
    draws = standard_normal(shape, [3, 4]).numpy()
    # Kolmogorov-Smirnov, three moments and at most eight correlations, each at an error rate of 1e-6.
    assert stats.kstest(draws.ravel(), "norm").pvalue > 1e-6
    num, limit = draws.size, stats.norm.isf(5e-7)
    assert abs(draws.mean()) < limit / np.sqrt(num)
    assert abs((draws**2).mean() - 1) < limit * np.sqrt(2 / num)
    assert abs((draws**4).mean() - 3) < limit * np.sqrt(96 / num)
    for axis, size in enumerate(shape):
        for step in {1, size // 2} if size > 1 else ():
            a, b = np.take(draws, range(size - step), axis), np.take(draws, range(step, size), axis)
            assert abs((a * b).mean()) < limit / np.sqrt(a.size)


def test_other_seeds_draw_other_numbers():
    seeds = [[0, 0], [0, 1], [1, 0], [-1, 5], [2**31 - 1, 7]]
    draws = np.stack([np.ravel(standard_normal((1, 1, 1, 5_000), seed)) for seed in seeds])
    assert np.abs(np.corrcoef(draws) - np.eye(5)).max() < stats.norm.isf(1e-7) / np.sqrt(5_000)
    np.testing.assert_array_equal(draws[1], np.ravel(standard_normal((1, 1, 1, 5_000), [0, 1])))


def test_no_place_is_drawn_twice():
    # Of 23 bits, so many draws have about 0.5 equal pairs by chance; 12 have a probability of 1e-13.
    draws = uniform((3, 5, 7, 27), [9, 9]).numpy().ravel()
    assert draws.size - len(np.unique(draws)) < 12


@pytest.mark.parametrize("num", [1, 2, 5])
def test_a_draw_does_not_depend_on_what_else_is_drawn(num):
    whole = uniform((3, 6, 8, num), [1, 2]).numpy()
    np.testing.assert_array_equal(whole[:, 2:5, 3:], uniform((3, 3, 5, num), [1, 2], first=(2, 3)))


@pytest.mark.parametrize("shape", [(1, 1, 1, 7), (1, 1, 0, 5), (1, 1, 2, 0), (3, 2, 5, 4)])
def test_xla_draws_the_same(shape):
    compiled = tf.function(lambda seed: standard_normal(shape, seed), jit_compile=True)
    found = compiled(tf.constant([5, 6]))
    assert found.shape == shape
    np.testing.assert_allclose(found, standard_normal(shape, [5, 6]), rtol=1e-5, atol=1e-6)


def test_the_extremes_are_finite():
    draws = standard_normal((1, 1, 2, 1_000_000), [0, 0]).numpy()
    assert np.isfinite(draws).all()
    assert 4.5 < np.abs(draws).max() < 5.5


def test_uniform_draws_are_uniform():
    draws = uniform((1, 1, 2, 100_000), [1, 2]).numpy().ravel()
    assert stats.kstest(draws, "uniform").pvalue > 1e-6
    assert 0 < draws.min() < 1e-4
    assert 1 - 1e-4 < draws.max() < 1


def test_a_seed_is_what_tfp_takes():
    np.testing.assert_array_equal(stateless_seed(7), stateless_seed(7))
    assert (stateless_seed(7).numpy() != stateless_seed(8).numpy()).any()
    np.testing.assert_array_equal(stateless_seed(tf.constant([3, 4])), [3, 4])
    np.testing.assert_array_equal(stateless_seed([3, 4]), [3, 4])
    drawn = {tuple(stateless_seed(None).numpy()) for _ in range(10)}
    assert len(drawn) == 10
    assert all(seed.shape == (2,) and seed.dtype == tf.int32 for seed in map(stateless_seed, [7, None, [3, 4]]))
