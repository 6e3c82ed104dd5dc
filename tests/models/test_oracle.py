"""How a model is asked: answers or none, counts, and traces that are found again."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import tfode_adv as ta
from tfode_adv.layers import ODEBlock, solver_settings
from tfode_adv.models.answers import NO_ANSWER, UNKNOWN, Answers
from tfode_adv.models.oracle import oracle

X = np.float32([[0.1, 0.2], [0.6, 0.2], [0.3, 0.1]])


def model(solver="euler", **options):
    """h' = -log(0.5 - h): from 0.5 on the first step is not a number."""
    return keras.Sequential([keras.Input((2,)), ODEBlock(lambda t, h: -tf.math.log(0.5 - h), solver=solver, **options)])


def test_a_failed_solve_is_no_answer_however_finite_its_state():
    answers = oracle(model(on_failure="status")).ask(X, 2)
    np.testing.assert_array_equal(answers.no_answer, [False, True, False])
    np.testing.assert_array_equal(answers.prediction, [1, NO_ANSWER, 0])
    assert np.isfinite(answers.logits).all() and answers.nfe.tolist() == [1, 1, 1]
    np.testing.assert_array_equal(answers.fooled(np.int32([0, 0, 0])), [True, False, False])
    np.testing.assert_array_equal(answers.fooled(np.int32([0, 0, 0]), targeted=True), [False, False, True])
    low, high = X[0] - np.log(0.5 - X[0])
    np.testing.assert_allclose(
        answers.margin(np.array([0, 0, 0])),
        [low - high, np.nan, answers.logits[2, 0] - answers.logits[2, 1]],
        rtol=1e-5,
    )
    nan = Answers(np.float32([[0, np.nan], [0, 1]]), *np.zeros([2, 2], np.int32), np.zeros(2))
    np.testing.assert_array_equal(nan.prediction, [NO_ANSWER, 1])


@pytest.mark.parametrize("kind", ["layer", "callable"])
def test_a_trace_is_found_again_as_long_as_its_blocks_are_solved_alike(kind):
    traced = []

    class Decay(keras.layers.Layer):
        def call(self, h):
            traced.append(h)
            return -h

    net = keras.Sequential([keras.Input((2,)), ODEBlock(Decay(), solver="euler", num_steps=1)])
    (block,) = ta.models.ode_blocks(net)
    asked = oracle(net if kind == "layer" else lambda x: net(x))

    def factor(**settings):
        """What the images come out multiplied by, and whether the model was traced for it."""
        traced.clear()
        logits = asked.ask(X, 4, **settings).logits
        np.testing.assert_allclose(logits, X * logits[0, 0] / X[0, 0], atol=1e-6)
        return pytest.approx(logits[0, 0] / X[0, 0], abs=1e-6), bool(traced)

    assert factor() == (0, True)
    block.num_steps, block.gradient = 2, "adjoint"
    assert factor() == (1 / 4, False)
    block.solver = "midpoint"
    assert factor() == (0.625**2, True)
    with solver_settings(solver="euler"):
        assert factor() == (1 / 4, True)
    block.solver = "euler"
    assert factor() == (1 / 4, False)
    # A block that has nothing to do with it.
    ODEBlock(lambda h: h).solver = "rk4"
    assert factor() == (1 / 4, False)
    assert factor(num_steps=4) == (0.75**4, True)
    assert factor(num_steps=1) == (0, False)


def test_counts_that_cannot_be_had_are_unknown():
    """Blocks called about copies of the images, in a compiled function, in a loop: the answers are right as ever."""
    net = keras.Sequential([keras.Input((2,)), ODEBlock(lambda h: -h, solver="euler", num_steps=2)])
    inner = tf.function(net)
    ways = [
        lambda x: tf.add_n(tf.split(net(tf.concat([x, x, x], 0)), 3)) / 3,
        lambda x: inner(x),
        lambda x: tf.map_fn(lambda one: net(one[None])[0], x),
    ]
    for way in ways:
        answers = oracle(way).ask(X, 4)
        np.testing.assert_allclose(answers.logits, X / 4, rtol=1e-6)
        assert (answers.nfe == UNKNOWN).all() and not answers.no_answer.any()


def test_the_gradient_of_a_loss_by_the_images():
    """Of (c_y x_y)², 2 c_y² x_y at y and zero elsewhere; of a step, zero."""

    def square(logits, labels):
        return tf.gather(logits, labels, batch_dims=1) ** 2

    y = np.array([0, 1, 1])
    value, gradient = oracle(lambda x: x * [1.0, 2.0]).gradient(square, X, y, size=2)
    at = X[np.arange(3), y] * np.array([1, 2, 2])
    np.testing.assert_allclose(value, at**2, rtol=1e-6)
    np.testing.assert_allclose(gradient[np.arange(3), y], 2 * at * np.array([1, 2, 2]), rtol=1e-6)
    assert (gradient[np.arange(3), 1 - y] == 0).all()
    assert (oracle(lambda x: tf.stop_gradient(x)).gradient(square, X, y)[1] == 0).all()
