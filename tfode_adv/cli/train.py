"""Trains a classifier and leaves a run folder: config.json, checkpoints/, metrics.csv, model.keras.

bin/train --model=oon --dataset=mnist_5k
bin/train --flagfile=configs/wifs2019/mnist_oon.cfg --data_dir=DIR
bin/train --run_dir=runs/NAME --resume
"""

import dataclasses
import datetime
import pathlib

from absl import flags as absl_flags

from tfode_adv import training
from tfode_adv.cli import app, flags
from tfode_adv.data import AUGMENTATIONS
from tfode_adv.errors import UsageError
from tfode_adv.runs import Run
from tfode_adv.training import checkpoints, distribution, losses, recipe, schedules
from tfode_adv.training.loop import ON_NAN, Survival

FLAGS = flags.new(__doc__)
flags.define_model_flags(FLAGS)
flags.define_solver_flags(FLAGS)
flags.define_data_flags(FLAGS)

_integer, _number, _boolean = absl_flags.DEFINE_integer, flags.define_number, absl_flags.DEFINE_boolean
_text, _enum = absl_flags.DEFINE_string, absl_flags.DEFINE_enum

_enum("augment", "none", AUGMENTATIONS, "Augmentation of the training images.", flag_values=FLAGS)
_text(
    "normalization",
    "none",
    "Applied inside the model: none, data (measured on the training images) or means/deviations.",
    flag_values=FLAGS,
)
_number("validation", 0.1, "Share of the training images held out for validation.", FLAGS, low=0.0)
_integer("num_train_examples", None, "Use only so many.", lower_bound=1, flag_values=FLAGS)

_integer("epochs", 25, "How many, from the start of the training.", lower_bound=1, flag_values=FLAGS)
_integer("max_updates", None, "Stop after so many batches.", lower_bound=1, flag_values=FLAGS)
_number("learning_rate", 0.1, "Learning rate of SGD.", FLAGS, low=0.0, low_open=True)
_enum("schedule", "plateau", schedules.SCHEDULES, "How the learning rate falls.", flag_values=FLAGS)
_integer("patience", 5, "Epochs without a better validation error.", lower_bound=1, flag_values=FLAGS)
absl_flags.DEFINE_list("milestones", [], "Epochs at which --schedule=steps cuts.", flag_values=FLAGS)
_number("factor", 0.1, "What a cut multiplies the learning rate by.", FLAGS, low=0.0, low_open=True)
_number("momentum", 0.9, "Momentum of SGD.", FLAGS, low=0.0)
_number("weight_decay", 1e-4, "L2 weight decay, on all weights.", FLAGS, low=0.0)

_enum("loss", "cross_entropy", list(losses.LOSSES), "What is minimised.", flag_values=FLAGS)
_number("label_smoothing", None, "Of cross_entropy and madry.", FLAGS, low=0.0)
_enum("loss_norm", None, ("linf", "l2"), "Norm of the attack in madry and trades.", flag_values=FLAGS)
_number("loss_eps", None, "Radius of that attack.", FLAGS, low=0.0, low_open=True)
_number("loss_step_size", None, "Its step (default: eps/4; l2: 2 eps/steps).", FLAGS, low=0.0, low_open=True)
_integer("loss_steps", None, "Its steps (default: 10).", lower_bound=1, flag_values=FLAGS)
_number("inverse_lambda", None, "1/lambda of trades (default: 6).", FLAGS, low=0.0, low_open=True)

_integer(
    "accumulate", 1, "Parts a batch is computed in; its update is the same.", lower_bound=1, flag_values=FLAGS
)
_enum("mixed_precision", "none", list(recipe.PRECISIONS), "Number type of the layers.", flag_values=FLAGS)
_boolean("jit_compile", False, "Compile the training step with XLA.", flag_values=FLAGS)
_enum(
    "distribute",
    "auto",
    distribution.STRATEGIES,
    "auto: mirrored if there are several GPUs; multi_worker reads TF_CONFIG.",
    flag_values=FLAGS,
)

