import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.evaluation.making import make_record
from tfode_adv.evaluation.summary import summarize
from tfode_adv.rendering.rates import Rate, wilson


def test_wilson_against_published_and_closed_form_values():
    # Newcombe (1998), table I, method 3: 81/263, 15/148, 0/20, 1/29.
    for (count, total), bounds in {
        (81, 263): (0.2553, 0.3662),
        (15, 148): (0.0624, 0.1605),
        (0, 20): (0.0, 0.1611),
        (1, 29): (0.0061, 0.1718),
    }.items():
        assert wilson(count, total) == pytest.approx(bounds, abs=5e-5)
    z = 1.959963984540054
    assert wilson(0, 10)[1] == pytest.approx(z * z / (10 + z * z))
    assert wilson(10, 10)[0] == pytest.approx(10 / (10 + z * z))
    low, high = wilson(5, 10)
    assert low == pytest.approx(0.5 - z / math.sqrt(10 + z * z) / 2) and high == pytest.approx(1 - low)


@given(st.integers(1, 10**6).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_an_interval_lies_in_the_unit_and_holds_its_share(case):
    count, total = case
    low, high = wilson(count, total)
    assert 0 <= low <= count / total <= high <= 1 and low < high
    mirrored = wilson(total - count, total)
    assert mirrored == pytest.approx((1 - high, 1 - low))


def test_the_rate_of_nothing_is_unknown():
    assert Rate(0, 0).value is None and Rate(0, 0).interval == (0.0, 1.0)


def test_success_is_of_the_correct_and_robust_accuracy_of_all():
    records = [make_record(0, True), make_record(1), make_record(2), make_record(3, clean=4, adversarial=4)]
    summary = summarize(records)
    assert summary.clean_error == Rate(1, 4)
    assert summary.success == Rate(1, 3)
    assert summary.robust == Rate(2, 4)
    assert summary.accuracy == Rate(3, 4)
    assert summary.nfe_clean == 26 and summary.nfe_adversarial == 32 and summary.queries == 11


def test_no_records_give_no_numbers():
    summary = summarize([])
    assert summary.nfe_clean is None and summary.distance is None and summary.success.value is None
