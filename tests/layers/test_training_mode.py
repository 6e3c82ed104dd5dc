"""A dynamics is one function throughout a solve, in training too."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfode_adv.errors import UsageError
from tfode_adv.layers import ODEBlock


class Shaken(keras.layers.Layer):
    """Random in its own way, with Keras's numbers."""

    def __init__(self):
        super().__init__()
        self.seeds = keras.random.SeedGenerator(0)

    def call(self, h):
        return h + keras.random.normal((2,), seed=self.seeds)


@pytest.mark.parametrize(
    "layer",
    [
        keras.layers.BatchNormalization(),
        keras.layers.SpectralNormalization(keras.layers.Dense(2)),
        keras.layers.RNN(keras.layers.GRUCell(2, recurrent_dropout=0.5)),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_that_change_between_evaluations_are_refused(layer):
    shape = (3, 2) if type(layer).__name__ == "RNN" else (2,)
    block = ODEBlock(keras.Sequential([keras.Sequential([layer])]), solver="euler")
    with pytest.raises(UsageError, match="the dynamics holds the .* layer .* put it before or after the block"):
        block.build((None, *shape))


def test_a_layer_may_not_begin_to_change():
    frozen = keras.layers.BatchNormalization(trainable=False)
    block = ODEBlock(keras.Sequential([frozen]), solver="euler")
    block.build((None, 2))
    frozen.trainable = True
    with pytest.raises(UsageError, match="BatchNormalization layer"):
        block(tf.ones([2, 2]))


def test_a_recurrent_cell_without_dropout_is_a_dynamics():
    """h' = GRU(0, h) - h, the GRU-ODE."""

    class Gated(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.cell = keras.layers.GRUCell(2)

        def call(self, h):
            return self.cell(tf.zeros_like(h), [h])[0] - h

    dynamics = Gated()
    end = ODEBlock(dynamics, solver="euler")(tf.ones([3, 2]))
    np.testing.assert_allclose(end, dynamics.cell(tf.zeros([3, 2]), [tf.ones([3, 2])])[0], rtol=1e-5)


def test_those_that_change_nothing_may_stay():
    frozen = keras.layers.BatchNormalization(trainable=False, epsilon=0.0)
    block = ODEBlock(keras.Sequential([keras.layers.Dropout(0.0), frozen]), solver="euler")
    np.testing.assert_allclose(block(tf.ones([2, 2])), 2)


def values_and_gradient(run, h0):
    with tf.GradientTape() as tape:
        tape.watch(h0)
        h1 = run(h0)
    return h1, tape.gradient(h1, h0)


GRADIENTS = [
    {"gradient": "backprop", "checkpoint": "steps"},
    {"gradient": "backprop"},
    {"gradient": "backprop_steps"},
    {"gradient": "adjoint"},
]


@pytest.mark.parametrize("options", GRADIENTS, ids=str)
@pytest.mark.parametrize("compiled", [False, True])
def test_one_mask_a_solve(options, compiled):
    """h' = m h with m of 0 or 2: four Euler steps make (1 + m / 4)^4 of h, and that is the gradient as well."""
    block = ODEBlock(keras.Sequential([keras.layers.Dropout(0.5)]), solver="euler", num_steps=4, **options)
    block.build((None, 50))
    both = lambda h: values_and_gradient(lambda h: block(h, training=True), h)  # noqa: E731
    run = tf.function(both, autograph=False) if compiled else both
    h0 = tf.ones([3, 50])
    (h1, gradient), (again, _) = run(h0), run(h0)
    assert set(np.unique(h1)) == {1.0, 1.5**4}
    np.testing.assert_allclose(gradient, h1)
    assert not np.array_equal(h1, again)
    assert not np.array_equal(h1[0], h1[1])
    np.testing.assert_allclose(block(h0), 1.25**4)
    np.testing.assert_allclose(block(h0, training=False), 1.25**4)


def test_a_sample_keeps_its_mask_when_others_are_done():
    """h' = -m h: each entry stays, or becomes exp(-2) of itself; steps differ with a sample's size."""
    dynamics = keras.Sequential([keras.layers.Dropout(0.5), keras.layers.Rescaling(-1.0)])
    block = ODEBlock(dynamics, solver="heun2", tol=1e-4)
    h0 = tf.constant(np.logspace(-1, 2, 16)[:, None] * np.ones([1, 8]), tf.float32)
    h1, gradient = values_and_gradient(lambda h: block(h, training=True), h0)
    kept = h1 / h0
    assert np.minimum(np.abs(kept - 1), np.abs(kept - np.exp(-2))).max() < 5e-3
    np.testing.assert_allclose(gradient, kept, atol=5e-3)


@pytest.mark.parametrize(
    "layer", [keras.layers.GaussianNoise(0.1), keras.layers.SpatialDropout1D(0.5), Shaken()], ids=repr
)
def test_random_layers_draw_once_a_solve(layer):
    shape = (2, 3, 2)
    coarse, fine = (ODEBlock(keras.Sequential([layer]), solver=solver) for solver in ("euler", "midpoint"))
    first, second = (block(tf.zeros(shape), training=True).numpy() for block in (coarse, coarse))
    if not isinstance(layer, keras.layers.SpatialDropout1D):
        assert not np.array_equal(first, second)
    for block in (coarse, fine):
        block.build(shape)
        assert np.isfinite(block(tf.ones(shape), training=True)).all()


def test_a_layer_that_is_always_random_draws_once_a_solve_in_inference_too():
    seen = []

    class Drawn(Shaken):
        def call(self, h):
            seen.append(keras.random.normal((2,), seed=self.seeds).numpy())
            return h

    block = ODEBlock(Drawn(), solver="euler", num_steps=3)
    # Building would call it with symbols, which have no numbers.
    block.built = block.dynamics.built = True
    for _ in range(2):
        block(tf.ones([1, 2]))
    assert len(seen) == 6 and len({draw.tobytes() for draw in seen}) == 2


@pytest.mark.parametrize("options", GRADIENTS, ids=str)
def test_the_backward_pass_is_told_of_training(options):
    """h' = -h in training, 0 else."""

    class Told(keras.layers.Layer):
        def call(self, h, training=None):
            return -h if training else 0 * h

    block = ODEBlock(keras.Sequential([Told()]), solver="euler", num_steps=2, **options)
    for training, right in ((True, 0.25), (False, 1.0), (None, 1.0)):
        h1, gradient = values_and_gradient(lambda h, t=training: block(h, training=t), tf.ones([1, 1]))
        assert float(h1[0, 0]) == float(gradient[0, 0]) == right


def test_a_dynamics_may_be_a_layer_elsewhere_too():
    """w h + (1 + w) h: 2 h to w, 1 + 2 w to h."""
    dense = keras.layers.Dense(1, use_bias=False, kernel_initializer=keras.initializers.Constant(0.5))
    inputs = keras.Input((1,))
    model = keras.Model(inputs, dense(inputs) + ODEBlock(dense, solver="euler")(inputs))
    h = tf.fill([1, 1], 3.0)
    with tf.GradientTape() as tape:
        tape.watch(h)
        y = model(h, training=True)
    to_h, to_w = tape.gradient(y, [h, dense.kernel.value])
    assert (float(y[0, 0]), float(to_h[0, 0]), float(to_w[0, 0])) == (6.0, 2.0, 6.0)
