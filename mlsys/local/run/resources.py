"""Cloud Run's resources as Google's own messages: read from a client's JSON, and refused where the twin would not obey.

What is read is checked by Google's types; a field that is set and not in `_SERVED` is refused by its name.
"""

import re
import secrets
import uuid
from typing import Any

from google.cloud.run_v2.types import Condition, Execution, ExecutionReference, Job, RunJobRequest, Task
from google.longrunning.operations_pb2 import Operation
from google.protobuf import json_format
from google.protobuf.message import Message

from mlsys.local.errors import ApiError, unsupported

JobMessage, ExecutionMessage, TaskMessage = Job.pb(), Execution.pb(), Task.pb()
RunRequest = RunJobRequest.pb()
State, Reason, Completion = Condition.State, Condition.ExecutionReason, ExecutionReference.CompletionStatus

_OUTPUT_ONLY = {
    "name", "uid", "generation", "create_time", "update_time", "delete_time", "expire_time", "creator", "last_modifier",
    "observed_generation", "terminal_condition", "conditions", "execution_count", "latest_created_execution",
    "reconciling", "satisfies_pzs", "etag",
}  # fmt: skip
# What is served. Of it, limits of CPU and memory, the account, the image and the generation of the machine are kept and
# shown, and make no difference to a process on a laptop.
_SERVED = {
    "Job": _OUTPUT_ONLY | {"labels", "annotations", "client", "client_version", "launch_stage", "template"},
    "ExecutionTemplate": {"labels", "annotations", "parallelism", "task_count", "template"},
    "TaskTemplate": {"containers", "max_retries", "timeout", "service_account", "execution_environment"},
    "Container": {"name", "image", "args", "env", "resources"},
    "EnvVar": {"name", "value"},
    "RunJobRequest": {"name", "etag", "overrides"},
    "Overrides": {"container_overrides", "task_count", "timeout"},
    "ContainerOverride": {"name", "args", "env", "clear_args"},
}
_JOB_NAME = re.compile(r"[a-z](?:[a-z0-9-]{0,61}[a-z0-9])?")
_ENV_NAME = re.compile(r"[^=\0]+")
_MOST_TASKS, _MOST_RETRIES, _LONGEST_S = 10_000, 10, 168 * 3600
_LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"


def read[M: Message](kind: type[M], body: dict) -> M:
    """Return a client's JSON as a message; refuse what is malformed, and what the twin does not do."""
    try:
        message = json_format.ParseDict(body, kind())
    except json_format.ParseError as exc:
        raise ApiError(400, "invalid", f"Invalid JSON payload received. {exc}") from exc
    _refuse_others(message)
    return message


def _refuse_others(message: Message, path: str = "") -> None:
    served = _SERVED.get(message.DESCRIPTOR.name)
    for field, value in message.ListFields():
        where = f"{path}{field.json_name}"
        if served is None or (path and field.name == "etag"):
            continue
        if field.name not in served:
            raise unsupported(where)
        if field.type == field.TYPE_MESSAGE and field.message_type.name in _SERVED:
            for item in value if field.is_repeated else [value]:
                _refuse_others(item, f"{where}.")


def plain(message: Message, *, numbers: bool = False) -> dict:
    """Return a message as JSON; with ``numbers``, enums are numbers, as Python's client asks for them."""
    return json_format.MessageToDict(message, use_integers_for_enums=numbers)


def load[M: Message](kind: type[M], text: str) -> M:
    """Return a message that `dump` wrote."""
    return json_format.Parse(text, kind())


def dump(message: Message) -> str:
    """Return a message as text for a file."""
    return json_format.MessageToJson(message, indent=1)


