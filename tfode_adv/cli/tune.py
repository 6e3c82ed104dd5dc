"""Searches for a recipe's best values, and writes them as a flag file that bin/train takes.

bin/tune --model=oon --dataset=mnist_5k --epochs=5 --learning_rates=0.01,0.3 --filter_choices=16,32
bin/train --flagfile=runs/tune-oon-mnist_5k/best.cfg
"""

import pathlib

from absl import flags as absl_flags

from tfode_adv.cli import app, flags, recipes
from tfode_adv.errors import RunError, UsageError
from tfode_adv.files import read_json, write_atomic, write_json
from tfode_adv.training import checkpoints
from tfode_adv.training.choices import METHODS, OBJECTIVES
from tfode_adv.training.search_space import Objective, Space

FLAGS = flags.new(__doc__)
recipes.define(FLAGS)


def _define() -> None:
    absl_flags.DEFINE_enum("method", "random", METHODS, "How values are chosen.", flag_values=FLAGS)
    flags.define_integer(
        "trials", 10, "How many trials are run, those of an earlier call included; hyperband counts its own.", FLAGS
    )
    for name, searched in (
        ("learning_rates", "learning rate"),
        ("tols", "tolerance"),
        ("dropouts", "dropout"),
    ):
        flags.define_number(name, None, f"Search the {searched} in low,high.", FLAGS, low=0.0, several=True)
    absl_flags.DEFINE_list("filter_choices", None, "Search the width among these.", flag_values=FLAGS)
    absl_flags.DEFINE_list("solver_choices", None, "Search the solver among these.", flag_values=FLAGS)
    absl_flags.DEFINE_enum(
        "objective",
        "accuracy",
        OBJECTIVES,
        "What is maximised on validation images: accuracy, that under a short PGD, or a weighted sum.",
        flag_values=FLAGS,
    )
    flags.define_number("robust_weight", 0.5, "Weight of the robust accuracy in the sum.", FLAGS, low=0.0)
    flags.define_number(
        "robust_eps", 0.1, "Radius of the PGD that robust accuracy is measured by, in L-infinity.", FLAGS, low=0.0
    )
    flags.define_integer("robust_steps", 5, "Steps of the PGD that robust accuracy is measured by.", FLAGS)
    flags.define_integer("robust_examples", 128, "How many validation images the PGD attacks.", FLAGS)
    absl_flags.DEFINE_string(
        "tune_dir",
        None,
        "The search's folder (default: runs/tune-MODEL-DATASET); an unfinished search goes on.",
        flag_values=FLAGS,
    )


_define()
# What may change when a search goes on.
_OF_THIS_START = ("tune_dir", "data_dir", "download", "flagfile")


def _space() -> Space:
    filters = list(flags.integers("filter_choices", FLAGS.filter_choices)) if FLAGS.filter_choices else None
    return Space(
        learning_rate=FLAGS.learning_rates,
        tol=FLAGS.tols,
        dropout=FLAGS.dropouts,
        filters=filters,
        solver=FLAGS.solver_choices,
    )


def flag_file(values: dict) -> str:
    """The recipe's flags that differ from their defaults, with `values` in their place."""
    own = flags.new("")
    recipes.define(own)
    for name in own:
        own[name].value = values.get(name, FLAGS[name].value)
    changed = [own[name] for name in sorted(own) if own[name].value != own[name].default]
    return "".join(f"{flag.serialize()}\n" for flag in changed)


def _same_search(path: pathlib.Path) -> dict:
    """The search's flags; those of a search that goes on must be what they were, but it may get more trials."""
    given = {name: value for name, value in flags.as_dict(FLAGS).items() if name not in _OF_THIS_START}
    before = read_json(path) if path.exists() else {}
    if not isinstance(before, dict):
        raise RunError(f"{str(path)!r} is corrupt: it holds no flags")
    for name, value in before.items():
        if given.get(name) != value and not (name == "trials" and given[name] > value):
            raise UsageError(
                f"--{name} is {given.get(name)!r}, but the search in {str(path.parent)!r} has {value!r}; "
                "choose another --tune_dir"
            )
    return given


def main(argv: list[str]) -> None:
    del argv
    if FLAGS.distribute == "multi_worker":
        raise UsageError("distribute is 'multi_worker', but a search runs in one process: auto, none or mirrored")
    plan = recipes.make_recipe(FLAGS)
    folder = pathlib.Path(FLAGS.tune_dir or f"runs/tune-{plan.model}-{plan.dataset.replace('/', '_')}")
    objective = Objective(
        FLAGS.objective, FLAGS.robust_weight, FLAGS.robust_eps, FLAGS.robust_steps, FLAGS.robust_examples
    )
    space = _space()
    recipes.check_num_steps(FLAGS.num_steps, FLAGS.solver_choices or [FLAGS.solver])

    app.start_tensorflow()
    from tfode_adv.training import tuning

    # A mistake in what is searched or read is one line now, not a failed trial after hours.
    for values in space.examples():
        tuning.apply(plan, values).make_model()
    plan.check_data()
    with checkpoints.locked(folder):
        given = _same_search(folder / "search.json")
        search = tuning.Search(plan, space, objective, folder, method=FLAGS.method, trials=FLAGS.trials)
        write_json(folder / "search.json", given)
        search.search(verbose=0)
        values, score = search.winner()
    path = folder / "best.cfg"
    text = f"# The best of a {FLAGS.method} search for {FLAGS.objective}: {score:.4f} on validation images.\n"
    text += flag_file(values)
    write_atomic(path, text)
    print(f"{text}written to {path}")


def run() -> None:
    app.run(main, FLAGS)
