"""Campaigns: prediction runs on bad days, killed, cut off, kept waiting and doubled. All seeded; ``-s`` prints figures.

Small by default. At full size, each of these takes minutes::

    MLSYS_FAULT_RUNS=500 uv run pytest tests/test_campaigns.py -s -k faults --timeout 3600
    MLSYS_RUN_KILLS=200 uv run pytest tests/test_campaigns.py -s -k killed --timeout 3600
    MLSYS_STREAM_BREAKS=400 uv run pytest tests/test_campaigns.py -s -k streams --timeout 3600
    MLSYS_HUNG_SOCKETS=50 uv run pytest tests/test_campaigns.py -s -k hung --timeout 3600
    MLSYS_DOUBLE_RUNS=20 uv run pytest tests/test_campaigns.py -s -k at_once --timeout 3600

``MLSYS_CAMPAIGN_SEED`` (1) chooses other faults. Runs are real processes, but for those with broken streams:
one in ten or twenty, and each with several workers, is ``python scripts/predict.py`` from the start, the others are
forks that run the same ``main`` (see `tests.campaigns`).
"""

import os
import random
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.linear_model import LogisticRegression

from mlsys.bq import bq_get, bq_pin, bq_put
from mlsys.gcs import gcs_get_bytes, gcs_list, gcs_put
from mlsys.local.faults import Fault
from mlsys.models import save_model
from mlsys.predict import PredictionJob
from mlsys.settings import get_settings
from scripts.predict import pull_predict_push
from tests.campaigns import REFUSED, RESUMED, Reader, SilentServer, TaskSpec, bad_day, kill_at_random, left_over

SEED = int(os.environ.get("MLSYS_CAMPAIGN_SEED", "1"))
DAY = datetime(2026, 1, 31, tzinfo=UTC)
REJECTED = 7  # the id whose x is NULL in queries that ask for it


def size(name: str, default: int) -> int:
    return int(os.environ.get(name, default))


@dataclass(frozen=True)
class Scene:
    """A model, a table of rows, and what the model makes of each."""

    model_name: str
    source: str
    output: str
    expected: pd.DataFrame
    logs: Path

    def job(self, run: int, source: str | None = None, **options) -> PredictionJob:
        """Return the job for a moment of its own."""
        moment = DAY - timedelta(hours=run)
        return PredictionJob(self.model_name, source or self.source, self.output, ("id",), as_of=moment, **options)

    def spec(self, job: PredictionJob, execution: str, **options) -> TaskSpec:
        """Return the only task of an execution of a job."""
        arguments = (
            *("--model", job.model_name, "--source", job.source, "--output", str(job.output_table), "--id", "id"),
            *("--as-of", job.as_of.isoformat(), "--part-rows", str(job.part_rows)),
            *("--max-rejects", str(job.max_rejects)),
        )
        return TaskSpec(arguments, execution, self.logs, **options)

    def published(self) -> dict[str, pd.DataFrame]:
        """Return the rows of the output table for each run."""
        frame = bq_get(f"SELECT * FROM `{self.output}` ORDER BY id")
        return {run_id: rows.reset_index(drop=True) for run_id, rows in frame.groupby("run_id")}

    def is_exact(self, rows: pd.DataFrame | None, expected: pd.DataFrame | None = None) -> bool:
        """Say whether a run's rows are each id once with the right prediction, all of one execution."""
        expected = self.expected if expected is None else expected
        return (
            rows is not None
            and rows["id"].tolist() == expected["id"].tolist()
            and rows["prediction"].tolist() == expected["prediction"].tolist()
            and np.allclose(rows["prediction_probability"], expected["prediction_probability"], rtol=1e-12, atol=0)
            and rows["prediction_timestamp"].nunique() == 1
        )

    def ledger(self) -> pd.DataFrame:
        """Return this model's rows of the ledger."""
        return bq_get(f"SELECT * FROM `{get_settings().gcp_project_id}.ml_registry.runs` "
                      f"WHERE model_name = '{self.model_name}'")  # fmt: skip

    def staging(self, client) -> list:
        """Return the staging tables that are still there."""
        listed = client.list_tables(self.output.rpartition(".")[0])
        return [client.get_table(t.reference) for t in listed if "__staging_" in t.table_id]

    def last_words(self, execution: str) -> str:
        """Return the end of what an execution's last attempts logged."""
        return "\n".join(f"{p.name}\n{p.read_text()[-1500:]}" for p in sorted(self.logs.glob(f"{execution}-*.log")))


