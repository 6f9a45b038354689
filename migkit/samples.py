"""A few recorded migrations that come with the package, for first steps and examples."""

from __future__ import annotations

from importlib import resources

from migkit.errors import unknown
from migkit.trace import Trace

_FOLDER = "sample_traces"
_SUFFIX = ".parquet"


def sample_names() -> list[str]:
    """The names of the traces that come with the package, sorted.

    >>> import migkit as mk
    >>> "post-copy" in mk.sample_names()
    True
    """
    inside = (resources.files("migkit") / _FOLDER).iterdir()
    return sorted(entry.name.removesuffix(_SUFFIX) for entry in inside if entry.name.endswith(_SUFFIX))


def sample(name: str) -> Trace:
    """One of the traces that come with the package.

    Raises UsageError with the nearest name for one that does not.

    >>> import migkit as mk
    >>> mk.sample("post-copy").meta.end.outcome
    'completed'
    """
    if name not in (names := sample_names()):
        raise unknown("sample", name, names)
    with resources.as_file(resources.files("migkit") / _FOLDER / f"{name}{_SUFFIX}") as path:
        return Trace.load(path)
