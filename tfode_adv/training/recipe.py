"""Every choice that makes a training, checked before any data is read, and without TensorFlow."""

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from tfode_adv import data, models
from tfode_adv.errors import MOST_INTEGER, UsageError, check_choice, check_integer, check_range
from tfode_adv.files import PathLike
from tfode_adv.models import registry
from tfode_adv.models.precision import PRECISIONS, precision
from tfode_adv.training import losses, schedules
from tfode_adv.training.choices import KEEP, MAX_SEED, OPTIMIZERS, STRATEGIES

if TYPE_CHECKING:
    import keras
    import tensorflow as tf


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
        optimizer: "sgd", as `SGD` descends, or "adam", Keras's.
        momentum: that of `SGD`, or Adam's beta_1.
        weight_decay: L2 in the gradient of `SGD`, apart from it (AdamW) in Adam.
        start_from: the folder of a finished run, whose layers' weights those of the same names start with.
        start_anew: names of the layers that do not, though `start_from` has them.
        train_only: names of the layers that are trained, the others frozen; none: all are.
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
    optimizer: str = "sgd"
    momentum: float = 0.9
    weight_decay: float = 1e-4
    loss: str = "cross_entropy"
    loss_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    accumulate: int = 1
    jit_compile: bool = False
    mixed_precision: str = "none"
    distribute: str = "auto"
    export: str = "best"
    start_from: PathLike | None = None
    start_anew: Sequence[str] = ()
    train_only: Sequence[str] = ()

    def __post_init__(self):
        check_choice("model", self.model, models.available())
        registry.check_options(self.model, self.model_options)
        check_choice("augment", self.augment, data.AUGMENTATIONS)
        check_choice("mixed_precision", self.mixed_precision, PRECISIONS)
        check_choice("distribute", self.distribute, STRATEGIES)
        check_choice("export", self.export, KEEP)
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
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
        if self.start_anew and self.start_from is None:
            raise UsageError(
                f"start_anew is {', '.join(self.start_anew)}, but without start_from every layer starts anew"
            )
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

    def make_optimizer(self) -> "keras.optimizers.Optimizer":
        import keras

        from tfode_adv.training.optimizer import SGD

        if self.optimizer == "adam":
            optimizer = keras.optimizers.Adam(
                self.learning_rate, beta_1=self.momentum, weight_decay=self.weight_decay or None
            )
        else:
            optimizer = SGD(self.learning_rate, momentum=self.momentum, l2=self.weight_decay)
        if self.mixed_precision == "float16":
            return keras.optimizers.LossScaleOptimizer(optimizer)
        return optimizer

    def make_model(self, normalization: tuple[Any, Any] | None = None) -> "keras.Model":
        """The model, its weights a function of the seed; `normalization` stands in for "data"."""
        import keras

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

    def batches(self, split: str, **options: Any) -> "tf.data.Dataset":
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

    def train_batches(self, epoch: int, step: int) -> "tf.data.Dataset":
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
