"""The image as its files say it: versions that agree, order, what goes in. ``tests/image/build.sh`` builds it."""

import ast
import importlib.util
import json
import re
import shlex
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest

from mlsys.serve.server import Variables
from mlsys.settings import Settings

ROOT = Path(__file__).parents[1]
LAPTOPS_ALONE = {"airflow", "card", "jupyter", "local", "vis"}  # parts of mlsys that no job imports
DOCKERFILE = (ROOT / "Dockerfile").read_text()
UNWANTED = {
    "aiohttp", "apache-airflow", "duckdb", "ipykernel", "jupyterlab", "matplotlib", "plotly", "pre-commit", "pytest",
    "ruff", "seaborn", "sqlglot", "uv",
}  # fmt: skip


def instructions() -> list[list[str]]:
    """Return the Dockerfile's instructions, each as words."""
    lines = [line for line in DOCKERFILE.splitlines() if not line.startswith("#")]
    return [shlex.split(line) for line in "\n".join(lines).replace("\\\n", " ").splitlines() if line.strip()]


def stage(name: str) -> list[list[str]]:
    """Return the instructions of a stage."""
    starts = [i for i, words in enumerate(instructions()) if words[0] == "FROM"]
    start = next(i for i in starts if instructions()[i][-1] == name)
    return instructions()[start : next((i for i in starts if i > start), None)]


def values(steps: list[list[str]], instruction: str) -> list[str]:
    return [" ".join(words[1:]) for words in steps if words[0] == instruction]


def python_versions() -> dict[str, str]:
    """Return the Python version that each file asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    dotted = re.compile(r"(\d)(\d+)")
    terraform = (ROOT / "infra/registry_function.tf").read_text()
    deployment = (ROOT / "scripts/model_registry/README.md").read_text()
    return {
        ".python-version": (ROOT / ".python-version").read_text().strip(),
        "pyproject.toml, requires-python": project["project"]["requires-python"].removeprefix(">="),
        "pyproject.toml, ruff": dotted.sub(r"\1.\2", project["tool"]["ruff"]["target-version"].removeprefix("py")),
        "Dockerfile, builder": re.search(r"BUILDER_IMAGE=\S+:python([\d.]+)-", DOCKERFILE)[1],
        "Dockerfile, runtime": re.search(r"RUNTIME_IMAGE=python:([\d.]+)-", DOCKERFILE)[1],
        "infra, function": dotted.sub(r"\1.\2", re.search(r'runtime\s*= "python(\d+)"', terraform)[1]),
        "gcloud, function": dotted.sub(r"\1.\2", re.search(r"--runtime python(\d+)", deployment)[1]),
    }


@pytest.mark.parametrize("where", python_versions())
def test_every_file_names_the_same_python(where):
    """A model is unpickled by the minor version that pickled it, or not at all."""
    assert python_versions()[where] == "3.12"
    assert sys.version_info[:2] == (3, 12)


def test_the_base_images_are_the_plans_and_can_be_replaced():
    """A mirror or a digest takes their place by ``--build-arg``."""
    assert values(instructions()[:2], "ARG") == [
        "BUILDER_IMAGE=ghcr.io/astral-sh/uv:python3.12-bookworm-slim",
        "RUNTIME_IMAGE=python:3.12-slim-bookworm",
    ]
    assert values(instructions(), "FROM") == [
        "${BUILDER_IMAGE} AS dependencies",
        "dependencies AS code",
        "${RUNTIME_IMAGE} AS runtime",
    ]


def test_the_dependencies_are_installed_by_the_lock_before_there_is_code():
    """A change of the code leaves their layer alone; a build never changes the lock."""
    steps = stage("dependencies")
    (sync,) = values(steps, "RUN")
    assert not values(steps, "COPY")
    assert re.findall(r"source=(\S+),", sync) == ["pyproject.toml", "uv.lock"]
    assert sync.endswith("uv sync --locked --group serve --no-install-project")
    assert {"UV_PYTHON_DOWNLOADS=0", "UV_COMPILE_BYTECODE=1", "UV_NO_DEFAULT_GROUPS=1"} <= {
        *values(steps, "ENV")[0].split()
    }
    assert "--no-deps" in values(stage("code"), "RUN")[0]


def test_the_runtime_has_what_was_installed_and_nothing_more():
    """No tool runs in it, so none stays in it; the user is a number that is not root's."""
    runtime = stage("runtime")
    assert not values(runtime, "RUN")
    assert values(runtime, "COPY") == ["--from=dependencies /app/.venv /app/.venv", "--from=code /app/lib /app/lib"]
    assert all(int(number) > 0 for number in values(runtime, "USER")[-1].split(":"))
    assert "uv" not in " ".join(" ".join(words) for words in runtime).replace("/.venv", "").split()


