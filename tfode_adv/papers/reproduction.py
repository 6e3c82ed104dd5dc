"""From run folders to a paper's table, our figures beside the published ones, and what is still missing."""

import csv
import dataclasses
import math
import pathlib
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from tfode_adv.errors import RunError
from tfode_adv.evaluation import results
from tfode_adv.evaluation.results import Result
from tfode_adv.files import PathLike
from tfode_adv.papers.layouts import Layout, Measurement, Model, flag_file
from tfode_adv.rendering.rates import Rate
from tfode_adv.rendering.tables import Compared, Table, number
from tfode_adv.run_folder import CONFIG, METRICS, MODEL, Run
from tfode_adv.solvers import block_options

_NOTE = (
    "Ours (95 % Wilson interval) [published]; * where the published figure lies outside the interval by more than "
    "its rounding, – where ours is missing."
)
# Without a random start both are PGD as the papers have it: bim ends a step as Foolbox does, pgd as CleverHans does.
# What the commands make comes first.
_ALIKE = {"pgd": ("pgd", "bim")}
# A training that names no loss takes this one; a converted checkpoint names none.
_LOSS = "cross_entropy"


@dataclasses.dataclass(frozen=True)
class Missing:
    """An entry without a figure of ours, and the commands that make it, in order."""

    measurement: Measurement
    commands: Sequence[str]


@dataclasses.dataclass(frozen=True)
class Reproduction:
    """A table, what it lacks, and what a reader should know."""

    table: Table
    missing: Sequence[Missing]
    notes: Sequence[str]

    @property
    def deviations(self) -> int:
        """Entries whose published figure lies outside our interval, by more than its rounding."""
        values = [value for row in self.table.rows for value in row if isinstance(value, Compared)]
        return sum(value.deviates for value in values)

    @property
    def entries(self) -> int:
        """Entries of ours."""
        values = [value for row in self.table.rows for value in row if isinstance(value, Compared)]
        return sum(value.ours is not None for value in values)


