"""Makes a run folder, which bin/evaluate takes, of a checkpoint of the papers' PyTorch programs.

bin/convert --model=oon --from=checkpoint.pt --run_dir=runs/oon-published --dataset=mnist
bin/convert --model=sonet --from=sonet.npz --run_dir=runs/sonet --image_size=32,32 --tol=0.1

The model's size is read off the checkpoint. Weights do not tell the size of an image: it is 28 x 28 where
they have one channel and 32 x 32 otherwise, unless --image_size says more. (odenet_tq's do not tell the channels
either: 3, unless --image_size has a third number.)
"""

import contextlib

from absl import flags as absl_flags

from tfode_adv import data, models, solvers
from tfode_adv.cli import app, flags, recipes
from tfode_adv.errors import RunError, UsageError, check_choice, check_integer
from tfode_adv.run_folder import Run
from tfode_adv.solvers import block_options

FLAGS = flags.new(__doc__)
absl_flags.DEFINE_string("model", None, "The classifier: oon, mix, res, sonet, ...", flag_values=FLAGS)
absl_flags.DEFINE_string("from", None, "The checkpoint: .pt, .pth, .pth.tar or .npz.", flag_values=FLAGS)
absl_flags.DEFINE_string("run_dir", None, "The run folder to make.", flag_values=FLAGS)
absl_flags.DEFINE_string(
    "dataset",
    None,
    "Data it was trained on (default: mnist_5k or cifar10, where shape and classes fit).",
    flag_values=FLAGS,
)
absl_flags.DEFINE_string("data_dir", None, "Where TFDS data sets are prepared.", flag_values=FLAGS)
flags.define_number("image_size", None, "Height,width of an image; odenet_tq: also its channels.", FLAGS, several=True)
flags.define_number("mean", None, "Per-channel mean, applied inside the model.", FLAGS, several=True)
flags.define_number("deviation", None, "Per-channel standard deviation.", FLAGS, low=0.0, low_open=True, several=True)
flags.define_solver_flags(FLAGS, defaults=False)
absl_flags.DEFINE_boolean("overwrite", False, "Replace the run in --run_dir.", flag_values=FLAGS)

_DATASETS = {((28, 28, 1), 10): "mnist_5k", ((32, 32, 3), 10): "cifar10"}


def main(argv: list[str]) -> None:
    del argv
    given = flags.as_dict(FLAGS)
    for name in ("model", "from", "run_dir"):
        if not given[name]:
            raise UsageError(f"--{name} is missing")
    check_choice("model", given["model"], models.available())
    if given["solver"]:
        check_choice("solver", given["solver"], solvers.available())
    recipes.check_num_steps(given["num_steps"], [given["solver"]])
    if given["dataset"]:
        # A name that is none is a mistake; that the files are elsewhere is not.
        with contextlib.suppress(RunError):
            data.info(given["dataset"], given["data_dir"], download=False)

    app.start_tensorflow()
    from tfode_adv import interop

    state = interop.read_state(given["from"])
    options = _options(given, interop.architecture(given["model"], state))
    model = models.build(given["model"], **options)
    interop.load_torch_state(model, state)
    dataset = given["dataset"] or _DATASETS.get((options["input_shape"], options["num_classes"]))
    config = {
        "flags": given,
        "model": {"name": given["model"], "kwargs": options},
        "dataset": {"name": dataset, "data_dir": given["data_dir"]},
        "seed": None,
    }
    run = Run.create(given["run_dir"], config, overwrite=given["overwrite"])
    run.finish(model)
    print(f"{run.path}: {given['model']} with {model.count_params():,} weights from {given['from']}")
    print(f"data set: {dataset}" if dataset else "no data set recorded: give bin/evaluate one with --dataset")


def _options(given, inferred):
    """The arguments of `models.build`: what the checkpoint tells, then what the flags say."""
    options = inferred | {
        each.name: given[each.name] for each in block_options.recorded() if given[each.name] is not None
    }
    if given["image_size"]:
        size = [check_integer("image_size", number, low=1) for number in given["image_size"]]
        if len(size) == 2:
            size.append(inferred["input_shape"][-1])
        if len(size) != 3 or (given["model"] != "odenet_tq" and size[2] != inferred["input_shape"][-1]):
            raise UsageError(f"image_size is {given['image_size']}, but must be height,width")
        options["input_shape"] = tuple(size)
    if (given["mean"] is None) != (given["deviation"] is None):
        raise UsageError("--mean and --deviation go together")
    if given["mean"]:
        options["normalization"] = (given["mean"], given["deviation"])
    return options


def run() -> None:
    app.run(main, FLAGS)
