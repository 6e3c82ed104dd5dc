"""What an evaluation takes where nothing else is asked for: the published budgets."""

from tfode_adv.attacks import registry
from tfode_adv.errors import check_choice
from tfode_adv.published.budgets import budget, step_size


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
