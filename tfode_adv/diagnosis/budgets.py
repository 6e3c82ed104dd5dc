"""How hard a diagnosis tries, and at which tolerances."""

from typing import Any

TOLERANCES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)

# "quick" for a look at a few hundred images on a laptop, "full" for a paper. `long`: the fewest steps of the
# longest PGD. `every_source`: whether PGD of twice the published steps runs through every gradient source, and
# the longest through the published one too. `cw`: its variable is a tanh's argument, which Adam moves by at most the
# rate in a step. The rest: how many images the dearer measurements are made on.
BUDGETS: dict[str, dict[str, Any]] = {
    "quick": {
        "long": 100,
        "every_source": False,
        "restarts": 2,
        "apgd": {"steps": 30},
        "cwlinf": {"steps": 30},
        "cw": {"steps": 100, "learning_rate": 0.05},
        "spsa": {"steps": 25, "samples": 64},
        "square": {"steps": 1000},
        "detour": {"steps": 50},
        "rays": {"steps": 1500},
        "gradient_free": 24,
        "power": 12,
        "traced": 48,
        "audited": 48,
        "swept": 32,
        "planted": 24,
        "evaded": 24,
    },
    "full": {
        "long": 100,
        "every_source": True,
        "restarts": 10,
        "apgd": {"steps": 100},
        "cwlinf": {"steps": 100},
        "cw": {"steps": 100, "learning_rate": 0.05},
        "spsa": {"steps": 100, "samples": 128},
        "square": {"steps": 5000},
        "detour": {"steps": 100},
        "rays": {"steps": 5000},
        "gradient_free": None,
        "power": 32,
        "traced": 200,
        "audited": 128,
        "swept": 128,
        "planted": 64,
        "evaded": 128,
    },
}
