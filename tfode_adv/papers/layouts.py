"""The papers' tables as lists of measurements: what each entry needs, and the figure in print.

The published figures are data of `tfode_adv.published`; the layouts follow the papers' tables.
"""

import dataclasses
import pathlib
import site
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from tfode_adv.errors import UsageError, check_choice
from tfode_adv.published import PAPERS, published

TEST_IMAGES = {"mnist": 10_000, "cifar10": 10_000}
TABLES = {
    "wifs2019": (1, 2, 3, 4),
    "msml2022": (1,),
    "iclr2020": (1,),
    "iclr2023": (1,),
    "neurips2021": (1,),
    "icml2022": (1,),
}
# Norms as the WIFS paper calls them, and as they are (its library measures L2 by the root mean square).
_WIFS_NORMS = {"l2": "l2rms", "linf": "linf"}
_WIFS_MODELS = ("res", "mix", "oon")


@dataclasses.dataclass(frozen=True)
class Model:
    """A model of a paper, and how its run folder is recognised.

    Attributes:
        label: as the paper calls it.
        name: as `models.build` calls it.
        recipe: the flag file under configs/ that trains it, without its ending.
        flags: training flags that tell it from others of that name.
        solver, num_steps: of its ODE blocks; None where it has none, and where the solver chooses its steps.
        checkpoint: where its authors' program holds it trained; None where it does not.
        normalization: mean and standard deviation that such a checkpoint takes images by, None for none.
    """

    label: str
    name: str
    recipe: str
    flags: tuple[tuple[str, Any], ...]
    solver: str | None = "dopri5"
    num_steps: int | None = None
    checkpoint: str | None = None
    normalization: tuple[float, float] | None = None


@dataclasses.dataclass(frozen=True)
class Measurement:
    """One entry of a table.

    Attributes:
        model: what is evaluated.
        quantity: error, success, accuracy or robust: a rate of `statistics.Summary`.
        published: the figure in print, in [0, 1].
        tol: the solver's tolerance, None where it does not matter.
        norm, eps, steps, step_size: the attack, None for clean images; a single step has neither of the last two.
        attack: which it is.
    """

    model: Model
    quantity: str
    published: float | None
    tol: float | None = None
    norm: str | None = None
    eps: float | None = None
    steps: int | None = None
    step_size: float | None = None
    attack: str = "pgd"


@dataclasses.dataclass(frozen=True)
class Layout:
    """A table of a paper.

    Attributes:
        title: the table's, with its number in the paper.
        headers: what stands above each column.
        rows: labels, then measurements (None where the paper has no entry).
        decimals: as printed, one for each row.
        percent: whether entries are printed as percentages, one for each row.
        parameters: trainable parameters in millions, as printed, by the model's name.
        note: what a reader must know of its words.
    """

    title: str
    headers: Sequence[str]
    rows: Sequence[tuple[Sequence[str], Sequence[Measurement | None]]]
    decimals: Sequence[int]
    percent: Sequence[bool]
    parameters: Mapping[str, float] = dataclasses.field(default_factory=dict)
    note: str = ""

    @property
    def measurements(self) -> list[Measurement]:
        """Every entry."""
        return [one for _, entries in self.rows for one in entries if one is not None]

    @property
    def attacked(self) -> bool:
        """Whether any entry is of attacked images: only then a gradient matters."""
        return any(one.norm is not None for one in self.measurements)


def flag_file(recipe: str) -> pathlib.Path:
    """The flag file of a recipe: of the checkout, or of the environment that the package is installed in.

    Relative where it lies below the working folder, so that a command shows no more than it must.
    """
    file = pathlib.Path("configs") / f"{recipe}.cfg"
    installed = [pathlib.Path(root) / "share" / "tfode_adv" for root in (sys.prefix, site.getuserbase())]
    for root in (pathlib.Path(__file__).resolve().parents[2], *installed):
        if (root / file).is_file():
            here = pathlib.Path.cwd()
            return (root / file).relative_to(here) if root.is_relative_to(here) else root / file
    return file


def layout(paper: str, table: int, dataset: str) -> Layout:
    """The layout of a paper's table for a data set.

    Raises:
        UsageError: for a paper, table or data set that is not there; the message names the choices.
    """
    check_choice("paper", paper, PAPERS)
    check_choice("table", table, TABLES[paper])
    if paper == "msml2022":
        check_choice("dataset", dataset, ("cifar10",))
        return _msml()
    if paper in _MNIST_ONLY:
        check_choice("dataset", dataset, ("mnist",))
        return _MNIST_ONLY[paper]()
    check_choice("dataset", dataset, tuple(TEST_IMAGES))
    if table in (2, 3):
        only = {2: "mnist", 3: "cifar10"}[table]
        if dataset != only:
            raise UsageError(f"dataset is {dataset!r}, but table {table} of {paper} is on {only}")
        return _wifs_attacks(table, dataset)
    return _wifs_errors(dataset) if table == 1 else _wifs_tradeoff(dataset)


