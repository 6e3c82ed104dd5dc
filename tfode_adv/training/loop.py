"""The training loop.

Keras's own `fit` can go on only at the start of an epoch, and cannot drop a batch whose solve failed; this
loop can, under any `tf.distribute` strategy, and calls the same callbacks with the same logs.
"""

import contextlib
import dataclasses
import pathlib
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf

from tfode_adv.errors import RunError, UsageError, check_choice, check_integer, check_range
from tfode_adv.files import PathLike
from tfode_adv.run_folder import CONFIG, METRICS, MODEL
from tfode_adv.training import distribution, state
from tfode_adv.training.callbacks import Watcher
from tfode_adv.training.checkpoints import ANEW, Checkpoints, locked
from tfode_adv.training.choices import ON_NAN
from tfode_adv.training.interrupt import Interrupt
from tfode_adv.training.losses import Loss
from tfode_adv.training.schedules import Constant
from tfode_adv.training.state import State
from tfode_adv.training.updates import Outcome, Updates

Batches = Iterable[tuple[Any, Any]]


class Diverged(RunError):
    """A training that its own values lead nowhere: a batch's loss or solve failed."""


@dataclasses.dataclass
class Survival:
    """How a training is kept.

    Attributes:
        folder: the run's, in which `checkpoints/` is made. None: nothing is written.
        resume: go on from the newest whole checkpoint, if there is one.
        checkpoint_minutes: time between checkpoints inside an epoch; each epoch ends with one anyway.
        keep: how many checkpoints stay.
        on_nan: "stop" the run at a batch whose loss is not finite or whose solve failed, or "skip" it.
    """

    folder: PathLike | None = None
    resume: bool = False
    checkpoint_minutes: float = 10.0
    keep: int = 3
    on_nan: str = "stop"

    def __post_init__(self):
        check_choice("on_nan", self.on_nan, ON_NAN)
        check_range("checkpoint_minutes", self.checkpoint_minutes, low=0, low_open=True)
        check_range("keep", self.keep, low=1)


def fit(
    model: keras.Model,
    train: Callable[[int, int], Batches],
    validation: Batches | None = None,
    *,
    epochs: int,
    loss: Loss,
    optimizer: keras.optimizers.Optimizer,
    schedule: Constant,
    survival: Survival | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    strategy: tf.distribute.Strategy | None = None,
    seed: int = 0,
    accumulate: int = 1,
    jit_compile: bool = False,
    max_updates: int | None = None,
    steps: int | None = None,
    report: Callable[[str], None] = print,
) -> State:
    """Trains a model.

    Args:
        model: images [B, H, W, C] in [0, 1] to logits [B, classes], built in the strategy's scope.
        train: (epoch, step), from 0, to the batches (images, labels [B]) of that epoch from that step on.
            They must depend on nothing else: this is what makes a resumed training the same as one left
            alone. `lambda epoch, step: ta.data.load(name, epoch=epoch, step=step)` is such a function.
        validation: batches (images, labels) for the validation error after each epoch.
        epochs: how many there are, counted from the start of the training, resumed or not; at least 1.
        loss: from `losses`.
        optimizer: a Keras optimiser, made in the strategy's scope; its rate is set to the schedule's whenever
            that changes.
        schedule: from `schedules`; it is told each epoch's validation error.
        survival: checkpoints, resuming, and what to do about a batch that fails.
        callbacks: Keras callbacks. Logs: loss, accuracy, images_per_second and, for models with ODE blocks,
            nfe and nfe_backward (means over the samples); at an epoch's end also learning_rate, skipped,
            seconds and, as val_*, loss, accuracy, error and nfe. The validation calls the hooks of a test.
        strategy: from `distribution.strategy`. A batch is always the global one.
        seed: where the random numbers of the loss start.
        accumulate: parts that a batch is cut into, one in memory at a time.
        jit_compile: whether XLA compiles the passes.
        max_updates: stop after so many batches, in the middle of an epoch if need be. That part is validated,
            may be the best, and callbacks are told of it as of an epoch; a resumed training goes on in it all the same.
        steps: batches of an epoch, for the callbacks; None if that is not known.
        report: called with each line worth telling.

    Returns:
        Where the training stands. `finished` is False if it was asked to leave before the end (Ctrl-C).

    Raises:
        UsageError: if it is to resume without a folder.
        Diverged: if a batch fails and is not to be skipped, or all of an epoch's were skipped.
        RunError: if the folder is in use.
    """
    check_integer("epochs", epochs, low=1)
    if max_updates is not None:
        check_integer("max_updates", max_updates, low=1)
    survival, strategy = survival or Survival(), strategy or tf.distribute.get_strategy()
    options = {"strategy": strategy, "seed": seed, "accumulate": accumulate, "jit_compile": jit_compile}
    if survival.resume and survival.folder is None:
        raise UsageError("resume is True, but folder is None: name the folder of the run to go on with")
    with strategy.scope():
        # So that callbacks find model.optimizer, and model.evaluate works afterwards.
        model.compile(
            optimizer=optimizer,
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            auto_scale_loss=False,
        )
        optimizer.build(model.trainable_variables)
    return _Loop(
        model=model,
        train=train,
        validation=validation,
        epochs=epochs,
        optimizer=optimizer,
        schedule=schedule,
        survival=survival,
        given=callbacks,
        strategy=strategy,
        updates=Updates(model, optimizer, loss, **options),
        max_updates=max_updates,
        steps=steps,
        report=report,
    ).run()


