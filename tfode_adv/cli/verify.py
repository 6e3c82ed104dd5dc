"""Checks what bin/evaluate --save_adversarial wrote: every prediction, distance and success, computed again.

bin/verify runs/NAME/evaluations/DIGEST/adversarial-200.npz
bin/verify PACK... --run=runs/NAME         of packs that were moved out of their run's folder
bin/verify PACK --run=zoo:NAME

Nothing is attacked and no data set is read: a pack holds the images without and with the attack, and what was said of
them. Prints what does not hold of which image, by its place in the split, and ends with status 1 if there is anything.
An image is undecided, and nothing is held against it, where rounding alone can turn its prediction: the logits of the
class recorded and the class predicted now are closer than one processor can be told from another.
"""

import pathlib
from typing import TYPE_CHECKING

import numpy as np
from absl import flags as absl_flags

from tfode_adv.cli import app, flags
from tfode_adv.cli.run_argument import PREFIX, opened
from tfode_adv.errors import RunError, UsageError
from tfode_adv.evaluation.evidence import Pack
from tfode_adv.evaluation.runner import describe
from tfode_adv.run_folder import CONFIG, Run

if TYPE_CHECKING:
    from tfode_adv.evaluation.recomputation import Findings

FLAGS = flags.new(__doc__)
absl_flags.DEFINE_string(
    "run",
    None,
    "The attacked model's run folder, or zoo:NAME (default: the run that the pack lies in, else the zoo's network that "
    "it names).",
    flag_values=FLAGS,
)
flags.define_integer("batch_size", 128, "How many images a batch has.", FLAGS)


def main(argv: list[str]) -> None:
    if len(argv) < 2:
        raise UsageError("no pack is given: bin/verify PACK...")
    # Of all of them before any is computed: a file that is none is told at once.
    packs = {path: Pack.read(path) for path in argv[1:]}
    runs = {path: _run_of(path, pack) for path, pack in packs.items()}

    app.start_tensorflow()
    from tfode_adv.evaluation.recomputation import check
    from tfode_adv.evaluation.subject import KerasSubject

    failed, subjects = [], {}
    for path, pack in packs.items():
        folder = runs[path].path
        if folder not in subjects:
            # One at a time: packs of a run lie together, and what is compiled for one serves the next.
            subjects = {folder: KerasSubject(runs[path].load_model(), FLAGS.batch_size)}
        findings = check(pack, subjects[folder])
        print("\n".join([_title(path, pack), *findings.lines(), _summary(pack, findings)]), flush=True)
        if not findings.holds:
            failed.append(path)
    if failed:
        more = f" (and {len(failed) - 1} more)" if len(failed) > 1 else ""
        raise RunError(f"{failed[0]!r} does not hold{more}")


def _run_of(path: str, pack: Pack) -> Run:
    """The run of the model that was attacked."""
    if FLAGS.run:
        return opened(FLAGS.run)
    around = pathlib.Path(path).resolve().parent.parent.parent
    if (around / CONFIG).is_file():
        return Run.open(around)
    if pack.network:
        return opened(PREFIX + pack.network)
    raise UsageError(f"{path!r} lies in no run folder: name the one of the attacked model with --run")


def _title(path: str, pack: Pack) -> str:
    made = pack.configuration
    return f"{path!r}: {describe(made)}, {len(pack)} images of {made.dataset!r} ({made.split}), seal {pack.seal}"


def _summary(pack: Pack, findings: "Findings") -> str:
    correct = int(np.count_nonzero(pack["clean_prediction"] == pack["label"]))
    turned = int(np.count_nonzero(pack["success"]))
    sound = len(pack) - len(findings.rows.keys() | findings.undecided.keys())
    undecided = f", {len(findings.undecided)} are undecided" if findings.undecided else ""
    return f"{sound} of {len(pack)} images hold{undecided}: {correct} recorded as correct, {turned} as turned"


def run() -> None:
    """The program."""
    app.run(main, FLAGS, positional=True)
