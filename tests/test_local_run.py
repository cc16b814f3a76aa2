"""The twin's Cloud Run jobs, by Google's client."""

import os
import signal
import subprocess
import sys
import time
import uuid

import pandas as pd
import pytest
import requests
from google.api_core import exceptions
from google.cloud.run_v2 import Condition, ExecutionReference
from google.longrunning import operations_pb2
from sklearn.linear_model import LogisticRegression

from mlsys.local.faults import Fault
from mlsys.local.launcher import join
from mlsys.models import save_model
from tests.campaigns import left_over
from tests.cloud_run import RunClients

STATE, REASON = Condition.State, Condition.ExecutionReason


@pytest.fixture
def run(twin) -> RunClients:
    return RunClients.of(twin.http)


@pytest.fixture
def job_name() -> str:
    return f"job-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def hanging(run, job_name, model_name, dataset, twin):
    """A job whose task waits for Cloud Storage, as long as a test may take."""
    variables = {"MODEL_NAME": model_name, "SOURCE": f"{dataset}.source", "OUTPUT_TABLE": f"{dataset}.output",
                 "ID_COLUMNS": "id"}  # fmt: skip
    job = run.create(job_name, max_retries=0, env=[{"name": k, "value": v} for k, v in variables.items()])
    twin.faults.add(Fault("storage.objects.list", "slow", times=None, delay_s=120))
    return job


def log(uri: str) -> str:
    answer = requests.get(uri, timeout=10)
    answer.raise_for_status()
    return answer.text


def wait_for(condition, seconds: float = 30):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.05)
    return found


# --- jobs -----------------------------------------------------------------------------------------


def test_a_job_is_kept_with_cloud_runs_defaults(run, job_name):
    made = run.create(job_name, args=["--help"], env=[{"name": "A", "value": "1"}])
    got = run.jobs.get_job(name=made.name)
    assert got == made
    assert got.template.task_count == 1
    assert (got.template.template.max_retries, got.template.template.timeout.total_seconds()) == (3, 600)
    assert got.terminal_condition.state == STATE.CONDITION_SUCCEEDED
    assert made.name in {job.name for job in run.jobs.list_jobs(parent=run.parent)}


def test_an_update_replaces_a_job_unless_somebody_was_quicker(run, job_name):
    first = run.create(job_name)
    first.template.template.max_retries = 7
    second = run.jobs.update_job(job=first).result()
    assert (second.generation, second.uid, second.template.template.max_retries) == (2, first.uid, 7)
    with pytest.raises(exceptions.Conflict, match="somebody else changed it"):
        run.jobs.update_job(job=first)


def test_a_deleted_job_is_gone(run, job_name):
    job = run.create(job_name)
    run.jobs.delete_job(name=job.name).result()
    with pytest.raises(exceptions.NotFound, match=job_name):
        run.jobs.get_job(name=job.name)


def test_lists_come_in_pages(run):
    names = sorted(run.create(f"page-{uuid.uuid4().hex[:8]}").name for _ in range(3))
    pages = list(run.jobs.list_jobs(request={"parent": run.parent, "page_size": 2}).pages)
    assert all(len(page.jobs) <= 2 for page in pages)
    assert set(names) <= {job.name for page in pages for job in page.jobs}


def test_the_job_of_a_model_is_there_by_itself(run, model_name):
    name = f"{run.parent}/jobs/{model_name}-local"
    with pytest.raises(exceptions.NotFound):
        run.jobs.get_job(name=name)
    frame = pd.DataFrame({"x": [0.0, 1.0]})
    save_model(LogisticRegression().fit(frame, [0, 1]), model_name, frame)
    assert run.jobs.get_job(name=name).template.template.containers[0].env[0].value == model_name


