"""DAGs in a real Airflow, with its real operators, on the twin: what ends how, and what is then in the table."""

import os
import random
import re
import threading
import time
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import typer
from sklearn.linear_model import LogisticRegression

from mlsys import clients
from mlsys.bq import bq_get, bq_put
from mlsys.cli import app
from mlsys.local.faults import Fault
from mlsys.models import save_model
from mlsys.names import dag_id
from mlsys.predict import PredictionJob
from mlsys.predict.backfill import backfill
from mlsys.registry.runs import list_runs
from tests.airflow_process import ROOT, Airflow
from tests.cloud_run import RunClients

DAG = '''\
"""An Airflow DAG that a test made."""
from datetime import timedelta
from mlsys_dags import prediction_dag
dag = prediction_dag(model_name={model!r}, source={source!r}, output_table={output!r}, id_columns=["id"],
                     retry_delay=timedelta(seconds=1), {options})
'''
ROWS = 400
ENVIRONMENTS = ["dev", "staging", "prod"]


@pytest.fixture(scope="module")
def airflow(_session_twin, tmp_path_factory):
    dags = tmp_path_factory.mktemp("dags")
    for file in (ROOT / "dags").iterdir():
        (dags / file.name).symlink_to(file)
    with Airflow(tmp_path_factory.mktemp("airflow"), dags, _session_twin.http) as airflow:
        yield airflow


@dataclass(frozen=True)
class Scene:
    """A model, a table to score, what the model makes of it, and the DAG that does it every day."""

    airflow: Airflow
    run: RunClients
    model: str
    source: str
    output: str
    expected: pd.DataFrame

    @property
    def dag_id(self) -> str:
        """The name of its DAG and its job."""
        return dag_id(self.model, "local")

    def write_dag(self, **options) -> None:
        """Make its DAG file, or another in its place."""
        text = DAG.format(model=self.model, source=self.source, output=self.output,
                          options=", ".join(f"{name}={value!r}" for name, value in options.items()))  # fmt: skip
        (self.airflow.dags / f"{self.model.replace('-', '_')}_dag.py").write_text(text)

    def retries(self, number: int) -> None:
        """Let Cloud Run try each task so many times more."""
        job = self.run.jobs.get_job(name=f"{self.run.parent}/jobs/{self.dag_id}")
        job.template.template.max_retries = number
        self.run.jobs.update_job(job=job).result()

    def made(self, day: datetime) -> pd.DataFrame:
        """Return the rows of the slice of a day."""
        return bq_get(f"SELECT * FROM `{self.output}` WHERE as_of = @day ORDER BY id", parameters={"day": day})

    def assert_exact(self, *days: datetime) -> None:
        """Each id once for each day, with the right prediction, all of one execution; and there is nothing else."""
        whole = bq_get(f"SELECT COUNT(*) AS n FROM `{self.output}`")["n"].iloc[0]
        assert whole == len(days) * ROWS
        for day in days:
            rows = self.made(day)
            assert rows["id"].tolist() == self.expected["id"].tolist()
            assert rows["prediction"].tolist() == self.expected["prediction"].tolist()
            assert np.allclose(rows["prediction_probability"], self.expected["prediction_probability"], rtol=1e-12)
            assert rows["prediction_timestamp"].nunique() == 1

    def ledger(self) -> pd.DataFrame:
        """Return what the ledger says about the executions of this model."""
        return list_runs(self.model)

    def executions(self) -> list:
        """Return the job's executions, the latest one first."""
        return self.run.executions_of(self.dag_id)

    def until_started(self, tasks: int = 1) -> str:
        """Wait until an execution is under way, and return its name."""
        end = time.monotonic() + 60
        while time.monotonic() < end:
            if found := [each.name for each in self.executions() if each.running_count >= tasks]:
                return found[0]
            time.sleep(0.05)
        raise TimeoutError("no execution has started")


@pytest.fixture
def scene(airflow, twin, dataset, model_name):
    frame = pd.DataFrame({"id": np.arange(ROWS), "x": np.random.default_rng(1).normal(size=ROWS)})
    model = save_model(LogisticRegression().fit(frame[["x"]], frame["x"] > 0.3), model_name, frame[["x"]])
    outputs = model.predict(pa.Table.from_pandas(frame)).to_pandas()
    bq_put(frame, f"{dataset}.source")
    made = Scene(airflow, RunClients.of(twin.http), model_name, f"{dataset}.source", f"{dataset}.predictions",
                 pd.concat([frame, outputs], axis=1))  # fmt: skip
    made.write_dag()
    made.retries(0)
    yield made
    (airflow.dags / f"{model_name.replace('-', '_')}_dag.py").unlink()


