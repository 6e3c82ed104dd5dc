"""A randomised defence: each image is solved at a tolerance drawn anew at each call."""

from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfode_adv.errors import UsageError, check_range
from tfode_adv.layers import solver_settings


@keras.saving.register_keras_serializable(package="tfode_adv")
class RandomSolver(keras.Model):
    """Runs a model with each sample's solver tolerance drawn log-uniformly from an interval.

    The defence by a variable tolerance of Carrara et al. 2022 ("Improving the Adversarial Robustness of
    Neural ODE Image Classifiers by Tuning the Tolerance Parameter"). Attack it with
    `tfode_adv.attacks.EOT`: a single run's gradient belongs to tolerances that will not come again.

    Args:
      model: any Keras model on images with `ODEBlock`s.
      low: the smallest tolerance, above 0.
      high: the largest one, at least `low`.
      seed: where the draws start; they go on from call to call.

    Raises:
      UsageError: the interval is empty or not above 0.
    """

    def __init__(self, model: keras.Model, low: float = 1e-3, high: float = 1.0, seed: int = 0, **kwargs):
        super().__init__(**kwargs)
        check_range("low", low, low=0, low_open=True)
        if not low <= high < float("inf"):
            raise UsageError(f"high is {high!r}, but must be finite and at least low, {low:g}")
        self.model, self.low, self.high, self.seed = model, low, high, seed
        self._draws = keras.random.SeedGenerator(seed)

    def call(self, x: tf.Tensor, training: bool | None = None) -> tf.Tensor:
        with solver_settings(tol=self.draw(tf.shape(x)[0])):
            return self.model(x, training=training)

    def draw(self, count: tf.Tensor | int) -> tf.Tensor:
        """Returns the next `count` tolerances, float32."""
        exponent = keras.random.uniform((count,), np.log(self.low), np.log(self.high), seed=self._draws)
        return tf.exp(exponent)

    def compute_output_shape(self, input_shape: Any) -> Any:
        return self.model.compute_output_shape(input_shape)

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "model": keras.saving.serialize_keras_object(self.model),
            "low": self.low,
            "high": self.high,
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "RandomSolver":
        return cls(**{**config, "model": keras.saving.deserialize_keras_object(config["model"])})
