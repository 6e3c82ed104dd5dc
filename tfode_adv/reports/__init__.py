"""From records to tables, figures and one HTML page; and `diagnose`, for a Keras model of one's own.

What reads records asks no model. `subject`, `grid`, `figure2` and `diagnosing` do, and `diagnosis_writer` and
`diagnosis_figures` write what an analysis found: these need TensorFlow and the attacks. So `diagnose` is imported
when it is first asked for.
"""

from typing import Any

__all__ = ["diagnose"]  # noqa: F822


def __getattr__(name: str) -> Any:
    if name == "diagnose":
        from tfode_adv.reports.diagnosing import diagnose

        return diagnose
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
