"""What was evaluated, under which solver and attack, and the digest that names it."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from typing import Any

from tfode_adv.solvers import block_options

SOLVED = (*block_options.recorded(), *block_options.of_gradients())
"""What a configuration says of the solver and of the one that gradients are taken through."""

_TOGETHER = ("solver", "tol", "num_steps", "gradient")
OTHERS = tuple(each for each in block_options.recorded() if each.name not in _TOGETHER)
"""The recorded options that hang on no other: spanned, and shown, as they are given."""

_Solved = dataclasses.make_dataclass("_Solved", [(each.name, Any, None) for each in SOLVED], frozen=True, kw_only=True)


@dataclasses.dataclass(frozen=True)
class Configuration(_Solved):
    """What was evaluated, and with which attack: everything that a record's values depend on.

    Attributes:
        model: SHA-256 of the model's file; records of a model that was since replaced never mix.
        dataset, split: where the images come from, in the data set's own order.
        tol: the solver's tolerance; None for a model without an adaptive solver.
        solver, num_steps: what integrated the model's ODE blocks, None where it has none.
        random_tol: the interval from which each image's tolerance was drawn anew at each call
            (`models.RandomSolver`), in place of `tol`.
        attack: its name, or `"none"` for the clean pass.
        norm, eps: the attack's budget.
        gradient: how ODE blocks were differentiated, None where no gradient was taken.
        gradient_tol, gradient_solver, gradient_num_steps, gradient_precision: the solver the gradient was taken
            through, where it is not the model's own.
        eot: draws each gradient is averaged over, None for one.
        seed: where the attack's random numbers start.
        hyperparameters: all others of the attack.
    """

    model: str
    dataset: str
    split: str = "test"
    random_tol: tuple[float, float] | None = None
    attack: str = "none"
    norm: str | None = None
    eps: float | None = None
    eot: int | None = None
    seed: int | None = None
    hyperparameters: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("eps", *(each.name for each in SOLVED if each.kind is float)):
            value = getattr(self, name)
            if value is not None:
                # 1 and 1.0 are the same tolerance, and must have the same digest.
                object.__setattr__(self, name, float(value))
        if self.random_tol is not None:
            object.__setattr__(self, "random_tol", tuple(map(float, self.random_tol)))

    def as_dict(self) -> dict[str, Any]:
        """The configuration as plain JSON values."""
        return dataclasses.asdict(self) | {"hyperparameters": dict(self.hyperparameters)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Configuration":
        """The inverse of `as_dict`. Raises TypeError for an unknown or a missing name."""
        return cls(**values)

    def others(self, of: str = "") -> list[str]:
        """In words, the options in `OTHERS` that are given: of the solve, or `of="gradient_"` of a gradient's."""
        shown = (*OTHERS, *(each for each in block_options.options() if each.surrogate))
        given = {each.name: getattr(self, of + each.name, None) for each in shown}
        return [f"{name.replace('_', ' ')} {value}" for name, value in given.items() if value is not None]

    @property
    def digest(self) -> str:
        """Sixteen hexadecimal digits, the same in every process, for every order of the hyperparameters."""
        # Left out where None, so that a setting added later leaves the older digests as they are.
        values = {name: value for name, value in self.as_dict().items() if value is not None}
        text = json.dumps(values, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(text.encode("utf-8")).hexdigest()[:16]

    @property
    def clean(self) -> "Configuration":
        """The clean pass under the same model, data and solver."""
        solved = [each.name for each in block_options.recorded() if not each.backward]
        kept = ("model", "dataset", "split", "random_tol", *solved)
        return Configuration(**{name: getattr(self, name) for name in kept})
