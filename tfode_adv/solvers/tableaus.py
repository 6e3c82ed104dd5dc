"""Explicit Runge-Kutta methods as tables of coefficients.

A method is data: its Butcher tableau (`a`, `b`), the weights of its error estimate and the
coefficients of its dense output. All behaviour stands once, in `runge_kutta` and `integrate`.
"""

import dataclasses
import functools
from fractions import Fraction as F

import numpy as np

Coefficients = tuple[tuple[float, ...], ...]


@dataclasses.dataclass(frozen=True)
class Tableau:
    """An explicit Runge-Kutta method with s stages.

    Attributes:
        name: the name `tfode_adv.solvers.get` knows it by.
        order: order of convergence of the solution.
        a: s rows; row i weighs the i slopes before stage i.
        b: s weights of the new state.
        error: s weights of the local error estimate, or None for a method without one.
        control_order: p of the step factor `ratio ** (-1 / p)` (the order of the error estimate plus one).
        dense: s rows of coefficients of theta, theta^2, ...: the state inside a step is
            `y0 + h * sum_i dense_i(theta) k_i`, theta in [0, 1].
        dense_order: order of convergence of the dense output.
        endpoint: what takes the place of `dense` for the last state of a step that passes the end, where the
            papers' program reads it off another interpolant; None where it is the same.
        controller: how the next step's size follows from the error, where nothing else is asked for.
        error_norm: what is held against the tolerance, "rms" or "sum", see `runge_kutta.error_ratio`.
    """

    name: str
    order: int
    a: Coefficients
    b: tuple[float, ...]
    dense: Coefficients
    dense_order: int
    endpoint: Coefficients | None = None
    error: tuple[float, ...] | None = None
    control_order: int | None = None
    controller: str = "i"
    error_norm: str = "rms"

    @property
    def stages(self) -> int:
        return len(self.b)

    @functools.cached_property
    def c(self) -> tuple[float, ...]:
        # A sum of rounded coefficients may miss 1 by a bit, and with it the end of the step.
        return tuple(float(F(sum(row)).limit_denominator(1000)) for row in self.a)

    def contributes(self, stage: int) -> bool:
        """Whether the slope of `stage` has a weight of its own in any state of a step."""
        return any(self.dense[stage]) or any((self.endpoint or self.dense)[stage])

    @property
    def adaptive(self) -> bool:
        return self.error is not None

    @property
    def first_same_as_last(self) -> bool:
        """Whether the last stage is the slope at the new state, and so the first one of the next step."""
        return tuple(self.a[-1]) == tuple(self.b[:-1]) and self.b[-1] == 0

    @property
    def hands_on_unjudged(self) -> bool:
        """Whether the slope handed on to the next step takes no part in the error estimate."""
        return self.adaptive and self.first_same_as_last and self.error[-1] == 0

    @property
    def evaluations_per_step(self) -> int:
        return self.stages - self.first_same_as_last


def _quartic(b: np.ndarray, mid: np.ndarray) -> Coefficients:
    """The quartic through both states, both slopes and the midpoint `y0 + h * mid . k`.

    `b` and `mid` have s entries; the first stage is the slope at the start, the last the slope at the end.
    """
    s = len(b)
    start, end = np.eye(s)[0], np.eye(s)[-1]
    fourth = 2 * (end - start) - 8 * b + 16 * mid
    third = 5 * start - 3 * end + 14 * b - 32 * mid
    second = end - 4 * start - 5 * b + 16 * mid
    return tuple(map(tuple, np.stack([start, second, third, fourth], axis=1).tolist()))


def _hermite(b: np.ndarray) -> Coefficients:
    """The cubic through both states and both slopes; stages as in `_quartic`."""
    s = len(b)
    start, end = np.eye(s)[0], np.eye(s)[-1]
    return tuple(map(tuple, np.stack([start, 3 * b - 2 * start - end, start + end - 2 * b], axis=1).tolist()))


def _floats(*values: F | int) -> tuple[float, ...]:
    return tuple(float(v) for v in values)


