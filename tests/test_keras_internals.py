"""Each private interface of Keras is there and does what is needed of it: an upgrade may break one."""

import pathlib
import re

import keras
import numpy as np

from tfode_adv import keras_internals as internals

PACKAGE = pathlib.Path(internals.__file__).parent


class Pair(keras.layers.Layer):
    """Layers in attributes and lists, as a subclass holds them."""

    def __init__(self):
        super().__init__()
        self.first = keras.layers.Dense(2)
        self.rest = [keras.layers.Dropout(0.5), keras.layers.ReLU()]


def test_they_are_used_in_one_place():
    names = re.findall(r"\._[a-z]\w*", pathlib.Path(internals.__file__).read_text())
    for file in PACKAGE.rglob("*.py"):
        if file.name != "keras_internals.py":
            assert not [name for name in set(names) if name in file.read_text()], file


def test_sublayers_are_found_in_models_lists_and_attributes():
    pair = Pair()
    model = keras.Sequential([keras.layers.Flatten(), pair])
    assert internals.sublayers(pair) == [pair.first, *pair.rest]
    assert internals.sublayers(model, recursive=False)[-2:] == model.layers
    found = internals.sublayers(model, include_self=True)
    assert found[0] is model
    assert {id(one) for one in found} >= {id(one) for one in (*model.layers, pair.first, *pair.rest)}


def test_a_layers_own_weights_are_those_it_trains_and_not_those_inside_it():
    norm = keras.layers.BatchNormalization()
    model = keras.Sequential([keras.Input((3,)), norm])
    assert internals.own_weights(model) == []
    assert [weight.name for weight in internals.own_weights(norm)] == ["gamma", "beta"]


def test_a_layer_that_draws_random_numbers_is_known():
    layer = keras.layers.Dropout(0.5)
    assert internals.seed_generators(layer) == [layer.seed_generator]
    assert not internals.seed_generators(keras.layers.Dense(1))
    assert not internals.seed_generators(Pair())


def test_layers_are_told_whether_they_are_in_training():
    class Told(keras.layers.Layer):
        def call(self, x, training=None):
            return x + (2.0 if training else 0.0)

    layer, x = Told(), np.zeros((1, 1), np.float32)
    with internals.called_in(True):
        assert float(layer(x)[0, 0]) == 2
        with internals.called_in(False):
            assert float(layer(x)[0, 0]) == 0
        assert float(layer(x)[0, 0]) == 2
    assert float(layer(x)[0, 0]) == 0


def test_the_layer_that_made_a_symbolic_tensor_is_known():
    x = keras.Input((2,))
    layer = keras.layers.Dense(1)
    assert internals.maker(keras.Model(x, layer(x)).outputs[0]) is layer
