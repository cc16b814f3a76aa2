"""Jobs, executions and operations as files: ``run/jobs``, ``run/executions``, ``run/operations`` and ``run/logs``.

Everything is read and written by the server's event loop, so that nothing needs a lock.
"""

import json
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from google.longrunning.operations_pb2 import Operation
from google.protobuf.message import Message

from mlsys.local.errors import ApiError, not_found
from mlsys.local.run import resources
from mlsys.local.run.resources import ExecutionMessage, JobMessage, Reason, State, TaskMessage, dump, load

_INTERRUPTED = "The offline twin ended while this was running."


@dataclass(frozen=True)
class Running:
    """An execution and its tasks."""

    execution: Message
    tasks: list[Message]


class RunStore:
    """What the Cloud Run of a data folder knows; ``logs_url`` is where its folder ``logs`` is served."""

    def __init__(self, folder: Path, logs_url: str) -> None:
        self._folder, self._logs_url = folder, logs_url
        for part in ("jobs", "executions", "operations", "logs"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        self.logs = folder / "logs"
        self._jobs = {job.name: job for job in self._read("jobs", JobMessage)}
        self._executions = {each.execution.name: each for each in self._read_executions()}
        for each in self._executions.values():
            if not resources.is_done(each.execution):
                self._interrupt(each)

    def _read(self, part: str, kind: type[Message]) -> list[Message]:
        return [load(kind, path.read_text()) for path in sorted((self._folder / part).glob("*.json"))]

    def _read_executions(self) -> Iterable[Running]:
        for path in sorted((self._folder / "executions").glob("*.json")):
            lines = json.loads(path.read_text())
            yield Running(load(ExecutionMessage, lines["execution"]), [load(TaskMessage, t) for t in lines["tasks"]])

    def _interrupt(self, running: Running) -> None:
        """Fail what ran when the twin was killed: its processes ended with it."""
        execution = running.execution
        for task in running.tasks:
            if not resources.is_done(task):
                finish(task, State.CONDITION_FAILED, _INTERRUPTED)
                execution.failed_count += 1
        execution.running_count = 0
        finish(execution, State.CONDITION_FAILED, _INTERRUPTED)
        self.save(running)

    # Jobs

    def jobs(self, parent: str) -> list[Message]:
        """Return the jobs of ``projects/…/locations/…``."""
        return [job for name, job in sorted(self._jobs.items()) if name.startswith(f"{parent}/jobs/")]

    def job(self, name: str) -> Message:
        """Return a job; raise the 404 that Cloud Run answers with."""
        if name not in self._jobs:
            raise not_found(f"Resource '{name.rpartition('/')[2]}' of kind 'JOB' ({name})")
        return self._jobs[name]

    def has_job(self, name: str) -> bool:
        """Say whether there is such a job."""
        return name in self._jobs

    def put_job(self, job: Message) -> Message:
        """Keep a job."""
        self._jobs[job.name] = job
        self._write("jobs", job.name, dump(job))
        return job

    def delete_job(self, name: str) -> Message:
        """Delete a job and its executions; none of them may be running."""
        self.job(name)
        of_job = self.executions(name)
        for each in sorted(
            of_job, key=lambda each: resources.is_done(each.execution)
        ):  # one that runs is refused first
            self.delete_execution(each.execution.name)
        self._path("jobs", name).unlink(missing_ok=True)
        return self._jobs.pop(name)

    # Executions

    def executions(self, job: str) -> list[Running]:
        """Return the executions of a job, the latest one first; ``…/jobs/-`` means those of all jobs."""
        head = job.removesuffix("-") if job.endswith("/jobs/-") else f"{job}/executions/"
        found = [each for name, each in self._executions.items() if name.startswith(head)]
        return sorted(found, key=lambda each: each.execution.create_time.ToNanoseconds(), reverse=True)

    def execution(self, name: str) -> Running:
        """Return an execution; raise the 404 that Cloud Run answers with."""
        if name not in self._executions:
            raise not_found(f"Resource '{name.rpartition('/')[2]}' of kind 'EXECUTION' ({name})")
        return self._executions[name]

    def new_execution(self, job: Message, request: Message) -> Running:
        """Return an execution of a job with a request's overrides; it is kept once it is saved."""
        return Running(*resources.new_execution(job, request, self._logs_url))

    def save(self, running: Running) -> None:
        """Keep an execution with its tasks as they are now, and let its job show it when it is the latest."""
        execution = running.execution
        execution.update_time.GetCurrentTime()
        execution.reconciling = not resources.is_done(execution)
        self._executions[execution.name] = running
        self._write("executions", execution.name, _together(running))
        job = self._jobs.get(execution.name.partition("/executions/")[0])
        if job is None:
            return
        latest = job.latest_created_execution
        if latest.create_time.ToNanoseconds() <= execution.create_time.ToNanoseconds():
            latest.name = execution.name.rpartition("/")[2]
            latest.create_time.CopyFrom(execution.create_time)
            latest.completion_status = resources.completion(execution)
            if execution.HasField("completion_time"):
                latest.completion_time.CopyFrom(execution.completion_time)
            else:
                latest.ClearField("completion_time")
        job.execution_count = len(self.executions(job.name))
        self._write("jobs", job.name, dump(job))

    def delete_execution(self, name: str) -> Message:
        """Delete an execution that has ended."""
        running = self.execution(name)
        if not resources.is_done(running.execution):
            raise ApiError(400, "failedPrecondition", f"{name} is running: not supported locally; cancel it first")
        self._path("executions", name).unlink(missing_ok=True)
        return self._executions.pop(name).execution

    # Operations

    def done(self, parent: str, message: Message) -> Message:
        """Note an operation that did its work at once, and return it."""
        operation = resources.operation(f"{parent}/operations/{uuid.uuid4()}", message, done=True)
        self._write("operations", operation.name, json.dumps({"operation": dump(operation)}))
        return operation

    def under_way(self, parent: str, execution: Message, *, of_run: bool) -> Message:
        """Note an operation that is done when an execution is, and return it."""
        name = f"{parent}/operations/{uuid.uuid4()}"
        self._write("operations", name, json.dumps({"name": name, "execution": execution.name, "of_run": of_run}))
        return self.operation(name)

    def operations(self, parent: str) -> list[Message]:
        """Return the operations of a location; those of executions that were deleted are gone with them."""
        notes = [json.loads(path.read_text()) for path in sorted((self._folder / "operations").glob("*.json"))]
        there = [self._operation(note) for note in notes if note.get("execution", "") in {"", *self._executions}]
        return [operation for operation in there if operation.name.startswith(f"{parent}/operations/")]

    def operation(self, name: str) -> Message:
        """Return an operation as it is now; raise 404 when there is none of that name."""
        return self._operation(self._note_of(name))

    def execution_of(self, operation: str) -> str | None:
        """Return the name of the execution that an operation waits for, if it does."""
        return self._note_of(operation).get("execution")

    def _note_of(self, name: str) -> dict:
        try:
            return json.loads(self._path("operations", name).read_text())
        except FileNotFoundError:
            raise not_found(f"operation {name}") from None

    def _operation(self, note: dict) -> Message:
        """Return the operation that a note is about.

        That of a cancelled execution has no error, but a response that says what became of the tasks: whoever looks for
        an error alone takes it for a success. So does Cloud Run (https://github.com/apache/airflow/issues/57791).
        """
        if "operation" in note:
            return load(Operation, note["operation"])
        execution = self.execution(note["execution"]).execution
        done, condition = resources.is_done(execution), resources.completed(execution)
        cancelled = condition.execution_reason == Reason.CANCELLED
        failed = note["of_run"] and done and condition.state == State.CONDITION_FAILED and not cancelled
        return resources.operation(note["name"], execution, done=done, error=condition.message if failed else "")

    def _write(self, part: str, name: str, text: str) -> None:
        path = self._path(part, name)
        new = path.with_suffix(".new")
        new.write_text(text)
        new.replace(path)

    def _path(self, part: str, name: str) -> Path:
        words = name.split("/")  # projects/P/locations/L/jobs/J[/executions/E], or …/operations/O
        return self._folder / part / (".".join((words[1], words[3], words[-1])) + ".json")


def finish(resource: Message, state: State, message: str, reason: Reason | None = None) -> None:
    """Write that a task or an execution has ended, and how."""
    resources.set_condition(resources.completed(resource), "Completed", state, message, reason)
    resource.completion_time.GetCurrentTime()
    resource.reconciling = False


def _together(running: Running) -> str:
    return json.dumps({"execution": dump(running.execution), "tasks": [dump(task) for task in running.tasks]})