# Dormand and Prince (1980), with the error weights of Shampine (1986), as in tfp.math.ode.DormandPrince.
_DOPRI5_B = _floats(F(35, 384), 0, F(500, 1113), F(125, 192), F(-2187, 6784), F(11, 84), 0)
_DOPRI5_MID = (
    6025192743 / 30085553152 / 2,
    0.0,
    51252292925 / 65400821598 / 2,
    -2691868925 / 45128329728 / 2,
    187940372067 / 1594534317056 / 2,
    -1776094331 / 19743644256 / 2,
    11237099 / 235043384 / 2,
)
DOPRI5 = Tableau(
    name="dopri5",
    order=5,
    a=(
        (),
        _floats(F(1, 5)),
        _floats(F(3, 40), F(9, 40)),
        _floats(F(44, 45), F(-56, 15), F(32, 9)),
        _floats(F(19372, 6561), F(-25360, 2187), F(64448, 6561), F(-212, 729)),
        _floats(F(9017, 3168), F(-355, 33), F(46732, 5247), F(49, 176), F(-5103, 18656)),
        _DOPRI5_B[:-1],
    ),
    b=_DOPRI5_B,
    error=_floats(
        F(1951, 21600) - F(35, 384),
        0,
        F(22642, 50085) - F(500, 1113),
        F(451, 720) - F(125, 192),
        F(-12231, 42400) - F(-2187, 6784),
        F(649, 6300) - F(11, 84),
        F(1, 60),
    ),
    control_order=5,
    dense=_quartic(np.array(_DOPRI5_B), np.array(_DOPRI5_MID)),
    dense_order=5,
)

# The controlled adaptive solver of Zeqiri et al., ICLR 2023, as its program has it.
DOPRI5_CAS = dataclasses.replace(DOPRI5, name="dopri5_cas", controller="doubling", error_norm="sum")

# Bogacki and Shampine (1989).
_BOSH3_B = _floats(F(2, 9), F(1, 3), F(4, 9), 0)
BOSH3 = Tableau(
    name="bosh3",
    order=3,
    a=((), _floats(F(1, 2)), _floats(0, F(3, 4)), _BOSH3_B[:-1]),
    b=_BOSH3_B,
    error=_floats(F(2, 9) - F(7, 24), F(1, 3) - F(1, 4), F(4, 9) - F(1, 3), F(-1, 8)),
    control_order=3,
    dense=_hermite(np.array(_BOSH3_B)),
    dense_order=3,
    # The papers' program puts a quartic through `y0 + h/2 k2`, which is only first order at the middle of the step:
    # where the order of the result matters, ask for endpoint="clip".
    endpoint=_quartic(np.array(_BOSH3_B), np.array([0.0, 0.5, 0.0, 0.0])),
)

# Heun's second-order method with Euler's as the embedded one. The slope at the new state is a stage of its
# own: Heun's second stage is f at Euler's point, which is not the new state.
_HEUN2_B = (0.5, 0.5, 0.0)
HEUN2 = Tableau(
    name="heun2",
    order=2,
    a=((), (1.0,), (0.5, 0.5)),
    b=_HEUN2_B,
    error=(-0.5, 0.5, 0.0),
    control_order=2,
    dense=_hermite(np.array(_HEUN2_B)),
    dense_order=2,
)

EULER = Tableau(name="euler", order=1, a=((),), b=(1.0,), dense=((1.0,),), dense_order=1)

MIDPOINT = Tableau(
    name="midpoint",
    order=2,
    a=((), (0.5,)),
    b=(0.0, 1.0),
    dense=((1.0, -1.0), (0.0, 1.0)),
    dense_order=2,
)

# Both four-stage methods: Kutta (1901). Their dense outputs satisfy the order conditions up to three for every
# theta (Hairer, Norsett, Wanner, Solving ODEs I, II.6), which makes the error inside a step of the step's own order.
RK4 = Tableau(
    name="rk4",
    order=4,
    a=((), (0.5,), (0.0, 0.5), (0.0, 0.0, 1.0)),
    b=_floats(F(1, 6), F(1, 3), F(1, 3), F(1, 6)),
    dense=(
        _floats(1, F(-3, 2), F(2, 3)),
        _floats(0, 1, F(-2, 3)),
        _floats(0, 1, F(-2, 3)),
        _floats(0, F(-1, 2), F(2, 3)),
    ),
    dense_order=4,
)
KUTTA38 = Tableau(
    name="kutta38",
    order=4,
    a=((), _floats(F(1, 3)), _floats(F(-1, 3), 1), _floats(1, -1, 1)),
    b=_floats(F(1, 8), F(3, 8), F(3, 8), F(1, 8)),
    dense=(
        _floats(1, F(-15, 8), 1),
        _floats(0, F(15, 8), F(-3, 2)),
        _floats(0, F(3, 8), 0),
        _floats(0, F(-3, 8), F(1, 2)),
    ),
    dense_order=4,
)
TABLEAUS = {each.name: each for each in list(globals().values()) if isinstance(each, Tableau)}
