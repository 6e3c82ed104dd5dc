"""The flags that make up a training recipe, and the recipe they describe."""

import dataclasses
from collections.abc import Sequence
from functools import partial

from absl import flags as absl_flags

from tfode_adv import solvers, training
from tfode_adv.cli import flags, run_argument
from tfode_adv.data import AUGMENTATIONS
from tfode_adv.errors import UsageError
from tfode_adv.models.precision import PRECISIONS
from tfode_adv.solvers import block_options
from tfode_adv.training import losses, schedules
from tfode_adv.training.choices import OPTIMIZERS, STRATEGIES

_MODEL = ("filters", "blocks", "depth", "widen", "dropout", *(each.name for each in block_options.recorded()))
# The flags of some schedules alone.
_OF_SCHEDULES = {"patience": ["plateau"], "milestones": ["steps"], "factor": ["plateau", "steps"]}
# The loss's flags, and what the losses call them.
_LOSS = {
    "label_smoothing": "label_smoothing",
    "loss_norm": "norm",
    "loss_eps": "eps",
    "loss_step_size": "step_size",
    "loss_steps": "steps",
    "inverse_lambda": "inverse_lambda",
}


def define(values: absl_flags.FlagValues) -> None:
    """Defines every flag of a recipe in `values`."""
    flags.define_model_flags(values)
    # What is left out is the model's own: the families were published with different tolerances.
    flags.define_solver_flags(values, defaults=False)
    flags.define_data_flags(values)
    groups = {
        "Data": _define_data,
        "Descent": _define_descent,
        "Loss": _define_loss,
        "Means of computing": _define_means,
    }
    for title, define_ in groups.items():
        with flags.group(values, title):
            define_(
                integer=partial(flags.define_integer, flag_values=values),
                number=partial(flags.define_number, low=0.0, flag_values=values),
                choice=partial(absl_flags.DEFINE_enum, flag_values=values),
                values=values,
            )


def _define_data(integer, number, choice, values):
    choice("augment", "none", AUGMENTATIONS, "Augmentation of the training images.")
    absl_flags.DEFINE_string(
        "normalization",
        "none",
        "Applied inside the model: none, data (measured on the training images) or means/deviations.",
        flag_values=values,
    )
    number("validation", 0.1, "Share of the training images held out for validation.")
    integer("num_train_examples", None, "Train on only so many images.")


def _define_descent(integer, number, choice, values):
    integer("epochs", 25, "How many epochs there are, counted from the start of the training.")
    integer("max_updates", None, "Stop after so many batches.")
    choice("optimizer", "sgd", OPTIMIZERS, "What descends: sgd, or Keras's adam.")
    number("learning_rate", 0.1, "Learning rate.", low_open=True)
    choice("schedule", "plateau", schedules.SCHEDULES, "How the learning rate falls.")
    integer("patience", 5, "--schedule=plateau cuts once more than so many epochs in a row were no better.")
    absl_flags.DEFINE_list("milestones", [], "Epochs at which --schedule=steps cuts.", flag_values=values)
    number("factor", 0.1, "What a cut multiplies the learning rate by.", low_open=True)
    number("momentum", 0.9, "Momentum of sgd; beta_1 of adam.")
    number("weight_decay", 1e-4, "Weight decay, on all weights: L2 in sgd's gradient, apart from it in adam.")
    absl_flags.DEFINE_string(
        "start_from",
        None,
        "A finished run, or zoo:NAME: layers of the same names start with its weights.",
        flag_values=values,
    )
    absl_flags.DEFINE_list(
        "start_anew", [], "Names of layers that keep their own weights in spite of --start_from.", flag_values=values
    )
    absl_flags.DEFINE_list("train_only", [], "Names of the layers to train; the others stay.", flag_values=values)


def _define_loss(integer, number, choice, values):
    choice("loss", "cross_entropy", list(losses.LOSSES), "What is minimised.")
    number("label_smoothing", None, "Label smoothing in cross_entropy and madry.")
    choice("loss_norm", None, ("linf", "l2"), "Norm of the attack in madry and trades (default: linf).")
    number("loss_eps", None, "Radius of the attack in madry and trades (default: 0.031).", low_open=True)
    number(
        "loss_step_size",
        None,
        "Length of a step of the attack in madry and trades (default: eps / 4; l2: 2 eps / steps).",
        low_open=True,
    )
    integer("loss_steps", None, "Steps of the attack in madry and trades (default: 10).")
    number("inverse_lambda", None, "1/lambda of trades (default: 6).", low_open=True)


def _define_means(integer, number, choice, values):
    integer("accumulate", 1, "Parts a batch is computed in; for one update, but for dropout and batch norm.")
    choice("mixed_precision", "none", list(PRECISIONS), "Number type of the layers.")
    absl_flags.DEFINE_boolean("jit_compile", False, "Compile the training step.", flag_values=values)
    choice(
        "distribute",
        "auto",
        STRATEGIES,
        "auto: mirrored if there are several GPUs; multi_worker reads TF_CONFIG.",
    )


def make_recipe(values: absl_flags.FlagValues) -> training.Recipe:
    """The recipe that the flags describe.

    Raises:
        UsageError: for a value that cannot be.
    """
    given = flags.as_dict(values)
    for name, schedules_ in _OF_SCHEDULES.items():
        if values[name].present and given["schedule"] not in schedules_:
            raise UsageError(f"{name} is {values[name].value}, but schedule {given['schedule']!r} takes none")
    fields = {field.name for field in dataclasses.fields(training.Recipe)}
    chosen = {name: value for name, value in given.items() if name in fields}
    chosen["milestones"] = flags.integers("milestones", given["milestones"])
    if chosen["start_from"]:
        chosen["start_from"] = run_argument.located(chosen["start_from"])
    options = {name: given[name] for name in _MODEL}
    if options["blocks"] is not None:
        options["blocks"] = flags.integers("blocks", options["blocks"])
    loss_options = {known: given[name] for name, known in _LOSS.items()}
    return training.Recipe(**chosen, model_options=options, loss_options=loss_options)


def check_num_steps(num_steps: int | None, names: Sequence[str | None]) -> None:
    """`solvers.check_num_steps`, where a name that is None is an ODE block's own solver."""
    solvers.check_num_steps(num_steps, [name or block_options.named("solver").default for name in names])