_text("run_dir", None, "The run folder (default: runs/MODEL-DATASET-TIME).", flag_values=FLAGS)
_boolean("overwrite", False, "Replace the run in --run_dir.", flag_values=FLAGS)
_boolean("resume", False, "Go on with the run in --run_dir, with its own flags.", flag_values=FLAGS)
_number("checkpoint_minutes", 10.0, "Minutes between checkpoints.", FLAGS, low=0.0, low_open=True)
_integer("keep_checkpoints", 3, "How many stay.", lower_bound=1, flag_values=FLAGS)
_enum("on_nan", "stop", ON_NAN, "What to do when a batch's loss or solve fails.", flag_values=FLAGS)
_enum("export", "best", recipe.KEEP, "Weights that model.keras gets.", flag_values=FLAGS)
_boolean("tensorboard", True, "Write event files.", flag_values=FLAGS)

# Flags that a resumed run may change.
_FREE = ("epochs", "max_updates", "data_dir", "download", "distribute", "tensorboard", "export")
_FREE += ("checkpoint_minutes", "keep_checkpoints", "on_nan", "resume", "overwrite", "run_dir", "flagfile")
_MODEL = ("filters", "blocks", "depth", "widen", "dropout", "solver", "tol", "gradient", "num_steps")
_LOSS = {
    "label_smoothing": "label_smoothing",
    "loss_norm": "norm",
    "loss_eps": "eps",
    "loss_step_size": "step_size",
    "loss_steps": "steps",
    "inverse_lambda": "inverse_lambda",
}


def make_recipe(values: absl_flags.FlagValues) -> training.Recipe:
    """The recipe that the flags describe."""
    given = flags.as_dict(values)
    fields = {field.name for field in dataclasses.fields(training.Recipe)}
    chosen = {name: value for name, value in given.items() if name in fields}
    chosen["milestones"] = _integers("milestones", given["milestones"])
    options = {name: given[name] for name in _MODEL}
    if options["blocks"] is not None:
        options["blocks"] = _integers("blocks", options["blocks"])
    loss_options = {known: given[name] for name, known in _LOSS.items()}
    return training.Recipe(**chosen, model_options=options, loss_options=loss_options)


def _integers(name: str, texts: list[str]) -> tuple[int, ...]:
    try:
        return tuple(int(text) for text in texts)
    except ValueError:
        raise UsageError(f"{name} is {','.join(texts)!r}, but must be whole numbers with commas") from None


def _resume() -> Run:
    """Opens the run to go on with and takes its flags; those given now may not contradict them."""
    if not FLAGS.run_dir:
        raise UsageError("--resume needs --run_dir, the folder of the run to go on with")
    run = Run.open(FLAGS.run_dir)
    for name, value in run.config.get("flags", {}).items():
        if (
            name in _FREE
            and FLAGS[name].present
            or name not in FLAGS
            or name in ("run_dir", "resume", "overwrite")
        ):
            continue
        if FLAGS[name].present and FLAGS[name].value != value:
            raise UsageError(
                f"--{name} is {FLAGS[name].value!r}, but the run in {FLAGS.run_dir!r} has {value!r}"
            )
        FLAGS[name].value = value
    return run


def main(argv):
    del argv
    if FLAGS.resume and FLAGS.overwrite:
        raise UsageError("--resume and --overwrite exclude each other")
    found = _resume() if FLAGS.resume else None
    plan = make_recipe(FLAGS)
    stamp = datetime.datetime.now().strftime("%Y%m%d-%H%M%S")
    path = pathlib.Path(FLAGS.run_dir or f"runs/{plan.model}-{plan.dataset.replace('/', '_')}-{stamp}")

    def run(writes: bool) -> Run:
        config = {
            "flags": flags.as_dict(FLAGS),
            "model": {"name": plan.model, "kwargs": plan.model_options},
            "dataset": {"name": plan.dataset, "data_dir": plan.data_dir, "validation": plan.validation},
            "seed": plan.seed,
        }
        if found or not writes:
            return found or Run(path, config)
        if path.exists():
            # Before --overwrite deletes it: nobody else may be writing there.
            with checkpoints.locked(path):
                pass
        return Run.create(path, config, overwrite=FLAGS.overwrite)

    survival = Survival(
        resume=FLAGS.resume,
        checkpoint_minutes=FLAGS.checkpoint_minutes,
        keep=FLAGS.keep_checkpoints,
        on_nan=FLAGS.on_nan,
    )
    _, end = training.train(plan, run, survival=survival, tensorboard=FLAGS.tensorboard)
    if not end.finished:
        print(f"stopped in epoch {end.epoch + 1}, all saved: go on with --run_dir={path} --resume")
        raise KeyboardInterrupt
    print(f"{path}: done, best validation error {end.best_error:.2%} in epoch {end.best_epoch + 1}")


def run():
    app.run(main, FLAGS)
