"""Workflows as tests see them: their text, what it means, and their steps' shell run as GitHub runs it."""

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).parents[1]
GITHUB = ROOT / ".github"
FILES = sorted(GITHUB.glob("workflows/*.yml"))
LOGIN = GITHUB / "actions" / "google-login" / "action.yml"


def load(path: Path) -> dict:
    """Return a YAML file with every value as it is written: ``on`` stays a word."""
    return yaml.load(path.read_text(encoding="utf-8"), yaml.BaseLoader)


WORKFLOWS = {path.stem: load(path) for path in FILES}


def jobs(*, with_steps: bool = False) -> Iterator[tuple[str, str, dict]]:
    """Yield each job: its workflow, its id, and what it says."""
    for workflow, content in WORKFLOWS.items():
        for name, job in content["jobs"].items():
            if not with_steps or "steps" in job:
                yield workflow, name, job


def steps() -> Iterator[tuple[str, str, dict]]:
    """Yield each step with its workflow and its job."""
    for workflow, name, job in jobs(with_steps=True):
        for step in job["steps"]:
            yield workflow, name, step


def called(job: dict) -> str | None:
    """Return the workflow of ours that a job calls."""
    uses = job.get("uses", "")
    return Path(uses).stem if uses.startswith("$/.github/workflows/") else None


def run_step(workflow: str, job: str, containing: str, folder: Path, **env: str) -> subprocess.CompletedProcess:
    """Run the one step of a job whose shell contains a text, in a folder, with the step's variables given by the test.

    The folder's ``bin`` comes first on the PATH: stand-ins for tools that need the cloud.
    """
    (step,) = (step for step in WORKFLOWS[workflow]["jobs"][job]["steps"] if containing in step.get("run", ""))
    if set(step.get("env", {})) - set(env):
        raise AssertionError(f"the step reads {sorted(step['env'])}, the test gives {sorted(env)}")
    return run(["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]], folder, **env)


def run(command: list[str], folder: Path, **env: str) -> subprocess.CompletedProcess:
    """Run a command with few variables, git's own settings, and this Python as python3."""
    tools = folder / "bin"
    tools.mkdir(exist_ok=True)
    if not (tools / "python3").exists():
        (tools / "python3").symlink_to(sys.executable)
    base = {
        "HOME": str(folder),
        "PATH": f"{tools}:{os.environ['PATH']}",
        "GITHUB_OUTPUT": str(folder / "output"),
        "GITHUB_STEP_SUMMARY": str(folder / "summary"),
        "GIT_CONFIG_GLOBAL": "/dev/null",
        "GIT_CONFIG_NOSYSTEM": "1",
    }
    return subprocess.run(command, cwd=folder, env=base | env, capture_output=True, text=True, timeout=60)


def stand_in(folder: Path, name: str, program: str) -> None:
    """Put a Python program on the PATH of `run`, as a tool that is not here."""
    tools = folder / "bin"
    tools.mkdir(exist_ok=True)
    path = tools / name
    path.write_text(f"#!{sys.executable}\n{program}")
    path.chmod(0o755)


def output(folder: Path) -> dict[str, str]:
    """Return what a step handed to the workflow."""
    path = folder / "output"
    return dict(line.split("=", 1) for line in path.read_text().splitlines()) if path.exists() else {}


def script(name: str) -> ModuleType:
    """Import a script of the workflows, and those beside it, as the workflows' python3 does."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(GITHUB / "scripts"))
        return importlib.import_module(name)
