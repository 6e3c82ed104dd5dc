import pytest

from tfode_adv.analysis import intervals


def test_wilson_is_the_published_example():
    # Newcombe 1998, table I: 81 of 263.
    assert intervals.wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)


def test_wilson_stays_inside_zero_and_one():
    assert intervals.wilson(0, 10)[0] == 0
    assert intervals.wilson(10, 10)[1] == 1
    assert intervals.wilson(0, 0) == (0, 1)


def test_sign_test_counts_coins():
    assert intervals.sign_test(0, 0) == 1
    assert intervals.sign_test(5, 0) == pytest.approx(1 / 32)
    assert intervals.sign_test(2, 1) == pytest.approx(0.5)
