"""A Keras model under evaluation: its solver set as a configuration says, its attacks built from it."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfode_adv import attacks, layers, models
from tfode_adv.errors import RunError, UsageError, failed_assertion
from tfode_adv.evaluation.configuration import Configuration
from tfode_adv.layers.context import Statistics
from tfode_adv.models.answering import Answering
from tfode_adv.runs import Run
from tfode_adv.solvers.status import failure_message


class KerasSubject:
    """A `runner.Subject` on a Keras model.

    Args:
        model: NHWC images in [0, 1] to logits.
        batch_size: images that go through it at once.
    """

    def __init__(self, model: keras.Model, batch_size: int = 128) -> None:
        self.model, self.batch_size = model, batch_size
        self._predictors: dict[tuple, Callable] = {}
        self._randomised: dict[tuple, keras.Model] = {}
        self._answers: dict[int, keras.layers.Layer] = {}

    def predict(self, configuration: Configuration, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Logits [N, classes] and evaluations of the dynamics [N] of images [N, H, W, C].

        Where a solve failed the logits are NaN; on clean images that ends the evaluation.
        """
        predictor = self._predictor(configuration, images.shape[1:])
        starts = range(0, len(images), self.batch_size)
        try:
            parts = [predictor(tf.constant(images[start : start + self.batch_size])) for start in starts]
        except tf.errors.InvalidArgumentError as error:
            # How stock TFP reports a solve that failed.
            raise RunError(f"the clean pass stopped: {failed_assertion(error.message)}") from error
        columns = zip(*parts, strict=True)
        logits, nfe, status, reached = (np.concatenate([part.numpy() for part in column]) for column in columns)
        message = failure_message(status, reached)
        if message and configuration.attack == "none":
            raise RunError(f"the clean pass stopped: {message}")
        return logits, nfe

    def attack(
        self,
        configuration: Configuration,
        images: np.ndarray,
        labels: np.ndarray,
        indices: np.ndarray,
        progress: Callable[[int], None],
    ) -> attacks.AttackResult:
        """The configuration's attack on these images; `indices` name their random numbers.

        A solve that fails on the way turns no image, and does not end the attack.
        """
        self.configure(configuration)
        attack = make_attack(configuration, self.batch_size, twin=self._asked(configuration))
        with layers.solver_settings(on_failure="status"):
            return attack(self._answering(configuration), images, labels, indices=indices, progress=progress)

    def configure(self, configuration: Configuration) -> None:
        """Sets the model's ODE blocks as the configuration says."""
        names = ("tol", "solver", "num_steps", "gradient")
        models.set_solver(self.model, **{name: getattr(configuration, name) for name in names})

    def _asked(self, configuration: Configuration) -> keras.Model:
        """The model, its tolerance drawn at each call where the configuration says so."""
        if configuration.random_tol is None:
            return self.model
        key = *configuration.random_tol, configuration.seed or 0
        if key not in self._randomised:
            self._randomised[key] = models.RandomSolver(self.model, *key)
        return self._randomised[key]

    def _answering(self, configuration: Configuration) -> keras.layers.Layer:
        """The same, with NaN where a solve failed: one object for one model, as compiled attacks are kept by it."""
        model = self._asked(configuration)
        if id(model) not in self._answers:
            self._answers[id(model)] = Answering(model) if models.ode_blocks(model) else model
        return self._answers[id(model)]

    def _predictor(self, configuration: Configuration, image_shape: tuple[int, ...]) -> Callable:
        """A compiled forward pass: one for each solver, whatever the tolerance."""
        self.configure(configuration)
        model = self._answering(configuration)
        key = configuration.solver, configuration.num_steps, image_shape, id(model)
        if key not in self._predictors:
            self._predictors[key] = _compiled(model, image_shape)
        return self._predictors[key]


def _compiled(model: keras.layers.Layer, image_shape: tuple[int, ...]) -> Callable:
    @tf.function(
        input_signature=[tf.TensorSpec([None, *image_shape], tf.float32)],
        autograph=False,
    )
    def predict(images):
        with layers.solver_settings(on_failure="status"), layers.record_statistics() as records:
            logits = model(images, training=False)
        nfe, status, reached = _worst([statistics for _, statistics in records], tf.shape(images)[0])
        return tf.cast(logits, tf.float32), nfe, status, reached

    return predict.get_concrete_function()


def _worst(blocks: list[Statistics], count: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Evaluations over all blocks; the status of the first one that failed and the time it reached, `[count]` each."""
    nfe, status, reached = tf.zeros([count], tf.int32), tf.zeros([count], tf.int32), tf.zeros([count])
    for block in blocks:
        nfe += block.nfe
        reached = tf.where(status == 0, tf.cast(block.time, tf.float32), reached)
        status = tf.where(status == 0, block.status, status)
    return nfe, status, reached


def match_classes(run: Run, dataset: str, names: Sequence[str], labels: np.ndarray) -> np.ndarray:
    """Labels [N] that count the classes `names` of `dataset`, as places among those that the run was trained on.

    Raises:
        UsageError: for a class that the run was not trained on.
    """
    known = (run.config.get("dataset") or {}).get("classes")
    if not known or list(names) == known:
        return labels
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UsageError(
            f"the classes of {dataset} are {', '.join(names)}, but the model was trained on "
            f"{', '.join(map(str, known))}"
        )
    return np.asarray([known.index(name) for name in names], labels.dtype)[labels]


def check_images(model: keras.Model, images: np.ndarray, labels: np.ndarray, dataset: str) -> None:
    """Raises `UsageError` unless the images [N, H, W, C] and labels [N] of `dataset` fit the classifier."""
    takes, gives = getattr(model, "input_shape", None), getattr(model, "output_shape", None)
    if takes is not None and takes[1:] != images.shape[1:]:
        raise UsageError(f"the images of {dataset} are of shape {images.shape[1:]}, but the model takes {takes[1:]}")
    if gives is not None and len(labels) and labels.max() >= gives[-1]:
        raise UsageError(f"a label of {dataset} is {labels.max()}, but the model knows {gives[-1]} classes")


def make_attack(configuration: Configuration, batch_size: int | None = None, twin: Any = None) -> attacks.Attack:
    """The attack that a configuration describes.

    Args:
        batch_size: images that go through the model at once.
        twin: what a gradient through another solver is taken of, in place of the attacked model.

    Raises:
        UsageError: an unknown attack or hyperparameter, or a value out of range.
    """
    given = dict(configuration.hyperparameters)
    through = {
        "tol": configuration.gradient_tol,
        "solver": configuration.gradient_solver,
        "num_steps": configuration.gradient_num_steps,
    }
    source = None
    if any(value is not None for value in through.values()):
        source = attacks.Through(gradient=configuration.gradient, twin=twin, **through)
    if configuration.eot is not None:
        source = attacks.EOT(configuration.eot, **({} if source is None else {"source": source}))
    if source is not None:
        given["source"] = source
    return attacks.get(
        configuration.attack,
        norm=configuration.norm,
        eps=configuration.eps,
        seed=configuration.seed,
        batch_size=batch_size,
        **given,
    )
