"""Tasks, executions and attempts of a run: they share the work, take turns, and leave a record."""

import contextlib
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import psutil
import pytest
from sklearn.linear_model import LogisticRegression

from mlsys.bq import bq_get, bq_get_batches, bq_put
from mlsys.errors import (
    AccessError,
    InterruptedRunError,
    MissingRowsError,
    NotFoundError,
    QueryError,
    RejectedRowsError,
    SchemaError,
    SettingsError,
    VerificationError,
)
from mlsys.gcs import gcs_list, gcs_put
from mlsys.local.faults import Fault
from mlsys.models import save_model
from mlsys.names import rejects_table, run_prefix
from mlsys.predict import PredictionJob, check, look_at_input, open_run
from mlsys.predict.metadata import METADATA
from mlsys.registry import set_alias
from mlsys.registry.runs import list_runs
from scripts.predict import predict_part, pull_predict_push

DAY = datetime(2026, 1, 31, tzinfo=UTC)
COUNT = 400
READS_BEFORE = 2  # a run reads the registry and the number of rows before it reads those
ROWS = pd.DataFrame({"id": range(COUNT), "x": np.linspace(-2, 2, COUNT)})


@pytest.fixture
def model(model_name):
    """A registered binary classifier."""
    return save_model(LogisticRegression().fit(ROWS[["x"]], ROWS["x"] > 0.3), model_name, ROWS[["x"]])


@pytest.fixture
def job(model, dataset):
    """A run over 400 rows, in parts of 50."""
    bq_put(ROWS, f"{dataset}.source")
    return PredictionJob(
        model.ref.name, f"{dataset}.source", f"{dataset}.predictions", ("id",), as_of=DAY, part_rows=50
    )


@pytest.fixture
def cloud_run(monkeypatch):
    """Return what makes this process a task of a Cloud Run job for a while."""

    @contextlib.contextmanager
    def as_task(execution="exec-1", index=0, count=1, attempt=0):
        given = {"EXECUTION": execution, "TASK_INDEX": index, "TASK_COUNT": count, "TASK_ATTEMPT": attempt}
        with monkeypatch.context() as patch:
            for name, value in given.items():
                patch.setenv(f"CLOUD_RUN_{name}", str(value))
            yield

    return as_task


def rows(job, what="*", order="id"):
    return bq_get(f"SELECT {what} FROM `{job.output_table}` ORDER BY {order}")


def ledger(job):
    frame = list_runs(job.model_name).astype(object)
    return frame.where(frame.notna(), None).to_dict("records")


def tables(job, client):
    return {t.table_id for t in client.list_tables(f"{job.output_table.project}.{job.output_table.dataset}")}


def test_tasks_share_the_rows_and_the_last_one_publishes(job, cloud_run):
    """Nothing is visible before; then everything is, once."""
    records = []
    for index in (2, 0, 3, 1):  # in whatever order
        with cloud_run(index=index, count=4):
            records.append(pull_predict_push(job))
            assert records[-1].published == (index == 1)
            if index != 1:
                assert rows(job).empty
    assert [record.rows for record in records] == [100, 100, 100, COUNT]
    assert rows(job)["id"].tolist() == list(range(COUNT))
    assert rows(job)["prediction_timestamp"].nunique() == 1
    (entry,) = ledger(job)
    assert (entry["state"], entry["tasks"], entry["scored_rows"], entry["attempt"]) == ("succeeded", 4, COUNT, 0)


def test_every_row_and_every_reject_says_where_it_comes_from(job):
    """The metadata that is written is the run's, in columns that can have no NULL."""
    bq_put(ROWS.assign(x=ROWS["x"].mask(ROWS["id"] < 2)), job.source, "WRITE_TRUNCATE")
    record = pull_predict_push(dataclasses.replace(job, max_rejects=0.01))
    for table, count in ((job.output_table, COUNT - 2), (rejects_table(job.output_table), 2)):
        found = bq_get(f"SELECT {', '.join(METADATA.names)} FROM `{table}`")
        assert len(found) == count
        assert found.drop_duplicates().to_dict("records") == [{name: getattr(record, name) for name in METADATA.names}]
        types = bq_get_batches(f"{table}", columns=METADATA.names).schema
        assert [(f.name, f.type) for f in types] == [(f.name, f.type) for f in METADATA]


