"""Every method converges with its order, its dense output too."""

import numpy as np
import pytest
import tensorflow as tf

from tests.solvers import problems
from tfode_adv import solvers

ADAPTIVE = [n for n in solvers.METHODS if solvers.is_adaptive(n)]
END = 2.0


def slope(sizes, errors):
    return np.polyfit(np.log(sizes), np.log(errors), 1)[0]


def every_problem(t, y):
    """All problems side by side; at equal steps none sees the others."""
    return {name: field(t, y[name]) for name, field in problems.FIELDS.items()}


@pytest.mark.parametrize("name", solvers.METHODS)
def test_methods_converge_with_their_order(name):
    tableau = solvers.METHODS[name].tableau
    times = np.concatenate([np.linspace(0.05, 1.95, 24), [END]])
    counts = np.array([8, 16, 32, 64])

    @tf.function(autograph=False)
    def solve(count):
        if tableau.adaptive:
            # A tolerance that accepts everything and a longest step that is the first one: equal steps.
            size = END / tf.cast(count, tf.float64)
            everything = {"rtol": 1e9, "atol": 1e9, "max_step": size, "endpoint": "clip"}
            solver = solvers.get(name, first_step_size=size, **everything)
        else:
            solver = solvers.get(name, num_steps=count)
        return solver.solve(every_problem, 0.0, problems.Y0, times, batch_ndims=1).states

    found = [solve(tf.constant(n)) for n in counts]
    for problem in problems.FIELDS:
        truth = np.stack([problems.exact(problem, t) for t in times])
        errors = [np.abs(states[problem] - truth) for states in found]
        assert slope(END / counts, [e[-1].max() for e in errors]) == pytest.approx(tableau.order, abs=0.3)
        assert slope(END / counts, [e.max() for e in errors]) == pytest.approx(tableau.dense_order, abs=0.3)


@pytest.mark.parametrize("name", ADAPTIVE)
def test_the_error_follows_the_tolerance(name):
    @tf.function(autograph=False)
    def solve(tol):
        solver = solvers.get(name, rtol=tol, atol=tol, endpoint="clip")
        return solver.solve(problems.decay, 0.0, problems.Y0["decay"], [END], batch_ndims=1).states

    tolerances = [1e-3, 1e-5, 1e-7]
    truth = problems.exact("decay", END)
    errors = [np.abs(solve(tf.constant(t, tf.float64))[0] - truth).max() for t in tolerances]
    assert errors[0] > errors[1] > errors[2]
    assert all(e < 100 * t for e, t in zip(errors, tolerances, strict=True))


def test_a_method_has_its_table_under_its_own_name():
    assert {name: method.tableau for name, method in solvers.METHODS.items()} == solvers.tableaus.TABLEAUS
    assert solvers.available() == (solvers.names.STOCK, *solvers.METHODS)
    assert [kind.name for kind in solvers.gradients.NAMED.values()] == list(solvers.names.GRADIENTS)
