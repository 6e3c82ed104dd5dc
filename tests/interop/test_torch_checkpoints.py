"""PyTorch's checkpoints: every array finds its place, or one error lists what does not."""

import numpy as np
import pytest
import tensorflow as tf

import tfode_adv as ta
from tests.interop.torch_states import torch_state
from tfode_adv.errors import RunError, UsageError
from tfode_adv.interop.names import model_names

NPY = b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }".ljust(127) + b"\n" + bytes(8)
SMALL = {"filters": 4, "input_shape": (8, 8, 1), "num_classes": 3}


@pytest.fixture(scope="module")
def state():
    return torch_state()


@pytest.fixture(scope="module")
def model():
    return ta.models.build("oon", **SMALL)


def is_loaded(model, state):
    kernel = model.get_layer("stem").kernel.numpy()
    return np.array_equal(kernel, state["downsample.module.weight"].transpose(2, 3, 1, 0))


def test_layouts(model, state):
    assert ta.interop.load_torch_state(model, state) is model
    assert is_loaded(model, state)
    dense, dynamics = model.get_layer("logits"), model.get_layer("ode").dynamics
    np.testing.assert_array_equal(dense.kernel.numpy(), state["classifier.module.5.weight"].T)
    time = state["odeblock.odefunc.conv2._layer.weight"][:, 0].transpose(1, 2, 0)
    np.testing.assert_array_equal(dynamics.conv2.kernel.numpy()[:, :, 0], time)
    np.testing.assert_array_equal(dynamics.norm3.gamma.numpy(), state["odeblock.odefunc.norm3.weight"])


def test_arrays_in_memory_are_taken_as_those_of_a_file(model):
    """As `module.state_dict()` gives them: with what DataParallel and batch normalisation add."""
    state = torch_state(seed=11)
    wrapped = {f"module.{name}": value for name, value in state.items()} | {"module.bn1.num_batches_tracked": 5}
    ta.interop.load_torch_state(model, wrapped)
    assert is_loaded(model, state)
    assert ta.interop.build_from_state("oon", wrapped, input_shape=(8, 8, 1)).count_params() == model.count_params()


def test_every_weight_has_a_name(model):
    assert len(model_names(model)) == len(model.trainable_variables)


@pytest.mark.parametrize("prefix", ["state/", "", "module.", "state/module."])
def test_npz(model, tmp_path, prefix):
    state = torch_state(seed=len(prefix) + 1)
    extra = {"x": np.zeros(3), "dopri5/1/nfe": np.zeros(3)} if "state/" in prefix else {}
    np.savez(tmp_path / "c.npz", **{prefix + k: v for k, v in state.items()}, **extra)
    ta.interop.load_torch_state(model, tmp_path / "c.npz")
    assert is_loaded(model, state)