@pytest.mark.parametrize("what", ["table", "query"])
def test_rows_that_do_not_arrive_are_missed(job, twin, cloud_run, what):
    """A stream that ends too early, and says that all is well, is not believed; the next run has every row."""
    if what == "query":
        job = dataclasses.replace(job, source=f"SELECT * FROM `{job.source}`")
    twin.faults.add(Fault("bigqueryread.ReadRows", "stream", grpc_status="OK", after_rows=COUNT - 1, times=None))
    words = "the input has 400, 399 were read, 399 scored, 0 rejected, and 399 are staged.*start a new execution"
    with cloud_run(), pytest.raises(MissingRowsError, match=words):
        pull_predict_push(job)
    twin.faults.clear()
    with cloud_run(attempt=1), pytest.raises(MissingRowsError, match=words):  # its parts are loaded once and for all
        pull_predict_push(job)
    assert rows(job).empty
    assert ledger(job)[0]["state"] == "failed"
    with cloud_run("exec-2"):
        assert pull_predict_push(job).rows == COUNT


def test_a_step_that_was_forgotten_publishes_nothing(job, cloud_run):
    """Not even no rows in the place of those that are there; and the execution can go on."""
    pull_predict_push(job)
    before = rows(job)
    with cloud_run(), pytest.raises(RuntimeError, match=r"call run.share_out\(\) first"), open_run(job) as run:
        run.push()
    with cloud_run(attempt=1), pytest.raises(RuntimeError, match=r"run.push\(\) was not called"), open_run(job) as run:
        run.share_out(predict_part)
    pd.testing.assert_frame_equal(rows(job), before)
    assert {"exec-1": "failed"}.items() <= {entry["execution"]: entry["state"] for entry in ledger(job)}.items()
    with cloud_run(attempt=2):
        assert pull_predict_push(job).published
    assert len(rows(job)) == COUNT


def test_more_tasks_than_rows(job, cloud_run):
    """Those without rows have nothing to do, and say so."""
    bq_put(ROWS.head(2), job.source, "WRITE_TRUNCATE")
    for index in range(4):
        with cloud_run(index=index, count=4):
            pull_predict_push(job)
    assert rows(job)["id"].tolist() == [0, 1]


