"""Which devices a training runs on, and how a batch is dealt to them."""

import json
import os
from typing import Any

import tensorflow as tf

from tfode_adv.errors import UsageError, check_choice
from tfode_adv.training.choices import STRATEGIES


def strategy(name: str = "auto") -> tf.distribute.Strategy:
    """The `tf.distribute` strategy called `name`; models are built and trained in its scope.

    "auto" mirrors over the visible GPUs if there are several. "mirrored" takes the visible GPUs, or the
    logical CPUs on a machine that has none. "multi_worker" reads `TF_CONFIG` and must come before any
    other use of TensorFlow in the process.

    Raises:
        UsageError: for an unknown name, or "multi_worker" without a usable `TF_CONFIG`.
    """
    check_choice("distribute", name, STRATEGIES)
    if name == "multi_worker":
        _check_tf_config()
        return tf.distribute.MultiWorkerMirroredStrategy()
    if name == "none":
        return tf.distribute.get_strategy()
    gpus = tf.config.list_logical_devices("GPU")
    if name == "auto" and len(gpus) < 2:
        return tf.distribute.get_strategy()
    return tf.distribute.MirroredStrategy([device.name for device in gpus or tf.config.list_logical_devices("CPU")])


def _check_tf_config() -> None:
    text = os.environ.get("TF_CONFIG", "")
    try:
        config = json.loads(text)
        workers, task = config["cluster"]["worker"], config["task"]
        usable = 0 <= int(task["index"]) < len(workers) and task["type"] == "worker"
    except (ValueError, KeyError, TypeError):
        usable = False
    if not usable:
        raise UsageError(
            f'distribute is "multi_worker", but TF_CONFIG is {text!r}, and must be as in '
            '{"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}'
        )


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process is the one that writes: the only one, or worker 0 of several."""
    return _is_alone(strategy) or strategy.cluster_resolver.task_id == 0


def _is_alone(strategy: tf.distribute.Strategy) -> bool:
    resolver = strategy.cluster_resolver
    return resolver is None or not resolver.task_type


def any_worker(strategy: tf.distribute.Strategy, flag: bool) -> bool:
    """Whether `flag` is set on any worker; all workers must ask at the same time."""
    if _is_alone(strategy):
        return flag
    flags = strategy.experimental_distribute_values_from_function(lambda context: tf.constant(float(flag)))
    return float(strategy.reduce("SUM", flags, axis=None)) > 0


def deal(strategy: tf.distribute.Strategy, *tensors: Any) -> tuple[Any, ...]:
    """Deals the rows of a global batch to the replicas in turn; every worker holds the same global batch."""
    replicas = strategy.num_replicas_in_sync
    if replicas == 1:
        return tensors

    def share(tensor):
        return strategy.experimental_distribute_values_from_function(
            lambda context: tensor[context.replica_id_in_sync_group :: replicas]
        )

    return tuple(share(tf.convert_to_tensor(tensor)) for tensor in tensors)
