"""Solvers and gradients as objects in the place of their names."""

import dataclasses
import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfode_adv as ta
from tfode_adv.errors import UsageError
from tfode_adv.layers import ODEBlock, solver_settings
from tfode_adv.solvers import RK4, Adjoint, Backprop, BackpropSteps, Bosh3, Heun2

H0 = np.float32([[0.3, -1.0], [0.1, 2.0]])


@tf.autograph.experimental.do_not_convert
def swing(t, h):
    return tf.sin(3 * h)


def derivative(block):
    h0 = tf.constant(H0)
    with tf.GradientTape() as tape:
        tape.watch(h0)
        end = block(h0)
    return tape.gradient(end, h0).numpy()


@pytest.mark.parametrize(
    ("named", "held"),
    [
        ({"gradient": "backprop", "checkpoint": "steps"}, {"gradient": Backprop(checkpoint="steps")}),
        ({"gradient": "backprop_steps"}, {"gradient": BackpropSteps()}),
        ({"gradient": "adjoint", "adjoint_tol": 1e-2}, {"gradient": Adjoint(tol=1e-2)}),
        ({"gradient": "adjoint", "adjoint_solver": "bosh3"}, {"gradient": Adjoint(solver="bosh3")}),
        ({"gradient": "adjoint", "adjoint_solver": "bosh3"}, {"gradient": Adjoint(solver=Bosh3())}),
        ({"solver": "rk4", "num_steps": 3}, {"solver": RK4(num_steps=3)}),
        ({"endpoint": "clip", "tol": 1e-2}, {"solver": Heun2(rtol=1e-2, atol=1e-2, endpoint="clip")}),
    ],
)
def test_an_object_does_what_its_name_does(named, held):
    options = {"solver": "heun2", "tol": 0.1}
    expected = derivative(ODEBlock(swing, **options | named))
    less = {name: value for name, value in options.items() if name not in named}
    np.testing.assert_array_equal(derivative(ODEBlock(swing, **less | held)), expected)
    block = ODEBlock(swing, **options)
    ta.models.set_solver(block, **held)
    np.testing.assert_array_equal(derivative(block), expected)
    with solver_settings(**held):
        np.testing.assert_array_equal(derivative(ODEBlock(swing, **options)), expected)


def test_a_saved_model_has_them_again(tmp_path):
    gradient = Adjoint(tol=1e-3, solver=Heun2(controller="pi"))
    block = ODEBlock(keras.layers.Dense(2, "tanh"), solver=Bosh3(safety_factor=0.5, max_step=0.5), gradient=gradient)
    model = keras.Sequential([keras.Input((2,)), block])
    expected = derivative(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    (found,) = ta.models.ode_blocks(loaded)
    assert type(found.solver) is Bosh3 and found.solver.get_config() == {"safety_factor": 0.5} and found.max_step == 0.5
    assert found.gradient.tol == 1e-3 and found.gradient.solver.get_config() == {"controller": "pi"}
    np.testing.assert_allclose(derivative(loaded), expected, rtol=1e-6)


def test_what_a_block_has_itself_is_taken_out_of_a_solver():
    block = ODEBlock(swing, solver=RK4(num_steps=3), num_steps=5)
    assert block.num_steps == 5 and block.solver.get_config() == {}
    block.solver = Heun2(rtol=0.1, atol=0.1, safety_factor=0.8)
    assert block.tol == 0.1 and block.solver.get_config() == {"safety_factor": 0.8}
    for rtol, atol in ((1e-3, 1e-6), (1e-3, None)):
        with pytest.raises(UsageError, match="solver has rtol, atol .*, but a block has one tol"):
            ODEBlock(swing, solver=Heun2(**{"rtol": rtol} | ({"atol": atol} if atol else {})))
    with pytest.raises(UsageError, match="gradient is 3, but must be one of: backprop"):
        ODEBlock(swing, gradient=3)


def test_signatures_name_every_option():
    solver, block = (list(inspect.signature(kind).parameters) for kind in (Heun2, ODEBlock))
    assert solver[:2] == ["rtol", "atol"] and "controller" in solver
    assert block[:4] == ["dynamics", "solver", "tol", "gradient"] and {"max_step", "adjoint_tol"} <= set(block)
    assert inspect.signature(ODEBlock).parameters["solver"].default == "dopri5"


def test_options_of_an_object_reach_the_solve():
    """Smaller steps by a smaller safety factor."""
    counts = []
    for solver in ("heun2", Heun2(safety_factor=0.45)):
        model = keras.Sequential([keras.Input((2,)), ODEBlock(swing, solver=solver, tol=1e-3)])
        counts.append(ta.models.solver_statistics(model, H0).accepted)
    assert (counts[1] > counts[0]).all()


@dataclasses.dataclass(frozen=True)
class Doubled(Backprop):
    """Twice the gradient."""

    name = "doubled"

    def pull_back(self, *solved):
        return tf.nest.map_structure(lambda g: 2 * g, super().pull_back(*solved))


def test_a_gradient_of_ones_own():
    once, twice = (
        derivative(ODEBlock(lambda h: -h, solver="rk4", num_steps=8, gradient=gradient))
        for gradient in ("backprop", Doubled())
    )
    np.testing.assert_allclose(once, np.exp(-1) * np.ones_like(H0), rtol=1e-4)
    np.testing.assert_array_equal(twice, 2 * once)
