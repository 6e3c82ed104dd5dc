"""A model's size, read off the arrays of its checkpoint."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfode_adv.errors import UsageError, check_choice

MNIST_SIZE, CIFAR_SIZE = 28, 32
GAINS_FIRST_STEP = "net.5.running_mean_step"


def architecture(name: str, state: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The arguments of `tfode_adv.models.build` that a state dict's shapes tell.

    Args:
        name: one of `tfode_adv.models.available()`.
        state: arrays under PyTorch's names and in its layouts.

    Returns:
        `num_classes`, `filters`, and what else sizes the family: `blocks`, or `depth` and `widen`;
        `first_step_size` of a `gains` that keeps one. Also
        `input_shape`: weights tell an image's channels but not its size, which is taken to be MNIST's for
        1 channel and CIFAR-10's otherwise. (`odenet_tq` does not tell its channels either: 3.)

    Raises:
        UsageError: the arrays that tell are not there.
    """
    read = _READERS[check_choice("model", name, _READERS)]
    try:
        return read(state)
    except KeyError as error:
        raise UsageError(f"the checkpoint is not of {name}: it lacks {error}") from error
    except (IndexError, ValueError) as error:
        raise UsageError(f"the checkpoint is not of {name}: its arrays have other shapes") from error


def _wifs(state):
    stem = "downsample.module.weight" if "downsample.module.weight" in state else "downsample.module.0.weight"
    classes, filters = state["classifier.module.5.weight"].shape
    return _image(state[stem].shape[1]) | {"num_classes": classes, "filters": filters}


def _sonet(state):
    features = state["linear.odefunc.weight"].shape[0]
    classes = state["linear.odefunc.bias"].shape[0] - features
    return _first(state) | {"num_classes": classes, "blocks": _stages(state)}


def _resnet(state):
    return _first(state) | {"num_classes": state["linear.bias"].shape[0], "blocks": _stages(state)}


def _wide_resnet(state):
    first = _first(state)
    width = state["layer1.0.conv1.weight"].shape[0]
    sizes = {"depth": 6 * _stages(state)[0] + 4, "widen": width // first["filters"]}
    return first | {"num_classes": state["linear.bias"].shape[0]} | sizes


def _odenet_tq(state):
    blocks = _count(state, r"conv\.(\d+)\.")
    filters = state["norm.weight"].shape[0]
    return {"num_classes": state["linear.bias"].shape[0], "filters": filters, "blocks": (blocks,)} | _image(3)


def _tisode(state):
    stem = "downsampling_layers.0.weight" if "downsampling_layers.0.weight" in state else "net.0.weight"
    logits = "fc_layers.2.bias" if "fc_layers.2.bias" in state else "net.9.bias"
    filters, channels = state[stem].shape[:2]
    return _image(channels) | {"num_classes": state[logits].shape[0], "filters": filters}


def _gains(state):
    filters, channels = state["net.1.weight"].shape[:2]
    size = _image(channels) | {"num_classes": state["net.8.bias"].shape[0], "filters": filters}
    # The program takes the running mean of its training's first steps, within the time of integration.
    first = float(np.clip(np.ravel(state[GAINS_FIRST_STEP])[0], 0.0, 1.0)) if GAINS_FIRST_STEP in state else None
    return size | ({"first_step_size": first} if first else {})


def _first(state):
    kernel = state["conv1.odefunc.kernel" if "conv1.odefunc.kernel" in state else "conv1.weight"]
    return {"filters": kernel.shape[0]} | _image(kernel.shape[1])


def _stages(state):
    stages = _count(state, r"layer(\d+)\.")
    return tuple(_count(state, rf"layer{stage}\.(\d+)\.") for stage in range(1, stages + 1))


def _count(state, pattern):
    return len({match[1] for match in map(re.compile(pattern).match, state) if match})


def _image(channels):
    size = MNIST_SIZE if channels == 1 else CIFAR_SIZE
    return {"input_shape": (size, size, channels)}


_READERS = {
    "res": _wifs,
    "mix": _wifs,
    "oon": _wifs,
    "sonet": _sonet,
    "resnet10": _resnet,
    "soblock_resnet10": _resnet,
    "wide_resnet": _wide_resnet,
    "soblock_wide_resnet": _wide_resnet,
    "odenet_tq": _odenet_tq,
    "tisode": _tisode,
    "tisode_odenet": _tisode,
    "tisode_cnn": _tisode,
    "gains": _gains,
}