def day(number: int) -> datetime:
    return datetime(2026, 3, number, tzinfo=UTC)


def run_dag(scene: Scene, when: datetime, **conf):
    return scene.airflow.do("run", dag_id=scene.dag_id, logical_date=when.isoformat(), conf=conf or None)


# --- what a DAG does ------------------------------------------------------------------------------


def test_a_run_writes_its_own_slice_and_the_check_knows_its_bounds(scene):
    """With a sensor and two tasks; then the check alone, with bounds that the run does not keep."""
    scene.write_dag(tasks=2, fresh_input=scene.source)
    ended = run_dag(scene, day(1))
    assert ended["state"] == "success", scene.airflow.tail()
    assert ended["tasks"] == {"fresh_input": "success", "predict": "success", "check": "success"}
    scene.assert_exact(day(1))
    (entry,) = scene.ledger().itertuples()
    (execution,) = scene.executions()
    assert (entry.state, entry.tasks, entry.as_of) == ("succeeded", 2, day(1))
    assert execution.name.endswith(f"/{entry.execution}")
    asked = {"dag_id": scene.dag_id, "as_of": day(1).isoformat(), "execution": entry.execution}
    assert scene.airflow.do("check", **asked, rows=[ROWS, ROWS])["scored_rows"] == ROWS
    for others, said in (
        ({"rows": [ROWS + 1, None]}, f"{ROWS} rows, at least {ROWS + 1} expected"),
        ({"rows": [1, ROWS - 1]}, f"{ROWS} rows, at most {ROWS - 1} expected"),
        ({"max_rejects": -0.1}, "0 rows rejected, at most -40 expected"),
        ({"execution": "other"}, "execution other left no row"),
    ):
        assert said in scene.airflow.do("check", **asked | others)["failed"]


def test_a_run_that_is_refused_fails_and_says_how_to_make_it_again(scene):
    """The version is not there: nothing is written, the check is not reached, and the log names the commands."""
    scene.write_dag(retries=0)
    ended = run_dag(scene, day(2), model_version="v99")
    assert ended["state"] == "failed"
    assert ended["tasks"] == {"predict": "failed", "check": "upstream_failed"}
    assert scene.ledger()["state"].tolist() == ["failed"]
    said = scene.airflow.said()
    assert f"airflow dags trigger {scene.dag_id} -c " in said
    assert f"--output {scene.output} --id id --as-of {day(2).isoformat()}" in said
    assert "v99 is not in the registry" in scene.ledger()["reason"].iloc[0]


def test_a_crash_in_mid_run_is_made_good_by_the_next_attempt(scene, twin):
    scene.retries(1)
    twin.faults.add(Fault("storage.objects.list", "slow", delay_s=4))
    twin.faults.add(Fault("run.tasks.attempt", "kill", delay_s=5))
    ended = run_dag(scene, day(3))
    assert ended["state"] == "success", scene.airflow.tail()
    scene.assert_exact(day(3))
    assert [execution.retried_count for execution in scene.executions()] == [1]
    assert scene.ledger()["state"].tolist() == ["succeeded"]


def test_a_cancelled_execution_is_no_success(scene, twin):
    """In Airflow 2 the operator takes it for one: then it is the check that fails."""
    scene.write_dag(retries=0)
    twin.faults.add(Fault("storage.objects.list", "slow", times=None, delay_s=60))

    def cancel() -> None:
        name = scene.until_started()
        while scene.ledger().empty:  # in mid-run, not before it
            time.sleep(0.1)
        scene.run.executions.cancel_execution(name=name).result(timeout=60)

    canceller = threading.Thread(target=cancel)
    canceller.start()
    ended = run_dag(scene, day(4))
    canceller.join()
    assert ended["state"] == "failed"
    assert ended["tasks"] == (
        {"predict": "success", "check": "failed"} if scene.airflow.version < "3" else
        {"predict": "failed", "check": "upstream_failed"}
    )  # fmt: skip
    assert not tables(scene)
    if scene.airflow.version < "3":  # it was the ledger that said so
        assert re.search(rf"as of {re.escape(day(4).isoformat())}: it is \w+, not succeeded", scene.airflow.said())


