"""Every method converges with its order, its dense output too."""

import numpy as np
import pytest
import tensorflow as tf

from tests.solvers import problems
from tfode_adv import solvers

ADAPTIVE = [n for n in solvers.METHODS if solvers.is_adaptive(n)]
FIXED = [n for n in solvers.METHODS if not solvers.is_adaptive(n)]
END = 2.0
INSIDE = [0.37, 1.13, END]


def slope(sizes, errors):
    return np.polyfit(np.log(sizes), np.log(errors), 1)[0]


@pytest.mark.parametrize("problem", problems.FIELDS)
@pytest.mark.parametrize("name", FIXED)
def test_fixed_step_methods_converge_with_their_order(name, problem):
    tableau = solvers.METHODS[name].tableau
    counts = [16, 32, 64, 128] if tableau.order < 4 else [8, 16, 32, 64]

    @tf.function(autograph=False)
    def solve(num_steps):
        solver = solvers.get(name, num_steps=num_steps)
        return solver.solve(problems.FIELDS[problem], 0.0, problems.Y0[problem], INSIDE, batch_ndims=1).states

    states = [solve(tf.constant(n)).numpy() for n in counts]
    sizes = [END / n for n in counts]
    at_end = [np.abs(s[-1] - problems.exact(problem, END)).max() for s in states]
    assert slope(sizes, at_end) == pytest.approx(tableau.order, abs=0.3)
    # Times inside lie at other fractions of each step: the largest over several of them is what converges.
    times = np.linspace(0.05, 1.95, 24)
    dense = []
    for n in counts:
        solver = solvers.get(name, num_steps=n)
        read = solver.solve(problems.FIELDS[problem], 0.0, problems.Y0[problem], times, batch_ndims=1).states
        truth = np.stack([problems.exact(problem, t) for t in times])
        dense.append(np.abs(read - truth).max())
    assert slope(sizes, dense) == pytest.approx(tableau.dense_order, abs=0.3)


@pytest.mark.parametrize("problem", problems.FIELDS)
@pytest.mark.parametrize("name", ADAPTIVE)
def test_adaptive_methods_converge_with_their_order(name, problem):
    tableau = solvers.METHODS[name].tableau
    times = np.concatenate([np.linspace(0.05, 1.95, 24), [END]])
    truth = np.stack([problems.exact(problem, t) for t in times])

    # A tolerance that accepts everything and a factor of one: equal steps.
    @tf.function(autograph=False)
    def solve(size):
        solver = solvers.get(name, rtol=1e9, atol=1e9, first_step_size=size, max_step_size_factor=1.0, endpoint="clip")
        return solver.solve(problems.FIELDS[problem], 0.0, problems.Y0[problem], times, batch_ndims=1).states

    sizes = END / np.array([8.0, 16.0, 32.0, 64.0])
    errors = [np.abs(solve(tf.constant(s, tf.float64)) - truth) for s in sizes]
    assert slope(sizes, [e[-1].max() for e in errors]) == pytest.approx(tableau.order, abs=0.3)
    assert slope(sizes, [e.max() for e in errors]) == pytest.approx(tableau.dense_order, abs=0.3)


@pytest.mark.parametrize("name", ADAPTIVE)
def test_the_error_follows_the_tolerance(name):
    @tf.function(autograph=False)
    def solve(tol):
        solver = solvers.get(name, rtol=tol, atol=tol)
        return solver.solve(problems.decay, 0.0, problems.Y0["decay"], [END], batch_ndims=1).states

    tolerances = [1e-3, 1e-5, 1e-7]
    truth = problems.exact("decay", END)
    errors = [np.abs(solve(tf.constant(t, tf.float64))[0] - truth).max() for t in tolerances]
    assert errors[0] > errors[1] > errors[2]
    assert all(e < 100 * t for e, t in zip(errors, tolerances, strict=True))