def test_the_image_says_what_it_was_made_from():
    """Labels for people and registries, a variable that mlsys reads for the ledger."""
    runtime = stage("runtime")
    assert {
        "org.opencontainers.image.version=${VERSION}",
        "org.opencontainers.image.revision=${GIT_COMMIT}",
    } <= set(values(runtime, "LABEL")[0].split())
    assert "MLSYS_GIT_COMMIT=${GIT_COMMIT}" in values(runtime, "ENV")
    assert "mlsys_git_commit" in Settings.model_fields


def test_the_build_context_is_what_the_build_reads():
    """An allow-list: no tests, no .git, no .env, no data of the twin; and nothing that is read is missing."""
    rules = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    wanted = {name for names in values(stage("code"), "COPY") for name in names.split()[:-1]}
    wanted |= set(re.findall(r"source=(\S+),", values(stage("dependencies"), "RUN")[0]))
    assert rules[0] == "*"
    assert {rule.removeprefix("!") for rule in rules if rule.startswith("!")} == wanted
    assert all((ROOT / name).exists() for name in wanted)
    assert [rule for rule in rules[1:] if not rule.startswith("!")] == ["**/__pycache__", "**/*.pyc"]


def test_the_job_and_the_service_start_what_is_there():
    """The entry point is the job; Cloud Run's service names its own command (infra/cloud_run.tf)."""
    runtime = stage("runtime")
    job = json.loads(re.search(r"^ENTRYPOINT (.*)$", DOCKERFILE, re.MULTILINE)[1])
    service = json.loads(re.search(r"command\s*= (\[.*\])", (ROOT / "infra/cloud_run.tf").read_text())[1])
    assert (job, service) == (["python", "-m", "scripts.predict"], ["python", "-m", "scripts.serve"])
    assert all(importlib.util.find_spec(command[2]) for command in (job, service))
    assert runtime[-1][0] == "ENTRYPOINT"


@pytest.fixture(scope="module")
def installed() -> set[str]:
    """The packages that the image gets, by name."""
    command = ["uv", "export", "--frozen", "--offline", "--no-default-groups", "--group", "serve", "--no-hashes",
               "--no-emit-project", "--no-annotate", "--no-header", "--quiet"]  # fmt: skip
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout
    return {re.match(r"[A-Za-z0-9._-]+", line)[0].lower() for line in listed.splitlines() if line}


def test_the_image_has_no_package_that_only_development_needs(installed):
    """Neither the twin's, nor those of plots, notebooks, DAGs and tests."""
    assert {"scikit-learn", "functions-framework", "gunicorn"} <= installed
    assert not UNWANTED & installed


def imports(file: Path) -> set[str]:
    """Return the packages that a file imports, at its top or within functions."""
    nodes = list(ast.walk(ast.parse(file.read_text())))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    return {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"mlsys", "scripts"}


def test_the_code_imports_only_what_the_image_has(installed):
    """A package of this environment that the image has not would be missed only there."""
    ours = [file for folder in ("mlsys", "scripts") for file in (ROOT / folder).rglob("*.py")]
    ours = [file for file in ours if not LAPTOPS_ALONE & {*file.relative_to(ROOT).parts}]
    distributions = metadata.packages_distributions()
    normal = {name: {re.sub(r"[-_.]+", "-", d).lower() for d in distributions.get(name, [])} for name in distributions}
    assert len(ours) > 50
    assert {
        (str(file.relative_to(ROOT)), name) for file in ours for name in imports(file) if not normal[name] & installed
    } == set()


def test_the_service_can_be_reached_from_outside_of_its_container_alone():
    """Cloud Run asks for all interfaces; on a laptop, what is served stays there."""
    assert "SERVE_HOST=0.0.0.0" in DOCKERFILE
    assert Variables.model_fields["serve_host"].default == "127.0.0.1"