def test_a_task_that_is_started_again_goes_on_where_it_was(job, cloud_run, twin):
    """Parts that were loaded are not scored again, and the rows are still those of the first attempt."""
    scored = []

    def failing(part):
        scored.append(1)
        if len(scored) == 4:
            raise RuntimeError("out of luck")
        predict_part(part)

    with cloud_run(), pytest.raises(RuntimeError, match="out of luck"), open_run(job) as run:
        run.share_out(failing)
    assert ledger(job)[0]["state"] == "failed"
    assert "out of luck" in ledger(job)[0]["reason"]
    bq_put(ROWS.head(3), job.source, "WRITE_TRUNCATE")  # the input is pinned: a retry does not mix two of them

    def counting(part):
        scored.append(1)
        predict_part(part)

    with cloud_run(attempt=1), open_run(job) as run:
        run.share_out(counting)
        run.push()
    assert len(scored) == 4 + (COUNT // 50 - 3)
    assert rows(job)["id"].tolist() == list(range(COUNT))
    (entry,) = ledger(job)
    assert (entry["state"], entry["attempt"], entry["reason"]) == ("succeeded", 1, None)


def test_a_task_that_is_started_again_after_publication_changes_nothing(job, cloud_run, bigquery_client):
    """Cloud Run may lose sight of a task that has ended well."""
    with cloud_run():
        pull_predict_push(job)
        before = rows(job)
    with cloud_run(attempt=1):
        record = pull_predict_push(job)
    assert record.published
    pd.testing.assert_frame_equal(rows(job), before)
    assert tables(job, bigquery_client) == {"source", "predictions"}
    assert ledger(job)[0]["state"] == "succeeded"


def test_an_older_execution_does_not_overwrite_a_newer_one(job, cloud_run):
    """It was slow, or its retry came late: the newer rows stay, and it ends well."""
    with cloud_run("old"), open_run(job) as run:
        run.share_out(predict_part)
        bq_put(ROWS.head(7), job.source, "WRITE_TRUNCATE")
        with cloud_run("new"):
            newer = pull_predict_push(job)
        run.push()
    with cloud_run("old", attempt=1):
        assert not pull_predict_push(job).published
    assert rows(job)["id"].tolist() == list(range(7))
    assert rows(job)["prediction_timestamp"].unique() == [newer.prediction_timestamp]
    assert {e["execution"]: e["reason"] for e in ledger(job)} == {
        "old": "a later execution of the run had published already: its rows stay",
        "new": None,
    }


def test_a_newer_version_in_between_does_not_split_a_run(job, model, cloud_run):
    """The first task's version is the one of all."""
    with cloud_run(index=0, count=2):
        pull_predict_push(job)
    save_model(model.estimator, model.ref.name, ROWS[["x"]])
    with cloud_run(index=1, count=2):
        pull_predict_push(job)
    assert rows(job)["model_version"].unique().tolist() == ["v1"]


def test_rerun_reads_only_the_days_on_which_the_run_was_scored(job, bigquery_client, cloud_run):
    """The statement names the timestamps of the run's earlier executions, so other partitions are not read."""
    with cloud_run("first"):
        first = pull_predict_push(job)
    with cloud_run("second"):
        second = pull_predict_push(job)
    published = [j for j in bigquery_client.list_jobs(max_results=50) if j.job_id.startswith("mlsys_publish_")]
    latest = next(j for j in published if j.labels["run_id"] == second.run_id)
    moments = {p.value for p in latest.query_parameters if p.name.startswith("moment_")}
    assert moments == {first.prediction_timestamp, second.prediction_timestamp}
    assert "prediction_timestamp IN" in latest.query
    assert bigquery_client.get_job(latest.job_id).num_dml_affected_rows == 2 * COUNT  # deleted and inserted


def test_several_processes_score_one_task(job, monkeypatch):
    """Each has streams of its own; what they load is the same as one process would."""
    from mlsys.settings import get_settings

    monkeypatch.setenv("MLSYS_WORKERS", "3")
    get_settings.cache_clear()
    try:
        assert pull_predict_push(job).rows == COUNT
        assert rows(job)["id"].tolist() == list(range(COUNT))
        broken = dataclasses.replace(job, as_of=DAY - timedelta(days=1))
        bq_put(ROWS.assign(x=[*ROWS["x"][:-1], None]), job.source, "WRITE_TRUNCATE")
        with pytest.raises(RejectedRowsError, match="1 row cannot be scored, 0 tolerated; the first is id 399: x is"):
            pull_predict_push(broken)
        assert len(rows(job)) == COUNT
    finally:
        monkeypatch.undo()
        get_settings.cache_clear()


def test_rejected_rows_go_to_a_table_of_their_own(job, bigquery_client):
    """Every row of the input is in one of the two; a rerun replaces both slices."""
    gaps = ROWS.assign(x=ROWS["x"].mask(ROWS["id"] % 100 == 7))
    bq_put(gaps, job.source, "WRITE_TRUNCATE")
    tolerant = dataclasses.replace(job, max_rejects=0.01)
    record = pull_predict_push(tolerant)
    assert (record.rows, record.rejected) == (COUNT - 4, 4)
    rejects = bq_get(f"SELECT * FROM `{job.output_table}_rejects` ORDER BY id")
    assert rejects["id"].tolist() == [7, 107, 207, 307]
    assert rejects["reason"].unique().tolist() == ["x is NULL or NaN, training saw none"]
    assert (rejects["run_id"] == record.run_id).all()
    assert all(f.description for f in bigquery_client.get_table(f"{job.output_table}_rejects").schema)
    assert (ledger(job)[0]["input_rows"], ledger(job)[0]["rejected_rows"]) == (COUNT, 4)

    with pytest.raises(RejectedRowsError, match="tolerated; the first is id 7"):
        pull_predict_push(dataclasses.replace(job, max_rejects=0.001))
    assert len(rows(job)) == COUNT - 4  # the failed one has changed nothing

    bq_put(ROWS, job.source, "WRITE_TRUNCATE")
    assert pull_predict_push(tolerant).rejected == 0
    assert bq_get(f"{job.output_table}_rejects").empty
    assert len(rows(job)) == COUNT
    assert tables(job, bigquery_client) == {"source", "predictions", "predictions_rejects"}


def test_rejects_of_an_older_execution_do_not_stand_beside_newer_rows(job, cloud_run):
    """Whichever of the two was slow, and whether there was a table of rejects before."""
    gaps, tolerant = ROWS.assign(x=ROWS["x"].mask(ROWS["id"] < 4)), dataclasses.replace(job, max_rejects=0.01)
    bq_put(gaps, job.source, "WRITE_TRUNCATE")
    with cloud_run("old"), open_run(tolerant) as run:
        run.share_out(predict_part)
        bq_put(ROWS, job.source, "WRITE_TRUNCATE")
        with cloud_run("new"):
            assert pull_predict_push(tolerant).rejected == 0
        run.push()
    assert not run.record.published
    assert len(rows(job)) == COUNT
    assert bq_get(f"{job.output_table}_rejects").empty


def test_bookkeeping_that_fails_after_publication_is_no_failed_run(job, twin, cloud_run):
    """The rows are there: the ledger does not call that a failure without saying so, and the next attempt is done."""
    twin.faults.add(Fault("storage.objects.insert", "error", status=403, skip=2))  # plan, task, then: published
    with cloud_run(), pytest.raises(AccessError):
        pull_predict_push(job)
    assert len(rows(job)) == COUNT
    assert ledger(job)[0]["reason"].startswith("ended while its rows were being published")
    with cloud_run(attempt=1):
        pull_predict_push(job)
    assert (ledger(job)[0]["state"], ledger(job)[0]["reason"]) == ("succeeded", None)


def test_a_failed_execution_stays_failed_until_a_task_succeeds(job, cloud_run):
    """Another task that is started again says nothing about the first."""
    with cloud_run(index=0, count=2), pytest.raises(RuntimeError), open_run(job) as run:
        run.share_out(_broken)
    with cloud_run(index=1, count=2, attempt=1):
        pull_predict_push(job)
    (entry,) = ledger(job)
    assert (entry["state"], entry["attempt"]) == ("failed", 1)
    assert "RuntimeError: broken" in entry["reason"]


def _broken(_part):
    raise RuntimeError("broken")


def test_rejects_of_all_tasks_together_count(job, cloud_run):
    """Each task stays below the limit, the run does not."""
    bq_put(ROWS.assign(x=ROWS["x"].mask(ROWS["id"].isin([0, 399]))), job.source, "WRITE_TRUNCATE")
    strict = dataclasses.replace(job, max_rejects=1 / COUNT)
    with cloud_run(index=0, count=2):
        pull_predict_push(strict)
    with cloud_run(index=1, count=2), pytest.raises(RejectedRowsError, match="2 rows cannot be scored by all tasks"):
        pull_predict_push(strict)
    assert rows(job).empty


def test_preflight_says_what_would_happen_and_does_nothing(job, settings, bigquery_client):
    """``--dry-run``: checked in full, nothing created, nothing recorded."""
    found = dict(check(job, look_at_input(job, settings, bigquery_client), settings, bigquery_client).lines())
    assert found["model"].startswith(f"{job.model_name}/v1, binary")
    assert found["inputs"] == "x FLOAT64, a row with NULL is rejected"
    assert found["output"].endswith("(will be created)")
    assert found["golden rows"] == "4 reproduced"
    assert tables(job, bigquery_client) == {"source"}
    assert ledger(job) == []


def test_a_table_that_is_too_large_is_refused_before_it_is_read(job):
    """The budget holds for tables, too."""
    with pytest.raises(QueryError, match=r"billed [\d,]+ bytes > 10 allowed"):
        pull_predict_push(dataclasses.replace(job, max_bytes_billed=10))
    (entry,) = ledger(job)
    assert (entry["state"], entry["model_version"]) == ("failed", None)


@pytest.mark.parametrize(
    ("source", "error", "words"),
    [
        ("CREATE TABLE `{dataset}.new` AS SELECT * FROM `{source}`", QueryError, "got a CREATE_TABLE_AS_SELECT"),
        ("DELETE FROM `{source}` WHERE TRUE", QueryError, "got a DELETE statement: nothing was run"),
        ("SELECT id, 0.5 AS x FROM `{output}`", SchemaError, "reads .*predictions, which the run writes"),
        ("SELECT * FROM `{source}` WHERE id NOT IN (SELECT id FROM `{output}`)", SchemaError, "find its own rows"),
        ("{output}", SchemaError, "which the run writes"),
    ],
)  # fmt: skip
def test_a_source_that_changes_tables_or_reads_the_output_is_refused(job, bigquery_client, source, error, words):
    """It would not be the same run when it is done again."""
    pull_predict_push(job)
    dataset = str(job.output_table).rpartition(".")[0]
    odd = source.format(dataset=dataset, source=job.source, output=job.output_table)
    with pytest.raises(error, match=words):
        pull_predict_push(dataclasses.replace(job, source=odd))
    assert tables(job, bigquery_client) == {"source", "predictions"}
    assert len(rows(job)) == len(bq_get(job.source)) == COUNT


def test_an_output_that_is_no_table_is_refused(job, dataset, bigquery_client):
    """Before anything is read."""
    pull_predict_push(job)
    bq_get(f"CREATE VIEW `{dataset}.seen` AS SELECT * FROM `{job.output_table}`")
    with pytest.raises(SchemaError, match=r"seen is a VIEW, whose rows cannot be replaced"):
        pull_predict_push(dataclasses.replace(job, output_table=f"{dataset}.seen"))
    nowhere = dataclasses.replace(job, output_table="shoufianesys.nowhere.predictions")
    with pytest.raises(NotFoundError, match=r"dataset shoufianesys\.nowhere is not there"):
        pull_predict_push(nowhere)


def test_a_plan_that_cannot_be_read_is_refused(job, cloud_run, settings):
    """An image was deployed between two attempts, or somebody tampered."""
    prefix = run_prefix(job.run_id("local"), "exec-1")
    gcs_put(b"{}", settings.model_bucket(), f"{prefix}plan.json")
    with cloud_run(), pytest.raises(VerificationError, match="start a new execution"):
        pull_predict_push(job)


def test_a_renamed_column_is_recognised(job):
    """The message says what to write."""
    renamed = dataclasses.replace(job, source=f"SELECT id, x AS X FROM `{job.source}`")
    with pytest.raises(SchemaError, match=r"x is missing \(select `X` AS `x`, if that is it\)"):
        pull_predict_push(renamed)


def test_an_alias_names_the_version(job, model):
    """What is champion when the run starts."""
    save_model(model.estimator, model.ref.name, ROWS[["x"]])
    set_alias(model.ref.name, "champion", "v1", reason="the better one")
    assert pull_predict_push(dataclasses.replace(job, model_version="champion")).model_version == "v1"


def test_what_tasks_agree_on_is_kept_in_the_bucket(job, cloud_run, settings):
    """One plan, a note for each task, and one when it was published."""
    with cloud_run():
        record = pull_predict_push(job)
    prefix = run_prefix(record.run_id, "exec-1")
    names = [path.removeprefix(prefix) for path in gcs_list(settings.model_bucket(), prefix)]
    assert names == ["plan.json", "published.json", "task-0.json"]


def test_task_count_must_stay_the_same(job, cloud_run):
    """Streams were shared out already."""
    with cloud_run(index=0, count=2):
        pull_predict_push(job)
    with cloud_run(index=0, count=3), pytest.raises(SchemaError, match="has 2 tasks, got 3"):
        pull_predict_push(job)


def test_nonsense_from_the_environment_is_refused(job, cloud_run):
    """By the variable's name."""
    with cloud_run(index="two"), pytest.raises(SettingsError, match=r"CLOUD_RUN_TASK_INDEX: .*, got 'two'"):
        pull_predict_push(job)
    with cloud_run(index=4, count=4), pytest.raises(SettingsError, match="must be less than CLOUD_RUN_TASK_COUNT"):
        pull_predict_push(job)


def command(job, program=("-m", "scripts.predict"), **environment):
    given = {"MODEL_NAME": job.model_name, "SOURCE": job.source, "OUTPUT_TABLE": str(job.output_table),
             "ID_COLUMNS": "id", "AS_OF": "2026-01-31", "PART_ROWS": "50", "CLOUD_RUN_EXECUTION": "exec-1"}  # fmt: skip
    return subprocess.Popen(
        [sys.executable, *program], env=os.environ | given | environment,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_sigterm_does_not_wait_for_a_load(job, twin, bigquery_client):
    """A load job may take minutes, SIGKILL comes after ten seconds."""
    twin.faults.add(Fault("bigqueryread.ReadRows", "slow", delay_s=2, skip=READS_BEFORE))
    process = command(job, PART_ROWS="1000")
    while not twin.faults.hits():
        time.sleep(0.05)
    twin.faults.add(Fault("bigquery.jobs.run", "slow", delay_s=40))  # of the load that comes next
    while "bigquery.jobs.run" not in twin.faults.hits():
        time.sleep(0.05)
    assert any("staging" in name for name in tables(job, bigquery_client))
    process.send_signal(signal.SIGTERM)
    started = time.monotonic()
    process.communicate(timeout=60)
    assert time.monotonic() - started < 10
    assert process.returncode == InterruptedRunError.exit_code
    twin.faults.clear()
    assert ledger(job)[0]["state"] == "failed"


def test_sigterm_ends_cleanly_and_the_next_attempt_goes_on(job, twin):
    """Cloud Run gives ten seconds: nothing is half published, the ledger says so, and so does the exit code."""
    twin.faults.add(Fault("bigqueryread.ReadRows", "slow", delay_s=30, skip=READS_BEFORE))
    process = command(job)
    while not twin.faults.hits():
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    started = time.monotonic()
    _, err = process.communicate(timeout=30)
    assert time.monotonic() - started < 10
    assert process.returncode == InterruptedRunError.exit_code == 75
    assert "stopped by SIGTERM" in err.splitlines()[-1]
    (entry,) = ledger(job)
    assert entry["state"] == "failed"
    assert "stopped by SIGTERM" in entry["reason"]
    twin.faults.clear()
    again = command(job, CLOUD_RUN_TASK_ATTEMPT="1")
    out, err = again.communicate(timeout=60)
    assert again.returncode == 0, err
    assert f"{COUNT} predictions" in out
    assert rows(job)["id"].tolist() == list(range(COUNT))
    assert ledger(job)[0]["state"] == "succeeded"


AT_THE_WORST_MOMENT = """
import itertools, os, signal
import grpc._channel as grpc_channel
from scripts.predict import main

watch = grpc_channel._run_channel_spin_thread
calls = itertools.count(1)

def interrupted(channel):
    if next(calls) == {number}:
        os.kill(os.getpid(), signal.{signal})
    watch(channel)

grpc_channel._run_channel_spin_thread = interrupted
main()
"""


@pytest.mark.parametrize(("name", "code"), [("SIGTERM", 75), ("SIGINT", 130)])
def test_a_signal_while_a_call_is_set_up_ends_the_process_too(job, name, code):
    """GRPC has begun a call that nobody watches yet: Python, tidying up at its end, would wait for it for ever."""
    program = AT_THE_WORST_MOMENT.format(number=READS_BEFORE + 1, signal=name)
    process = command(job, ["-c", program])
    out, err = process.communicate(timeout=30)
    assert process.returncode == code, err
    assert not out
    assert ledger(job)[0]["state"] == "failed"
    pull_predict_push(job)


def test_a_killed_run_is_visible_as_such(job, twin):
    """It said that it started and nothing since; once a later execution has ended, nobody waits for it."""
    twin.faults.add(Fault("bigqueryread.ReadRows", "slow", delay_s=30, skip=READS_BEFORE))
    process = command(job)
    while not twin.faults.hits():
        time.sleep(0.05)
    process.kill()
    process.communicate(timeout=30)
    assert ledger(job)[0]["state"] == "running"
    twin.faults.clear()
    pull_predict_push(job)
    assert [entry["state"] for entry in ledger(job)] == ["killed", "succeeded"]


def test_other_processes_end_with_the_one_that_is_killed(job, twin):
    """They would go on reading, and then wait for ever for somebody to report to."""
    twin.faults.add(Fault("bigqueryread.ReadRows", "slow", delay_s=40, times=None, skip=READS_BEFORE))
    process = command(job, MLSYS_WORKERS="2")
    while twin.faults.hits().get("bigqueryread.ReadRows", 0) < 2:  # both are waiting for rows
        time.sleep(0.05)
    others = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    process.communicate(timeout=10)
    _, alive = psutil.wait_procs(others, timeout=10)
    twin.faults.clear()
    assert len(others) >= 2  # the server that processes are made of, and a process
    assert not [p for p in alive if p.status() != psutil.STATUS_ZOMBIE]


def test_logs_on_cloud_run_are_json_with_the_run_in_each_line(job):
    """Cloud Logging reads severity, message and time, and can be searched by run."""
    process = command(job, CLOUD_RUN_JOB="titanic")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    lines = [json.loads(line) for line in err.splitlines()]
    assert {"severity", "message", "time", "logger"} <= lines[0].keys()
    assert {line.get("run_id") for line in lines} == {job.run_id("local")}
    assert any("published" in line["message"] for line in lines)
    refused = command(job, CLOUD_RUN_JOB="titanic", CLOUD_RUN_EXECUTION="exec-2", ID_COLUMNS="key")
    _, err = refused.communicate(timeout=60)
    last = json.loads(err.splitlines()[-1])
    assert (refused.returncode, last["severity"], last["run_id"]) == (5, "ERROR", job.run_id("local"))
    assert last["message"] == "no id column key in the source; it has id, x"


def test_wide_input_with_odd_names(dataset, model_name):
    """2,000 columns, and names of any script: what BigQuery takes, a run takes."""
    names = [f"größe {i} 特徴" for i in range(1999)]
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(60, 1999)), columns=names)
    labels = frame[names[0]] > 0
    save_model(LogisticRegression().fit(frame, labels), model_name, frame)
    bq_put(frame.assign(ключ=range(60)), f"{dataset}.source")
    job = PredictionJob(model_name, f"{dataset}.source", f"{dataset}.predictions", ("ключ",), as_of=DAY)
    assert pull_predict_push(job).rows == 60
    assert (rows(job, order="`ключ`")["prediction"] == labels).all()