class Shelf:
    """The run folders under one root, by the model of a paper they hold.

    Args:
        root: where to look, at any depth.
        dataset: what the models were trained on and are tested on.
        num_examples: test images each figure must rest on.
        gradient: how the attack's gradient is taken.
        data_dir: handed on in commands, None for TFDS's own.
        wanted: the entries to be found: of several runs of a model, the one that holds most of them is taken.
    """

    def __init__(
        self,
        root: PathLike,
        dataset: str,
        num_examples: int,
        gradient: str,
        data_dir: str | None = None,
        wanted: Sequence[Measurement] = (),
    ) -> None:
        self.root, self.dataset, self.data_dir = pathlib.Path(root), dataset, data_dir
        self.num_examples, self.gradient = num_examples, gradient
        self._runs = sorted(_finished(self.root), key=lambda run: -run.model_path.stat().st_mtime_ns)
        self._wanted = list(wanted)
        self._results: dict[pathlib.Path, results.Collection] = {}
        self._chosen: dict[Model, Run | None] = {}

    def run_of(self, model: Model) -> Run | None:
        """The finished run of a model, of the paper's own width if there is one, that holds most of the wanted
        entries; of several such, the newest."""
        if model not in self._chosen:
            # The first of those that hold as many: they come the newest first.
            runs = self._runs_of(model)
            self._chosen[model] = max(runs, key=lambda run: self._held(run, model), default=None)
        return self._chosen[model]

    def choice(self, model: Model) -> str:
        """Why `run_of` has chosen its run, in a few words; none where there is one at most."""
        count, run = len(self._runs_of(model)), self.run_of(model)
        if run is None or count < 2:
            return ""
        held, wanted = self._held(run, model), sum(one.model == model for one in self._wanted)
        if not held:
            return f"the newest of {count} such runs"
        return f"of {count} such runs the newest that holds most of these entries, {held} of {wanted}"

    def find(self, wanted: Measurement) -> Result | None:
        """The result that an entry needs, on all images asked for."""
        run = self.run_of(wanted.model)
        return None if run is None else self._found_in(run, wanted)

    def left_out(self, run: Run) -> list[str]:
        """What was not read of a run that was looked into."""
        return list(self._results[run.path].left_out) if run.path in self._results else []

    def _runs_of(self, model: Model) -> list[Run]:
        found = [run for run in self._runs if self._is(run, model)]
        alike = [run for run in found if _flag(run, "filters") == dict(model.flags).get("filters")]
        if model.recipe.startswith("msml"):
            return alike  # its table tells models of one name apart by their width
        return alike or found

    def _held(self, run: Run, model: Model) -> int:
        """How many of the wanted entries of a model a run holds; none where its records are damaged."""
        try:
            return sum(self._found_in(run, one) is not None for one in self._wanted if one.model == model)
        except RunError:
            return 0

    def _found_in(self, run: Run, wanted: Measurement) -> Result | None:
        if run.path not in self._results:
            self._results[run.path] = results.collect([run.path], self.num_examples)
        found = [
            result
            for result in self._results[run.path].results
            if len(result.records) == self.num_examples and self._answers(result, wanted)
        ]
        return min(found, key=lambda result: result.configuration.attack != wanted.attack, default=None)

    def run_flag(self, model: Model) -> str:
        """What `--run` takes for a model's run: a network of the zoo by its name, else the folder, there or to be."""
        run = self.run_of(model)
        if run is None:
            return str(self._path_of(model))
        network = run.config.get("zoo")
        return f"zoo:{network['name']}" if network else str(run.path)

    def _path_of(self, model: Model) -> pathlib.Path:
        """Where the run of a model goes that is not there yet."""
        return self.root / model.recipe.replace("/", "-")

    def commands(self, wanted: Sequence[Measurement], **more: Any) -> list[str]:
        """The commands that make some entries of one model: its training where it is missing, and one
        evaluation for each step size and number of steps, over all norms, eps and tolerances."""
        model = wanted[0].model
        run = self.run_of(model)
        data = {} if self.data_dir is None else {"data_dir": self.data_dir}
        lines = []
        if run is None and model.checkpoint:
            lines.append(command_line("convert", _origin(model, self._path_of(model), self.dataset)))
        elif run is None:
            lines.append(command_line("train", {**_start(model, self._path_of(model)), **data}))
        grids: dict[tuple, list[str]] = {}
        for (norm, *attack), group in _grouped(wanted, "norm", "attack", "steps", "step_size"):
            tols, eps = _numbers(one.tol for one in group), _numbers(one.eps for one in group)
            grids.setdefault((tols, eps, *attack), []).append(norm)
        for (tols, eps, attack, steps, length), norms in grids.items():
            step_size = None if length is None else number(length)
            flags: dict[str, Any] = {"run": self.run_flag(model), "attack": attack if eps else "none", "tol": tols}
            if model.solver and run is not None and _flag(run, "solver") not in (None, model.solver):
                flags["solver"] = model.solver
            if eps:
                flags |= {"norm": ",".join(norms), "eps": eps, "steps": steps, "step_size": step_size}
                flags |= {"gradient": self.gradient} if model.solver else {}
            lines.append(command_line("evaluate", {**flags, "num_examples": self.num_examples, **data, **more}))
        return lines

    def _is(self, run: Run, model: Model) -> bool:
        dataset = run.config.get("dataset") or {}
        same = run.config["model"].get("name") == model.name and dataset.get("name") == self.dataset
        told_apart = {name: value for name, value in model.flags if name != "filters"}
        default = {"loss": _LOSS}
        return same and all((_flag(run, name) or default.get(name)) == value for name, value in told_apart.items())

    def _answers(self, result: Result, wanted: Measurement) -> bool:
        cell = result.configuration
        if (cell.dataset, cell.split) != (self.dataset, "test"):
            return False
        model = wanted.model
        solved = (cell.solver, cell.num_steps) == (model.solver, model.num_steps) and same(cell.tol, wanted.tol)
        if model.solver and not solved:
            return False
        if wanted.norm is None:
            return cell.attack == "none"
        asked = {"steps": wanted.steps, "random_start": False, "early_stop": True, "restarts": 1}
        otherwise = [cell.eot, *(getattr(cell, each.name) for each in block_options.of_gradients())]
        return (
            cell.attack in _ALIKE.get(wanted.attack, (wanted.attack,))
            and cell.norm == wanted.norm
            and same(cell.eps, wanted.eps)
            and cell.gradient == (self.gradient if model.solver else None)
            and not any(value is not None for value in otherwise)
            and (wanted.steps is None or all(cell.hyperparameters.get(name) == value for name, value in asked.items()))
            and not cell.hyperparameters.get("targeted")
            and same(cell.hyperparameters.get("step_size"), wanted.step_size)
        )


