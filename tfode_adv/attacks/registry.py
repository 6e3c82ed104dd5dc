"""Attacks by name."""

import dataclasses

from tfode_adv.attacks import apgd, autoattack, cw, fab, foolbox, mim, pgd, rays, spsa, square
from tfode_adv.attacks.base import Attack
from tfode_adv.errors import UsageError, check_choice

_ATTACKS = (
    pgd.FGSM,
    pgd.BIM,
    pgd.PGD,
    mim.MIM,
    cw.CWL2,
    cw.CWLinf,
    spsa.SPSA,
    foolbox.DeepFool,
    foolbox.Boundary,
    foolbox.HopSkipJump,
    apgd.APGD,
    apgd.APGDDLR,
    apgd.APGDT,
    fab.FAB,
    square.Square,
    rays.RayS,
    autoattack.AutoAttack,
)
ATTACKS: dict[str, type[Attack]] = {attack.name: attack for attack in _ATTACKS}


@dataclasses.dataclass(frozen=True)
class Description:
    """What is to be known of an attack: one line, its norms, its hyperparameters and their defaults."""

    name: str
    summary: str
    norms: tuple[str, ...]
    defaults: dict[str, object]

    def __str__(self) -> str:
        defaults = ", ".join(f"{name}={value}" for name, value in self.defaults.items())
        return f"{self.name}: {self.summary}\n    norms: {', '.join(self.norms)}\n    {defaults}"


def get(name: str, **hyperparameters) -> Attack:
    """Returns the attack `name` with these hyperparameters.

    Raises:
      UsageError: an unknown name or hyperparameter (the message lists the choices), a value out of range.
    """
    kind = ATTACKS[check_choice("attack", name, ATTACKS)]
    fields = {field.name: field for field in _settable(kind)}
    for given in hyperparameters:
        check_choice(f"hyperparameter of {name}", given, fields)
    for field in fields.values():
        if field.default is dataclasses.MISSING and field.name not in hyperparameters:
            raise UsageError(f"{name} needs {field.name}")
    return kind(**hyperparameters)


def available() -> dict[str, Description]:
    """Returns, by name, what each attack is."""
    return {name: _describe(kind) for name, kind in ATTACKS.items()}


def describe() -> str:
    """Returns the text of `--attack=help`."""
    return "\n".join(str(description) for description in available().values())


def _settable(kind: type[Attack]) -> list[dataclasses.Field]:
    return [field for field in dataclasses.fields(kind) if field.init]


def _describe(kind: type[Attack]) -> Description:
    values = {
        field.name: "required" if field.default is dataclasses.MISSING else field.default for field in _settable(kind)
    }
    return Description(kind.name, kind.summary, kind.norms, values)
