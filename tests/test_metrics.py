"""Active units against variances that are known; which terms were not finite, and when."""

import numpy as np
import pytest

from tf_ldiaf.model.metrics import ActiveUnits, NonFiniteSteps


def codes_of(variances, num=400, loc=0.0):
    """Codes [num, 2, 3] whose variances over images are exactly these."""
    signs = np.where(np.arange(num) % 2, 1.0, -1.0)[:, None, None]
    return (loc + signs * np.sqrt(np.reshape(variances, (1, 2, 3)))).astype("float32")


@pytest.mark.parametrize("loc", [0.0, 10.0])
def test_counts_variances_above_the_threshold(loc):
    metric = ActiveUnits((2, 3))
    metric.update_state(codes_of([0, 0.005, 0.009, 0.011, 0.5, 2], loc=loc))
    assert float(metric.result()) == 3
    other = ActiveUnits((2, 3), threshold=0.4)
    other.update_state(codes_of([0, 0.005, 0.009, 0.011, 0.5, 2], loc=loc))
    assert float(other.result()) == 2


def test_batches_add_up_and_reset():
    codes = np.concatenate([codes_of([0] * 6, 10, loc=-1), codes_of([0] * 6, 10, loc=1)])
    metric = ActiveUnits((2, 3))
    metric.update_state(codes[:10])
    assert float(metric.result()) == 0  # constant in the first batch
    metric.update_state(codes[10:])
    assert float(metric.result()) == 6  # other values in the second
    metric.reset_state()
    metric.update_state(codes[:10])
    assert float(metric.result()) == 0


def test_images_of_weight_zero_do_not_count():
    metric = ActiveUnits((2, 3))
    codes = codes_of([1] * 6, 10)
    weights = np.where(np.arange(10) % 2, 1.0, 0.0)  # all of one sign
    metric.update_state(codes, weights)
    assert float(metric.result()) == 0


def test_variance_is_weighted():
    # Weights 1 and 3 on -a and a: variance 3/4 a^2.
    metric = ActiveUnits((2, 3), threshold=0.7)
    metric.update_state(codes_of([1, 0.9, 1, 0.9, 1, 0.9], 2), np.array([1.0, 3.0]))
    assert float(metric.result()) == 3


def test_the_first_step_that_is_not_finite_is_kept_and_all_are_counted():
    metric = NonFiniteSteps(["a", "b", "c"])
    good, one, two = [False, False, False], [False, True, False], [True, False, True]
    for step, is_bad in enumerate([good, good, one, good, two]):
        metric.update_state(np.array(is_bad), step)
    assert float(metric.result()) == 2
    assert metric.first_terms() == (3, ["b"])
    metric.reset_state()
    assert metric.first_terms() is None
    metric.update_state(np.array(two), 7)
    assert metric.first_terms() == (8, ["a", "c"])
