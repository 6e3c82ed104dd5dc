"""Attacks a trained model on a grid of settings and prints how much of it is left.

bin/evaluate --tol=1.0 --attack=spsa
bin/evaluate --run=runs/NAME --tol=1e-3,1e-1,1 --eps=0.1,0.3 --norm=linf,l2rms --gradient=backprop,adjoint
bin/evaluate --attack=none --tol=1e-3,1        the clean pass alone
bin/evaluate --random_tol=1e-3,1 --eot=8       a defence that draws its tolerance, and gradients averaged over draws
bin/evaluate --attack=help                     every attack, its norms and defaults

bin/evaluate --num_examples=200 --save_adversarial   all adversarial images to a file that bin/verify checks

One record an image and configuration goes to RUN/evaluations/. The same command continues where it was
stopped; what is finished is never computed again, unless --overwrite says so.
"""

import dataclasses
from typing import Any

import numpy as np
from absl import flags as absl_flags

from tfode_adv import attacks, data, models
from tfode_adv.cli import app, flags, workers
from tfode_adv.cli.run_argument import opened
from tfode_adv.errors import LARGEST_FLOAT, MOST_INTEGER, RunError, UsageError
from tfode_adv.evaluation import evidence, grid, results
from tfode_adv.evaluation.configuration import SOLVED
from tfode_adv.evaluation.records import FOLDER, Cell
from tfode_adv.evaluation.runner import KEEP_IMAGES, Damaged, evaluate, forget, in_order
from tfode_adv.evaluation.shards import Shard
from tfode_adv.files import parse_json, sha256, write_json
from tfode_adv.reports import overview
from tfode_adv.run_folder import Run, versions
from tfode_adv.solvers import block_options

FLAGS = flags.new(__doc__)
flags.define_solver_flags(FLAGS, several=True, defaults=False)
flags.define_attack_flags(FLAGS, several=True)
flags.define_data_flags(FLAGS, dataset=None)

_integer, _number, _text = flags.define_integer, flags.define_number, absl_flags.DEFINE_string

_text("run", None, "The run folder, or zoo:NAME (default: the newest finished one under runs/).", flag_values=FLAGS)
absl_flags.DEFINE_enum(
    "split", "test", ("test", "validation", "train"), "Which split's images are attacked.", flag_values=FLAGS
)
_integer("num_examples", None, "Only the first so many images.", FLAGS)
_integer("num_images", KEEP_IMAGES, "Images kept for the report's pictures.", FLAGS, low=0)
for option in block_options.of_gradients():
    flags.define_option(option, None, FLAGS)
_number(
    "random_tol",
    None,
    "LOW,HIGH: each image's tolerance is drawn from there, log-uniformly, anew at each call.",
    FLAGS,
    low=0.0,
    low_open=True,
    several=True,
)
_integer("eot", None, "How many draws a gradient is averaged over.", FLAGS)
absl_flags.DEFINE_list("options", [], "More of an attack's hyperparameters: NAME=VALUE,...", flag_values=FLAGS)
absl_flags.DEFINE_boolean(
    "save_adversarial",
    False,
    "Write all images, without and with the attack, and what was said of them, one file a configuration: bin/verify "
    "computes it again.",
    flag_values=FLAGS,
)
_text("shard", "1/1", "i/n: every n-th image from the i-th on.", flag_values=FLAGS)
_text("distribute", "none", "none, gpus (one process a GPU), or a number of processes.", flag_values=FLAGS)
absl_flags.DEFINE_boolean("overwrite", False, "Compute everything anew.", flag_values=FLAGS)

_HYPERPARAMETERS = ("step_size", "steps", "restarts", "random_start")


def main(argv: list[str]) -> None:
    del argv
    shard = Shard.parse(FLAGS.shard)
    hyperparameters = _hyperparameters()
    if FLAGS.attack == ["help"]:
        print(f"none: no attack, the clean pass alone\n{attacks.describe()}")
        return
    # Flags first: a mistake is one line, whether there is a run or not.
    axes = _axes(hyperparameters)
    parts = shard.split(workers.count(FLAGS.distribute))
    _check_saved()
    # Before the model is loaded: from then on TensorFlow holds every GPU it sees.
    devices = workers.share_devices(len(parts))
    run = opened(FLAGS.run) if FLAGS.run else Run.newest()

    app.start_tensorflow()
    from tfode_adv.evaluation.subject import KerasSubject, check_images, match_classes

    dataset = FLAGS.dataset or run.dataset
    attacked = grid.attack_grid(axes, dataset)
    options = run.data_options(dataset, FLAGS.data_dir)
    # What is named wrong, data set or run, is told before the images are read.
    classes = data.info(dataset, options.get("data_dir"), FLAGS.download).class_names
    model = run.load_model()
    newest = "" if FLAGS.run else "the newest run, "
    print(f"evaluating {newest}{run.path}, on {dataset}", flush=True)
    images, labels = data.arrays(dataset, FLAGS.split, FLAGS.num_examples, download=FLAGS.download, **options)
    labels = match_classes(run, dataset, classes, labels)
    check_images(model, images, labels, dataset)
    base = {"model": sha256(run.model_path), "split": FLAGS.split}
    _check_chance(model, images)
    configurations = [
        dataclasses.replace(configuration, **base)
        for configuration in grid.model_grid(attacked, axes, models.ode_blocks(model))
    ]
    if FLAGS.overwrite:
        forget(configurations, run.path, shard.indices(len(images)))
    others = [{"run": str(run.path), "shard": str(part)} for part in parts[1:]]
    damaged, subject = None, KerasSubject(model, FLAGS.batch_size)
    with workers.beside("evaluate", FLAGS, others, devices):
        try:
            evaluate(
                subject,
                images,
                labels,
                configurations,
                run.path,
                shard=parts[0],
                batch_size=FLAGS.batch_size,
                keep_images=len(images) if FLAGS.save_adversarial else FLAGS.num_images,
            )
        except Damaged as error:
            damaged = error
    _report(run, configurations, len(images))
    # A copy leaves the rest to the program that started it.
    if workers.is_copy():
        return
    if damaged:
        raise damaged
    if FLAGS.save_adversarial:
        _save_adversarial(run, configurations, subject, shard, len(images))


