"""Strategies run in processes of their own: their devices must be set up before TensorFlow starts."""

import json
import socket

import keras
import numpy as np
import pytest
import tensorflow as tf

from tests.training import tiny
from tfode_adv.errors import UsageError
from tfode_adv.training import SGD, CrossEntropy, Madry, Recipe, Survival, distribution


class StopHere(keras.callbacks.Callback):
    """A user's callback that ends the training after three batches."""

    def on_train_batch_end(self, batch, logs=None):
        self.model.stop_training = batch == 2


def _train(strategy, folder, name):
    with strategy.scope():
        model = tiny.plain_model()
    survival = Survival(folder / "run")
    loss = Madry(eps=0.1, steps=2)
    tiny.train(model, epochs=1, strategy=strategy, loss=loss, survival=survival, accumulate=2)
    np.save(folder / f"{name}.npy", tiny.weights(model))


def _mirrored(folder):
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = distribution.strategy("mirrored")
    assert strategy.num_replicas_in_sync == 2
    _train(strategy, folder, "mirrored")
    _moving_averages_are_the_same_on_both(strategy)
    _an_overflow_on_one_is_passed_over_by_both(strategy)


def _moving_averages_are_the_same_on_both(strategy):
    with strategy.scope():
        model = tiny.model()
        before = [variable.numpy() for variable in model.non_trainable_variables]
    tiny.train(model, epochs=1, strategy=strategy)
    for variable, old in zip(model.non_trainable_variables, before, strict=True):
        one, other = (each.numpy() for each in strategy.experimental_local_results(variable.value))
        np.testing.assert_array_equal(one, other)
        assert not np.array_equal(one, old)


class Overflowing(CrossEntropy):
    """A loss whose gradient is infinite for images of label 2."""

    def __call__(self, train, x, x_adv, y):
        losses, logits = super().__call__(train, x, x_adv, y)

        @tf.custom_gradient
        def explode(losses):
            return tf.identity(losses), lambda upstream: tf.where(tf.equal(y, 2), np.inf, upstream)

        return explode(losses), logits


def _an_overflow_on_one_is_passed_over_by_both(strategy):
    # Every second image, one replica's share, is of label 2.
    batch = tf.constant(tiny.IMAGES[:8]), tf.constant([0, 2] * 4, tf.int64)
    with strategy.scope():
        model = tiny.plain_model()
        optimizer = keras.optimizers.LossScaleOptimizer(SGD(0.1), initial_scale=64.0)
    before = tiny.weights(model)
    tiny.train(
        model, epochs=1, strategy=strategy, optimizer=optimizer, loss=Overflowing(), train=lambda epoch, step: [batch]
    )
    np.testing.assert_array_equal(tiny.weights(model), before)
    scales = strategy.experimental_local_results(optimizer.dynamic_scale.value)
    assert [float(scale) for scale in scales] == [32.0, 32.0]


def _worker(folder, index, ports, environ):
    environ["TF_CONFIG"] = json.dumps(
        {
            "cluster": {"worker": [f"127.0.0.1:{port}" for port in ports]},
            "task": {"type": "worker", "index": index},
        }
    )
    strategy = distribution.strategy("multi_worker")
    assert strategy.num_replicas_in_sync == 2 and distribution.is_chief(strategy) == (index == 0)
    _train(strategy, folder, f"worker{index}")
    with strategy.scope():
        model = tiny.plain_model()
    end, _ = tiny.train(model, strategy=strategy, callbacks=[StopHere()] if index else [])
    assert (end.updates, end.step) == (3, 3)


def _worker_process(folder, index, ports):
    import os

    _worker(folder, index, ports, os.environ)


def _free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    _train(distribution.strategy("none"), folder, "alone")
    return np.load(folder / "alone.npy")


def test_two_replicas_update_as_one_with_the_same_global_batches(alone, processes, tmp_path):
    processes.finish([processes.start(_mirrored, tmp_path)])
    np.testing.assert_allclose(np.load(tmp_path / "mirrored.npy"), alone, rtol=1e-4, atol=1e-6)


def test_two_workers_update_as_one_and_one_of_them_writes(alone, processes, tmp_path):
    ports = _free_ports(2)
    processes.finish([processes.start(_worker_process, tmp_path, index, ports) for index in range(2)])
    for index in range(2):
        np.testing.assert_allclose(np.load(tmp_path / f"worker{index}.npy"), alone, rtol=1e-4, atol=1e-6)
    assert len(list((tmp_path / "run" / "checkpoints").glob("step-*"))) == 1


def test_a_last_batch_has_an_image_for_each_replica():
    recipe = Recipe("oon", "mnist_5k", num_train_examples=129, batch_size=128)
    recipe.check_last_batch(1)
    with pytest.raises(UsageError, match="leaves 1 of 129 images for an epoch's last batch"):
        recipe.check_last_batch(2)


@pytest.mark.parametrize("value", [None, "{", '{"cluster": {"worker": ["a:1"]}, "task": {"type": "ps", "index": 0}}'])
def test_workers_without_a_usable_tf_config_are_told_what_it_looks_like(monkeypatch, value):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if value:
        monkeypatch.setenv("TF_CONFIG", value)
    with pytest.raises(UsageError, match="TF_CONFIG"):
        distribution.strategy("multi_worker")
