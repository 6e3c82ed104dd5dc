"""A Keras model under evaluation: its solver set as a configuration says, its attacks built from it."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfode_adv import attacks, layers, models
from tfode_adv.errors import RunError, UsageError, failed_assertion
from tfode_adv.evaluation.configuration import Configuration
from tfode_adv.models.answering import Answering
from tfode_adv.models.answers import Answers
from tfode_adv.models.block_settings import change
from tfode_adv.models.oracle import oracle
from tfode_adv.run_folder import Run
from tfode_adv.solvers import block_options
from tfode_adv.solvers.status import failure_message


class KerasSubject:
    """A `runner.Subject` on a Keras model.

    Args:
        model: NHWC images in [0, 1] to logits.
        batch_size: images that go through it at once.
    """

    def __init__(self, model: keras.Model, batch_size: int = 128) -> None:
        self.model, self.batch_size = model, batch_size
        self._own = [block.settings for block in models.ode_blocks(model)]
        self._randomised: dict[tuple, keras.Model] = {}
        self._answering: dict[int, keras.layers.Layer] = {}
        # The digest of the last clean pass, and what was answered for which image: no attack asks again.
        self._known: tuple[str, dict[bytes, Answers]] = "", {}

    def predict(self, configuration: Configuration, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Logits [N, classes] and evaluations of the dynamics [N] of images [N, H, W, C].

        Where a solve failed the logits are NaN; on clean images that ends the evaluation.
        """
        try:
            answers = self._asked(configuration, images)
        except tf.errors.InvalidArgumentError as error:
            # How stock TFP reports a solve that failed.
            raise RunError(f"the clean pass stopped: {failed_assertion(error.message)}") from error
        message = failure_message(answers.status, answers.time)
        if message and configuration.attack == "none":
            raise RunError(f"the clean pass stopped: {message}")
        if configuration.attack == "none" and configuration.random_tol is None:
            answered = {_key(image): answers.of([row]) for row, image in enumerate(images)}
            self._known = configuration.digest, self._known_of(configuration) | answered
        return answers.logits, answers.nfe

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
        clean = self._clean(configuration, images)
        self.configure(configuration)
        attack = make_attack(configuration, self.batch_size, twin=self._subject(configuration))
        with layers.solver_settings(on_failure="status"):
            model = self._answers(configuration)
            return attack(model, images, labels, indices=indices, progress=progress, clean=clean)

    def _clean(self, configuration: Configuration, images: np.ndarray) -> Answers | None:
        """What the clean pass answers, asked here where it was made before; None of a randomised model."""
        if configuration.random_tol is not None:
            return None
        keys, known = [_key(image) for image in images], self._known_of(configuration)
        missing = [row for row, key in enumerate(keys) if key not in known]
        if missing:
            self.predict(configuration.clean, images[missing])
            known = self._known_of(configuration)
        return Answers.joined(known[key] for key in keys)

    def _known_of(self, configuration: Configuration) -> dict[bytes, Answers]:
        """What is known of the configuration's clean pass. Those of one solver setting come one after the other."""
        digest, known = self._known
        return known if digest == configuration.clean.digest else {}

    def _asked(self, configuration: Configuration, images: np.ndarray) -> Answers:
        self.configure(configuration)
        return oracle(self._answers(configuration)).ask(images, self.batch_size, on_failure="status")

    def configure(self, configuration: Configuration) -> None:
        """Sets the model's ODE blocks as the configuration says; a solver or gradient of its own that bears the name
        said stays as it is.
        """
        said = {each.name: getattr(configuration, each.name) for each in block_options.recorded()}
        said = {name: value for name, value in said.items() if value is not None}
        settings = [
            own.override(**{k: v for k, v in said.items() if block_options.name_of(getattr(own, k)) != v})
            for own in self._own
        ]
        change(self.model, settings)

    def _subject(self, configuration: Configuration) -> keras.Model:
        """The model, its tolerance drawn at each call where the configuration says so."""
        if configuration.random_tol is None:
            return self.model
        key = *configuration.random_tol, configuration.seed or 0
        if key not in self._randomised:
            self._randomised[key] = models.RandomSolver(self.model, *key)
        return self._randomised[key]

    def _answers(self, configuration: Configuration) -> keras.layers.Layer:
        """The same, with NaN where a solve failed: one object for one model, as what is compiled is kept by it."""
        model = self._subject(configuration)
        if id(model) not in self._answering:
            self._answering[id(model)] = Answering(model) if models.ode_blocks(model) else model
        return self._answering[id(model)]


def _key(image: np.ndarray) -> bytes:
    return hashlib.sha256(np.ascontiguousarray(image, np.float32)).digest()


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
        each.name.removeprefix("gradient_"): getattr(configuration, each.name) for each in block_options.of_gradients()
    }
    source = None
    given_through = [name for name, value in through.items() if value is not None]
    if given_through:
        # Of another number type alone, the attacked model's own pass is what is differentiated.
        twin = None if given_through == ["precision"] else twin
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