def tables(scene: Scene) -> list[str]:
    """Return the tables of predictions that there are."""
    listed = clients.bigquery_client().list_tables(scene.output.rpartition(".")[0])
    return [table.table_id for table in listed if table.table_id == "predictions"]


def test_a_worker_that_dies_after_the_submission_starts_a_second_execution_and_one_slice(scene):
    scene.airflow.begin("run", dag_id=scene.dag_id, logical_date=day(5).isoformat())
    scene.until_started()
    scene.airflow.kill_and_start_again()
    ended = run_dag(scene, day(5))
    assert ended["state"] == "success", scene.airflow.tail()
    scene.assert_exact(day(5))
    assert len(scene.executions()) == 2
    assert scene.ledger()["run_id"].nunique() == 1


def test_a_lost_reply_to_the_submission_starts_a_second_execution_and_one_slice(scene, twin):
    twin.faults.add(Fault("run.jobs.run", "reset_after"))
    ended = run_dag(scene, day(6))
    assert ended["state"] == "success", scene.airflow.tail()
    assert ended["tries"]["predict"] == 2
    assert len(scene.executions()) == 2
    scene.assert_exact(day(6))


def test_two_executions_of_one_interval_leave_one_slice(scene):
    """Somebody starts the job by hand while the DAG does, and the DAG's run is made again afterwards."""
    variables = {"SOURCE": scene.source, "OUTPUT_TABLE": scene.output, "ID_COLUMNS": "id",
                 "AS_OF": day(7).isoformat()}  # fmt: skip
    env = [{"name": name, "value": value} for name, value in variables.items()]
    name = f"{scene.run.parent}/jobs/{scene.dag_id}"
    by_hand = scene.run.run(name, container_overrides=[{"env": env}])
    first = run_dag(scene, day(7))
    by_hand.result(timeout=60)
    assert first["state"] == "success", scene.airflow.tail()
    scene.assert_exact(day(7))
    assert set(scene.ledger()["state"]) == {"succeeded"}
    assert len(scene.ledger()) == 2


# --- when it does it ------------------------------------------------------------------------------


def test_a_catch_up_is_for_the_days_that_were_missed(scene):
    due = scene.airflow.do("due", dag_id=scene.dag_id, start="2026-03-01T00:00:00+00:00", days=10)
    assert due == [(day(2) + timedelta(days=i)).isoformat() for i in range(10)]


MOMENTS = {
    "scheduled": ({"end": "2026-03-02T00:00:00+00:00"}, "2026-03-02T00:00:00+00:00"),
    "another zone": ({"end": "2026-03-02T00:30:00+02:00"}, "2026-03-01T22:30:00+00:00"),
    "by hand, without an interval": ({"end": None, "run_after": "2026-03-02T14:03:05.123+00:00"},
                                     "2026-03-02T00:00:00+00:00"),
    "by hand, for a day": ({"end": "2026-03-02T00:00:00+00:00", "as_of": "2026-01-31"}, "2026-01-31T00:00:00+00:00"),
    "by hand, for a moment": ({"end": None, "as_of": "2026-01-31T06:00+01:00"}, "2026-01-31T05:00:00+00:00"),
}  # fmt: skip


@pytest.mark.parametrize(("given", "as_of"), MOMENTS.values(), ids=MOMENTS)
def test_every_run_is_for_one_moment(airflow, given, as_of):
    assert airflow.do("moment", **given) == {"as_of": as_of}


# --- the DAG of the Titanic -----------------------------------------------------------------------


