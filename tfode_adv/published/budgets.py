"""The published attacks' radii, step sizes and steps, read from the figures, and what stands in for them elsewhere."""

import dataclasses

from tfode_adv.errors import check_choice
from tfode_adv.published import published


@dataclasses.dataclass(frozen=True)
class Budget:
    """A published attack: eps (the first, of several the middle one, is the default everywhere), step size, steps."""

    eps: tuple[float, ...]
    step_size: float
    steps: int
    paper: str


def _wifs(table: str, norm: str, dataset: str, scale: float = 1) -> Budget:
    """WIFS 2019's attack, its lengths times `scale`; three radii are printed, smallest first."""
    printed = published("wifs2019")
    small, middle, large = (scale * float(eps) for eps in printed[table][norm])
    attack = printed["attack"]
    return Budget((middle, small, large), scale * attack["step_size"][dataset], attack["iterations"], "wifs2019")


def _msml(norm: str) -> Budget:
    """MSML 2022's attack of few steps, which its table begins with."""
    printed = published("msml2022")
    attack = printed["attack"][norm]
    steps = int(printed["rows"][0]["attack"].removeprefix("pgd"))
    return Budget((attack["eps"],), attack["step_size"], steps, "msml2022")


PUBLISHED: dict[tuple[str, str], Budget] = {
    ("mnist", "linf"): _wifs("table2_mnist", "linf", "mnist"),
    ("mnist", "l2rms"): _wifs("table2_mnist", "l2", "mnist"),
    # The same radius in the Euclidean norm of a 28 x 28 image.
    ("mnist", "l2"): _wifs("table2_mnist", "l2", "mnist", scale=28),
    ("cifar10", "linf"): _msml("linf"),
    ("cifar10", "l2"): _msml("l2"),
    ("cifar10", "l2rms"): _wifs("table3_cifar10", "l2", "cifar10"),
}
_LIKE_MNIST = ("mnist", "mnist_5k", "fashion_mnist", "kmnist", "emnist")


def budget(dataset: str, norm: str) -> Budget:
    """Returns the published budget for a data set; those without one take MNIST's or CIFAR-10's."""
    check_choice("norm", norm, sorted({norm for _, norm in PUBLISHED}))
    return PUBLISHED["mnist" if dataset.split("/")[0] in _LIKE_MNIST else "cifar10", norm]


def step_size(attack: Budget, eps: float, steps: int) -> float:
    """Returns the step for `eps`: the published one, shortened at radii that nobody published.

    There 2.5 eps / steps (Madry et al. 2018) bounds it: a step of several radii would only look like robustness.
    """
    if eps in attack.eps or not eps:
        return attack.step_size
    return min(attack.step_size, 2.5 * eps / max(1, steps))
