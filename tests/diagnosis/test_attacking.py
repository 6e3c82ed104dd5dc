"""What an averaged gradient finds by itself is told from what the gradient as it is finds, from the image itself."""

import types

import numpy as np
import pytest

from tfode_adv.analysis.verdict import Outcome
from tfode_adv.diagnosis import procedure
from tfode_adv.diagnosis.attack_table import AVERAGED, OWN, Row
from tfode_adv.diagnosis.attacking import Attacks


def mask(text):
    return np.array([letter == "x" for letter in text])


def row(kind, source, **options):
    return Row(f"{kind} {source} {options}", kind, options, source, frozenset())


# An image each: plain PGD, restarts, momentum, averaged PGD and another loss along the gradient each turn others.
ROWS = [
    (row("pgd", OWN, steps=10), "x....."),
    (row("pgd", OWN, steps=20, restarts=2), "xx...."),
    (row("mim", OWN, steps=20), "x.x..."),
    (row("pgd", AVERAGED, steps=10), "xx.x.."),
    (row("apgd_dlr", OWN, steps=30), "....x."),
    (row("apgd_dlr", AVERAGED, steps=50), "....xx"),
    (row("square", "none", steps=1000), "xxx..."),
]


@pytest.fixture
def attacked():
    table = Attacks(bench=None, tol=None, correct=np.ones(6, bool))
    table.rows = [one for one, _ in ROWS]
    table.outcomes = [Outcome(one.name, one.changes, np.ones(6, bool), mask(turned)) for one, turned in ROWS]
    return table


def test_random_starts_momentum_and_queries_do_not_hide_what_averaging_finds(attacked):
    np.testing.assert_array_equal(attacked.alone(AVERAGED), mask(".x.x.x"))
    np.testing.assert_array_equal(attacked.alone("none"), mask("......"))


def test_what_another_loss_finds_along_the_gradient_is_no_merit_of_the_average(attacked):
    at = types.SimpleNamespace(rows=attacked.rows, outcomes=attacked.outcomes, correct=attacked.correct)
    averaged, plain = procedure._averaged_and_plain(types.SimpleNamespace(own=OWN), at)
    np.testing.assert_array_equal(averaged & ~plain, mask(".xxx.x"))