def tfvars(env: str) -> dict[str, str]:
    """Return what Terraform is told about the Titanic's model in an environment."""
    text = (ROOT / "infra" / "models.auto.tfvars").read_text()
    body = re.search(rf"(?ms)^      {env} = \{{\n(.*?)^      \}}", text)[1]
    columns = re.search(r'id_columns = \["(.*?)"\]', text)[1]
    return dict(re.findall(r'(\w+) += "([^"]+)"', body)) | {"id_columns": columns}


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_the_titanics_dag_says_what_terraform_says(airflow, env):
    dag = airflow.do("describe", dag_id=dag_id("titanic-survival", env), env=env)
    assert dag["errors"] == {}
    given = {each["name"]: each["value"] for each in dag["overrides"]["container_overrides"][0]["env"]}
    wanted = tfvars(env)
    assert dag["dag_id"] == dag["job"] == dag_id("titanic-survival", env)
    assert (given["SOURCE"], given["OUTPUT_TABLE"], given["ID_COLUMNS"]) == (
        wanted["source"], wanted["output_table"], wanted["id_columns"]
    )  # fmt: skip
    assert dag["params"]["model_version"] == wanted.get("version", "latest")
    assert dag["key"] == {"environment": env, "model_name": given["MODEL_NAME"], "output_table": given["OUTPUT_TABLE"]}
    options = {option.envvar for option in typer.main.get_command(app).commands["predict"].params}
    assert set(given) <= options


def test_the_titanics_dag_is_what_it_should_be(airflow):
    dag = airflow.do("describe", dag_id="titanic-survival-local")
    assert dag["max_active_runs"] == 1
    assert dag["deferrable"]
    assert not dag["catchup"]
    assert dag["owner"] == "data-science"
    assert dag["tasks"]["predict"] == "CloudRunExecuteJobOperator PredictionRun"
    for link in ("run/jobs/details/us-central1/titanic-survival-local", "3srun_states", "3spredictions"):
        assert link in dag["doc_md"]


def test_without_an_environment_there_is_no_dag(airflow):
    found = airflow.do("describe", dag_id="none", env="production")
    assert found["dags"] == []
    assert "MLSYS_ENV must be local, dev, staging, prod, got 'production'" in "".join(found["errors"].values())


def test_dags_import_nothing_of_mlsys():
    for file in (ROOT / "dags").glob("*.py"):
        assert not re.findall(r"(?m)^\s*(?:from|import) (?:mlsys|scripts)[ .]", file.read_text()), file


def test_the_model_of_a_dag_is_named_once(airflow):
    name = f"model-{uuid.uuid4().hex[:8]}"
    (airflow.dags / "named_dag.py").write_text(
        DAG.format(model=name, source="p.d.t", output="p.d.o", options='schedule="0 6 * * *"')
    )
    try:
        assert airflow.do("describe", dag_id=f"{name}-local")["job"] == dag_id(name, "local")
    finally:
        (airflow.dags / "named_dag.py").unlink()


# --- campaign -------------------------------------------------------------------------------------


def test_a_catch_up_with_random_kills_makes_the_slices_of_an_undisturbed_one(scene, twin):
    """At full size ten days of four tasks: ``MLSYS_DAG_DAYS=10 MLSYS_DAG_TASKS=4``, see dags/README.md."""
    days, tasks = int(os.environ.get("MLSYS_DAG_DAYS", "1")), int(os.environ.get("MLSYS_DAG_TASKS", "2"))
    scene.write_dag(tasks=tasks, retries=3)
    scene.retries(3)
    rng = random.Random(int(os.environ.get("MLSYS_CAMPAIGN_SEED", "1")))
    when = [day(10) + timedelta(days=i) for i in range(days)]
    for moment in when:
        for _ in range(max(1, tasks // 2)):
            kill = Fault("run.tasks.attempt", "kill", skip=rng.randrange(tasks), delay_s=rng.uniform(0.5, 6))
            twin.faults.add(kill)
        ended = run_dag(scene, moment)
        assert ended["state"] == "success", scene.airflow.tail()
    kills = sum(twin.faults.hits().values())
    again = [execution.retried_count for execution in scene.executions()]
    scene.assert_exact(*when)
    twin.faults.clear()
    same = ["id", "prediction", "prediction_probability", "model_name", "model_version", "run_id", "as_of"]
    disturbed = [scene.made(moment)[same] for moment in when]
    undisturbed(scene, when)
    for before, moment in zip(disturbed, when, strict=True):
        pd.testing.assert_frame_equal(before, scene.made(moment)[same])
    print(f"\ncatch-up: {days} days of {tasks} tasks, {kills} kills chosen, {sum(again)} attempts repeated in "
          f"{len(again)} executions: all slices identical to undisturbed ones")  # fmt: skip


def undisturbed(scene: Scene, when: list[datetime]) -> None:
    """Make the slices again, by nobody's killing."""
    job = PredictionJob(scene.model, scene.source, scene.output, ("id",))
    assert {outcome.state for outcome in backfill(job, when, again=True)} == {"done"}
