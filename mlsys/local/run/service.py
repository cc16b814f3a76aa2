"""Cloud Run jobs as a service: what each operation of the API does, and the jobs that are there by themselves.

Not there, and refused: IAM, services, and volumes, secrets, networks and commands of a job. There is one program,
``scripts/predict.py``; a job's image is a label.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from google.protobuf.message import Message

from mlsys.local.errors import ApiError, not_found
from mlsys.local.faults import Faults
from mlsys.local.run import resources
from mlsys.local.run.resources import JobMessage, RunRequest
from mlsys.local.run.rest import LOGS, Call
from mlsys.local.run.runner import Runner
from mlsys.local.run.store import RunStore
from mlsys.local.storage.store import ObjectStore
from mlsys.names import MANIFEST_FILE, dag_id

_LOCAL = "local"
_LONGEST_WAIT_S = 120.0

type Page = dict[str, list[Message] | str]


class CloudRun:
    """The Cloud Run of a data folder; one method for each operation of the API.

    The job of each model in the model bucket is there by itself, under the name that Terraform gives it in the cloud.

    Parameters
    ----------
    url
        Where the twin is served.
    env
        Variables that make a task talk to this twin. The model bucket's name is among them once it is known.
    """

    def __init__(
        self, folder: Path, url: str, objects: ObjectStore, program: Path, env: Mapping[str, str], faults: Faults
    ) -> None:
        self.store = RunStore(folder, url + LOGS)
        self.runner = Runner(self.store, program, env, faults)
        self._objects, self._env = objects, env

    @staticmethod
    def plain(answer: Message | Page, *, numbers: bool) -> dict:
        """Return an answer as JSON, its enums as names or as numbers."""
        if isinstance(answer, Message):
            return resources.plain(answer, numbers=numbers)
        return {
            key: value if isinstance(value, str) else [resources.plain(item, numbers=numbers) for item in value]
            for key, value in answer.items()
        }

    # Jobs

    async def jobs_create(self, call: Call) -> Message:
        """Create a job."""
        name = f"{call.parent}/jobs/{call.query.get('jobId', '')}"
        if self.store.has_job(name):
            raise ApiError(409, "alreadyExists", f"Resource '{call.query['jobId']}' already exists.")
        job = self.store.put_job(resources.new_job(resources.read(JobMessage, call.body), name))
        return self.store.done(call.parent, job)

    async def jobs_list(self, call: Call) -> Page:
        """List the jobs of a location, those of the models among them."""
        if bucket := self._env.get("GCS_BUCKET_MODELS_LOCAL"):
            _, folders, _ = await self._objects.run(self._objects.page, bucket, delimiter="/")
            for model in (folder[:-1] for folder in folders if re.fullmatch(r"[a-z][a-z0-9-]*/", folder)):
                await self._make(f"{call.parent}/jobs/{dag_id(model, _LOCAL)}")
        return _page(call, "jobs", self.store.jobs(call.parent))

    async def jobs_get(self, call: Call) -> Message:
        """Return a job."""
        await self._make(call.job)
        return self.store.job(call.job)

    async def jobs_patch(self, call: Call) -> Message:
        """Replace a job by another of its name; executions that run are not changed."""
        there = await self.jobs_get(call)
        job = self.store.put_job(resources.changed_job(there, resources.read(JobMessage, call.body)))
        return self.store.done(call.parent, job)

    async def jobs_delete(self, call: Call) -> Message:
        """Delete a job with its executions."""
        _check_etag(call, await self.jobs_get(call))
        return self.store.done(call.parent, self.store.delete_job(call.job))

    async def jobs_run(self, call: Call) -> Message:
        """Start an execution of a job, with overrides."""
        request = resources.read(RunRequest, call.body)
        job = await self.jobs_get(call)
        _check_etag(call, job)
        running = self.store.new_execution(job, request)
        self.runner.start(running)
        return self.store.under_way(call.parent, running.execution, of_run=True)

    async def _make(self, name: str) -> None:
        """Make a model's job as infra/cloud_run.tf does, unless it is there; what it scores, the DAG says."""
        model, _, suffix = name.rpartition("/")[2].rpartition("-")
        if self.store.has_job(name) or suffix != _LOCAL or not await self._has_model(model):
            return
        container = {"image": "scripts/predict.py", "env": [{"name": "MODEL_NAME", "value": model}]}
        task = {"containers": [container], "maxRetries": 1, "timeout": "3600s"}
        wanted = resources.read(JobMessage, {"labels": {"model": model}, "template": {"template": task}})
        self.store.put_job(resources.new_job(wanted, name))

    async def _has_model(self, model: str) -> bool:
        bucket, suffix = self._env.get("GCS_BUCKET_MODELS_LOCAL"), f"/{MANIFEST_FILE}"
        if not bucket or not model:
            return False
        found, _, _ = await self._objects.run(
            self._objects.page, bucket, prefix=f"{model}/", matches=lambda name: name.endswith(suffix), limit=1
        )
        return bool(found)

    # Executions and tasks

    async def executions_list(self, call: Call) -> Page:
        """List a job's executions, the latest one first."""
        return _page(call, "executions", [each.execution for each in self.store.executions(call.job)])

    async def executions_get(self, call: Call) -> Message:
        """Return an execution."""
        return self.store.execution(call.execution).execution

    async def executions_cancel(self, call: Call) -> Message:
        """Let an execution end: SIGTERM for its tasks, and SIGKILL ten seconds later."""
        execution = self.store.execution(call.execution).execution
        _check_etag(call, execution)
        if resources.is_done(execution):
            raise ApiError(400, "failedPrecondition", f"{execution.name} has ended: it cannot be cancelled")
        self.runner.cancel(execution.name)
        return self.store.under_way(call.parent, execution, of_run=False)

    async def executions_delete(self, call: Call) -> Message:
        """Delete an execution that has ended; its logs stay."""
        _check_etag(call, self.store.execution(call.execution).execution)
        return self.store.done(call.parent, self.store.delete_execution(call.execution))

    async def tasks_list(self, call: Call) -> Page:
        """List an execution's tasks."""
        return _page(call, "tasks", self.store.execution(call.execution).tasks)

    async def tasks_get(self, call: Call) -> Message:
        """Return a task."""
        for task in self.store.execution(call.execution).tasks:
            if task.name == f"{call.execution}/tasks/{call.path['task']}":
                return task
        raise not_found(f"Resource '{call.path['task']}' of kind 'TASK'")

    # Operations

    async def operations_list(self, call: Call) -> Page:
        """List a location's operations."""
        return _page(call, "operations", self.store.operations(call.parent))

    async def operations_get(self, call: Call) -> Message:
        """Return an operation as it is now."""
        return self.store.operation(call.operation)

    async def operations_wait(self, call: Call) -> Message:
        """Return an operation once it is done, or after the time that the client gives."""
        self.store.operation(call.operation)
        given = str(call.body.get("timeout", f"{_LONGEST_WAIT_S}s"))
        seconds = re.fullmatch(r"(\d+(?:\.\d+)?)s", given)
        if not seconds:
            raise ApiError(400, "invalid", f"timeout must be a duration such as 30s, got {given!r}")
        if execution := self.store.execution_of(call.operation):
            await self.runner.wait(execution, min(float(seconds[1]), _LONGEST_WAIT_S))
        return self.store.operation(call.operation)


def _page(call: Call, key: str, items: list[Message]) -> Page:
    window = call.window()
    return {key: items[window]} | ({"nextPageToken": str(window.stop)} if window.stop < len(items) else {})


def _check_etag(call: Call, message: Message) -> None:
    if call.etag not in ("", message.etag):
        raise ApiError(409, "aborted", f"etag {call.etag} is not that of {message.name}: somebody else changed it")
