"""Trains a classifier and leaves a run folder: config.json, checkpoints/, metrics.csv, model.keras.

bin/train --model=oon --dataset=mnist_5k
bin/train --flagfile=configs/wifs2019/mnist_oon.cfg --data_dir=DIR
bin/train --run_dir=runs/NAME --resume
"""

import contextlib
import datetime
import pathlib
from functools import partial
from typing import Any

from absl import flags as absl_flags

from tfode_adv import data, training
from tfode_adv.cli import app, flags, recipes
from tfode_adv.errors import RunError, UsageError
from tfode_adv.run_folder import CONFIG, Run
from tfode_adv.training import checkpoints
from tfode_adv.training.choices import KEEP, ON_NAN

FLAGS = flags.new(__doc__)
recipes.define(FLAGS)

_boolean = partial(absl_flags.DEFINE_boolean, flag_values=FLAGS)
_choice = partial(absl_flags.DEFINE_enum, flag_values=FLAGS)
absl_flags.DEFINE_string("run_dir", None, "The run folder (default: runs/MODEL-DATASET-TIME).", flag_values=FLAGS)
_boolean("overwrite", False, "Replace the run in --run_dir.")
_boolean("resume", False, "Go on with the run in --run_dir, with its own flags.")
flags.define_number("checkpoint_minutes", 10.0, "Minutes between checkpoints.", FLAGS, low=0.0, low_open=True)
flags.define_integer("keep_checkpoints", 3, "How many of the newest checkpoints stay.", FLAGS)
_choice("on_nan", "stop", ON_NAN, "What to do when a batch's loss or solve fails.")
_choice("export", "best", KEEP, "Weights that model.keras gets: of the best validation error, or the last.")
_boolean("tensorboard", True, "Write event files.")

# A resumed run never takes these from its first start, and may be given others of these.
_OF_THIS_START = ("run_dir", "resume", "overwrite", "flagfile")
_CHANGEABLE = ("epochs", "max_updates", "data_dir", "download", "distribute", "tensorboard", "export")
_CHANGEABLE += ("checkpoint_minutes", "keep_checkpoints", "on_nan")


def _resume() -> Run:
    """Opens the run to go on with and takes its flags; those given now may not contradict them."""
    if not FLAGS.run_dir:
        raise UsageError("--resume needs --run_dir, the folder of the run to go on with")
    run = Run.open(FLAGS.run_dir)
    for name, value in run.config.get("flags", {}).items():
        if name not in FLAGS or name in _OF_THIS_START:
            continue
        flag = FLAGS[name]
        value = _parsed(flag, value, run)
        if flag.present and flag.value != value and name not in _CHANGEABLE:
            raise UsageError(f"--{name} is {flag.value!r}, but the run in {FLAGS.run_dir!r} has {value!r}")
        if not flag.present:
            flag.value = value
    return run


def _parsed(flag: absl_flags.Flag, value: Any, run: Run) -> Any:
    """A flag's value as config.json has it, checked as if it were given now."""
    try:
        if value is None and flag.default is not None:
            raise ValueError("it is null")
        return None if value is None else flag.parser.parse(value)
    except (TypeError, ValueError) as error:
        raise RunError(f"{str(run.path / CONFIG)!r} is corrupt: flags.{flag.name} is {value!r} ({error})") from error


def _folder(plan: training.Recipe, path: pathlib.Path, found: Run | None, writes: bool) -> Run:
    """The run to train in, its folder made or, where one was found, told of this start."""
    given = flags.as_dict(FLAGS)
    classes = list(data.info(plan.dataset, plan.data_dir, plan.download).class_names)
    before = (found.config.get("dataset") or {}).get("classes") if found else None
    if before and before != classes:
        raise RunError(
            f"the classes of {plan.dataset} are {', '.join(classes)}, but the run in {str(path)!r} was trained on "
            f"{', '.join(map(str, before))}"
        )
    config = {
        "flags": given,
        "model": {"name": plan.model, "kwargs": plan.model_options},
        "dataset": {
            "name": plan.dataset,
            "data_dir": plan.data_dir,
            "validation": plan.validation,
            "classes": classes,
        },
        "seed": plan.seed,
    }
    if not writes:
        return found or Run(path, config)
    # Nobody else may be writing in a folder that changes or, by --overwrite, goes.
    with checkpoints.locked(path) if path.exists() else contextlib.nullcontext():
        if found:
            first = {name: value for name, value in found.config.get("flags", {}).items() if name in _OF_THIS_START}
            found.resume({**config, "flags": given | first})
        run = found or Run.create(path, config, overwrite=FLAGS.overwrite)
    print(f"training {plan.model} on {plan.dataset} in {path}", flush=True)
    return run


def main(argv: list[str]) -> None:
    del argv
    if FLAGS.resume and FLAGS.overwrite:
        raise UsageError("--resume and --overwrite exclude each other")
    found = _resume() if FLAGS.resume else None
    if not found:
        # A run that goes on may have been started with flags that nobody checked then.
        recipes.check_num_steps(FLAGS.num_steps, [FLAGS.solver])
    plan = recipes.make_recipe(FLAGS)
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    path = pathlib.Path(FLAGS.run_dir or f"runs/{plan.model}-{plan.dataset.replace('/', '_')}-{stamp}")
    if not found:
        # Here to say so at once, as the folder is made only after the data are read.
        Run.replaces(path, FLAGS.overwrite)
    app.start_tensorflow()
    survival = training.Survival(
        resume=FLAGS.resume,
        checkpoint_minutes=FLAGS.checkpoint_minutes,
        keep=FLAGS.keep_checkpoints,
        on_nan=FLAGS.on_nan,
    )
    _, end = training.train(plan, partial(_folder, plan, path, found), survival=survival, tensorboard=FLAGS.tensorboard)
    if not end.finished:
        print(f"stopped in epoch {end.epoch + 1}, all saved: go on with --run_dir={path} --resume")
        raise KeyboardInterrupt
    best = "no validation error to choose by"
    if end.best_epoch is not None:
        best = f"best validation error {end.best_error:.2%} in epoch {end.best_epoch + 1}"
    print(f"{path}: done, {best}")


def run() -> None:
    app.run(main, FLAGS)