def new_job(wanted: Message, name: str) -> Message:
    """Return the job that a client asked for, with Cloud Run's defaults and what only Cloud Run sets."""
    job_id = name.rpartition("/")[2]
    if not _JOB_NAME.fullmatch(job_id):
        raise ApiError(
            400, "invalid", f"Invalid job id {job_id!r}: at most 63 lower-case letters, digits and hyphens, starting"
            " with a letter"
        )  # fmt: skip
    job = JobMessage()
    for field in ("labels", "annotations", "client", "client_version", "launch_stage", "template"):
        if field in {set_field.name for set_field, _ in wanted.ListFields()}:
            _copy(job, wanted, field)
    _complete(job.template)
    job.name, job.uid, job.generation, job.observed_generation = name, str(uuid.uuid4()), 1, 1
    job.create_time.GetCurrentTime()
    job.launch_stage = job.launch_stage or 4  # GA
    _touch(job)
    return job


def changed_job(there: Message, wanted: Message) -> Message:
    """Return a job as an update leaves it."""
    if wanted.etag and wanted.etag != there.etag:
        raise ApiError(409, "aborted", f"etag {wanted.etag} is not that of {there.name}: somebody else changed it")
    job = new_job(wanted, there.name)
    job.uid, job.execution_count = there.uid, there.execution_count
    job.create_time.CopyFrom(there.create_time)
    job.latest_created_execution.CopyFrom(there.latest_created_execution)
    job.generation = job.observed_generation = there.generation + 1
    return job


def _copy(target: Message, source: Message, field: str) -> None:
    value = getattr(source, field)
    if isinstance(value, Message):
        getattr(target, field).CopyFrom(value)
    elif hasattr(value, "items"):
        getattr(target, field).update(value)
    else:
        setattr(target, field, value)


def _touch(job: Message) -> None:
    job.update_time.GetCurrentTime()
    job.etag = f'"{secrets.token_hex(8)}"'
    set_condition(job.terminal_condition, "Ready", State.CONDITION_SUCCEEDED)


def _complete(template: Message) -> None:
    """Fill in Cloud Run's defaults; raise for what Cloud Run would not take."""
    inner = template.template
    if len(inner.containers) != 1:
        raise unsupported(f"{len(inner.containers)} containers in a task; there must be one")
    container = inner.containers[0]
    if not container.image:
        raise ApiError(400, "invalid", "template.template.containers[0].image: the image is required")
    template.task_count = template.task_count or 1
    if not inner.HasField("max_retries"):
        inner.max_retries = 3
    if not inner.HasField("timeout"):
        inner.timeout.FromSeconds(600)
    seconds = inner.timeout.ToTimedelta().total_seconds()
    for what, least, value, most in (
        ("taskCount", 1, template.task_count, _MOST_TASKS),
        ("parallelism", 0, template.parallelism, _MOST_TASKS),
        ("maxRetries", 0, inner.max_retries, _MOST_RETRIES),
        ("timeout in seconds", 1, seconds, _LONGEST_S),
    ):
        if not least <= value <= most:
            raise ApiError(400, "invalid", f"{what} must be from {least} to {most}, got {value}")
    for variable in container.env:
        if not _ENV_NAME.fullmatch(variable.name) or variable.name.startswith("CLOUD_RUN_"):
            raise ApiError(400, "invalid", f"{variable.name!r} cannot be set: it is no name, or Cloud Run's own")


def new_execution(job: Message, request: Message, log_uri: str) -> tuple[Message, list[Message]]:
    """Return an execution of a job with the overrides of a request, and its tasks; none has started."""
    execution = ExecutionMessage()
    template = execution_template(job, request)
    suffix = "".join(secrets.choice(_LETTERS) for _ in range(5))
    job_id = job.name.rpartition("/")[2]
    short = f"{job_id}-{suffix}"
    execution.name, execution.uid, execution.job = f"{job.name}/executions/{short}", str(uuid.uuid4()), job_id
    execution.generation = execution.observed_generation = 1
    execution.labels.update(template.labels)
    execution.annotations.update(template.annotations)
    execution.launch_stage = job.launch_stage
    execution.task_count, execution.parallelism = template.task_count, template.parallelism
    execution.template.CopyFrom(template.template)
    execution.create_time.GetCurrentTime()
    execution.reconciling, execution.etag = True, f'"{secrets.token_hex(8)}"'
    execution.log_uri = f"{log_uri.rstrip('/')}/{short}"
    set_condition(execution.conditions.add(), "Completed", State.CONDITION_RECONCILING)
    return execution, [_new_task(execution, index) for index in range(execution.task_count)]


