"""Is a trained model's robustness real? Audits its gradients, tries many attacks, and gives a verdict.

bin/diagnose RUN                              a quick look at 200 test images, at each tolerance
bin/diagnose RUN --tol=1e-3,1 --eps=0.1 --budget=full
bin/diagnose RUN --gradient=backprop          held against an attack that was published with backpropagation
bin/diagnose RUN --twin=OTHER                 takes gradients from another run's model too, a smooth twin of RUN's

Writes RUN/diagnosis/diagnosis.json and its pictures; bin/report shows them. Every finished piece is kept:
the same command continues where it was stopped. A diagnosis of weights that were since replaced is moved aside.

Two answers at each tolerance: whether the model's own gradients are honest, absent, misleading, shattered or random,
and how much robustness is left: at most so much, and which attack set it. The verdict follows: "credible", no sign of
masking was found; "masked", the gradients are hidden, or what the published attack left falls to another gradient, to
transferred examples or without a gradient; "inconclusive", the attacks are too weak to say; "not robust", the attacks
turn nine images in ten.
"""

from typing import TYPE_CHECKING, Any

from absl import flags as absl_flags

from tfode_adv import data
from tfode_adv.cli import app, flags
from tfode_adv.cli.run_argument import opened
from tfode_adv.diagnosis.budgets import BUDGETS, TOLERANCES
from tfode_adv.diagnosis.reader import FOLDER, NAME, set_aside
from tfode_adv.errors import UsageError
from tfode_adv.files import sha256
from tfode_adv.published import attacked_solver_of, budgets, gradient_of
from tfode_adv.run_folder import Run
from tfode_adv.solvers import block_options

if TYPE_CHECKING:
    from tfode_adv.diagnosis.attack_table import Protocol
    from tfode_adv.diagnosis.measurements import Images

NUM_EXAMPLES = 200

FLAGS = flags.new(__doc__)
_integer, _number, _text = flags.define_integer, flags.define_number, absl_flags.DEFINE_string

_text("run", None, "The run folder, or zoo:NAME, if not given as an argument.", flag_values=FLAGS)
_number("tol", list(TOLERANCES), "Tolerances of the ODE solver.", FLAGS, low=0.0, low_open=True, several=True)
flags.define_names(
    "gradient",
    None,
    "How the published attack took its gradient (default: adjoint for WIFS 2019's models, backprop_steps for MSML "
    "2022's, backprop for any other).",
    FLAGS,
    choices=block_options.named("gradient").choices,
)
flags.define_names(
    "attacked_solver",
    None,
    "The solver that the attack was published on, if not the model's own (default: rk4 for LyaNet).",
    FLAGS,
    choices=block_options.named("solver").choices,
)
_integer("attacked_num_steps", None, "Its number of steps, if they are fixed (default: 10 for LyaNet).", FLAGS)
flags.define_names("norm", "linf", "linf, l2 or l2rms.", FLAGS, choices=flags.NORMS)
_number("eps", None, "Radius (default: the middle one of those published).", FLAGS, low=0.0, low_open=True)
_number("step_size", None, "Length of the published attack's step.", FLAGS, low=0.0, low_open=True)
_integer("steps", None, "Steps of the published attack.", FLAGS)
_number("fine_tol", 1e-4, "The tolerance taken for an accurate solve.", FLAGS, low=0.0, low_open=True)
_integer(
    "num_examples",
    None,
    f"Test images looked at (default: {NUM_EXAMPLES}, or all of fewer).",
    FLAGS,
)
_text(
    "twin",
    None,
    "A run or zoo:NAME: a smooth twin of this model, to take gradients from too.",
    flag_values=FLAGS,
)
absl_flags.DEFINE_enum(
    "budget",
    "quick",
    list(BUDGETS),
    "How hard the attacks try: quick, for a look, or full, for a paper.",
    flag_values=FLAGS,
)
flags.define_data_flags(FLAGS, dataset=None)


