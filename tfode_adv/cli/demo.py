"""Trains a small OON on MNIST digits, attacks it at three tolerances, prints a table and writes a report.

The same attack follows two gradients, backpropagation's and the adjoint's: the page begins with both.

What bin/train, bin/evaluate and bin/report do, one after the other, in runs/demo.
"""

import contextlib
import io
import pathlib
from types import ModuleType

from absl import flags as absl_flags

from tfode_adv import data
from tfode_adv.cli import app, evaluate, flags, report, train
from tfode_adv.errors import check_integer
from tfode_adv.evaluation import results
from tfode_adv.reports import overview
from tfode_adv.run_folder import CONFIG, Run

FLAGS = flags.new(__doc__)
absl_flags.DEFINE_string("run_dir", "runs/demo", "The run folder; an earlier demo in it goes.", flag_values=FLAGS)
flags.define_integer("epochs", 5, "Epochs of training.", FLAGS)
flags.define_integer("num_examples", 100, "How many images are attacked.", FLAGS)
flags.define_integer("filters", 16, "Width of the network.", FLAGS)

# Found by trying: a narrow network learns digits in a few hundred steps at this rate and batch size.
RECIPE = (
    "--model=oon",
    "--dataset=mnist_5k",
    "--tol=1e-1",
    "--batch_size=32",
    "--learning_rate=0.3",
    "--schedule=cosine",
    "--dropout=0",
    "--weight_decay=0",
)
# What two demos may differ in.
_OF_A_DEMO = ("filters", "epochs", "run_dir", "overwrite")
TOLERANCES = "1e-3,1e-1,1"
# Each attack, and the share of the images it gets: SPSA asks for hundreds of predictions an image.
ATTACKS = (
    (("--attack=pgd", "--norm=linf", "--eps=0.1,0.3"), 1),
    (("--attack=pgd", "--norm=linf", "--eps=0.1", "--gradient=adjoint"), 1),
    (("--attack=pgd", "--norm=l2rms", "--eps=0.05,0.1"), 1),
    (("--attack=spsa", "--norm=linf", "--eps=0.1", "--steps=15", "--options=samples=32,learning_rate=0.03"), 5),
)


def main(argv: list[str]) -> None:
    del argv
    run = pathlib.Path(FLAGS.run_dir)
    # Told now, not once the network is trained.
    check_integer("num_examples", FLAGS.num_examples, low=1, high=data.info("mnist_5k").num_examples("test"))
    print("1/3 training a small OON on 3,600 images", flush=True)
    size = [f"--filters={FLAGS.filters}", f"--epochs={FLAGS.epochs}"]
    overwrite = ["--overwrite"] if _may_replace(run) else []
    _call(train, *RECIPE, *size, f"--run_dir={run}", *overwrite)
    print(f"2/3 attacking it on {FLAGS.num_examples} test images", flush=True)
    for attack, share in ATTACKS:
        images = max(1, FLAGS.num_examples // share)
        _call(evaluate, f"--run={run}", f"--tol={TOLERANCES}", f"--num_examples={images}", *attack)
    print("3/3 writing the report\n", flush=True)
    _call(report, str(run))
    print(overview.attack_table(results.collect([run]).results).to_text())
    print(f"The report, with figures and pictures: {run / 'report' / 'index.html'}")


def _may_replace(folder: pathlib.Path) -> bool:
    """Whether there is no run in `folder`, or an earlier demo's; any other is its owner's to overwrite."""
    if not (folder / CONFIG).exists():
        return True
    recorded = Run.open(folder).config.get("flags", {})
    train.FLAGS.unparse_flags()
    train.FLAGS(["train", *RECIPE])
    ours = {name: value for name, value in flags.as_dict(train.FLAGS).items() if name not in _OF_A_DEMO}
    fixed = {part.removeprefix("--").partition("=")[0] for part in RECIPE}
    # A demo of another version may have had fewer flags.
    return fixed <= recorded.keys() and all(recorded.get(name, value) == value for name, value in ours.items())


def _call(program: ModuleType, *arguments: str) -> None:
    """Runs one of our programs here, so that TensorFlow starts once; its errors are the demo's."""
    name = program.__name__.rpartition(".")[2]
    program.FLAGS.unparse_flags()
    with contextlib.redirect_stdout(io.StringIO()):
        program.main(program.FLAGS([name, *arguments]))


def run() -> None:
    app.run(main, FLAGS)
