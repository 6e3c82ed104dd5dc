"""Sets our figures into the papers' tables, the published ones in brackets beside them.

bin/reproduce --paper=wifs2019 --table=2 --dataset=mnist --num_examples=1000 --gradient=adjoint,backprop
bin/reproduce --paper=wifs2019 --figure=2 --dataset=mnist
bin/reproduce --paper=msml2022

Reads the run folders under --runs; what they lack is listed with the commands that make it. --evaluate runs
those on the models that are there, --train makes the models as well.
"""

import pathlib
import shlex
import subprocess
from collections.abc import Sequence

from absl import flags as absl_flags

from tfode_adv.cli import app, flags, workers
from tfode_adv.errors import RunError, UsageError
from tfode_adv.reports import papers, report
from tfode_adv.reports.document import Report, Section
from tfode_adv.reports.reproduction import Reproduction, Shelf, all_commands, reproduce
from tfode_adv.runs import versions

FLAGS = flags.new(__doc__)
absl_flags.DEFINE_enum("paper", "wifs2019", papers.PAPERS, "The paper.", flag_values=FLAGS)
absl_flags.DEFINE_integer("table", None, "wifs2019: 1, 2, 3 or 4; msml2022: 1.", flag_values=FLAGS)
absl_flags.DEFINE_integer("figure", None, "wifs2019: 2.", flag_values=FLAGS)
absl_flags.DEFINE_enum(
    "dataset", None, tuple(papers.TEST_IMAGES), "Default: the table's own.", flag_values=FLAGS
)
absl_flags.DEFINE_integer(
    "num_examples", None, "The first so many test images (default: all).", lower_bound=1, flag_values=FLAGS
)
flags.define_names(
    "gradient", None, "Of the attack; default: the paper's.", FLAGS, choices=flags.GRADIENTS, several=True
)
absl_flags.DEFINE_string("runs", "runs", "Where the run folders are.", flag_values=FLAGS)
absl_flags.DEFINE_string("data_dir", None, "Handed to the commands.", flag_values=FLAGS)
absl_flags.DEFINE_string("out", None, "The report's folder (default: under --runs).", flag_values=FLAGS)
absl_flags.DEFINE_boolean("evaluate", False, "Evaluate what is missing.", flag_values=FLAGS)
absl_flags.DEFINE_boolean("train", False, "Train what is missing, and evaluate it.", flag_values=FLAGS)
absl_flags.DEFINE_boolean(
    "overwrite", False, "Write into a folder that holds something else.", flag_values=FLAGS
)

_GRADIENT = {"wifs2019": "adjoint", "msml2022": "backprop"}


def main(argv) -> None:
    del argv
    table, dataset = _asked()
    found = [_reproduced(table, dataset, gradient) for gradient in FLAGS.gradient or [_GRADIENT[FLAGS.paper]]]
    for shelf, one in found:
        print(one.table.to_text())
        for note in one.notes:
            print(note)
        commands = all_commands(shelf, one.missing)
        if commands:
            print(f"\n{len(one.missing)} entries are missing; these commands make them:")
            print("\n".join(commands))
        print()
    name = f"{FLAGS.paper}-table{table}-{dataset}"
    out = pathlib.Path(FLAGS.out) if FLAGS.out else pathlib.Path(FLAGS.runs) / "reproduced" / name
    page = report.write(_report(name, found), out, FLAGS.overwrite)
    print(f"wrote {page}")


def _asked() -> tuple[int, str]:
    """The table and its data set, of which either may imply the other."""
    tables = papers.TABLES[FLAGS.paper]
    table = FLAGS.table if FLAGS.table is not None else tables[0]
    implied = "cifar10" if FLAGS.paper == "msml2022" or table == 3 else "mnist"
    dataset = FLAGS.dataset or implied
    papers.layout(FLAGS.paper, table, dataset)
    images = papers.TEST_IMAGES[dataset]
    if FLAGS.num_examples is not None and FLAGS.num_examples > images:
        raise UsageError(f"num_examples is {FLAGS.num_examples}, but {dataset} has {images} test images")
    return table, dataset


def _reproduced(table: int, dataset: str, gradient: str) -> tuple[Shelf, Reproduction]:
    layout = papers.layout(FLAGS.paper, table, dataset)

    def look() -> tuple[Shelf, Reproduction]:
        images = FLAGS.num_examples or papers.TEST_IMAGES[dataset]
        shelf = Shelf(FLAGS.runs, dataset, images, gradient, FLAGS.data_dir)
        return shelf, reproduce(layout, shelf, _parameters(layout, shelf))

    shelf, found = look()
    if FLAGS.train or FLAGS.evaluate:
        _run(all_commands(shelf, found.missing), FLAGS.train)
        shelf, found = look()
    return shelf, found


def _parameters(layout: papers.Layout, shelf: Shelf) -> dict[str, int]:
    """Trainable parameters of the models that are there, where the table has a place for them."""
    if not layout.parameters:
        return {}
    runs = {model.name: shelf.run_of(model) for model in {one.model for one in layout.measurements}}
    return {
        name: sum(int(weight.shape.num_elements()) for weight in run.load_model().trainable_variables)
        for name, run in runs.items()
        if run is not None
    }


def _run(commands: Sequence[str], train: bool) -> None:
    """Runs commands one after the other; without `train`, only evaluations of models that are there."""
    untrained = {_flag(command, "run_dir") for command in commands if command.startswith("bin/train")}
    for command in commands:
        program, *arguments = shlex.split(command)
        if not train and (program == "bin/train" or _flag(command, "run") in untrained):
            continue
        print(command, flush=True)
        done = subprocess.run(
            workers.command(pathlib.Path(program).name, arguments), env=workers.environment()
        )
        if done.returncode:
            raise RunError(f"this command failed with status {done.returncode}: {command}")


def _flag(command: str, name: str) -> str | None:
    found = [part.partition("=")[2] for part in shlex.split(command) if part.startswith(f"--{name}=")]
    return found[0] if found else None


def _report(name: str, found: Sequence[tuple[Shelf, Reproduction]]) -> Report:
    sections, data = [], []
    for shelf, one in found:
        commands = all_commands(shelf, one.missing)
        lines = [
            f"{one.deviations} of {one.entries} published figures lie outside our 95 % interval.",
            *one.notes,
        ]
        if commands:
            lines.append(f"{len(one.missing)} entries are missing; the commands below make them.")
        title = f"Gradient: {shelf.gradient}"
        sections.append(
            Section(title, lines, tables=[one.table], commands=["\n".join(commands)] if commands else [])
        )
        missing = [
            {
                **vars(entry.measurement),
                "model": entry.measurement.model.label,
                "commands": list(entry.commands),
            }
            for entry in one.missing
        ]
        data.append({"gradient": shelf.gradient, "table": one.table.as_dict(), "missing": missing})
    source = papers.published(FLAGS.paper)["source"]
    values = {"name": name, "source": source, "tables": data, "versions": versions()}
    return Report(f"Reproduction: {name}", [source], sections, values)


def run():
    app.run(main, FLAGS)