def main(argv: list[str]) -> None:
    if len(argv) > 2 or (len(argv) == 2 and FLAGS.run):
        raise UsageError(f"one run folder is wanted, not {', '.join(map(repr, [FLAGS.run or '', *argv[1:]]))}")
    folder = argv[1] if len(argv) == 2 else FLAGS.run
    run = opened(folder) if folder else Run.newest()

    app.start_tensorflow()
    import tensorflow as tf

    from tfode_adv.diagnosis import writer
    from tfode_adv.diagnosis.diagnose import carry_out
    from tfode_adv.evaluation.subject import check_images

    # Some thirty programs are compiled on purpose, which TensorFlow takes for a mistake and warns of.
    tf.get_logger().setLevel("ERROR")
    name = FLAGS.dataset or run.dataset
    protocol = _protocol(name, run.config["model"].get("name"))
    # What is named wrong, data set or run, is told before the images are read.
    data.info(name, run.data_options(name, FLAGS.data_dir).get("data_dir"), FLAGS.download)
    model = run.load_model()
    newest = "" if folder else "the newest run, "
    print(f"diagnosing {newest}{run.path}, on {name}", flush=True)
    images = _images(run, name)
    check_images(model, images.x, images.y, name)
    twin = opened(FLAGS.twin).load_model() if FLAGS.twin else None
    if twin is not None:
        check_images(twin, images.x, images.y, name)
    digest = sha256(run.model_path)
    aside = set_aside(run, digest)
    if aside:
        print(f"the diagnosis that was there is of other weights: moved to {aside}")
    done = carry_out(
        model,
        images,
        protocol,
        run.path / FOLDER,
        digest=digest,
        budget=FLAGS.budget,
        tols=FLAGS.tol,
        batch_size=FLAGS.batch_size,
        twin=twin,
        named={"data set": name},
    )
    print(writer.summary(done.found).to_text())
    print("\n".join([*(at.verdict.sentence for at in done.found), *done.notes, *writer.remarks(done.found)]))
    print(f"\nverdict: {done.document['verdict']['label']}; all of it: {run.path / FOLDER / NAME}")


def _attacked_solver(model: str | None) -> dict[str, Any]:
    """Of a protocol: the solver named, or else what the model's paper attacked."""
    if FLAGS.attacked_solver or FLAGS.attacked_num_steps:
        return {"solver": FLAGS.attacked_solver, "num_steps": FLAGS.attacked_num_steps}
    return attacked_solver_of(model)


def _protocol(dataset: str, model: str | None) -> "Protocol":
    from tfode_adv.diagnosis.attack_table import Protocol

    published = budgets.budget(dataset, FLAGS.norm)
    eps = FLAGS.eps or published.eps[0]
    steps = FLAGS.steps or published.steps
    return Protocol(
        norm=FLAGS.norm,
        eps=eps,
        step_size=FLAGS.step_size or budgets.step_size(published, eps, steps),
        steps=steps,
        gradient=FLAGS.gradient or gradient_of(model),
        fine_tol=FLAGS.fine_tol,
        seed=FLAGS.seed,
        **_attacked_solver(model),
    )


def _images(run: Run, dataset: str) -> "Images":
    """Test images, and clean validation images for the detectors' thresholds, as the training split them."""
    from tfode_adv.diagnosis.measurements import Images
    from tfode_adv.evaluation.subject import match_classes

    options = run.data_options(dataset, FLAGS.data_dir)
    info = data.info(dataset, options.get("data_dir"), FLAGS.download)
    count = FLAGS.num_examples or min(NUM_EXAMPLES, info.num_examples("test"))
    x, y = data.arrays(dataset, "test", count, download=FLAGS.download, **options)
    y = match_classes(run, dataset, info.class_names, y)
    if options.get("validation") == 0:
        return Images(x, y, x[:0])
    validation, _ = data.arrays(dataset, "validation", download=FLAGS.download, **options)
    return Images(x, y, validation[:count])


def run() -> None:
    """The program."""
    app.run(main, FLAGS, positional=True)
