"""How weights start: as PyTorch starts them, which the published training relied on, or as Keras does."""

import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from tfode_adv.errors import UsageError, check_choice

INITIALIZATIONS = ("torch", "keras", "he_fan_out")


def kernel_initializer(initialization: str) -> keras.initializers.Initializer:
    """The initializer of a convolution's or dense layer's kernel.

    Args:
        initialization: `"torch"`, uniform within +-1 / sqrt(fan_in), which is PyTorch's
            `kaiming_uniform_(a=sqrt(5))`; `"keras"`, Glorot's uniform; or `"he_fan_out"`, normal of
            standard deviation sqrt(2 / fan_out), as the wide ResNets start theirs.

    Raises:
        UsageError: `initialization` is none of these.
    """
    check_choice("initialization", initialization, INITIALIZATIONS)
    if initialization == "keras":
        return keras.initializers.GlorotUniform()
    if initialization == "he_fan_out":
        return keras.initializers.VarianceScaling(scale=2.0, mode="fan_out", distribution="untruncated_normal")
    return keras.initializers.VarianceScaling(scale=1 / 3, mode="fan_in", distribution="uniform")


def bias_initializer(initialization: str, fan_in: int) -> keras.initializers.Initializer:
    """The initializer of the bias beside a kernel of `fan_in` inputs a unit.

    Args:
        initialization: `"keras"`, zeros; otherwise uniform within +-1 / sqrt(fan_in), PyTorch's.
        fan_in: inputs that one output sums over, the kernel's area included.

    Raises:
        UsageError: `initialization` is none of `INITIALIZATIONS`.
    """
    check_choice("initialization", initialization, INITIALIZATIONS)
    if initialization == "keras":
        return keras.initializers.Zeros()
    bound = 1 / math.sqrt(fan_in)
    return keras.initializers.RandomUniform(-bound, bound)


@keras.saving.register_keras_serializable(package="tfode_adv")
class SimplexCorners(keras.initializers.Initializer):
    """A dense layer's kernel `[inputs, units]` whose columns are unit vectors as far apart as they can be.

    They are the corners of a regular simplex about 0: the inner product of any two is -1 / (units - 1), and the
    largest of any such vectors' cannot be less.

    Raises:
        UsageError: when called, for more units than inputs.
    """

    def __call__(self, shape: Sequence[int], dtype: Any = None) -> Any:
        inputs, units = shape
        if units > inputs:
            raise UsageError(f"a kernel of {units} units has {inputs} inputs, but a simplex's corners need as many")
        corners = np.zeros((inputs, units))
        corners[:units] = np.eye(units) - 1 / units
        return keras.ops.convert_to_tensor(corners / np.linalg.norm(corners, axis=0), dtype=dtype or "float32")