def test_a_model_that_raises_on_some_rows(dataset, model_name):
    """Those rows are rejected with what it said; the others are scored."""
    save_model(_Squeamish().fit(ROWS[["x"]]), model_name, ROWS[["x"]].head(200))
    bq_put(ROWS, f"{dataset}.source")
    job = PredictionJob(model_name, f"{dataset}.source", f"{dataset}.predictions", ("id",), as_of=DAY, max_rejects=0.01)
    assert pull_predict_push(job).rejected == 2
    rejects = bq_get(f"SELECT id, reason FROM `{job.output_table}_rejects` ORDER BY id")
    assert rejects["id"].tolist() == [398, 399]
    assert rejects["reason"][0].startswith("the model raises ValueError: too much: ")
    assert rejects["reason"][1] == "the model raises SystemExit: 0"
    with pytest.raises(RejectedRowsError, match="1 row cannot be scored, 0 tolerated; the first is id 398"):
        pull_predict_push(dataclasses.replace(job, max_rejects=0, as_of=DAY - timedelta(days=1)))


class _Squeamish:
    """A regression that raises on large values."""

    def fit(self, _features):
        return self

    def predict(self, features):
        if features["x"].max() > 1.995:
            sys.exit(0)
        if features["x"].max() > 1.98:
            raise ValueError(f"too much: {features['x'].max()}")
        return features["x"].to_numpy()
