"""A model with blocks, loaded from its file, is the model that was saved."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from tfode_adv.layers import ODEBlock

X = np.random.default_rng(0).normal(size=(3, 4)).astype(np.float32)


@keras.saving.register_keras_serializable(package="tests")
class Timed(keras.layers.Layer):
    """h' = W h + t, as a user writes it: without `build`."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units, self.dense = units, keras.layers.Dense(units)

    def call(self, t, h):
        return self.dense(h) + tf.cast(t, h.dtype)

    def get_config(self):
        return super().get_config() | {"units": self.units}


@keras.saving.register_keras_serializable(package="tests")
class Untimed(Timed):
    def call(self, h):
        return self.dense(h)


def model_of(*dynamics):
    inputs = x = keras.Input((4,))
    for each in dynamics:
        x = ODEBlock(each, solver="euler")(x)
    return keras.Model(inputs, x)


def reloaded(model, folder):
    model.save(folder / "model.keras")
    return keras.models.load_model(folder / "model.keras")


@pytest.mark.parametrize(
    "make",
    [lambda: Timed(4), lambda: Untimed(4), lambda: keras.Sequential([Untimed(4)])],
    ids=["timed", "untimed", "nested"],
)
def test_a_dynamics_without_build(make, tmp_path):
    model = model_of(make())
    loaded = reloaded(model, tmp_path)
    np.testing.assert_array_equal(loaded(X), model(X))
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    np.testing.assert_array_equal(clone(X), model(X))


@keras.saving.register_keras_serializable(package="tests")
class Cell(keras.layers.Layer):
    """A recurrent cell that integrates its state, and leaves it to the block to build its dynamics."""

    state_size = 4

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.block = ODEBlock(Timed(4), solver="euler")

    def build(self, input_shape):
        self.built = True

    def call(self, x, states):
        h = self.block(states[0] + x)
        return h, [h]


def test_a_block_that_its_owner_does_not_build(tmp_path):
    model = keras.Sequential([keras.Input((2, 4)), keras.layers.Bidirectional(keras.layers.RNN(Cell()))])
    series = np.stack([X, -X], axis=1)
    expected = model.predict(series, verbose=0)
    np.testing.assert_array_equal(reloaded(model, tmp_path).predict(series, verbose=0), expected)


def test_a_dynamics_shared_by_two_blocks_is_one_in_the_file(tmp_path):
    shared = Timed(4)
    model = model_of(shared, Untimed(4), shared)
    loaded = reloaded(model, tmp_path)
    np.testing.assert_array_equal(loaded(X), model(X))
    assert loaded.count_params() == model.count_params() == 2 * (4 * 4 + 4)
    first, other, last = (block.dynamics for block in loaded.layers[1:])
    assert first is last and first is not other


def test_a_sequential_model_that_runs_a_dynamics_twice(tmp_path):
    shared = keras.Sequential([keras.layers.Dense(4)])
    model = keras.Sequential([keras.Input((4,)), *(ODEBlock(shared, solver="euler") for _ in range(2))])
    loaded = reloaded(reloaded(model, tmp_path), tmp_path)
    np.testing.assert_array_equal(loaded(X), model(X))
    assert loaded.count_params() == 4 * 4 + 4


def test_a_copy_that_cannot_share_says_so():
    shared = Timed(4)
    model = model_of(shared, shared)
    with pytest.warns(UserWarning, match="'timed.*' is shared by 2 blocks, .*: save the model and load it"):
        clone = keras.models.clone_model(model)
    assert clone.count_params() == 2 * model.count_params()


def test_one_dynamics_a_block_is_copied_without_a_word(recwarn):
    model = model_of(Timed(4), Timed(4))
    assert keras.models.clone_model(model).count_params() == model.count_params()
    assert not [w for w in recwarn if "shared" in str(w.message)]
