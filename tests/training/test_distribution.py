"""Strategies run in processes of their own: their devices must be set up before TensorFlow starts."""

import json
import socket

import numpy as np
import pytest
import tensorflow as tf

from tests.training import tiny
from tfode_adv.errors import UsageError
from tfode_adv.training import Madry, Survival, distribution


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


@pytest.mark.parametrize("value", [None, "{", '{"cluster": {"worker": ["a:1"]}, "task": {"type": "ps", "index": 0}}'])
def test_workers_without_a_usable_tf_config_are_told_what_it_looks_like(monkeypatch, value):
    monkeypatch.delenv("TF_CONFIG", raising=False)
    if value:
        monkeypatch.setenv("TF_CONFIG", value)
    with pytest.raises(UsageError, match="TF_CONFIG"):
        distribution.strategy("multi_worker")
