"""What the papers claim of a network under attack, one claim each, in one unit: the share of all images left."""

import dataclasses
from collections.abc import Iterator

from tfode_adv.papers.layouts import Measurement, layout
from tfode_adv.published import GRADIENTS

# Of the tables' many radii and tolerances: those at which the paper's table IV finds the best trade-off.
_WIFS_TABLES = {"mnist": (2, 0.1), "cifar10": (3, 0.01)}
_WIFS_TOL = 1.0
# The attack of few steps, on the narrower networks.
_MSML_STEPS, _MSML_WIDTH = 20, 32
_TISODE_RADII = (0.3, 0.5)


@dataclasses.dataclass(frozen=True)
class Claim:
    """One network under one attack, as published.

    Attributes:
        paper: a name of `published.PAPERS`.
        dataset: what it was trained on and attacked on.
        attacked: the network, the attack and its radius.
        clean: the share of the images classified correctly without an attack, in [0, 1]; None where it is not in print
            beside the attack.
        robust: the share of all images classified correctly under the attack, in [0, 1]; None where the figure in
            print is not held here: what is measured of such a network is a control.
    """

    paper: str
    dataset: str
    attacked: Measurement
    clean: float | None
    robust: float | None

    @property
    def gradient(self) -> str | None:
        """How the paper took the attack's gradient; None for a network without an ODE, which leaves no choice."""
        return GRADIENTS[self.paper] if self.attacked.model.solver else None


def claims() -> list[Claim]:
    """Every claim, paper by paper."""
    return [*_wifs(), *_msml(), *_tisode(), *_gains(), *_sodef(), *_lyanet()]


def _wifs() -> Iterator[Claim]:
    for dataset, (table, eps) in _WIFS_TABLES.items():
        errors = {(one.model.name, one.tol): one.published for one in layout("wifs2019", 1, dataset).measurements}
        for one in layout("wifs2019", table, dataset).measurements:
            if one.eps == eps and one.tol in (None, _WIFS_TOL):
                clean = 1 - errors[one.model.name, one.tol]
                # In print is the share of the correctly classified that the attack turns.
                yield Claim("wifs2019", dataset, one, clean, clean * (1 - one.published))


def _msml() -> Iterator[Claim]:
    for _, (natural, *attacked) in layout("msml2022", 1, "cifar10").rows:
        for one in attacked:
            if one.steps == _MSML_STEPS and dict(one.model.flags)["filters"] == _MSML_WIDTH:
                yield Claim("msml2022", "cifar10", one, natural.published, one.published)


def _tisode() -> Iterator[Claim]:
    for one in layout("iclr2020", 1, "mnist").measurements:
        if one.eps in _TISODE_RADII:
            yield Claim("iclr2020", "mnist", one, None, one.published)


def _gains() -> Iterator[Claim]:
    for one in layout("iclr2023", 1, "mnist").measurements:
        yield Claim("iclr2023", "mnist", one, None, one.published)


def _sodef() -> Iterator[Claim]:
    for one in layout("neurips2021", 1, "mnist").measurements:
        if one.attack == "pgd":
            yield Claim("neurips2021", "mnist", one, None, one.published)


def _lyanet() -> Iterator[Claim]:
    for one in layout("icml2022", 1, "mnist").measurements:
        yield Claim("icml2022", "mnist", one, None, one.published)