def wifs_model(name: str, dataset: str) -> Model:
    """RES, MIX or OON on a data set."""
    filters = {"mnist": 64, "cifar10": 256}[dataset]
    flags = (("filters", filters), ("loss", "cross_entropy"))
    return Model(name.upper(), name, f"wifs2019/{dataset}_{name}", flags, None if name == "res" else "dopri5")


def wifs_attack(dataset: str, norm: str, eps: float) -> dict[str, Any]:
    """The WIFS attack's fields of a `Measurement`; `norm` as the paper calls it."""
    attack = published("wifs2019")["attack"]
    return {
        "norm": _WIFS_NORMS[norm],
        "eps": eps,
        "steps": attack["iterations"],
        "step_size": attack["step_size"][dataset],
    }


def _wifs_errors(dataset: str) -> Layout:
    values = published("wifs2019")
    printed = values["table1_error_percent"][dataset]
    tols = list(printed["oon"])
    rows = []
    for name in _WIFS_MODELS:
        model = wifs_model(name, dataset)
        entries = [_wifs_entry(model, "error", printed[name], tol, scale=100) for tol in tols]
        rows.append(([model.label], entries))
    return Layout(
        f"WIFS 2019, table I: test error on {dataset}, in per cent",
        ["model", *(f"τ = {tol}" for tol in tols)],
        rows,
        [1] * len(rows),
        [True] * len(rows),
        values["table1_params_millions"][dataset],
    )


def _wifs_attacks(table: int, dataset: str) -> Layout:
    printed = published("wifs2019")[f"table{table}_{dataset}"]
    tols = list(next(iter(printed["linf"].values()))["oon"])
    rows = []
    for norm, by_eps in printed.items():
        for eps, by_model in by_eps.items():
            attack = wifs_attack(dataset, norm, float(eps))
            for name in _WIFS_MODELS:
                model = wifs_model(name, dataset)
                entries = [_wifs_entry(model, "success", by_model[name], tol, attack) for tol in tols]
                rows.append(([_WIFS_NORMS[norm], eps, model.label], entries))
    return Layout(
        f"WIFS 2019, table {'I' * table}: attack success rate on {dataset}",
        ["norm", "ε", "model", *(f"τ = {tol}" for tol in tols)],
        rows,
        [2] * len(rows),
        [False] * len(rows),
        note=_wifs_norm_note(),
    )


def _wifs_tradeoff(dataset: str) -> Layout:
    printed = published("wifs2019")["table4_best_tradeoff"][dataset]
    attack = wifs_attack(dataset, printed["attack"]["norm"], printed["attack"]["eps"])
    tols = list(printed["error"]["oon"])
    rows, decimals = [], []
    for quantity, key, settings, digits in (
        ("error", "error", None, 3),
        ("success", "attack_success_rate", attack, 2),
    ):
        for name in _WIFS_MODELS:
            model = wifs_model(name, dataset)
            entries = [_wifs_entry(model, quantity, printed[key][name], tol, settings) for tol in tols]
            rows.append(([quantity, model.label], entries))
            decimals.append(digits)
    return Layout(
        f"WIFS 2019, table IV: error and success of the attack ({attack['norm']}, ε = {attack['eps']}) on {dataset}",
        ["quantity", "model", *(f"τ = {tol}" for tol in tols)],
        rows,
        decimals,
        [False] * len(rows),
        note=_wifs_norm_note() if printed["attack"]["norm"] == "l2" else "",
    )


def _wifs_norm_note() -> str:
    return f"{_WIFS_NORMS['l2']} is the paper's L2: {published('wifs2019')['attack']['l2_is']}."


def _wifs_entry(
    model: Model,
    quantity: str,
    printed: Mapping[str, float],
    tol: str,
    attack: Mapping[str, Any] | None = None,
    scale: float = 1,
) -> Measurement | None:
    if tol not in printed:
        return None
    return Measurement(model, quantity, printed[tol] / scale, float(tol) if model.solver else None, **(attack or {}))


def _msml() -> Layout:
    values = published("msml2022")
    rows = []
    for printed in values["rows"]:
        model = _msml_model(printed["model"], printed["channels"])
        tol = values["solver"]["rtol"] if model.solver else None
        entries = [Measurement(model, "accuracy", printed["natural"] / 100, tol)]
        for norm in ("linf", "l2"):
            budget = values["attack"][norm]
            steps = int(printed["attack"].removeprefix("pgd"))
            attack = {"eps": budget["eps"], "step_size": budget["step_size"], "norm": norm, "steps": steps}
            entries.append(Measurement(model, "robust", printed[f"robust_{norm}"] / 100, tol, **attack))
        rows.append(([printed["attack"], str(printed["channels"]), model.label], entries))
    return Layout(
        "MSML 2022: accuracy on cifar10, natural and under attack, in per cent",
        ["attack", "channels", "model", "natural", "robust, linf", "robust, l2"],
        rows,
        [2] * len(rows),
        [True] * len(rows),
        note=f"l2: {values['attack']['l2']['l2_is']}.",
    )


