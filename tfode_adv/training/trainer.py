"""A training in full: a recipe carried out, in a run's folder if there is one."""

import dataclasses
import pathlib
from collections.abc import Callable, Sequence

import keras
import numpy as np

from tfode_adv.errors import RunError
from tfode_adv.models import ode_blocks
from tfode_adv.run_folder import METRICS, Run
from tfode_adv.training import callbacks, checkpoints, distribution, state, warm_start
from tfode_adv.training.artifacts import export, exported
from tfode_adv.training.loop import Survival, fit
from tfode_adv.training.losses import OfDynamics
from tfode_adv.training.recipe import Recipe


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
        if recipe.train_only:
            warm_start.train_only(model, recipe.train_only)
        optimizer = recipe.make_optimizer()
    loss = recipe.make_loss()
    if isinstance(loss, OfDynamics):
        loss.check(ode_blocks(model))
    chief = distribution.is_chief(strategy)
    survival = survival or Survival()
    if recipe.start_from is not None and not survival.resume:
        _take_weights(recipe, model, report)
    # It may delete an older run: all that can be wrong comes before it.
    folder = run(chief).path if run else None
    # A checkpoint's weights win, and the run that they once started from may be gone.
    if recipe.start_from is not None and survival.resume and not _checkpoint(folder):
        _take_weights(recipe, model, report)
    watchers = [callbacks.ProgressBar(recipe.epochs, recipe.num_batches())]
    if folder:
        watchers.append(callbacks.MetricsFile(folder / METRICS))
    if folder and tensorboard:
        watchers.append(callbacks.TensorBoard(folder / "tensorboard"))
    survival = dataclasses.replace(survival, folder=folder)
    end = fit(
        model,
        recipe.train_batches,
        recipe.batches("validation") if recipe.validation else None,
        epochs=recipe.epochs,
        loss=loss,
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


def _checkpoint(folder: pathlib.Path | None) -> bool:
    """Whether a run's folder holds a whole checkpoint."""
    return folder is not None and checkpoints.Checkpoints(folder / "checkpoints").newest() is not None


def _take_weights(recipe: Recipe, model: keras.Model, report: Callable[[str], None]) -> None:
    """Gives the model the weights of another run, and tells which."""
    taken, kept = warm_start.take_weights(model, recipe.start_from, recipe.start_anew)
    own = f"; starting anew: {', '.join(kept)}" if kept else ""
    report(f"weights of {str(recipe.start_from)!r}: {', '.join(taken)}{own}")


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