@pytest.fixture
def make_scene(dataset, model_name, tmp_path):
    """Return what makes a scene with so many rows."""

    def make(count: int) -> Scene:
        frame = pd.DataFrame({"id": np.arange(count), "x": np.random.default_rng(SEED).normal(size=count)})
        known = frame.head(1000)
        model = save_model(LogisticRegression().fit(known[["x"]], known["x"] > 0.3), model_name, known[["x"]])
        outputs = model.predict(pa.Table.from_pandas(frame)).to_pandas()
        bq_put(frame, f"{dataset}.source")
        output = f"{dataset}.predictions"
        return Scene(model_name, f"{dataset}.source", output, pd.concat([frame, outputs], axis=1), tmp_path)

    return make


def test_faults_neither_lose_nor_double_a_row(make_scene, twin, bigquery_client):
    """A fifth of all calls fail; a run is tried up to five times; every fourth is a second execution of one."""
    runs, rng = size("MLSYS_FAULT_RUNS", 4), random.Random(SEED)
    scene = make_scene(40)
    without = scene.expected.drop(index=REJECTED)
    inputs = [
        (scene.source, scene.expected),
        (f"SELECT id, x FROM `{scene.source}`", scene.expected),
        (f"SELECT id, IF(id = {REJECTED}, NULL, x) AS x FROM `{scene.source}`", without),
    ]
    slots = [run - (run % 4 == 3) for run in range(runs)]
    jobs = [scene.job(slot, inputs[slot % 3][0], part_rows=20, max_rejects=0.1) for slot in slots]
    expected = {job.run_id("local"): inputs[slot % 3][1] for job, slot in zip(jobs, slots, strict=True)}

    def make_run(run: int) -> tuple[list[int], float]:
        started = time.monotonic()
        codes = scene.spec(jobs[run], f"faults-{run}", fresh=run % 10 == 0).until_done()
        return codes, time.monotonic() - started

    for number, fault in enumerate(bad_day(rng, 40)):
        twin.faults.add(fault, seed=SEED * 100 + number)
    started = time.monotonic()
    with ThreadPoolExecutor(16) as pool:  # they mostly wait to try again
        outcomes = list(pool.map(make_run, range(runs)))
    elapsed, hits = time.monotonic() - started, twin.faults.hits()
    twin.faults.clear()

    published, ledger = scene.published(), scene.ledger()
    wrong = [run_id for run_id, rows in expected.items() if not scene.is_exact(published.get(run_id), rows)]
    lost = sum(len(set(rows["id"]) - set(published.get(r, rows.head(0))["id"])) for r, rows in expected.items())
    doubled = sum(int(published[r]["id"].duplicated().sum()) for r in published)
    failed = [f"faults-{run}" for run, (codes, _) in enumerate(outcomes) if codes[-1]]
    good = ledger[(ledger["status"] == "succeeded") & (ledger["scored_rows"] == ledger["run_id"].map(expected).map(len))
                  & (ledger["scored_rows"] + ledger["rejected_rows"] == 40)]  # fmt: skip
    rejects = bq_get(f"SELECT run_id, id FROM `{scene.output}_rejects`") if runs > 2 else None
    staging = scene.staging(bigquery_client)
    codes = Counter(code for codes, _ in outcomes for code in codes[:-1])
    print(f"\nfaults: {runs} runs of {len(expected)} slices in {elapsed:.0f} s, {sum(hits.values())} calls failed; "
          f"{len(expected) - len(wrong)} exact, {lost} rows lost, {doubled} doubled, {len(failed)} reported failed, "
          f"{sum(len(c) > 1 for c, _ in outcomes)} needed a retry (exit codes {dict(codes)}), mean "
          f"{np.mean([s for _, s in outcomes]):.1f} s; {len(good)} right in the ledger; {len(staging)} staging "
          f"tables left to expire")  # fmt: skip
    assert set(published) <= set(expected)
    assert (wrong, lost, doubled) == ([], 0, 0)
    assert not failed, scene.last_words(failed[0])
    assert len(good) == len(ledger) == runs, ledger.drop(good.index).T.to_string()
    assert all(table.expires is not None for table in staging)
    if rejects is not None:
        having = [run_id for run_id, rows in expected.items() if rows is without]
        assert sorted(rejects["run_id"]) == sorted(having)
        assert set(rejects["id"]) == {REJECTED}


