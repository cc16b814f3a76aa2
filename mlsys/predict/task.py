"""Which part of which execution this process is: Cloud Run says it in environment variables."""

import hashlib
import os
import uuid
from typing import Annotated

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from mlsys.errors import SettingsError

_BY_HAND = "by-hand-"


class Task(BaseSettings):
    """One task of an execution, as Cloud Run numbers it. Without Cloud Run: the only task of a new execution.

    An execution is one try at a run. All its tasks, and their retries, score the same rows by the same version.
    """

    model_config = SettingsConfigDict(env_prefix="CLOUD_RUN_", frozen=True, env_ignore_empty=True)

    execution: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,200}$")] = Field(
        default_factory=lambda: f"{_BY_HAND}{uuid.uuid4().hex}"
    )
    task_index: Annotated[int, Field(ge=0)] = 0
    task_count: Annotated[int, Field(ge=1)] = 1
    task_attempt: Annotated[int, Field(ge=0)] = 0

    @property
    def by_hand(self) -> bool:
        """Whether a person started it: nobody will start the same execution again."""
        return self.execution.startswith(_BY_HAND)

    def token(self, run_id: str) -> str:
        """Return what tells this execution of a run from every other, in 24 hexadecimal digits."""
        return hashlib.sha256(f"{run_id}\n{self.execution}".encode()).hexdigest()[:24]


def current_task() -> Task:
    """Read the variables; raise `SettingsError` when one of them cannot be used."""
    try:
        task = Task()
    except ValidationError as exc:
        error = exc.errors()[0]
        raise SettingsError(
            f"CLOUD_RUN_{str(error['loc'][0]).upper()}: {error['msg']}, got {error['input']!r}"
        ) from None
    if task.task_index >= task.task_count:
        raise SettingsError(
            f"CLOUD_RUN_TASK_INDEX must be less than CLOUD_RUN_TASK_COUNT ({task.task_count}), got {task.task_index}"
        )
    return task


def on_cloud_run() -> bool:
    """Say whether this process is a task of a Cloud Run job."""
    return "CLOUD_RUN_JOB" in os.environ
