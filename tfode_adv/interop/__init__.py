"""Checkpoints of the papers' PyTorch programs."""

from tfode_adv.interop.architecture import architecture
from tfode_adv.interop.checkpoint import read_state
from tfode_adv.interop.convert import build_from_state, load_torch_state

__all__ = ["architecture", "build_from_state", "load_torch_state", "read_state"]