@dataclasses.dataclass(kw_only=True)
class _Loop:
    """A training under way: what it was asked for, and where it stands. The first fields are `fit`'s arguments.

    Attributes:
        given: the user's callbacks.
        updates: the compiled steps.
        state: where the training stands.
        checkpoints: None where nothing is kept.
        writes: whether this worker writes them.
        callbacks: all that are told, while it runs.
        interrupt: whether the user asked to leave, while it runs.
    """

    model: keras.Model
    train: Callable[[int, int], Batches]
    validation: Batches | None
    epochs: int
    optimizer: keras.optimizers.Optimizer
    schedule: Constant
    survival: Survival
    given: Sequence[keras.callbacks.Callback]
    strategy: tf.distribute.Strategy
    updates: Updates
    max_updates: int | None
    steps: int | None
    report: Callable[[str], None]
    state: State = dataclasses.field(default_factory=State)
    checkpoints: Checkpoints | None = None
    writes: bool = False
    callbacks: keras.callbacks.CallbackList | None = None
    interrupt: Interrupt | None = None

    def __post_init__(self) -> None:
        if self.survival.folder is not None:
            folder = pathlib.Path(self.survival.folder) / "checkpoints"
            self.checkpoints = Checkpoints(folder, self.survival.keep, self.report)

    def run(self) -> State:
        chief = distribution.is_chief(self.strategy)
        writes = self.checkpoints is not None and chief
        with locked(self.survival.folder) if writes else contextlib.nullcontext(), Interrupt() as interrupt:
            self.interrupt, self.writes = interrupt, writes
            if writes:
                self.checkpoints.tidy()
            if self.survival.resume:
                self._restore()
            # Verbose to those callbacks alone that the user gave: Keras adds none of its own.
            parameters = {"epochs": self.epochs, "steps": self.steps, "verbose": 1}
            # What only tells of the training does so once; what may steer it must steer every worker alike.
            told = [each for each in self.given if chief or not isinstance(each, Watcher)]
            self.callbacks = keras.callbacks.CallbackList(told, model=self.model, **parameters)
            for callback in self.callbacks.callbacks:
                if isinstance(callback, Watcher):
                    callback.state = self.state
            self.model.stop_training = False
            self.callbacks.on_train_begin()
            if self._spent and self.state.sums.images and self.state.epoch < self.epochs:
                # Resumed where its updates end, in the middle of an epoch: that part is in no history.
                self._epoch()
            while self.state.epoch < self.epochs and not self._stopping:
                self._epoch()
            self.callbacks.on_train_end(self.state.history[-1] if self.state.history else {})
        self.state.finished = self._spent or self.state.epoch >= self.epochs or not interrupt.requested
        return self.state

    @property
    def _stopping(self) -> bool:
        """Whether to stop here; asked at the same places by every worker, and the same answer to each."""
        asked = self.model.stop_training or self.interrupt.requested
        return self._spent or distribution.any_worker(self.strategy, asked)

    @property
    def _spent(self) -> bool:
        return self.max_updates is not None and self.state.updates >= self.max_updates

    def _epoch(self) -> None:
        """Runs the rest of the epoch under way; returns early, saved, if it is to stop in the middle."""
        self._set_rate()
        self.callbacks.on_epoch_begin(self.state.epoch)
        whole = self._batches()
        if not whole and not (self._spent and self.state.sums.images):
            return
        now, logs = self.state, _logs(self.state.sums, self.state.seconds)
        if self.validation is not None:
            seen = self._validate()
            logs |= {f"val_{key}": value for key, value in _logs(seen).items()}
            logs["val_error"] = 1.0 - logs["val_accuracy"]
        logs |= {
            "learning_rate": float(self.optimizer.learning_rate.numpy()),
            "skipped": now.skipped,
            "seconds": now.seconds,
        }
        now.history.append({"epoch": now.epoch + 1, **logs})
        self.callbacks.on_epoch_end(now.epoch, logs)
        error = logs.get("val_error", 1.0 - logs["accuracy"])
        if improved := self.validation is not None and error < now.best_error:
            now.best_error, now.best_epoch = error, now.epoch
        if not whole:
            # Told of, but saved before: a resumed training completes the epoch as one left alone does.
            return
        self.schedule.observe(error)
        if improved and self.writes:
            self.checkpoints.save_best(state.weights(self.model), {"epoch": now.epoch + 1, "error": error})
        now.epoch, now.step, now.seconds, now.sums = now.epoch + 1, 0, 0.0, Outcome()
        self._save()

    def _batches(self) -> bool:
        """Runs the epoch's batches from where it stands; False if it stopped before the last."""
        now = self.state
        saved = started = time.monotonic()
        before = now.seconds
        for x, y in self.train(now.epoch, now.step):
            if self._stopping:
                self._save()
                return False
            self.callbacks.on_train_batch_begin(now.step)
            self._update(x, y)
            now.step, now.updates = now.step + 1, now.updates + 1
            now.seconds = before + time.monotonic() - started
            self.callbacks.on_train_batch_end(now.step - 1, _logs(now.sums, now.seconds))
            if time.monotonic() - saved >= 60 * self.survival.checkpoint_minutes:
                self._save()
                saved = time.monotonic()
        if not now.sums.images:
            raise Diverged(f"epoch {now.epoch + 1} had no batch to learn from ({now.skipped} were skipped)")
        return True

    def _update(self, x, y) -> None:
        """One batch: its gradient, and the step along it unless the batch failed."""
        skips = self.survival.on_nan == "skip"
        # A batch that is dropped must leave no trace in batch statistics or dropout's seeds.
        kept = [tf.identity(one) for one in self.model.non_trainable_variables] if skips else []
        outcome, gradients = self.updates.gradients(x, y, self.state.updates)
        if outcome.good:
            self.state.sums += outcome
            self.updates.apply(gradients)
            return
        fault = f"epoch {self.state.epoch + 1}, batch {self.state.step + 1}: {outcome.fault}"
        if not skips:
            raise Diverged(f"{fault}; {self._last_good()}; --on_nan=skip would drop such batches")
        for variable, value in zip(self.model.non_trainable_variables, kept, strict=True):
            variable.assign(value)
        self.state.skipped += 1
        self.report(f"{fault}; batch dropped")

    def _validate(self) -> Outcome:
        outcome = Outcome()
        self.callbacks.on_test_begin()
        for number, (x, y) in enumerate(self.validation):
            self.callbacks.on_test_batch_begin(number)
            outcome += self.updates.evaluate(x, y)
            self.callbacks.on_test_batch_end(number, _logs(outcome))
        self.callbacks.on_test_end(_logs(outcome))
        if not outcome.images:
            raise UsageError("validation gave no images: give batches that can be gone through after every epoch")
        if not outcome.good:
            lost = f"{outcome.lost} of {outcome.images} images count as wrong"
            self.report(f"epoch {self.state.epoch + 1}, validation: {lost}: {outcome.fault}")
        return outcome

    def _set_rate(self) -> None:
        # Only when the schedule moves, so that a user's callback may set the rate as well.
        rate = self.schedule.rate(self.state.epoch)
        if rate != self.state.rate:
            self.optimizer.learning_rate = rate
            self.state.rate = rate

    def _last_good(self) -> str:
        found = self.checkpoints.newest() if self.checkpoints else None
        return f"the last good checkpoint is {str(found[2])!r}" if found else "there is no checkpoint yet"

    def _save(self) -> None:
        if self.writes:
            arrays, note = state.capture(self.state, self.model, self.optimizer, self.schedule)
            self.checkpoints.save(self.state.updates, arrays, note)

    def _restore(self) -> None:
        found = self.checkpoints.newest_or_damaged()
        if found is None:
            self._start_anew(pathlib.Path(self.survival.folder))
            return
        arrays, note, path = found
        self.state = state.restore(arrays, note, self.model, self.optimizer, self.schedule)
        self.report(f"resumed from {str(path)!r}: epoch {self.state.epoch + 1}, batch {self.state.step + 1}")

    def _start_anew(self, folder: pathlib.Path) -> None:
        """Tells of a start without a checkpoint; refuses where a training has come too far never to have had one."""
        metrics = folder / METRICS
        epochs = max(0, len(metrics.read_text().splitlines()) - 1) if metrics.exists() else 0
        # An epoch's metrics are written before its checkpoint.
        if epochs > 1 or (folder / MODEL).exists():
            held = "a finished model" if (folder / MODEL).exists() else f"the metrics of {epochs} epochs"
            raise RunError(f"{str(folder)!r} holds {held}, but no checkpoint to go on from: {ANEW}")
        if (folder / CONFIG).exists():
            self.report("no checkpoint to resume from; starting anew")


def _logs(outcome: Outcome, seconds: float = 0.0) -> dict[str, float]:
    """What callbacks are told: means over the images."""
    if not outcome.images:
        return {}
    logs = {"loss": outcome.loss / outcome.images, "accuracy": outcome.correct / outcome.images}
    if outcome.nfe is not None:
        logs["nfe"] = float(outcome.nfe.mean())
    if outcome.nfe_backward is not None:
        logs["nfe_backward"] = outcome.nfe_backward / outcome.images
    if seconds:
        logs["images_per_second"] = outcome.images / seconds
    return logs