@pytest.mark.parametrize("wrapper", [None, "model", "net", "state_dict"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_pt(model, tmp_path, wrapper, prefix):
    torch = pytest.importorskip("torch")
    state = torch_state(seed=7)
    content = {prefix + name: torch.tensor(value) for name, value in state.items()}
    content[f"{prefix}bn1.num_batches_tracked"] = torch.tensor(5)
    # Programs keep the best accuracy beside the weights, often as a NumPy number.
    beside = {"epoch": 3, "best": {"acc": np.float64(0.5), "epoch": np.int64(2)}}
    torch.save({wrapper: content, **beside} if wrapper else content, tmp_path / "c.pt")
    ta.interop.load_torch_state(model, tmp_path / "c.pt")
    assert is_loaded(model, state)


def test_a_checkpoint_may_be_called_tar(model, tmp_path):
    torch = pytest.importorskip("torch")
    state = torch_state(seed=7)
    torch.save({name: torch.tensor(value) for name, value in state.items()}, tmp_path / "c.pth.tar")
    ta.interop.load_torch_state(model, tmp_path / "c.pth.tar")
    assert is_loaded(model, state)


def test_code_in_a_checkpoint_is_not_run(model, tmp_path):
    torch = pytest.importorskip("torch")

    class Bomb:
        def __reduce__(self):
            return (pathlib_touch, (str(tmp_path / "ran"),))

    torch.save({"net": Bomb()}, tmp_path / "c.pt")
    with pytest.raises(RunError, match=r"it holds a \S+pathlib_touch, which is not loaded") as caught:
        ta.interop.load_torch_state(model, tmp_path / "c.pt")
    assert not (tmp_path / "ran").exists() and "weights_only" not in str(caught.value)


def test_a_tensor_that_is_no_array_is_told_in_a_line(model, tmp_path):
    torch = pytest.importorskip("torch")
    torch.save({"a": torch.zeros(3, device="meta")}, tmp_path / "c.pt")
    with pytest.raises(RunError, match="holds a tensor that is no plain array") as caught:
        ta.interop.load_torch_state(model, tmp_path / "c.pt")
    assert "\n" not in str(caught.value)


def pathlib_touch(path):
    open(path, "w").close()


def test_what_does_not_fit_is_listed_and_nothing_is_changed(model, state):
    before = model.get_weights()
    bad = torch_state(seed=9)
    bad["downsample.module.weight"] = bad["downsample.module.weight"][:3]
    del bad["classifier.module.5.bias"]
    bad["layer9.0.conv1.weight"] = np.zeros((2, 2, 3, 3), np.float32)
    with pytest.raises(UsageError) as caught:
        ta.interop.load_torch_state(model, bad)
    message = str(caught.value)
    assert "\n" not in message
    assert "misshapen downsample.module.weight (3, 1, 4, 4) for (4, 1, 4, 4)" in message
    assert "missing classifier.module.5.bias" in message
    assert "left over layer9.0.conv1.weight" in message
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("values", [np.array(list("abcd")), np.arange(4, dtype=np.complex64), np.zeros(4, "V2")])
def test_what_is_no_number_is_listed_and_nothing_is_changed(model, state, values):
    before = model.get_weights()
    with pytest.raises(UsageError, match=r"no real numbers in classifier.module.0.bias \("):
        ta.interop.load_torch_state(model, torch_state(seed=10) | {"classifier.module.0.bias": values})
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("number", [np.float16, np.float64, tf.bfloat16.as_numpy_dtype])
def test_other_numbers_are_taken(model, number):
    state = {name: value.astype(number) for name, value in torch_state(seed=12).items()}
    ta.interop.load_torch_state(model, state)
    assert is_loaded(model, {name: value.astype(np.float32) for name, value in state.items()})


def test_two_names_for_one_place_are_not_taken(model, state):
    with pytest.raises(UsageError, match="left over downsample.module.0.bias"):
        ta.interop.load_torch_state(model, state | {"downsample.module.0.bias": np.zeros(4)})


def test_size_is_read_off_the_arrays():
    state = torch_state(filters=8, classes=7)
    model = ta.interop.build_from_state("oon", state, solver="bosh3", tol=0.5)
    assert model.input_shape == (None, 28, 28, 1) and model.output_shape == (None, 7)
    assert model.get_layer("ode").solver == "bosh3" and is_loaded(model, state)


@pytest.mark.parametrize("name", ["sonet", "wide_resnet", "odenet_tq", "resnet10"])
def test_another_family_s_checkpoint(name, state):
    with pytest.raises(UsageError, match=f"not of {name}"):
        ta.interop.build_from_state(name, state)


@pytest.mark.parametrize(
    "name, content, error, words",
    [
        ("c.bin", b"", UsageError, "must end in one of: .npz, .pt, .pth"),
        ("c.npz", None, RunError, "c.npz' is missing"),
        ("c.npz", b"PK\x03\x04 and no more", RunError, "c.npz' is corrupt"),
        ("c.npz", NPY, RunError, "c.npz' is corrupt: it holds one array"),
        ("c.pt", b"not a checkpoint", RunError, "c.pt' is no checkpoint of plain tensors: it is damaged"),
    ],
)
def test_unreadable_files(model, tmp_path, name, content, error, words):
    if name.endswith(".pt"):
        pytest.importorskip("torch")
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=words) as caught:
        ta.interop.load_torch_state(model, tmp_path / name)
    assert "\n" not in str(caught.value)


def test_without_pytorch_one_line_says_what_to_do(model, tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    (tmp_path / "c.pt").touch()
    with pytest.raises(UsageError, match="with its extra torch"):
        ta.interop.load_torch_state(model, tmp_path / "c.pt")
