"""A training in full: every choice that makes one, checked before any data is read, and the run itself."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfode_adv import data, models
from tfode_adv.errors import MOST_INTEGER, RunError, UsageError, check_choice, check_integer, check_range
from tfode_adv.models.precision import PRECISIONS, precision
from tfode_adv.run_folder import METRICS, Run
from tfode_adv.training import callbacks, checkpoints, distribution, losses, schedules, state
from tfode_adv.training.artifacts import export, exported
from tfode_adv.training.loop import Survival, fit
from tfode_adv.training.optimizer import SGD

KEEP = ("best", "last")
# NumPy takes 32 bits, and KerasTuner gets one more than the recipe's.
MAX_SEED = 2**32 - 2


@dataclasses.dataclass
class Recipe:
    """Every choice that makes a training.

    Attributes:
        model, model_options: what `models.build` makes; options given as None keep the model's default.
        dataset, data_dir, download, augment, validation, num_train_examples, batch_size: what `data.load` reads.
        normalization: "none", "data" (each channel's mean and deviation over the training images), or
            "M,M,M/S,S,S".
        seed: where the random numbers of the weights, the order, the augmentation, dropout and the attacks in the loss
            start, from 0 to `MAX_SEED`.
        epochs: how many there are.
        max_updates: after how many batches the training ends, if it has not ended before.
        learning_rate, schedule, patience, milestones, factor: the learning rate by epoch, as `schedules.get` takes it.
        momentum, weight_decay: the optimiser's, as `SGD` takes them.
        loss, loss_options: what `losses.get` makes; options given as None keep the loss's default.
        accumulate: into how many parts a batch is cut, one in memory at a time.
        jit_compile: whether XLA compiles the passes.
        mixed_precision: "none", "bfloat16" or "float16" (whose loss is scaled against underflow).
        distribute: which devices train, as `distribution.strategy` takes it.
        export: which weights `model.keras` gets: those of the "best" validation error, or the "last", as
            without validation images.
    """

    model: str
    dataset: str
    model_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    data_dir: str | None = None
    download: bool = True
    augment: str = "none"
    normalization: str = "none"
    validation: float = 0.1
    num_train_examples: int | None = None
    batch_size: int = 128
    seed: int = 0
    epochs: int = 25
    max_updates: int | None = None
    learning_rate: float = 0.1
    schedule: str = "plateau"
    patience: int = 5
    milestones: Sequence[int] = ()
    factor: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    loss: str = "cross_entropy"
    loss_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    accumulate: int = 1
    jit_compile: bool = False
    mixed_precision: str = "none"
    distribute: str = "auto"
    export: str = "best"

    def __post_init__(self):
        check_choice("model", self.model, models.available())
        check_choice("augment", self.augment, data.AUGMENTATIONS)
        check_choice("mixed_precision", self.mixed_precision, PRECISIONS)
        check_choice("distribute", self.distribute, distribution.STRATEGIES)
        check_choice("export", self.export, KEEP)
        check_range("validation", self.validation, low=0, high=1, high_open=True)
        check_integer("epochs", self.epochs, low=1, high=MOST_INTEGER)
        check_integer("batch_size", self.batch_size, low=1, high=MOST_INTEGER)
        check_integer("seed", self.seed, low=0, high=MAX_SEED)
        check_integer("accumulate", self.accumulate, low=1, high=self.batch_size)
        check_range("momentum", self.momentum, low=0, high=1, high_open=True)
        check_range("weight_decay", self.weight_decay, low=0, high=1e6)
        if self.max_updates is not None:
            check_integer("max_updates", self.max_updates, low=1, high=MOST_INTEGER)
        if self.num_train_examples is not None:
            check_integer("num_train_examples", self.num_train_examples, low=1, high=MOST_INTEGER)
        if self.schedule == "plateau" and not self.validation:
            raise UsageError("schedule 'plateau' counts validation errors, but validation is 0")
        _statistics(self.normalization)
        self.make_schedule()
        self.make_loss()

    def make_schedule(self) -> schedules.Constant:
        return schedules.get(
            self.schedule,
            self.learning_rate,
            self.epochs,
            patience=self.patience,
            milestones=self.milestones,
            factor=self.factor,
        )

    def make_loss(self) -> losses.Loss:
        return losses.get(self.loss, **self.loss_options)

    def make_optimizer(self) -> keras.optimizers.Optimizer:
        optimizer = SGD(self.learning_rate, momentum=self.momentum, l2=self.weight_decay)
        if self.mixed_precision == "float16":
            return keras.optimizers.LossScaleOptimizer(optimizer)
        return optimizer

    def make_model(self, normalization: tuple[Any, Any] | None = None) -> keras.Model:
        """The model, its weights a function of the seed; `normalization` stands in for "data"."""
        info = data.info(self.dataset, data_dir=self.data_dir, download=self.download)
        fixed = normalization or _statistics(self.normalization)
        if fixed is not None and len(fixed[0]) not in (1, info.image_shape[-1]):
            raise UsageError(
                f"normalization is {self.normalization!r}, but images of {self.dataset!r} have "
                f"{info.image_shape[-1]} channels"
            )
        options = {key: value for key, value in self.model_options.items() if value is not None}
        keras.utils.set_random_seed(self.seed)
        with precision(self.mixed_precision):
            return models.build(
                self.model,
                input_shape=info.image_shape,
                num_classes=info.num_classes,
                normalization=fixed,
                **options,
            )

    def batches(self, split: str, **options: Any) -> tf.data.Dataset:
        """`data.load` of this recipe's data."""
        return data.load(
            self.dataset,
            split,
            batch_size=self.batch_size,
            seed=self.seed,
            validation=self.validation,
            data_dir=self.data_dir,
            download=self.download,
            **options,
        )

    def train_batches(self, epoch: int, step: int) -> tf.data.Dataset:
        """The training batches of an epoch from a step on, both from 0."""
        return self.batches("train", augment=self.augment, num_examples=self.num_train_examples, epoch=epoch, step=step)

    def check_data(self) -> None:
        """Reads the first batches, for the mistakes that only the images show."""
        next(iter(self.train_batches(0, 0)))
        if self.validation:
            next(iter(self.batches("validation")))

    def num_images(self) -> int:
        """Images of an epoch."""
        info = data.info(self.dataset, data_dir=self.data_dir, download=self.download)
        return self.num_train_examples or info.num_examples("train", self.validation)

    def num_batches(self) -> int:
        """Batches of an epoch."""
        return math.ceil(self.num_images() / self.batch_size)

    def check_last_batch(self, replicas: int) -> None:
        """Raises UsageError if the last batch of an epoch is too small to give each replica an image."""
        last = self.num_images() % self.batch_size or self.batch_size
        if last < replicas:
            raise UsageError(
                f"batch_size is {self.batch_size}, which leaves {last} of {self.num_images()} images for an epoch's "
                f"last batch, but each of {replicas} replicas needs one: choose another"
            )


def train(
    recipe: Recipe,
    run: Callable[[bool], Run] | None = None,
    *,
    survival: Survival | None = None,
    callbacks_: Sequence[keras.callbacks.Callback] = (),
    tensorboard: bool = True,
    save_model: bool = True,
    report: Callable[[str], None] = print,
) -> tuple[keras.Model, state.State]:
    """Trains a recipe; with a run, its folder gets checkpoints, metrics, the model and its exports.

    Args:
        recipe: what to train.
        run: called once the model is built, the data are read and nothing is left to be wrong, with whether
            this process is the one that writes; makes or opens the run folder.
        survival: checkpoints, resuming, and what to do about a batch that fails; its folder is the run's.
        callbacks_: the user's own Keras callbacks, called after ours.
        tensorboard: whether to write event files.
        save_model: whether the finished model is exported to the folder.
        report: called with each line worth telling.

    Returns:
        The model, with the weights that `recipe.export` names if the training came to its end in a run's folder,
        else the last ones, and where it stands.

    Raises:
        UsageError: for a model, data set or value that cannot be.
        RunError: for data that are not there, a batch that failed, a folder in use.
    """
    strategy = distribution.strategy(recipe.distribute)
    with strategy.scope():
        model = recipe.make_model()
    recipe.check_data()
    recipe.check_last_batch(strategy.num_replicas_in_sync)
    with strategy.scope():
        if recipe.normalization == "data":
            model = recipe.make_model(_measure(recipe))
        optimizer = recipe.make_optimizer()
    chief = distribution.is_chief(strategy)
    # It may delete an older run: all that can be wrong comes before it.
    folder = run(chief).path if run else None
    watchers = [callbacks.ProgressBar(recipe.epochs, recipe.num_batches())]
    if folder:
        watchers.append(callbacks.MetricsFile(folder / METRICS))
    if folder and tensorboard:
        watchers.append(callbacks.TensorBoard(folder / "tensorboard"))
    survival = dataclasses.replace(survival or Survival(), folder=folder)
    end = fit(
        model,
        recipe.train_batches,
        recipe.batches("validation") if recipe.validation else None,
        epochs=recipe.epochs,
        loss=recipe.make_loss(),
        optimizer=optimizer,
        schedule=recipe.make_schedule(),
        survival=survival,
        callbacks=[*watchers, *callbacks_],
        strategy=strategy,
        seed=recipe.seed,
        accumulate=recipe.accumulate,
        jit_compile=recipe.jit_compile,
        max_updates=recipe.max_updates,
        steps=recipe.num_batches(),
        report=report,
    )
    if end.finished and folder and chief:
        with checkpoints.locked(folder):
            best = checkpoints.Checkpoints(folder / "checkpoints", report=report).best()
            # If what max_updates cut short is better than every whole epoch, the model has the best weights already.
            if recipe.export == "best" and best is not None and best[1]["error"] <= end.best_error:
                state.assign(best[0], model)
            # A .keras file holds its date: written again, it would pass for a model not yet evaluated.
            if save_model and not exported(model, folder):
                export(model, folder)
    return model, end


def _statistics(text: str) -> tuple[tuple[float, ...], tuple[float, ...]] | None:
    """Mean and deviation from "M,M,M/S,S,S"; None for "none" and "data"."""
    if text in ("none", "data"):
        return None
    try:
        mean, deviation = (tuple(float(part) for part in half.split(",")) for half in text.split("/"))
    except ValueError:
        mean = deviation = ()
    if not mean or len(mean) != len(deviation) or not all(0 < each < math.inf for each in deviation):
        raise UsageError(f"normalization is {text!r}, but must be none, data, or means/deviations: M,M,M/S,S,S")
    return mean, deviation


def _measure(recipe: Recipe) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Each channel's mean and deviation over the training images."""
    count, total, squares = 0, 0.0, 0.0
    for images, _ in recipe.batches("train", num_examples=recipe.num_train_examples, shuffle=False):
        images = np.asarray(images, np.float64)
        count += images[..., 0].size
        total, squares = total + images.sum((0, 1, 2)), squares + (images**2).sum((0, 1, 2))
    mean = total / count
    variance = squares / count - mean**2
    # That of a constant is a rounding error, of either sign.
    if (variance < 1e-12).any():
        raise RunError("normalization is 'data', but a channel of the training images never varies")
    return tuple(mean.tolist()), tuple(np.sqrt(variance).tolist())
