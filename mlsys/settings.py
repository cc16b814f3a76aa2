"""Configuration from environment variables and a ``.env`` file, each checked once and named when it is wrong."""

import os
from collections.abc import Mapping
from enum import StrEnum
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator, Field, StringConstraints, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from mlsys.errors import SettingsError

_Bucket = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]$")]
_Project = Annotated[str, StringConstraints(pattern=r"^([a-z0-9.-]+:)?[a-z][a-z0-9-]{2,28}[a-z0-9]$")]
_Region = Annotated[str, StringConstraints(pattern=r"^[a-z]+(-[a-z]+[0-9]+)?$")]
_Package = Annotated[str, StringConstraints(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]
_by_commas = BeforeValidator(
    lambda value: tuple(filter(None, map(str.strip, value.split(",")))) if isinstance(value, str) else value
)


# .env.example writes what only its reader knows as <composer-bucket-dev>: until it is filled in, it is not set.
_Unfilled = BeforeValidator(lambda value: None if str(value).startswith("<") else value)


class Environment(StrEnum):
    """Where the code runs. ``local`` is the offline twin; the others are Google Cloud."""

    LOCAL = "local"
    DEV = "dev"
    STAGING = "staging"
    PROD = "prod"


class Settings(BaseSettings):
    """The settings of one process. Each field is the environment variable of the same name in capitals.

    A ``.env`` file in the project's folder is read too; variables that are really set win over it.
    """

    model_config = SettingsConfigDict(frozen=True, extra="ignore", env_ignore_empty=True)

    mlsys_env: Environment = Environment.LOCAL
    mlsys_twin: bool = False
    mlsys_data_dir: Path = Path(".mlsys")
    mlsys_deadline_s: Annotated[float, Field(gt=0)] = 600.0
    mlsys_workers: Annotated[int, Field(ge=1)] | None = None
    mlsys_model_packages: Annotated[tuple[_Package, ...], NoDecode, _by_commas] = ()
    mlsys_image: str | None = None
    mlsys_git_commit: str | None = None
    gcp_project_id: _Project = "shoufianesys"
    gcp_region: _Region = "us-central1"
    gcs_bucket_models_local: _Bucket = "ml-models-local"
    gcs_bucket_models_dev: _Bucket = "ml-models-dev"
    gcs_bucket_models_staging: _Bucket = "ml-models-staging"
    gcs_bucket_models_prod: _Bucket = "ml-models-prod"
    composer_bucket_dev: Annotated[_Bucket | None, _Unfilled] = None
    composer_bucket_staging: Annotated[_Bucket | None, _Unfilled] = None
    composer_bucket_prod: Annotated[_Bucket | None, _Unfilled] = None

    @property
    def env(self) -> Environment:
        """The environment of this process."""
        return self.mlsys_env

    @property
    def on_twin(self) -> bool:
        """Whether the offline twin stands for Google Cloud: always in ``local``, elsewhere with ``MLSYS_TWIN``."""
        return self.mlsys_twin or self.env is Environment.LOCAL

    def at(self, env: Environment) -> Self:
        """Return these settings for another environment, on the same side: the twin, or Google Cloud."""
        return self.model_copy(update={"mlsys_env": env, "mlsys_twin": self.on_twin})

    @property
    def data_dir(self) -> Path:
        """The folder of the offline twin, as an absolute path; a relative one is taken from the project's folder."""
        return (project_dir() / self.mlsys_data_dir.expanduser()).absolute()

    def model_bucket(self, env: Environment | None = None) -> str:
        """Return the name of the bucket that holds the models of ``env`` (default: this process's)."""
        return getattr(self, f"gcs_bucket_models_{env or self.env}")

    @property
    def model_buckets(self) -> dict[str, str]:
        """The names of the buckets that hold the models, by environment."""
        return {str(env): self.model_bucket(env) for env in Environment}

    def composer_bucket(self, env: Environment | None = None) -> str:
        """Return the Composer bucket of ``env``; raise `SettingsError` when it is not set."""
        name = f"composer_bucket_{env or self.env}"
        if bucket := getattr(self, name, None):
            return bucket
        raise SettingsError(f"{name.upper()} is not set: name the Composer environment's bucket in it or in .env")


def project_dir() -> Path:
    """Return the nearest folder, from the current one upwards, that looks like a project; else the current one.

    So a notebook in ``notebooks/`` and a command at the top share one ``.env`` and one ``.mlsys/``.
    """
    here = Path.cwd()
    marks = (".env", ".mlsys", "pyproject.toml")
    return next((d for d in (here, *here.parents) if any((d / mark).exists() for mark in marks)), here)


@lru_cache
def get_settings() -> Settings:
    """Read the settings once for this process.

    Raises
    ------
    SettingsError
        A variable or the ``.env`` file cannot be used; the message names it, what was given and what is allowed.
    """
    env_file = project_dir() / ".env"
    _check_env_file(env_file)
    try:
        return Settings(_env_file=env_file)
    except ValidationError as exc:
        raise SettingsError("; ".join(_describe(error, env_file) for error in exc.errors())) from None


def _describe(error: Mapping[str, Any], env_file: Path) -> str:
    name = str(error["loc"][0]).upper()
    context = error.get("ctx", {})
    allowed = context.get("expected") or f"something that matches {context['pattern']}" if context else error["msg"]
    where = "" if name in map(str.upper, os.environ) else f" (in {env_file})"
    return f"{name} must be {allowed}, got {error['input']!r}{where}"


def _check_env_file(path: Path) -> None:
    # python-dotenv skips a line that it cannot read, with a log message only: a setting would be lost in silence.
    from dotenv.parser import parse_stream

    try:
        with path.open(encoding="utf-8") as stream:
            broken = [b.original.line for b in parse_stream(stream) if b.error or (b.key and b.value is None)]
    except FileNotFoundError:
        return
    except (OSError, UnicodeDecodeError) as exc:
        raise SettingsError(f"{path} cannot be read ({exc}): it must be a text file of NAME=value lines") from exc
    if broken:  # the line itself is not shown: it may hold a secret
        raise SettingsError(f"{path}, line {broken[0]}: expected NAME=value, got something else")