def test_killed_tasks_change_nothing(make_scene, bigquery_client):
    """``kill -9`` at random moments of a run of four tasks: readers see the old rows or the new, then only the new."""
    kills, rng = size("MLSYS_RUN_KILLS", 4), random.Random(SEED)
    scene = make_scene(4000)
    killed = made = polls = 0
    odd, started = Counter(), time.monotonic()
    undisturbed, span = None, 60.0
    while killed < kills or not made:
        job = scene.job(made, part_rows=250)
        old = made % 2 == 1
        if old:
            pull_predict_push(replace(job, source=f"SELECT id, x FROM `{scene.source}` WHERE id < 3000"))
        specs = [scene.spec(job, f"kills-{made}", index=i, count=4, fresh=made % 20 == 3) for i in range(4)]
        begun = time.monotonic()
        with Reader(scene.output, job.run_id("local")) as reader:
            # The first one tells how long a run takes.
            of_run, codes = kill_at_random(rng, specs, min(6, kills - killed) if made else 0, span)
        span = min(span, time.monotonic() - begun)
        rows = scene.published()[job.run_id("local")]
        undisturbed = rows if undisturbed is None else undisturbed
        same = ["id", "prediction", "prediction_probability", "model_name", "model_version"]
        pd.testing.assert_frame_equal(rows[same], undisturbed[same])
        assert scene.is_exact(rows)
        assert reader.seen <= {(3000, 3000, 1) if old else (0, 0, 0), (4000, 4000, 1)}, reader.seen
        assert not left_over(f"kills-{made}")
        killed, polls, made, odd = killed + of_run, polls + reader.polls, made + 1, odd + Counter(codes)
        bigquery_client.query_and_wait(f"TRUNCATE TABLE `{scene.output}`")
    staging, states = scene.staging(bigquery_client), scene.ledger()["status"].value_counts().to_dict()
    print(f"\nkills: {killed} in {made - 1} runs of 4 tasks in {time.monotonic() - started:.0f} s (undisturbed "
          f"{span:.1f} s), all identical; {polls} polls, none partial; other exit codes {dict(odd)}; ledger {states}; "
          f"{len(staging)} staging tables left to expire")  # fmt: skip
    assert set(states) == {"succeeded"}
    assert all(table.expires is not None for table in staging)


