"""Records for tests."""

from tfode_adv.evaluation.configuration import Configuration
from tfode_adv.evaluation.records import Record

CONFIGURATION = Configuration("abc", "mnist_5k", tol=0.1, attack="pgd", norm="linf", eps=0.3)


def make_record(index, success=False, **changes):
    values = {
        "index": index,
        "label": 3,
        "clean": 3,
        "adversarial": 5 if success else 3,
        "success": success,
        "distance": 0.25,
        "queries": 11,
        "gradients": 10,
        "nfe_clean": 26,
        "nfe_adversarial": 32,
        "margin_clean": 1.5,
        "margin_adversarial": -0.5,
    }
    return Record(**(values | changes))