def _hyperparameters() -> dict[str, Any]:
    """Those given by flags of their own, and those of --options."""
    given = {name: getattr(FLAGS, name) for name in _HYPERPARAMETERS}
    found = {name: value for name, value in given.items() if value is not None}
    for option in FLAGS.options:
        name, equals, text = option.partition("=")
        if not equals:
            raise UsageError(f"options holds {option!r}, but must be NAME=VALUE,...")
        try:
            found[name] = parse_json(text)
        except ValueError:
            found[name] = text
    for name, value in found.items():
        # None of them is larger than 32 bits: as what they become, these would be others.
        most = MOST_INTEGER if isinstance(value, int) else LARGEST_FLOAT
        if isinstance(value, int | float) and abs(value) > most:
            raise UsageError(f"{name} is {value}, but must fit into 32 bits")
    return found


def _check_saved() -> None:
    """Raises UsageError where there would be nothing to save, or nothing that can be computed again."""
    if not FLAGS.save_adversarial:
        return
    if set(FLAGS.attack) <= {"none"}:
        raise UsageError("save_adversarial is given, but attack none, the clean pass, has no adversarial images")
    if FLAGS.random_tol is not None:
        raise UsageError("save_adversarial is given, but with random_tol no prediction can be computed again")


def _check_chance(model: Any, images: np.ndarray) -> None:
    """Raises UsageError for a model that answers twice the same where there is something to average over, and for one
    that does not where its answers are to be computed again."""
    averaged = FLAGS.eot is not None and FLAGS.random_tol is None
    if not averaged and not FLAGS.save_adversarial:
        return
    import tensorflow as tf

    some = tf.constant(images[:8])
    first, second = (np.asarray(model(some, training=False)) for _ in range(2))
    if averaged and np.array_equal(first, second, equal_nan=True):
        raise UsageError(f"eot is {FLAGS.eot}, but the model has nothing random: --random_tol draws its tolerance")
    # A GPU may add in another order at the second time.
    if FLAGS.save_adversarial and not np.allclose(first, second, rtol=1e-3, atol=1e-3, equal_nan=True):
        raise UsageError("save_adversarial is given, but the model draws at random: nothing can be computed again")


def _axes(hyperparameters: dict[str, Any]) -> grid.Axes:
    return grid.Axes(
        attacks=FLAGS.attack,
        norms=FLAGS.norm if FLAGS["norm"].present else None,
        eps=FLAGS.eps,
        random_tol=FLAGS.random_tol,
        eot=FLAGS.eot,
        seed=FLAGS.seed,
        hyperparameters=hyperparameters,
        **{each.span: getattr(FLAGS, each.name) for each in SOLVED},
    )


def _save_adversarial(run: Run, configurations, subject: Any, shard: Shard, num_examples: int) -> None:
    """Writes a pack a configuration, each once it is seen to hold."""
    from tfode_adv.evaluation.recomputation import check

    weights, network = evidence.weights_sha256(subject.model.get_weights()), run.config.get("zoo", {}).get("name")
    for configuration in configurations:
        indices = shard.indices(num_examples)
        if configuration.attack == "none" or not indices:
            continue
        cell = Cell.of(run.path, configuration)
        pack, path = evidence.Pack.of(cell, indices, weights, network), evidence.file_of(cell, num_examples, shard)
        findings = check(pack, subject)
        if not findings.holds:
            raise RunError(
                f"{str(path)!r} was not written, as the images kept are not those of the records (--overwrite computes "
                f"both anew): {findings.lines()[0]}, the first of {len(findings.rows)}"
            )
        pack.write(path)
        print(f"wrote {path}")


def _report(run: Run, configurations, num_examples: int) -> None:
    """Prints what was asked for, and writes all of the run's results to summary.json."""
    everything = results.collect([run.path])
    values = [results.as_dict(result) for result in everything.results]
    summary = {"results": values, "left_out": list(everything.left_out), "versions": versions()}
    write_json(run.path / FOLDER / "summary.json", summary)
    asked = {configuration.digest for configuration in in_order(configurations)}
    shown = [result.first(num_examples) for result in everything.results if result.configuration.digest in asked]
    shown = [result for result in shown if result.records]
    tables = [overview.clean_table(shown), overview.attack_table(shown)]
    print("\n".join(table.to_text() for table in tables if table.rows), end="")
    for line in everything.left_out:
        print(line)


def run() -> None:
    app.run(main, FLAGS)
