"""What made a model: the commit, the Python and the packages."""

import platform
import subprocess
from importlib import metadata
from typing import Any

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


def packages(estimator: Any) -> dict[str, str]:
    """Return the installed versions of the packages that ``estimator`` needs."""
    modules = {type(part).__module__.partition(".")[0] for part in _parts(estimator)}
    by_module = metadata.packages_distributions()
    names = {*_BASE, *(name for module in modules for name in by_module.get(module, []))}
    return {name: metadata.version(name) for name in sorted(names)}


def _parts(estimator: Any) -> list[Any]:
    parts = [estimator]
    if hasattr(estimator, "get_params"):
        parts += [value for value in estimator.get_params(deep=True).values() if hasattr(value, "get_params")]
    return parts