REFUSED = {
    "two containers": ({"template": {"template": {"containers": [{"image": "a"}, {"image": "b"}]}}}, "2 containers"),
    "a command": ({"template": {"template": {"containers": [{"image": "a", "command": ["sh"]}]}}}, "command"),
    "a volume": ({"template": {"template": {"containers": [{"image": "a"}], "volumes": [{"name": "v"}]}}}, "volumes"),
    "a secret": ({"template": {"template": {"containers": [{"image": "a", "env": [
        {"name": "A", "value_source": {"secret_key_ref": {"secret": "s"}}}]}]}}}, "valueSource"),
    "a network": ({"template": {"template": {"containers": [{"image": "a"}], "vpc_access": {"connector": "c"}}}},
                  "vpcAccess"),
    "a token": ({"start_execution_token": "x", "template": {"template": {"containers": [{"image": "a"}]}}},
                "startExecutionToken"),
}  # fmt: skip


@pytest.mark.parametrize(("job", "named"), REFUSED.values(), ids=REFUSED)
def test_what_the_twin_does_not_do_is_refused_by_name(run, job_name, job, named):
    with pytest.raises(exceptions.BadRequest, match=f"not supported locally: .*{named}"):
        run.jobs.create_job(parent=run.parent, job_id=job_name, job=job)


INVALID = {
    "too many tasks": ({"task_count": 10_001}, {}, "taskCount must be from 1 to 10000"),
    "too many retries": ({}, {"max_retries": 11}, "maxRetries must be from 0 to 10"),
    "no image": ({}, {"containers": [{"args": ["a"]}]}, "image is required"),
    "its own variable": ({}, {"containers": [{"image": "a", "env": [{"name": "CLOUD_RUN_JOB", "value": "x"}]}]},
                         "Cloud Run's own"),
}  # fmt: skip


@pytest.mark.parametrize(("template", "task", "message"), INVALID.values(), ids=INVALID)
def test_what_cloud_run_would_not_take_the_twin_does_not_take(run, job_name, template, task, message):
    job = {"template": {"template": {"containers": [{"image": "a"}], **task}, **template}}
    with pytest.raises(exceptions.BadRequest, match=message):
        run.jobs.create_job(parent=run.parent, job_id=job_name, job=job)


def test_names_are_checked_and_given_once(run, job_name):
    run.create(job_name)
    with pytest.raises(exceptions.Conflict, match="already exists"):
        run.create(job_name)
    with pytest.raises(exceptions.BadRequest, match="Invalid job id"):
        run.create("Not_A_Name")
    with pytest.raises(exceptions.NotFound, match="JOB"):
        run.run(f"{run.parent}/jobs/{job_name}-other")
    with pytest.raises(exceptions.NotFound, match="operation"):
        run.jobs.get_operation(operations_pb2.GetOperationRequest(name=f"{run.parent}/operations/none"))


# --- executions -----------------------------------------------------------------------------------


def test_tasks_succeed_each_with_its_overrides(run, job_name):
    job = run.create(job_name, args=["--no-such-option"])
    overrides = {"task_count": 2, "container_overrides": [{"args": ["--help"], "env": [{"name": "A", "value": "2"}]}]}
    operation = run.run(job.name, **overrides)
    started = operation.metadata
    assert not operation.done()
    name = run.jobs.wait_operation(
        operations_pb2.WaitOperationRequest(name=operation.operation.name, timeout={"seconds": 60})
    ).name
    assert name in {each.name for each in run.jobs.list_operations(
        operations_pb2.ListOperationsRequest(name=run.parent)).operations}  # fmt: skip
    done = operation.result(timeout=5)
    assert done.name == started.name
    assert (done.task_count, done.succeeded_count, done.failed_count, done.running_count) == (2, 2, 0, 0)
    assert [task.index for task in run.tasks_of(done.name)] == [0, 1]
    for task in run.tasks_of(done.name):
        assert task == run.tasks.get_task(name=task.name)
        assert "Score the rows of a table or query" in log(task.log_uri)
    latest = run.jobs.get_job(name=job.name).latest_created_execution
    assert latest.completion_status == ExecutionReference.CompletionStatus.EXECUTION_SUCCEEDED
    assert done.name.endswith(latest.name)


