"""What made a model: the commit, the Python and the packages."""

import platform
import subprocess
import sys
from collections.abc import Mapping
from functools import lru_cache
from importlib import metadata
from pathlib import Path
from typing import Any

from mlsys.errors import EnvironmentMismatchError
from mlsys.manifest import Manifest

# What any scikit-learn model stands on; the packages of the estimator's own classes are added.
_BASE = ("joblib", "numpy", "pandas", "pyarrow", "scikit-learn", "scipy")


def git_commit() -> str | None:
    """Return the commit that is checked out, ``-dirty`` added when files differ from it; None outside a checkout."""
    try:
        commit = _git("rev-parse", "HEAD")
        return f"{commit}-dirty" if _git("status", "--porcelain", "--untracked-files=no") else commit
    except (OSError, subprocess.SubprocessError):
        return None


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, timeout=10, check=True)  # noqa: S603, S607
    return done.stdout.strip()


def python_version() -> str:
    """Return the version of this Python: ``3.12.1``."""
    return platform.python_version()


def packages(estimator: Any, *others: str) -> dict[str, str]:
    """Return the installed versions of the packages that ``estimator`` needs, and of ``others``."""
    modules = {type(part).__module__.partition(".")[0] for part in _parts(estimator)}
    unknown = modules - {"sklearn", *_BASE}
    by_module = _distributions(_site_packages()) if unknown else {}
    names = {*_BASE, *others, *(name for module in unknown for name in by_module.get(module, []))}
    return {name: metadata.version(name) for name in sorted(names)}


@lru_cache(maxsize=1)
def _distributions(_changed: tuple[int, ...]) -> Mapping[str, list[str]]:
    return metadata.packages_distributions()  # reads the files of all that is installed: half a second and more


def _site_packages() -> tuple[int, ...]:
    """Return what changes when a package is installed or removed: when each folder of `sys.path` was changed."""
    return tuple(path.stat().st_mtime_ns for path in map(Path, sys.path) if path.is_dir())


def check(manifest: Manifest) -> None:
    """Compare this environment with the one that trained a model.

    Python must be of the same minor version and scikit-learn the very same, as scikit-learn itself would warn of any
    other; every other package that the model needs must be there, of the same major version (minor, before 1.0). Golden
    rows prove the rest.

    Raises
    ------
    EnvironmentMismatchError
        The message names each package with the version that training had and the one that is here.
    """
    faults = []
    if _series(manifest.python_version, 2) != _series(python_version(), 2):
        faults.append(f"Python {manifest.python_version}, here {python_version()}")
    for name, wanted in manifest.packages.items():
        here = _installed(name)
        if here is None or not _compatible(name, wanted, here):
            faults.append(f"{name} {wanted}, here {here or 'not installed'}")
    if faults:
        raise EnvironmentMismatchError(
            f"{manifest.ref} was trained with {'; '.join(faults)}: install those versions, or train again with these"
        )


def _compatible(name: str, wanted: str, here: str) -> bool:
    if name == "scikit-learn":
        return wanted == here
    parts = 2 if wanted.startswith("0.") else 1
    return _series(wanted, parts) == _series(here, parts)


def _series(version: str, parts: int) -> list[str]:
    return version.split(".")[:parts]


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _parts(estimator: Any) -> list[Any]:
    parts = [estimator]
    if hasattr(estimator, "get_params"):
        parts += [value for value in estimator.get_params(deep=True).values() if hasattr(value, "get_params")]
    return parts
