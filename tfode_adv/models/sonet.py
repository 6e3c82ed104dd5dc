"""SONet: Huang et al., "Adversarial Robustness of Stabilized Neural ODE Might be from Obfuscated Gradients",
MSML 2021 (PMLR 145), section 3.2 and appendix.

Every block is an ODE with skew-symmetric dynamics, the classifier included. The four group normalisations
of a block, the start of the classifier's outputs at 0.1 and its state, one vector where the paper writes a
pair, are the program's.
"""

from collections.abc import Sequence

import keras

from tfode_adv.layers import AppendConstant, LastFeatures, SkewDenseDynamics
from tfode_adv.models.parts import MakeODE, so_block, stage_plan


def sonet(
    x: keras.KerasTensor, num_classes: int, ode: MakeODE, *, filters: int, blocks: Sequence[int], initialization: str
) -> keras.KerasTensor:
    """An SO block to `filters` channels, stages of SO blocks, global average, an SO dense block."""
    x = so_block(x, filters, 1, ode, initialization, "stem")
    for name, width, strides in stage_plan(filters, blocks):
        x = so_block(x, width, strides, ode, initialization, name)
    features = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    # Logits are float32 whatever the policy.
    precise = {"dtype": "float32"}
    dynamics = SkewDenseDynamics(num_classes, features.shape[-1], initialization=initialization, **precise)
    state = AppendConstant(num_classes, 0.1, name="logits_start", **precise)(features)
    state = ode(dynamics, name="logits", **precise)(state)
    return LastFeatures(num_classes, name="logits_end", **precise)(state)
