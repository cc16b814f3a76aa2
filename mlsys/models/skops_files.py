"""Models in the format of skops: a zip file of data and types, which runs nothing when it is read.

What skops does not trust by itself must be on both lists, as for pickles (see `mlsys.models.unpickling`): that of the
registered manifest, and the policy's.
"""

from collections.abc import Collection
from pathlib import Path
from typing import Any

from mlsys.errors import UntrustedError, VerificationError
from mlsys.models.unpickling import check_class


def dump(estimator: Any, path: Path) -> None:
    """Write a model.

    Raises
    ------
    UntrustedError
        skops has no way to write a part of it.
    """
    import skops.io

    try:
        skops.io.dump(estimator, path)
    except Exception as exc:
        raise UntrustedError(f"skops cannot write this model ({exc}): save it with format='joblib'") from exc


def read_model(path: Path, globals_: Collection[str], trusted: Collection[str], *, of: str) -> Any:
    """Read a model that may use ``globals_``; parameters and errors as for `mlsys.models.unpickling.read_model`."""
    needed = _needed(path, of)
    if unknown := sorted({*needed} - {*globals_}):
        raise UntrustedError(f"{of} needs {unknown[0]}, which was not recorded when it was saved")
    return _read(path, needed, trusted, of)


def read_back(path: Path, trusted: Collection[str]) -> tuple[Any, tuple[str, ...]]:
    """Read a model that was just written; return it with what it needs beyond what skops trusts: ``module:name``."""
    needed = _needed(path, "the model")
    return _read(path, needed, trusted, "the model"), tuple(sorted(needed))


def _needed(path: Path, of: str) -> dict[str, str]:
    """Return the types that skops does not trust by itself: ``module:name`` to its own way of writing it."""
    import skops.io

    try:
        types = skops.io.get_untrusted_types(file=path)
    except Exception as exc:
        raise VerificationError(f"{of} is no file of skops ({type(exc).__name__}: {exc})") from exc
    return {":".join(name.rsplit(".", 1)): name for name in types}


def _read(path: Path, needed: dict[str, str], trusted: Collection[str], of: str) -> Any:
    import skops.io

    for name in needed:
        check_class(name, trusted, of)
    try:
        return skops.io.load(path, trusted=list(needed.values()))
    except Exception as exc:
        raise VerificationError(f"{of} cannot be read here ({type(exc).__name__}: {exc})") from exc
