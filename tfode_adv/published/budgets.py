"""The published attacks' radii, step sizes and steps, and what stands in for them on other data sets."""

import dataclasses

from tfode_adv.errors import check_choice


@dataclasses.dataclass(frozen=True)
class Budget:
    """A published attack: eps (the first, of several the middle one, is the default everywhere), step size, steps."""

    eps: tuple[float, ...]
    step_size: float
    steps: int
    paper: str


_WIFS_MNIST = Budget((0.1, 0.05, 0.3), 0.05, 10, "wifs2019")
_WIFS_CIFAR = Budget((0.03, 0.01, 0.05), 0.01, 10, "wifs2019")

PUBLISHED: dict[tuple[str, str], Budget] = {
    ("mnist", "linf"): Budget((0.1, 0.05, 0.3), 0.05, 10, "wifs2019"),
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
    check_choice("norm", norm, sorted({norm for _, norm in PUBLISHED}))
    return PUBLISHED["mnist" if dataset.split("/")[0] in _LIKE_MNIST else "cifar10", norm]


def step_size(published: Budget, eps: float, steps: int) -> float:
    """Returns the step for `eps`: the published one, shortened at radii that nobody published.

    There 2.5 eps / steps (Madry et al. 2018) bounds it: a step of several radii would only look like robustness.
    """
    if eps in published.eps or not eps:
        return published.step_size
    return min(published.step_size, 2.5 * eps / max(1, steps))
