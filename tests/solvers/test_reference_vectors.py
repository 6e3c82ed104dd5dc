"""The papers' own program, sample by sample: same solution, same number of evaluations."""

import numpy as np
import pytest
import tensorflow as tf

from tests.solvers.problems import oracle_fields
from tfode_adv import solvers
from tfode_adv.solvers import Status

PROBLEMS = ["spiral", "lotka", "vanderpol", "tanhnet"]
FIXED = {"euler": "euler", "midpoint": "midpoint", "rk4": "kutta38"}


@pytest.fixture(scope="module")
def oracle(shared):
    return np.load(shared / "oracles" / "solvers.npz", allow_pickle=False)


@pytest.mark.parametrize("method", ["dopri5", "bosh3"])
@pytest.mark.parametrize("problem", PROBLEMS)
def test_adaptive_methods_take_the_same_steps(oracle, problem, method):
    field = oracle_fields(oracle)[problem]

    @tf.function(autograph=False)
    def solve(tol):
        solver = solvers.get(method, rtol=tol, atol=tol, on_failure="status")
        results = solver.solve(field, 0.0, oracle[f"{problem}/y0"], [float(oracle[f"{problem}/t1"])], batch_ndims=1)
        return results.states[0], results.diagnostics.num_ode_fn_evaluations, results.diagnostics.status

    tolerances = sorted({k.split("/")[2] for k in oracle.files if k.startswith(f"{problem}/{method}/")})
    assert len(tolerances) >= 5
    for tol in tolerances:
        y1, nfe, status = (x.numpy() for x in solve(tf.constant(float(tol), tf.float64)))
        expected = oracle[f"{problem}/{method}/{tol}/y1"]
        gave_up = np.isnan(expected).any(axis=1)
        assert ((status != Status.OK) == gave_up).all(), tol
        assert np.isfinite(y1).all(), tol
        good = ~gave_up
        np.testing.assert_array_equal(nfe[good], oracle[f"{problem}/{method}/{tol}/nfe"][good], err_msg=tol)
        scale = np.abs(expected[good]).max(axis=1, keepdims=True)
        np.testing.assert_allclose(y1[good] / scale, expected[good] / scale, atol=1e-6, rtol=0, err_msg=tol)


@pytest.mark.parametrize("theirs", FIXED)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_fixed_step_methods_agree(oracle, problem, theirs):
    field = oracle_fields(oracle)[problem]
    for steps in (1, 8, 32):
        expected = oracle[f"{problem}/{theirs}/{steps}/y1"]
        solver = solvers.get(FIXED[theirs], num_steps=steps, on_failure="status")
        results = solver.solve(field, 0.0, oracle[f"{problem}/y0"], [float(oracle[f"{problem}/t1"])], batch_ndims=1)
        good = np.isfinite(expected).all(axis=1)
        np.testing.assert_allclose(results.states[0][good], expected[good], rtol=1e-10, atol=1e-12)
        failed = results.diagnostics.status.numpy() != Status.OK
        assert not failed[good].any()