def reproduce(layout: Layout, shelf: Shelf, parameters: Mapping[str, int] | None = None) -> Reproduction:
    """The table, from what the run folders hold.

    Args:
        layout: the paper's.
        shelf: our run folders.
        parameters: trainable parameters by the model's name, where known.
    """
    rows, missing = [], []
    for place, (labels, entries) in enumerate(layout.rows):
        values = []
        for wanted in entries:
            result = None if wanted is None else shelf.find(wanted)
            ours = None if result is None else _rate(result, wanted.quantity)
            if wanted is not None and result is None:
                missing.append(Missing(wanted, shelf.commands([wanted])))
            values.append(
                None
                if wanted is None
                else Compared(ours, wanted.published, layout.decimals[place], layout.percent[place])
            )
        rows.append([*labels, *_counted(layout, entries, parameters or {}), *values])
    headers = list(layout.headers)
    if layout.parameters:
        headers.insert(1, "parameters, M")
    attack = described(layout.measurements, shelf.gradient)
    table = Table(
        ", ".join(filter(None, [layout.title, attack])),
        headers,
        rows,
        note=" ".join(filter(None, [_NOTE, layout.note, _basis(shelf)])),
        name=shelf.gradient if layout.attacked else "",
    )
    return Reproduction(table, missing, notes(layout.measurements, shelf))


def described(wanted: Sequence[Measurement], gradient: str) -> str:
    """What attacks that entries rest on have in common: steps, norm, eps, and how the gradient is taken; nothing
    where there is no attack."""
    attacks = [one for one in wanted if one.norm is not None]
    steps, norms, radii = ({getattr(one, name) for one in attacks} for name in ("steps", "norm", "eps"))
    parts = [f"PGD-{steps.pop()}"] if len(steps) == 1 and steps != {None} else []
    parts += [f"{norms.pop()} ε = {number(radii.pop())}"] if len(norms) == len(radii) == 1 else []
    return ", ".join([*parts, f"gradient: {gradient}"]) if attacks else ""


def all_commands(shelf: Shelf, missing: Sequence[Missing], **more: Any) -> list[str]:
    """As few commands as make everything that is missing; they skip what is there."""
    wanted = [one.measurement for one in missing]
    lines = [line for _, group in _grouped(wanted, "model") for line in shelf.commands(group, **more)]
    return list(dict.fromkeys(lines))


def _start(model: Model, path: pathlib.Path) -> dict[str, Any]:
    """The flags that train a model, or go on with a training that was stopped."""
    if (path / CONFIG).is_file() and not (path / MODEL).is_file():
        return {"run_dir": path, "resume": True}
    return {"flagfile": flag_file(model.recipe), "run_dir": path}


def _origin(model: Model, path: pathlib.Path, dataset: str) -> dict[str, Any]:
    """The flags that make a run of the checkpoint that a model's authors published, found in the working folder."""
    mean, deviation = model.normalization or (None, None)
    images = {"dataset": dataset, "mean": mean, "deviation": deviation}
    return {"model": model.name, "from": model.checkpoint, **images, "run_dir": path}


