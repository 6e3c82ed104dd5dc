"""Sets our figures into the papers' tables, the published ones in brackets beside them.

bin/reproduce --paper=wifs2019 --table=2 --dataset=mnist --num_examples=1000 --gradient=adjoint,backprop
bin/reproduce --paper=wifs2019 --figure=2 --dataset=mnist
bin/reproduce --paper=msml2022
bin/reproduce --board

Reads the run folders under --runs, evaluated with --attack=pgd or, the same from the image itself, bim; of several
runs of a model, the one that holds most of the entries, then the newest. What is lacking is listed with the commands
that make it. --evaluate runs those on the models that are there, --train makes the models as well, or goes on where
their training was stopped. --board sets one row a claim, of all papers, with our worst case and the verdict of
bin/diagnose beside it; where no run holds anything of a claim, the row of the board that was there before stays.
"""

import dataclasses
import math
import pathlib
import shlex
from collections.abc import Sequence

from absl import flags as absl_flags

from tfode_adv.cli import app, flags, workers
from tfode_adv.errors import RunError, UsageError, check_choice
from tfode_adv.papers import board, board_page, earlier_board, figure2, layouts
from tfode_adv.papers.reproduction import Missing, Shelf, all_commands, notes, reproduce
from tfode_adv.published import GRADIENTS, PAPERS, published
from tfode_adv.rendering import folder
from tfode_adv.rendering.document import Report, Section
from tfode_adv.rendering.tables import Table
from tfode_adv.run_folder import versions
from tfode_adv.solvers import block_options

_FIGURE_IMAGES = 100

FLAGS = flags.new(__doc__)
absl_flags.DEFINE_enum("paper", "wifs2019", PAPERS, "Which paper's table is set.", flag_values=FLAGS)
absl_flags.DEFINE_integer("table", None, "Number of the table: 1 to 4 of wifs2019, 1 of the others.", flag_values=FLAGS)
absl_flags.DEFINE_integer("figure", None, "Number of the figure: 2 of wifs2019.", flag_values=FLAGS)
absl_flags.DEFINE_enum(
    "dataset",
    None,
    tuple(layouts.TEST_IMAGES),
    "The data set of the table, where the paper has one for each.",
    flag_values=FLAGS,
)
absl_flags.DEFINE_boolean("board", False, "All papers' claims on one page.", flag_values=FLAGS)
flags.define_integer(
    "num_examples", None, f"The first so many test images (default: all; {_FIGURE_IMAGES} for a figure).", FLAGS
)
flags.define_names(
    "gradient",
    None,
    "How the attack's gradients are taken (default: as the paper did, "
    f"{', '.join(f'{name}: {how}' for name, how in GRADIENTS.items())}).",
    FLAGS,
    choices=block_options.named("gradient").choices,
    several=True,
)
absl_flags.DEFINE_string("runs", "runs", "Where the run folders are.", flag_values=FLAGS)
absl_flags.DEFINE_string(
    "data_dir", None, "Where TFDS data sets are prepared; handed to the commands.", flag_values=FLAGS
)
absl_flags.DEFINE_string("out", None, "The report's folder (default: under --runs).", flag_values=FLAGS)
absl_flags.DEFINE_boolean("evaluate", False, "Evaluate what is missing.", flag_values=FLAGS)
absl_flags.DEFINE_boolean("train", False, "Train what is missing, and evaluate it.", flag_values=FLAGS)
absl_flags.DEFINE_boolean(
    "overwrite", False, "Write into a folder that holds something else; of a board, keep no row.", flag_values=FLAGS
)


def main(argv: list[str]) -> None:
    del argv
    if FLAGS.board:
        _set_board()
        return
    asked = _asked()
    gradients = FLAGS.gradient or [GRADIENTS[FLAGS.paper]]
    found = [_complete(asked, gradient) for gradient in (gradients if asked.attacked else gradients[:1])]
    for one in found:
        for table in one.tables:
            print(table.to_text())
        print("\n".join(one.lines))
        if one.commands:
            print("\n".join(one.commands))
        print()
    out = pathlib.Path(FLAGS.out) if FLAGS.out else pathlib.Path(FLAGS.runs) / "reproduced" / asked.name
    page = folder.write(_report(asked, found), out, FLAGS.overwrite)
    print(f"wrote {page}")


def _set_board() -> None:
    for name in ("paper", "table", "figure", "dataset", "gradient", "evaluate", "train"):
        if FLAGS[name].present:
            raise UsageError(f"--board and --{name} exclude each other")
    out = FLAGS.out or pathlib.Path(FLAGS.runs) / "reproduced" / "board"
    found = board.rows(FLAGS.runs, FLAGS.data_dir, FLAGS.num_examples or board.NUM_EXAMPLES)
    if not FLAGS.overwrite:
        found = earlier_board.completed(found, out)
    print(board.table(found).to_text())
    print("\n".join(dict.fromkeys(note for row in found for note in row.notes)))
    measured = sum(row.worst is not None for row in found)
    print(f"{measured} of {len(found)} claims have a worst case")
    print(f"wrote {board_page.write(found, out, FLAGS.overwrite)}")


