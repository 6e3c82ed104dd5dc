import keras
import numpy as np
import pytest

from tfode_adv.training import SGD


def test_updates_are_those_of_pytorch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    start, gradients = rng.normal(size=7), rng.normal(size=(6, 7))
    rates = [0.1, 0.1, 0.1, 0.01, 0.01, 0.001]

    theirs = torch.nn.Parameter(torch.tensor(start))
    torch_sgd = torch.optim.SGD([theirs], lr=0.1, momentum=0.9, weight_decay=0.05)
    ours = keras.Variable(start.astype(np.float32))
    sgd = SGD(0.1, momentum=0.9, l2=0.05)
    sgd.build([ours])
    for gradient, rate in zip(gradients, rates, strict=True):
        torch_sgd.param_groups[0]["lr"] = rate
        theirs.grad = torch.tensor(gradient)
        torch_sgd.step()
        sgd.learning_rate = rate
        sgd.apply([keras.ops.convert_to_tensor(gradient, "float32")], [ours])
    np.testing.assert_allclose(ours.numpy(), theirs.detach().numpy(), rtol=2e-6)


def test_it_survives_serialisation():
    config = keras.optimizers.serialize(SGD(0.2, momentum=0.8, l2=0.3))
    again = keras.optimizers.deserialize(config)
    assert isinstance(again, SGD) and (again.l2, again.momentum) == (0.3, 0.8)
