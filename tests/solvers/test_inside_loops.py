"""A solve inside a loop of TensorFlow's: the gradient of the same solves in a row."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfode_adv.layers import ODEBlock

# After three solves of length 1 with y' = w y: y = x exp(3 w).
RATE, X = -0.5, 9.0
VALUE = X * np.exp(3 * RATE)
TO_X, TO_RATE = np.exp(3 * RATE), 3 * VALUE


def loop(step, x):
    return tf.while_loop(lambda i, y: i < 3, lambda i, y: (i + 1, step(y)), (0, x))[1]


def scan(step, x):
    return tf.scan(lambda y, _: step(y), tf.zeros([3]), x)[-1]


def branches(step, x):
    """Three turns of a loop, of which the first takes another branch."""

    def turn(i, y):
        return i + 1, tf.cond(i > 0, lambda: step(y), lambda: 1.0 * y)

    return tf.while_loop(lambda i, y: i < 3, turn, (0, x))[1]


def cases(step, x):
    def turn(i, y):
        return i + 1, tf.switch_case(i, [lambda: 1.0 * y, lambda: step(y), lambda: step(y)])

    return tf.while_loop(lambda i, y: i < 3, turn, (0, x))[1]


def functions(step, x):
    function = tf.function(step, autograph=False)
    return branches(tf.function(lambda y: function(y), autograph=False), x)


def mapped(step, x):
    return tf.map_fn(lambda rows: step(rows[tf.newaxis])[0], x)


def one_branch(step, x):
    return tf.cond(tf.reduce_sum(x) > 0, lambda: branches(step, x), lambda: x)


def outer(step, x):
    """The branch reads what was made before the loop."""
    last = step(x)
    return tf.while_loop(
        lambda i, y: i < 3, lambda i, y: (i + 1, tf.cond(i > 1, lambda: step(last), lambda: y)), (0, x)
    )[1]


@pytest.mark.parametrize(
    ("around", "solves"),
    [(branches, 2), (cases, 2), (functions, 2), (mapped, 1), (one_branch, 2), (outer, 2)],
    ids=lambda value: getattr(value, "__name__", ""),
)
@pytest.mark.parametrize("gradient", ["backprop", "backprop_steps", "adjoint"])
def test_a_branch_in_a_loop_has_the_gradient_of_its_solves(around, solves, gradient):
    """An Euler step makes (1 + w) of a state, and as much of its adjoint; w's integral it takes at the step's end."""
    rate = tf.Variable(RATE)
    block = ODEBlock(lambda t, h: rate * h, solver="euler", gradient=gradient)

    @tf.function(autograph=False)
    def run(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = around(block, x)
        return y, *tape.gradient(y, [x, rate])

    y, to_x, to_rate = run(tf.fill([2, 3], X))
    factor, slope = (1 + RATE) ** solves, solves * (1 + RATE) ** (solves - (gradient != "adjoint")) * X * 6
    np.testing.assert_allclose(y, np.full([2, 3], factor * X), rtol=1e-5)
    np.testing.assert_allclose(to_x, np.full([2, 3], factor), rtol=1e-5)
    np.testing.assert_allclose(to_rate, slope, rtol=1e-5)


@pytest.mark.parametrize("around", [loop, scan])
@pytest.mark.parametrize(
    "options",
    [
        {"solver": "bosh3", "tol": 1e-5},
        {"solver": "bosh3", "tol": 1e-5, "checkpoint": "steps"},
        {"solver": "heun2", "tol": 1e-5, "gradient": "backprop_steps"},
        {"solver": "bosh3", "tol": 1e-5, "gradient": "adjoint"},
        {"solver": "bosh3", "tol": 1e-5, "gradient": "adjoint", "adjoint_solver": "rk4", "num_steps": 8},
        {"solver": "rk4", "num_steps": 8},
    ],
    ids=lambda options: "-".join(str(v) for v in options.values()),
)
def test_a_compiled_loop_has_the_gradient_of_the_solves_in_a_row(around, options):
    if around is not loop and options != {"solver": "bosh3", "tol": 1e-5}:
        pytest.skip("one kind of gradient shows the others' way of being built")
    rate, matrix = tf.Variable(RATE), tf.eye(16) * tf.Variable(1.0)
    block = ODEBlock(lambda t, h: rate * tf.matmul(h, matrix), **options)

    @tf.function(autograph=False)
    def run(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = around(block, x)
        return y, *tape.gradient(y, [x, rate])

    y, to_x, to_rate = run(tf.fill([2, 16], X))
    np.testing.assert_allclose(y, np.full([2, 16], VALUE), rtol=1e-3)
    np.testing.assert_allclose(to_x, np.full([2, 16], TO_X), rtol=1e-3)
    np.testing.assert_allclose(to_rate, 32 * TO_RATE, rtol=1e-3)


def test_a_recurrent_cell_with_a_block_learns():
    """`fit` of a Keras `RNN` whose cell solves: a rate that grows where the target does."""

    @keras.saving.register_keras_serializable(package="tests")
    class LearningCell(keras.layers.Layer):
        state_size = output_size = 1

        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.block = ODEBlock(keras.Sequential([keras.layers.Dense(1, use_bias=False)]), solver="heun2", tol=1e-3)

        def build(self, input_shape):
            self.block.build((None, 1))

        def call(self, inputs, states):
            h = self.block(states[0] + inputs)
            return h, [h]

    model = keras.Sequential([keras.Input((3, 1)), keras.layers.RNN(LearningCell())])
    model.compile(keras.optimizers.SGD(0.02), "mse")
    model.set_weights([np.array([[-0.5]], np.float32)])
    model.fit(np.ones([2, 3, 1]), np.ones([2, 1]), epochs=60, verbose=0)
    rate = float(model.get_weights()[0][0, 0])
    a = np.exp(rate)
    assert abs(a + a**2 + a**3 - 1) < 0.02