def _msml_model(name: str, channels: int) -> Model:
    flags: tuple[tuple[str, Any], ...] = (("filters", channels),)
    if name.startswith("resnet10_trades"):
        strength = int(name.rpartition("_")[2])
        flags += (("loss", "trades"), ("inverse_lambda", strength))
        recipe = f"msml2022/{name}_{channels}"
        return Model(f"ResNet10, TRADES 1/λ = {strength}", "resnet10", recipe, flags, None)
    known = {"sonet": ("SONet", "sonet"), "soblock": ("SO-block ResNet10", "soblock_resnet10")}
    label, built = known[name]
    return Model(label, built, f"msml2022/{built}_{channels}", flags + (("loss", "cross_entropy"),))


def _tisode() -> Layout:
    values = published("iclr2020")
    attack = {"attack": values["attack"]["name"], "norm": values["attack"]["norm"]}
    rows = []
    for eps, by_model in values["robust_mnist"].items():
        for name, robust in by_model.items():
            # The checkpoints that were published are those of the first of the trainings.
            entry = Measurement(_tisode_model(name), "robust", robust[0], eps=float(eps), **attack)
            rows.append(([eps, entry.model.label], [entry]))
    return Layout(
        "ICLR 2020: accuracy on mnist under FGSM, in per cent",
        ["ε", "model", "robust, linf"],
        rows,
        [1] * len(rows),
        [True] * len(rows),
        note="Published: of the best epoch's network, on 1,000 images that the program drew; the checkpoints are of "
        "the last epoch.",
    )


def _tisode_model(name: str) -> Model:
    values = published("iclr2020")
    label = {"tisode": "TisODE", "tisode_odenet": "ODENet", "tisode_cnn": "CNN"}[name]
    steps = values["solver"]["steps"].get(name)
    solver = steps and values["solver"]["method"]
    flags = (("filters", 64),)
    return Model(label, name, f"iclr2020/{name}", flags, solver, steps, values["checkpoints"][name])


def _gains() -> Layout:
    values = published("iclr2023")
    attack = {"attack": values["attack"]["name"], "norm": values["attack"]["norm"]}
    attack |= {name: values["attack"][name] for name in ("steps", "step_size")}
    solver = values["solver"]
    rows = []
    for eps, by_model in values["robust_mnist"].items():
        for name, robust in by_model.items():
            origin = {"checkpoint": values["checkpoints"][name], "normalization": tuple(values["normalization"])}
            model = Model("GAINS", name, f"iclr2023/mnist_{name}", (("filters", 32),), solver["method"], **origin)
            rows.append(
                ([eps, model.label], [Measurement(model, "robust", robust, solver["tol"], eps=float(eps), **attack)])
            )
    return Layout(
        "ICLR 2023: accuracy on mnist under PGD-200, in per cent",
        ["ε", "model", "robust, linf"],
        rows,
        [1] * len(rows),
        [True] * len(rows),
        note="The network trained to be certified at ε = 0.2, of the first of three seeds. Its paper's figures are not "
        "held here. The published attack starts at a random point.",
    )


def _sodef() -> Layout:
    values = published("neurips2021")
    solver = values["solver"]
    rows = []
    for eps, by_attack in values["robust_mnist"].items():
        for attack, by_model in by_attack.items():
            steps = {name: values["attack"][attack].get(name) for name in ("steps", "step_size")}
            for name, robust in by_model.items():
                model = Model("SODEF", name, f"neurips2021/mnist_{name}", (("filters", 64),), solver["method"])
                entry = {"eps": float(eps), "norm": values["attack"]["norm"], "attack": attack, **steps}
                rows.append(
                    ([eps, attack.upper(), model.label], [Measurement(model, "robust", robust, solver["tol"], **entry)])
                )
    return Layout(
        "NeurIPS 2021: accuracy on mnist under attack, in per cent",
        ["ε", "attack", "model", "robust, linf"],
        rows,
        [1] * len(rows),
        [True] * len(rows),
        note="The paper's figures are not held here.",
    )


def _lyanet() -> Layout:
    values = published("icml2022")
    attack, solver = values["attack"], values["solver"]
    given = {"attack": attack["name"], "steps": attack["steps"], "step_size": attack["step_size"]}
    rows = []
    for norm, by_eps in values["robust_mnist"].items():
        for eps, by_model in by_eps.items():
            for name, robust in by_model.items():
                model = Model("LyaNet", name, f"icml2022/mnist_{name}", (("filters", 64),), solver["method"])
                entry = Measurement(model, "robust", robust, solver["tol"], norm=norm, eps=float(eps), **given)
                rows.append(([f"{float(eps):.3f}, {norm}", model.label], [entry]))
    return Layout(
        "ICML 2022: accuracy on mnist under PGD-10, in per cent",
        ["ε", "model", "robust"],
        rows,
        [1] * len(rows),
        [True] * len(rows),
        note="The paper's figures are not held here. Its program attacks and tests the network solved by ten steps of "
        "rk4, where it was trained and validated with dopri5; and ten steps of 2/255 end short of 127/255.",
    )


_MNIST_ONLY = {"iclr2020": _tisode, "iclr2023": _gains, "neurips2021": _sodef, "icml2022": _lyanet}
