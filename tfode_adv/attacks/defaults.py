"""The published budgets, as data: what an evaluation takes where nothing else is asked for."""

import dataclasses

from tfode_adv.attacks import registry
from tfode_adv.attacks.norms import NORMS
from tfode_adv.errors import check_choice


@dataclasses.dataclass(frozen=True)
class Budget:
    """A published attack: eps (the first is the default, lengths in the norm), step size, steps."""

    eps: tuple[float, ...]
    step_size: float
    steps: int
    paper: str


_WIFS_MNIST = Budget((0.1, 0.05, 0.3), 0.05, 10, "wifs2019")
_WIFS_CIFAR = Budget((0.01, 0.03, 0.05), 0.01, 10, "wifs2019")

PUBLISHED: dict[tuple[str, str], Budget] = {
    ("mnist", "linf"): Budget((0.3, 0.05, 0.1), 0.05, 10, "wifs2019"),
    ("mnist", "l2rms"): _WIFS_MNIST,
    # The same radius in the Euclidean norm of a 28 x 28 image.
    ("mnist", "l2"): Budget((0.1 * 28, 0.05 * 28, 0.3 * 28), 0.05 * 28, 10, "wifs2019"),
    ("cifar10", "linf"): Budget((0.031,), 0.003, 20, "msml2022"),
    ("cifar10", "l2"): Budget((0.5,), 0.1, 20, "msml2022"),
    ("cifar10", "l2rms"): _WIFS_CIFAR,
}
_LIKE_MNIST = ("mnist", "mnist_5k", "fashion_mnist", "kmnist", "emnist")


def budget(dataset: str, norm: str) -> Budget:
    """Returns the published budget for a data set; those without one take MNIST's or CIFAR-10's."""
    check_choice("norm", norm, NORMS)
    return PUBLISHED["mnist" if dataset.split("/")[0] in _LIKE_MNIST else "cifar10", norm]


def step_size(published: Budget, eps: float, steps: int) -> float:
    """Returns the step for `eps`: the published one, shortened at radii that nobody published.

    There 2.5 eps / steps (Madry et al. 2018) bounds it: a step of several radii would only look like robustness.
    """
    if eps in published.eps or not eps:
        return published.step_size
    return min(published.step_size, 2.5 * eps / max(1, steps))


def hyperparameters(
    attack: str, dataset: str, norm: str, eps: float | None = None, steps: int | None = None
) -> dict[str, float | int | str]:
    """Returns what `registry.get(attack, ...)` takes by default on this data set.

    Every attack takes the norm and eps; only those that step as the papers' do take steps and step size, which
    follow `eps` and `steps` where they are given.
    """
    kind = registry.ATTACKS[check_choice("attack", attack, registry.ATTACKS)]
    check_choice("norm", norm, kind.norms)
    published = budget(dataset, norm)
    eps = published.eps[0] if eps is None else eps
    values: dict[str, float | int | str] = {"norm": norm, "eps": eps}
    if attack in ("bim", "pgd", "mim"):
        steps = steps or published.steps
        values |= {"step_size": step_size(published, eps, steps), "steps": steps}
    return values