def execution_template(job: Message, request: Message) -> Message:
    """Return a job's template as a request overrides it."""
    template = type(job.template)()
    template.CopyFrom(job.template)
    overrides, container = request.overrides, template.template.containers[0]
    if overrides.task_count:
        template.task_count = overrides.task_count
    if overrides.HasField("timeout"):
        template.template.timeout.CopyFrom(overrides.timeout)
    if len(overrides.container_overrides) > 1:
        raise ApiError(
            400, "invalid", "overrides.containerOverrides: the job has one container, got overrides for more"
        )
    for given in overrides.container_overrides:
        if given.name not in ("", container.name):
            raise ApiError(400, "invalid", f"overrides.containerOverrides: the job has no container {given.name!r}")
        if given.args or given.clear_args:
            del container.args[:]
            container.args.extend(given.args)
        merged = {variable.name: variable.value for variable in (*container.env, *given.env)}
        del container.env[:]
        for name, value in merged.items():
            container.env.add(name=name, value=value)
    _complete(template)
    return template


def _new_task(execution: Message, index: int) -> Message:
    task, short = TaskMessage(), execution.name.rpartition("/")[2]
    task.name, task.uid = f"{execution.name}/tasks/{short}-task{index}", str(uuid.uuid4())
    task.generation = task.observed_generation = 1
    task.job, task.execution, task.index = execution.job, short, index
    task.containers.extend(execution.template.containers)
    task.max_retries = execution.template.max_retries
    task.timeout.CopyFrom(execution.template.timeout)
    task.service_account = execution.template.service_account
    task.create_time.CopyFrom(execution.create_time)
    task.scheduled_time.CopyFrom(execution.create_time)
    task.log_uri = f"{execution.log_uri}/task{index}-attempt0.log"
    task.reconciling, task.etag = True, f'"{secrets.token_hex(8)}"'
    set_condition(task.conditions.add(), "Completed", State.CONDITION_RECONCILING)
    return task


def set_condition(condition: Message, kind: str, state: Any, message: str = "", reason: Any = None) -> None:
    """Write what is the case now."""
    condition.type_, condition.state, condition.message = kind, state, message
    if reason is not None:
        condition.execution_reason = reason
    condition.last_transition_time.GetCurrentTime()


def completed(resource: Message) -> Message:
    """Return the condition that says whether an execution or a task is done, and how."""
    return resource.conditions[0]


def is_done(resource: Message) -> bool:
    """Say whether an execution or a task has ended."""
    return completed(resource).state in (State.CONDITION_SUCCEEDED, State.CONDITION_FAILED)


def completion(execution: Message) -> Any:
    """Return how a job speaks of its execution."""
    condition = completed(execution)
    if not is_done(execution):
        return Completion.EXECUTION_RUNNING
    if condition.state == State.CONDITION_SUCCEEDED:
        return Completion.EXECUTION_SUCCEEDED
    return (
        Completion.EXECUTION_CANCELLED
        if condition.execution_reason == Reason.CANCELLED
        else Completion.EXECUTION_FAILED
    )


def operation(name: str, resource: Message, *, done: bool, error: str = "") -> Message:
    """Return a long-running operation on a resource: as metadata while it runs, as the response once it is done."""
    made = Operation(name=name, done=done)
    made.metadata.Pack(resource)
    if error:
        made.error.code, made.error.message = 10, error  # ABORTED
    elif done:
        made.response.Pack(resource)
    return made