def test_a_task_that_fails_is_tried_again_and_then_fails_the_execution(run, job_name):
    job = run.create(job_name, max_retries=1, env=[{"name": "SOURCE", "value": "p.d.t"}])
    env = {"MODEL_NAME": "Not_A_Name", "OUTPUT_TABLE": "project.dataset.output", "ID_COLUMNS": "id"}
    operation = run.run(
        job.name, container_overrides=[{"env": [{"name": key, "value": value} for key, value in env.items()]}]
    )
    with pytest.raises(exceptions.GoogleAPICallError, match="-task0 failed with message: The container exited"):
        operation.result(timeout=60)
    (execution,) = run.executions_of(job.name)
    (task,) = run.tasks_of(execution.name)
    assert (execution.failed_count, execution.retried_count, task.retried) == (1, 1, 1)
    assert task.last_attempt_result.exit_code == 2
    first, second = (log(task.log_uri.replace("attempt1", f"attempt{attempt}")) for attempt in (0, 1))
    assert "got 'Not_A_Name'" in first
    assert "got 'Not_A_Name'" in second
    assert log(execution.log_uri).count("got 'Not_A_Name'") == 2
    with pytest.raises(requests.HTTPError):
        log(f"{execution.log_uri}/../../../twin.json")


def test_a_killed_task_goes_on_in_its_next_attempt(run, job_name, twin):
    twin.faults.add(Fault("run.tasks.attempt", "kill"))
    job = run.create(job_name, args=["--help"], max_retries=1)
    done = run.run(job.name).result(timeout=60)
    (task,) = run.tasks_of(done.name)
    assert (done.succeeded_count, done.retried_count, task.retried) == (1, 1, 1)


def test_a_task_is_ended_at_its_timeout(run, hanging):
    operation = run.run(hanging.name, timeout={"seconds": 2})
    with pytest.raises(exceptions.GoogleAPICallError, match="timeout was reached"):
        operation.result(timeout=60)
    assert not left_over(operation.metadata.name.rpartition("/")[2])


def test_a_cancelled_execution_ends_without_an_error_and_says_so_in_its_counts(run, hanging):
    operation = run.run(hanging.name, task_count=2)
    name = operation.metadata.name
    wait_for(lambda: run.executions.get_execution(name=name).running_count == 2)
    cancelled = run.executions.cancel_execution(name=name).result(timeout=60)
    assert operation.result(timeout=60) == cancelled  # no error: the known hole of whoever looks for one alone
    assert (cancelled.cancelled_count, cancelled.succeeded_count, cancelled.failed_count) == (2, 0, 0)
    assert cancelled.conditions[0].execution_reason == REASON.CANCELLED
    assert not left_over(name.rpartition("/")[2])
    with pytest.raises(exceptions.BadRequest, match="has ended"):
        run.executions.cancel_execution(name=name)
    run.executions.delete_execution(name=name).result()
    assert not run.executions_of(hanging.name)


def test_a_lost_reply_leaves_an_execution(run, job_name, twin):
    job = run.create(job_name, args=["--help"])
    twin.faults.add(Fault("run.jobs.run", "reset_after"))
    with pytest.raises(Exception, match=r"(?i)connection|reset|aborted"):
        run.run(job.name)
    (execution,) = run.executions_of(job.name)
    wait_for(lambda: run.executions.get_execution(name=execution.name).succeeded_count == 1)


def test_a_twin_that_is_killed_takes_its_tasks_along(tmp_path, job_name):
    """Its processes end at once; the next twin says that the execution failed, and runs the job again."""

    def serve():
        command = [sys.executable, "-m", "mlsys.local", str(tmp_path)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        lease = wait_for(lambda: join(tmp_path))
        return process, lease, RunClients.of(lease.addresses.http)

    process, lease, run = serve()
    job = run.create(job_name, args=["--help"])
    operation = run.run(job.name)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    lease.release()
    execution = operation.metadata.name
    assert not left_over(execution.rpartition("/")[2], patience=5)
    process, lease, run = serve()
    try:
        found = run.executions.get_execution(name=execution)
        assert found.failed_count == 1
        assert found.conditions[0].state == STATE.CONDITION_FAILED
        assert "twin ended" in run.jobs.get_operation(
            operations_pb2.GetOperationRequest(name=operation.operation.name)).error.message  # fmt: skip
        assert run.run(job.name).result(timeout=60).succeeded_count == 1
    finally:
        os.kill(process.pid, signal.SIGTERM)
        process.wait()
        lease.release()