def test_killed_workers_leave_no_process(make_scene):
    """A task with two worker processes, killed alone or with them: its workers end, and the next attempt goes on."""
    runs, rng = max(1, size("MLSYS_RUN_KILLS", 4) // 20), random.Random(SEED)
    scene, killed = make_scene(510_000), 0
    for run in range(runs):
        job = scene.job(run, part_rows=65_536)
        spec = scene.spec(job, f"workers-{run}", fresh=True, environment=(("MLSYS_WORKERS", "2"),))
        with Reader(scene.output, job.run_id("local"), pause=0.5) as reader:
            killed += kill_at_random(rng, [spec], min(runs, 2), 8.0)[0]
            assert not left_over(spec.execution)
        count = bq_get(f"SELECT COUNT(*) AS n, COUNT(DISTINCT id) AS ids, SUM(CAST(prediction AS INT64)) AS yes, "
                       f"COUNT(DISTINCT prediction_timestamp) AS t FROM `{scene.output}` "
                       f"WHERE run_id = '{job.run_id('local')}'")  # fmt: skip
        assert count.iloc[0].tolist() == [510_000, 510_000, int(scene.expected["prediction"].sum()), 1]
        assert reader.seen <= {(0, 0, 0), (510_000, 510_000, 1)}
    print(f"\nworkers: {killed} kills in {runs} runs of a task with two workers, none left behind")


def test_broken_streams_are_resumed_or_refused(make_scene, twin, read_client):
    """Each status, at random rows: every row once and in order, or an error."""
    breaks, rng = size("MLSYS_STREAM_BREAKS", 16), random.Random(SEED)
    scene = make_scene(20_000)
    ids = scene.expected["id"].tolist()
    outcomes, started = Counter(), time.monotonic()
    for number in range(breaks):
        status = (*RESUMED, *REFUSED)[number % 8]
        offset, whole = rng.randrange(20_000), number // 8 % 4 == 1
        twin.faults.clear()
        for _ in range(rng.choice([1, 1, 3])):
            # A run reads from the start, and its stream has 20,000 rows; a resumed one counts from where it resumes.
            after = rng.randrange(20_000 if whole else 20_000 - offset)
            twin.faults.add(Fault("bigqueryread.ReadRows", "stream", grpc_status=status, after_rows=after))
        got, job = None, scene.job(number, part_rows=3000)
        try:
            if whole:
                got = pull_predict_push(job).rows
            else:
                batches = bq_pin(scene.source, streams=(1, 1)).read(
                    0, read_client, offset=offset, batch_rows=rng.randrange(500, 30_000)
                )
                got = [i for batch in batches for i in batch.column("id").to_pylist()]
        except Exception:
            if status in RESUMED:
                raise
        hits = sum(twin.faults.hits().values())
        twin.faults.clear()
        if whole:
            rows = scene.published().get(job.run_id("local"))
            assert scene.is_exact(rows) if got else rows is None
        elif got is not None:
            assert got == ids[offset:], f"{status}: {len(got)} rows for {20_000 - offset}"
        assert hits > 0
        outcomes[status, "refused" if got is None else "exact"] += 1
    print(f"\nstreams: {breaks} in {time.monotonic() - started:.0f} s: "
          + ", ".join(f"{status} {count} {what}" for (status, what), count in outcomes.items()))  # fmt: skip
    assert not [status for status, what in outcomes if (what == "exact") != (status in RESUMED)]


def hung_calls(scene: Scene) -> list[tuple[str, Callable[[], object]]]:
    """Return operations that the twin shall not answer, and who calls them; ``silent`` is a server that never does."""
    models, silent = get_settings().model_bucket(), SilentServer()
    frame, query = scene.expected[["id", "x"]], f"SELECT COUNT(*) AS n FROM `{scene.source}`"
    gcs_put(b"there", models, "_hung/there")
    return [
        ("bigquery.jobs.insert", lambda: bq_get(query)),
        ("bigquery.tables.get", lambda: bq_get(query)),
        ("bigquery.jobs.insert", lambda: bq_put(frame, scene.output, "WRITE_TRUNCATE")),
        ("bigquery.tables.get", lambda: bq_put(frame, scene.output, "WRITE_TRUNCATE")),
        ("bigqueryread.CreateReadSession", lambda: bq_get(scene.source)),
        ("bigqueryread.ReadRows", lambda: bq_get(scene.source)),
        ("storage.objects.insert", lambda: gcs_put(b"x", models, "_hung/new")),
        ("storage.objects.list", lambda: gcs_list(models, "_hung/")),
        ("storage.objects.get", lambda: gcs_get_bytes(models, "_hung/there")),
        ("storage.objects.get_media", lambda: gcs_get_bytes(models, "_hung/there")),
        ("silent", lambda: bq_get(query, client=silent.bigquery())),
        ("silent", lambda: bq_put(frame, scene.output, client=silent.bigquery())),
        ("silent", lambda: bq_get(scene.source, read_client=silent.read())),
        ("silent", lambda: gcs_get_bytes(models, "_hung/there", client=silent.storage())),
        ("silent", lambda: gcs_put(b"x", models, "_hung/new", client=silent.storage())),
    ]


def test_hung_calls_end_in_time(make_scene, twin, set_deadline):
    """Calls that are never answered fail by their deadline; after one that was not, the next try succeeds."""
    count, rng, deadline = size("MLSYS_HUNG_SOCKETS", 3), random.Random(SEED), 2.0
    calls = hung_calls(make_scene(1000))
    rng.shuffle(calls)
    set_deadline(deadline)
    outcomes, slowest, started = Counter(), (0.0, ""), time.monotonic()
    for number in range(count):
        operation, call = calls[number % len(calls)]
        for_ever = operation == "silent" or number // len(calls) % 2 == 0
        hung = Fault(operation, "slow", times=None if for_ever else 1, delay_s=15)
        twin.faults.clear()
        if operation == "bigqueryread.ReadRows":  # first after some rows; what gets on is not hung
            twin.faults.add(replace(hung, times=1, after_rows=rng.randrange(500)))
        if for_ever or operation != "bigqueryread.ReadRows":
            twin.faults.add(hung)
        begun, got = time.monotonic(), "succeeded"
        try:
            call()
        except Exception as exc:  # noqa: BLE001 - each call fails in its own way
            got = f"failed with {type(exc).__name__}"
        took = time.monotonic() - begun
        print(f"  {operation:30} {'for ever' if for_ever else 'once':8} {took:5.2f} s {got}")
        outcomes[got] += 1
        slowest = max(slowest, (took, operation))
        assert (got == "succeeded") != for_ever, operation
        assert took < deadline * 1.5 + 2, f"{operation}: {took:.1f} s"
    print(f"\nhung: {count} in {time.monotonic() - started:.0f} s with a deadline of {deadline:.0f} s: {dict(outcomes)}"
          f"; the slowest took {slowest[0]:.1f} s ({slowest[1]})")  # fmt: skip


def test_hung_runs_end_and_go_on(make_scene, twin):
    """A run whose calls are not answered ends by its deadline, to be tried again; the next attempt goes on."""
    operations = ["bigqueryread.ReadRows", "storage.objects.insert", "bigquery.jobs.insert", "bigquery.tables.insert",
                  "storage.objects.list", "bigquery.jobs.get", "bigqueryread.CreateReadSession"]  # fmt: skip
    scene, slowest = make_scene(1000), 0.0
    for number in range(max(1, size("MLSYS_HUNG_SOCKETS", 3) // 5)):
        operation = operations[number % len(operations)]
        job = scene.job(number, f"SELECT id, x FROM `{scene.source}`")
        spec = scene.spec(job, f"hung-{number}", environment=(("MLSYS_DEADLINE_S", "3"),))
        twin.faults.add(Fault(operation, "slow", times=None, delay_s=15))
        begun = time.monotonic()
        code = spec.start().wait()
        took = time.monotonic() - begun
        twin.faults.clear()
        print(f"  {operation:30} {took:5.2f} s, exit code {code}")
        slowest = max(slowest, took)
        assert code == 75, spec.log(0).read_text()[-2000:]
        assert spec.start(1).wait() == 0, spec.log(1).read_text()[-2000:]
        assert scene.is_exact(scene.published()[job.run_id("local")])
        assert took < 3 * 1.5 + 8 + 4, f"{operation}: {took:.1f} s"  # a call, the last words, the start of a process
    print(f"\nhung runs: the slowest took {slowest:.1f} s with a deadline of 3 s a call")


def test_workers_that_make_one_run_at_once(make_scene, bigquery_client):
    """Two or three at the same moment, of one execution or of several: one slice, and nobody fails."""
    runs, rng = size("MLSYS_DOUBLE_RUNS", 3), random.Random(SEED)
    scene, codes, started = make_scene(1000), Counter(), time.monotonic()
    for number in range(runs):
        job = scene.job(number, part_rows=300)
        names = [f"double-{number}-{0 if number % 2 else worker}" for worker in range(2 + number % 3 % 2)]
        tasks = []
        with Reader(scene.output, job.run_id("local")) as reader:
            for name in names:
                tasks.append(scene.spec(job, name, fresh=number % 10 == 9).start())
                time.sleep(rng.choice([0, 0, rng.uniform(0, 1)]))
            of_run = [task.wait() for task in tasks]
        codes.update(of_run)
        assert scene.is_exact(scene.published()[job.run_id("local")])
        assert reader.seen <= {(0, 0, 0), (1000, 1000, 1)}
        assert not any(of_run), scene.last_words(f"double-{number}")
    states = scene.ledger()["status"].value_counts().to_dict()
    print(f"\nat once: {runs} runs in {time.monotonic() - started:.0f} s, exit codes {dict(codes)}, ledger {states}, "
          f"{len(scene.staging(bigquery_client))} staging tables left to expire")  # fmt: skip
    assert set(states) == {"succeeded"}
