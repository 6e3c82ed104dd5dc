"""Tensors that a dynamics closes over, and side inputs with one entry a sample."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfode_adv import solvers
from tfode_adv.layers import ODEBlock

GRADIENTS = ["backprop", "backprop_steps", "adjoint"]


@pytest.mark.parametrize("compiled", [False, True, "jit"])
@pytest.mark.parametrize("gradient", GRADIENTS)
def test_a_tensor_closed_over_has_its_whole_gradient(gradient, compiled):
    """h' = -c h from h = c with c = w x: h(1) = c exp(-c), d/dw = x (1 - c) exp(-c)."""
    x, w = tf.constant([[0.5], [2.0], [3.0]]), tf.Variable(0.5)
    held = []
    block = ODEBlock(lambda t, h: -held[-1] * h, solver="bosh3", tol=1e-6, endpoint="clip", gradient=gradient)

    def run():
        with tf.GradientTape() as tape:
            held.append(w * x)
            h = block(held[-1])
        return h, tape.gradient(h, w)

    h, to_w = (tf.function(run, autograph=False, jit_compile=compiled == "jit") if compiled else run)()
    c = 0.5 * x.numpy()
    np.testing.assert_allclose(h, c * np.exp(-c), rtol=1e-4)
    np.testing.assert_allclose(to_w, np.sum(x * (1 - c) * np.exp(-c)), atol=2e-4)


@pytest.mark.parametrize("checkpoint", ["none", "steps", "auto"])
@pytest.mark.parametrize("compiled", [False, True])
def test_what_is_kept_does_not_matter_to_it(checkpoint, compiled):
    """Many numbers, so that they are no constants of the trace; one watched itself, beside a constant."""
    c0 = tf.constant(np.linspace(0.1, 0.9, 200).reshape(1, 200))

    def run(c):
        solver = solvers.get("bosh3", rtol=1e-6, atol=1e-6, endpoint="clip", checkpoint=checkpoint)
        with tf.GradientTape() as tape:
            tape.watch(c)
            twice = 2.0 * c
            field = lambda t, y, c: -c * y + twice  # noqa: E731
            y = solver.solve(field, 0.0, tf.ones_like(c), [1.0], batch_ndims=1, constants={"c": c}).states
        return tape.gradient(y, c)

    # y = 2 + (1 - 2) exp(-c).
    found = tf.function(run, autograph=False)(c0) if compiled else run(c0)
    np.testing.assert_allclose(found, np.exp(-c0), rtol=1e-4)


def test_an_encoder_that_only_the_dynamics_sees_is_trained():
    class Model(keras.Model):
        def __init__(self):
            super().__init__()
            self.encoder = keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros")
            self.block = ODEBlock(lambda t, h: self.code * h, solver="heun2", tol=1e-3)

        def call(self, x):
            self.code = self.encoder(x)
            return self.block(tf.ones_like(x))

    model = Model()
    model.compile(keras.optimizers.SGD(0.1), "mse")
    model.fit(np.ones([4, 1], np.float32), np.full([4, 1], 2.0), epochs=30, verbose=0)
    assert float(model.encoder.kernel[0, 0]) == pytest.approx(np.log(2), abs=0.01)


def test_what_no_tape_follows_costs_no_gradient():
    """An eager tape that follows the state alone asks for nothing else."""
    fixed = tf.constant([[2.0]])
    asked = []

    @tf.custom_gradient
    def spy(c):
        return tf.identity(c), lambda cotangent: asked.append(1) or cotangent

    y0 = tf.constant([[1.0]])
    with tf.GradientTape() as tape:
        tape.watch(y0)
        y = solvers.get("heun2", rtol=1e-3, atol=1e-3).solve(
            lambda t, y: -spy(fixed) * y, 0.0, y0, [1.0], batch_ndims=1
        )
    np.testing.assert_allclose(tape.gradient(y.states, y0)[0], np.exp([-2.0]), rtol=0.02)
    assert not asked


RATES = np.array([[0.1], [1.0], [10.0], [40.0]])


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize(
    ("way", "gradient"),
    [("constant", "backprop"), ("closed over", "adjoint"), ("closed over", "backprop_steps"), ("variable", "backprop")],
)
def test_a_side_input_travels_with_its_sample(gradient, way, compiled):
    """y' = -r y, r one number a sample, some of which are done long before others: y(1) = exp(-r)."""
    # Few stages where each is traced, few steps where each is computed.
    method, each = ("bosh3", RATES) if compiled else ("dopri5", RATES / 2)
    solver = solvers.get(method, rtol=1e-5, atol=1e-5, gradient=gradient, endpoint="clip")
    variable = tf.Variable(each)

    def run(rates, y0):
        with tf.GradientTape() as tape:
            tape.watch([rates, y0])
            if way == "constant":
                field, constants = lambda t, y, r: -r * y, {"r": rates}
            else:
                held = variable if way == "variable" else tf.identity(rates)
                field, constants = lambda t, y: -held * y, {}
            results = solver.solve(field, 0.0, y0, [0.5, 1.0], batch_ndims=1, constants=constants)
            end = results.states[1]
        to_rates, to_y0 = tape.gradient(end, [variable if way == "variable" else rates, y0])
        return end, to_rates, to_y0, results.diagnostics.num_accepted_steps

    if compiled:
        # The number of samples is not known where it is traced.
        signature = [tf.TensorSpec([None, 1], tf.float64)] * 2
        run = tf.function(run, autograph=False, input_signature=signature)
    end, to_rates, to_y0, steps = run(tf.constant(each), tf.ones([4, 1], tf.float64))
    assert steps[3] > 2 * steps[0]
    np.testing.assert_allclose(end, np.exp(-each), atol=1e-4)
    np.testing.assert_allclose(to_y0, np.exp(-each), atol=1e-3)
    np.testing.assert_allclose(to_rates, -np.exp(-each), atol=1e-3)


def test_weights_with_as_many_rows_as_samples_are_not_taken_apart():
    random = np.random.default_rng(0)
    weights, y0 = tf.constant(random.normal(size=(4, 4))), random.normal(size=(4, 4)) * [[0.1], [1], [3], [9]]
    solver = solvers.get("bosh3", rtol=1e-4, atol=1e-4)
    field = lambda t, y: tf.sin(tf.matmul(y, weights))  # noqa: E731
    together = solver.solve(field, 0.0, y0, [1.0], batch_ndims=1).states[0]
    alone = [solver.solve(field, 0.0, y0[i : i + 1], [1.0], batch_ndims=1).states[0, 0] for i in range(4)]
    np.testing.assert_allclose(together, np.stack(alone), rtol=1e-10)