def _counted(layout: Layout, entries: Sequence[Measurement | None], parameters: Mapping[str, int]) -> list[str]:
    """Our number of parameters and the one in print, where the layout has that column."""
    if not layout.parameters:
        return []
    name = next(one.model.name for one in entries if one is not None)
    ours = f"{parameters[name] / 1e6:.2f}" if name in parameters else "–"
    return [f"{ours} [{layout.parameters[name]:.2f}]"]


def _basis(shelf: Shelf) -> str:
    text = f"First {shelf.num_examples} test images."
    if shelf.dataset == "cifar10":
        text += " Where CIFAR-10 comes from a folder of JPEG files, its images differ slightly from the original."
    return text


def notes(wanted: Sequence[Measurement], shelf: Shelf) -> list[str]:
    """A line for each model of the entries: the run that is read, and in what it is not the paper's."""
    lines = []
    for model in dict.fromkeys(one.model for one in wanted):
        run = shelf.run_of(model)
        if run is None:
            lines.append(f"{model.label}: no run folder under {str(shelf.root)!r}.")
            continue
        filters, published = _flag(run, "filters"), dict(model.flags)["filters"]
        differs = "" if filters in (None, published) else f"with {filters} filters instead of {published}"
        epochs = _epochs(run)
        trained = "" if epochs is None else f"{epochs} epochs"
        words = [f"{model.label}: {run.path}", trained, differs, shelf.choice(model)]
        lines.append(f"{', '.join(filter(None, words))}.")
        lines += shelf.left_out(run)
    return lines


def _epochs(run: Run) -> int | None:
    """Epochs a run was trained for: those it has metrics of, as a resumed run may go on beyond its first plan."""
    metrics = run.path / METRICS
    if not metrics.exists():
        return _flag(run, "epochs")
    with metrics.open(newline="") as lines:
        return len({row["epoch"] for row in csv.DictReader(lines)})


def _finished(root: pathlib.Path) -> list[Run]:
    """Every finished run under a folder; a damaged one is passed over, as it may be another's."""
    found = []
    for path in sorted(root.rglob(CONFIG)) if root.is_dir() else ():
        try:
            run = Run.open(path.parent)
        except RunError:
            continue
        found += [run] if run.finished else []
    return found


def _flag(run: Run, name: str) -> Any:
    """A training flag of a run, or a keyword of its model."""
    for part in (run.config.get("flags"), run.config["model"].get("kwargs")):
        if isinstance(part, Mapping) and part.get(name) is not None:
            return part[name]
    return None


def _rate(result: Result, quantity: str) -> Rate:
    summary = result.summary
    rates = {"error": summary.clean_error, "success": summary.success}
    return {**rates, "accuracy": summary.accuracy, "robust": summary.robust}[quantity]


def same(ours: float | None, wanted: float | None) -> bool:
    """Whether two numbers, read and written, are one; None is itself alone."""
    if ours is None or wanted is None:
        return ours is wanted
    return math.isclose(ours, wanted, rel_tol=1e-6)


def _grouped(wanted: Sequence[Measurement], *names: str) -> list[tuple[tuple, list[Measurement]]]:
    groups: dict[tuple, list[Measurement]] = {}
    for one in wanted:
        groups.setdefault(tuple(getattr(one, name) for name in names), []).append(one)
    return list(groups.items())


def _numbers(values) -> str:
    found = sorted({value for value in values if value is not None})
    return ",".join(number(value) for value in found)


def command_line(program: str, flags: Mapping[str, Any]) -> str:
    """A command for a shell, names from users quoted; flags without a value left out."""
    parts = [
        f"--{name}" if value is True else f"--{name}={value}"
        for name, value in flags.items()
        if value not in (None, "")
    ]
    return shlex.join([f"bin/{program}", *parts])
