"""From records to a run's page; and `diagnose`, for a Keras model of one's own, imported when it is first asked for."""

from typing import Any

__all__ = ["diagnose"]  # noqa: F822


def __getattr__(name: str) -> Any:
    if name == "diagnose":
        from tfode_adv.diagnosis.diagnose import diagnose

        return diagnose
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