@dataclasses.dataclass(frozen=True)
class _Asked:
    """What the flags ask for; `layout` is None for figure 2."""

    table: int | None
    layout: layouts.Layout | None
    dataset: str
    num_examples: int

    @property
    def attacked(self) -> bool:
        return self.layout is None or self.layout.attacked

    @property
    def entries(self) -> Sequence[layouts.Measurement]:
        return figure2.measurements(self.dataset) if self.layout is None else self.layout.measurements

    @property
    def name(self) -> str:
        part = "figure2" if self.table is None else f"table{self.table}"
        return f"{FLAGS.paper}-{part}-{self.dataset}"


@dataclasses.dataclass(frozen=True)
class _Found:
    """A table or figure under one gradient, with what is missing for it."""

    gradient: str
    sections: Sequence[Section]
    missing: Sequence[Missing]
    commands: Sequence[str]
    lines: Sequence[str]

    @property
    def tables(self) -> list[Table]:
        return [table for section in self.sections for table in section.tables]


def _asked() -> _Asked:
    """The table or figure and its data set, either of which may imply the other."""
    if FLAGS.figure is not None:
        if FLAGS.table is not None:
            raise UsageError("--table and --figure exclude each other")
        check_choice("paper of a figure", FLAGS.paper, ["wifs2019"])
        check_choice("figure", FLAGS.figure, [2])
        table = None
    else:
        table = layouts.TABLES[FLAGS.paper][0] if FLAGS.table is None else FLAGS.table
    dataset = FLAGS.dataset or ("cifar10" if FLAGS.paper == "msml2022" or table == 3 else "mnist")
    layout = None if table is None else layouts.layout(FLAGS.paper, table, dataset)
    images = layouts.TEST_IMAGES[dataset]
    default = images if FLAGS.figure is None else _FIGURE_IMAGES
    if FLAGS.num_examples is not None and FLAGS.num_examples > images:
        raise UsageError(f"num_examples is {FLAGS.num_examples}, but {dataset} has {images} test images")
    return _Asked(table, layout, dataset, FLAGS.num_examples or default)


def _complete(asked: _Asked, gradient: str) -> _Found:
    """What the run folders hold, after what is missing was made, if that is asked for."""
    found = _look(asked, gradient)
    if found.commands and (FLAGS.train or FLAGS.evaluate):
        _run(found.commands, FLAGS.train)
        found = _look(asked, gradient)
    return found


def _look(asked: _Asked, gradient: str) -> _Found:
    shelf = Shelf(FLAGS.runs, asked.dataset, asked.num_examples, gradient, FLAGS.data_dir, asked.entries)
    title = f"Gradient of the attack: {gradient}" if asked.attacked else "Clean images"
    if asked.layout is None:
        figure = figure2.reproduce(shelf, asked.num_examples)
        commands = all_commands(shelf, figure.missing, num_images=asked.num_examples)
        lines = [*notes(asked.entries, shelf), *_missing_lines(figure.missing)]
        return _Found(gradient, [Section(title, lines), *figure.sections], figure.missing, commands, lines)
    one = reproduce(asked.layout, shelf, _parameters(asked.layout, shelf))
    counted = f"{one.deviations} of {one.entries} published figures lie outside our 95 % interval, rounding aside."
    lines = [*([counted] if one.entries else []), *one.notes, *_missing_lines(one.missing)]
    commands = all_commands(shelf, one.missing)
    return _Found(gradient, [Section(title, lines, tables=[one.table])], one.missing, commands, lines)


def _missing_lines(missing: Sequence[Missing]) -> list[str]:
    return [f"{len(missing)} entries are missing; these commands make them:"] if missing else []


def _parameters(layout: layouts.Layout, shelf: Shelf) -> dict[str, int]:
    """Trainable parameters of the models that are there, where the table has a place for them."""
    if not layout.parameters:
        return {}
    runs = {model.name: shelf.run_of(model) for model in {one.model for one in layout.measurements}}
    return {
        name: sum(math.prod(weight.shape) for weight in run.load_model().trainable_variables)
        for name, run in runs.items()
        if run is not None
    }


def _run(commands: Sequence[str], train: bool) -> None:
    """Runs commands one after the other; without `train`, only evaluations of models that are there."""
    unmade = {_flag(command, "run_dir") for command in commands if not command.startswith("bin/evaluate")}
    for command in commands:
        program, *arguments = shlex.split(command)
        if not train and (program != "bin/evaluate" or _flag(command, "run") in unmade):
            continue
        print(command, flush=True)
        status = workers.run(program.removeprefix("bin/"), arguments)
        if status:
            raise RunError(f"this command failed with status {status}: {command}")


def _flag(command: str, name: str) -> str | None:
    found = [part.partition("=")[2] for part in shlex.split(command) if part.startswith(f"--{name}=")]
    return found[0] if found else None


def _report(asked: _Asked, found: Sequence[_Found]) -> Report:
    sections, data = [], []
    for one in found:
        first, *rest = one.sections
        listed = ["\n".join(one.commands)] if one.commands else []
        sections += [dataclasses.replace(first, commands=listed), *rest]
        missing = [
            {**vars(entry.measurement), "model": entry.measurement.model.label, "commands": entry.commands}
            for entry in one.missing
        ]
        tables = [table.as_dict() for table in one.tables]
        gradient = one.gradient if asked.attacked else None
        data.append({"gradient": gradient, "tables": tables, "missing": missing})
    source = published(FLAGS.paper)["source"]
    values = {"name": asked.name, "source": source, "reproduced": data, "versions": versions()}
    return Report(f"Reproduction: {asked.name}", [source], sections, values)


def run() -> None:
    app.run(main, FLAGS)
