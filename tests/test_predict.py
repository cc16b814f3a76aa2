"""A prediction run publishes all of its rows or none, and doing it again changes nothing else."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression

from mlsys.bq import bq_get, bq_put
from mlsys.errors import (
    AccessError,
    InvalidNameError,
    NotFoundError,
    QueryError,
    RejectedRowsError,
    SchemaError,
    TableIdError,
)
from mlsys.local.faults import Fault
from mlsys.models import load_model, save_model
from mlsys.predict import PredictionJob, score
from mlsys.predict.job import parse_as_of
from scripts.predict import pull_predict_push

DAY = datetime(2026, 1, 31, tzinfo=UTC)
ROWS = pd.DataFrame({"id": range(8), "x": np.linspace(-2, 2, 8), "note": [f"row {i}" for i in range(8)]})


@pytest.fixture
def source(dataset):
    """A table of eight rows."""
    bq_put(ROWS, f"{dataset}.source")
    return f"{dataset}.source"


@pytest.fixture
def model(model_name):
    """A registered binary classifier."""
    return save_model(LogisticRegression().fit(ROWS[["x"]], ROWS["x"] > 0.3), model_name, ROWS[["x"]])


@pytest.fixture
def job(model, source, dataset):
    """A run that can be made."""
    return PredictionJob(model.ref.name, source, f"{dataset}.predictions", ("id",), as_of=DAY)


def dataset_of(job):
    return f"{job.output_table.project}.{job.output_table.dataset}"


def rows(job, order="id"):
    return bq_get(f"SELECT * FROM `{job.output_table}` ORDER BY {order}")


def test_run_scores_every_row_with_its_metadata(job, model):
    """Id, prediction, probability, and which model, run and moment they are from."""
    before = datetime.now(UTC)
    record = pull_predict_push(job)
    frame = rows(job)
    assert record.rows == len(frame) == 8
    direct = model.predict(pa.Table.from_pandas(ROWS))
    assert frame["id"].tolist() == list(range(8))
    assert frame["prediction"].tolist() == direct["prediction"].to_pylist()
    assert frame["prediction_probability"].tolist() == direct["prediction_probability"].to_pylist()
    for column, value in {
        "model_name": model.ref.name,
        "model_version": "v1",
        "run_id": record.run_id,
        "as_of": DAY,
    }.items():
        assert (frame[column] == value).all(), column
    assert before <= frame["prediction_timestamp"].iloc[0] <= datetime.now(UTC)
    assert frame["prediction_timestamp"].nunique() == 1


def test_output_table_is_partitioned_clustered_and_described(job, bigquery_client):
    """As the design says, without anybody asking."""
    pull_predict_push(job)
    table = bigquery_client.get_table(str(job.output_table))
    assert (table.time_partitioning.type_, table.time_partitioning.field) == ("DAY", "prediction_timestamp")
    assert table.clustering_fields == ["model_name", "model_version"]
    assert table.description
    assert all(field.description for field in table.schema)
    modes = {field.name: field.mode for field in table.schema}
    assert modes["run_id"] == modes["model_name"] == "REQUIRED"
    assert modes["prediction"] == "NULLABLE"


def test_rerun_replaces_its_own_rows_and_no_others(job, source, model):
    """The same as_of is the same run; another day and another model stay."""
    from dataclasses import replace

    yesterday = replace(job, as_of=DAY - timedelta(days=1))
    pull_predict_push(yesterday)
    first = pull_predict_push(job)
    bq_put(ROWS.head(3), source, "WRITE_TRUNCATE")
    second = pull_predict_push(job)
    frame = rows(job, "as_of, id")
    assert first.run_id == second.run_id
    assert frame.groupby("as_of").size().to_dict() == {yesterday.as_of: 8, DAY: 3}
    assert (frame[frame["as_of"] == DAY]["prediction_timestamp"] == second.prediction_timestamp).all()


def test_newer_version_replaces_the_slice_of_the_older(job, model):
    """A run is identified by its model, not by the version."""
    pull_predict_push(job)
    save_model(model.estimator, model.ref.name, ROWS[["x"]])
    pull_predict_push(job)
    assert rows(job)["model_version"].tolist() == ["v2"] * 8


def test_two_models_share_a_table(job, model_name):
    """The challenger's rows stand beside the champion's."""
    from dataclasses import replace

    other = f"{model_name}-b"
    save_model(LogisticRegression().fit(ROWS[["x"]], ROWS["x"] > 1), other, ROWS[["x"]])
    pull_predict_push(job)
    pull_predict_push(replace(job, model_name=other))
    assert rows(job).groupby("model_name").size().to_dict() == {job.model_name: 8, other: 8}


def test_query_with_as_of_reads_the_rows_of_that_moment(model, source, dataset):
    """@as_of is the run's moment."""
    query = f"SELECT id, x FROM `{source}` WHERE id < EXTRACT(DAY FROM @as_of) - 28"
    job = PredictionJob(model.ref.name, query, f"{dataset}.predictions", ("id",), as_of=DAY)
    assert pull_predict_push(job).rows == 3


def test_empty_input_succeeds_and_clears_its_slice(job, source):
    """No rows today is an answer."""
    pull_predict_push(job)
    bq_put(ROWS.head(0), source, "WRITE_TRUNCATE")
    assert pull_predict_push(job).rows == 0
    assert rows(job).empty


@pytest.mark.parametrize("labels", [list("abcabcab"), [0.5 * i for i in range(8)]], ids=["three-classes", "regression"])
def test_other_kinds_of_models(dataset, source, model_name, labels):
    """Text classes have the probability of the predicted class; a regression has none."""
    estimator = LinearRegression() if isinstance(labels[0], float) else LogisticRegression()
    save_model(estimator.fit(ROWS[["x"]], labels), model_name, ROWS[["x"]])
    job = PredictionJob(model_name, source, f"{dataset}.predictions", ("id", "note"), as_of=DAY)
    pull_predict_push(job)
    frame = rows(job)
    assert frame["note"].tolist() == ROWS["note"].tolist()
    assert frame["prediction"].tolist() == pytest.approx(estimator.predict(ROWS[["x"]]).tolist())
    if isinstance(labels[0], str):
        best = estimator.predict_proba(ROWS[["x"]]).max(axis=1)
        assert frame["prediction_probability"].tolist() == pytest.approx(best.tolist())
    else:
        assert "prediction_probability" not in frame


def test_many_batches_keep_every_row_once(model, dataset):
    """More rows than one batch holds."""
    count = 300_000
    bq_put(pd.DataFrame({"id": np.arange(count), "x": np.linspace(-1, 1, count)}), f"{dataset}.big")
    job = PredictionJob(model.ref.name, f"{dataset}.big", f"{dataset}.predictions", ("id",), as_of=DAY)
    assert pull_predict_push(job).rows == count
    summary = bq_get(f"SELECT COUNT(*) AS n, COUNT(DISTINCT id) AS ids, SUM(id) AS total FROM `{job.output_table}`")
    assert summary.iloc[0].tolist() == [count, count, count * (count - 1) // 2]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"model_name": "no-such-model"}, NotFoundError, "no model 'no-such-model' in the registry of local"),
        ({"model_version": "v7"}, NotFoundError, r"/v7 is not in the registry of local; it has v1"),
        ({"source": "shoufianesys.nowhere.rows"}, NotFoundError, "dataset shoufianesys.nowhere is not there"),
        ({"source": "SELECT nonsense FROM nowhere"}, QueryError, "BigQuery refused the query"),
        ({"source": "SELECT 1 AS id, 'a' AS x"}, SchemaError, "x is STRING, training had FLOAT64"),
        ({"source": "SELECT 1 AS id, 2 AS y"}, SchemaError, "x is missing"),
        ({"source": "SELECT 1 AS id, CAST(NULL AS FLOAT64) AS x"}, RejectedRowsError,
         "1 row cannot be scored, 0 tolerated; the first is id 1: x is NULL or NaN, training saw none"),
        ({"id_columns": ("key",)}, SchemaError, "no id column key in the source; it has id, x, note"),
        ({"max_bytes_billed": 1, "source": "SELECT * FROM `{source}`"}, QueryError, "billed .* bytes > 1 allowed"),
    ],
)  # fmt: skip
def test_refusals_leave_nothing_behind(job, source, bigquery_client, change, error, words):
    """Each is named, and nothing was created or written."""
    from dataclasses import replace

    if "source" in change:
        change = change | {"source": change["source"].replace("{source}", source)}
    dataset = source.rpartition(".")[0]
    with pytest.raises(error, match=words):
        pull_predict_push(replace(job, **change))
    left = {t.table_id for t in bigquery_client.list_tables(dataset)} - {"source"}
    if "predictions" in left:  # made before the first row was scored
        assert rows(job).empty
    assert not [name for name in left if "staging" in name]


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"model_name": "Bad Name"}, InvalidNameError, "model_name must be"),
        ({"output_table": "titanic"}, TableIdError, "table_id must be 'project.dataset.table', got 'titanic'"),
        ({"source": "titanic"}, TableIdError, "got 'titanic'"),
        ({"id_columns": ()}, InvalidNameError, "id_columns is empty"),
        ({"id_columns": ("id", "ID")}, InvalidNameError, "id_columns names a column twice, got id, ID"),
        ({"output_table": "p-1234.d.o$20260131"}, InvalidNameError, "must be a whole table"),
        ({"as_of": datetime(2026, 1, 1)}, InvalidNameError, "as_of needs a time zone"),
        ({"as_of": datetime.now(UTC) + timedelta(days=1)}, InvalidNameError, "as_of lies in the future"),
    ],
)
def test_malformed_jobs_are_refused_before_the_network(change, error, words):
    """What is wrong by its form."""
    fields = {"model_name": "m", "source": "p-1234.d.t", "output_table": "p-1234.d.o", "id_columns": ("id",)}
    with pytest.raises(error, match=words):
        PredictionJob(**fields | change)


def test_output_table_of_another_shape_is_refused(job, dataset):
    """Nothing is altered in a table that is somebody else's."""
    bq_put(pd.DataFrame({"id": ["a"], "prediction": [1.5]}), f"{dataset}.predictions")
    with pytest.raises(SchemaError, match=r"id is STRING, the predictions have INT64.*prediction is FLOAT64"):
        pull_predict_push(job)


def test_id_column_with_a_name_of_ours_is_refused(model, dataset):
    """A prediction column would be overwritten."""
    source = "SELECT 1 AS run_id, 0.5 AS x"
    with pytest.raises(SchemaError, match="a prediction adds run_id itself"):
        pull_predict_push(PredictionJob(model.ref.name, source, f"{dataset}.o", ("run_id",), as_of=DAY))


@pytest.mark.parametrize("statement", ["load", "merge"])
def test_failure_while_publishing_publishes_nothing(job, twin, bigquery_client, statement):
    """The rows of the run before stay until the new ones are complete, and the staging table is gone."""
    pull_predict_push(job)
    before = rows(job)
    # Jobs before: start, dry run, model, count of rows; then load, known timestamps, merge.
    skip = {"load": 4, "merge": 6}[statement]
    twin.faults.add(Fault("bigquery.jobs.insert", "error", status=403, skip=skip, message="no such right"))
    with pytest.raises(AccessError, match="no such right"):
        pull_predict_push(job)
    pd.testing.assert_frame_equal(rows(job), before)
    assert {t.table_id for t in bigquery_client.list_tables(dataset_of(job))} == {"source", "predictions"}


def test_staging_that_cannot_be_removed_is_left_to_expire(job, twin, bigquery_client, caplog):
    """The rows are published: a failed clean-up is no failed run."""
    twin.faults.add(Fault("bigquery.tables.delete", "error", status=403, times=None))
    assert pull_predict_push(job).rows == len(rows(job)) == 8
    assert "left to expire" in caplog.text
    (staging,) = [t for t in bigquery_client.list_tables(dataset_of(job)) if "staging" in t.table_id]
    assert staging.expires is not None


def test_executions_of_one_run_do_not_disturb_each_other(job):
    """Cloud Run may start a second one: each ends well, and the slice is there once."""
    with ThreadPoolExecutor(3) as pool:
        records = list(pool.map(lambda _: pull_predict_push(job), range(3)))
    assert {record.rows for record in records} == {8}
    assert rows(job)["id"].tolist() == list(range(8))


def test_score_is_pure(model):
    """A batch in, a table out: no client, no clock."""
    batch = pa.RecordBatch.from_pandas(ROWS)
    first, second = score(model, batch, ["id"]), score(model, batch, ["id"])
    assert first == second
    assert first.predictions.column_names == ["id", "prediction", "prediction_probability"]
    assert first.rejects.column_names == ["id", "reason"]
    assert score(load_model(model.ref.name), batch, ["id"]) == first


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-31", DAY),
        ("2026-01-31T00:00Z", DAY),
        ("2026-01-31T02:00+02:00", DAY),
        ("2026-01-30T19:00:00-05:00", DAY),
    ],
)
def test_as_of_is_read_in_utc(text, moment):
    """A date is its midnight in UTC; an offset is converted."""
    assert parse_as_of(text) == moment


def test_unreadable_as_of_is_refused():
    """With an example of what can be read."""
    with pytest.raises(InvalidNameError, match=r"as_of must be a date or time like 2026-01-31.*got 'yesterday'"):
        parse_as_of("yesterday")


def test_run_id_depends_on_what_identifies_a_run(job):
    """Model, environment, table and as_of; not version, source or the zone that as_of is written in."""
    from dataclasses import replace
    from datetime import timezone

    same = [replace(job, model_version="v1"), replace(job, source="a-1234.b.c"),
            replace(job, as_of=DAY.astimezone(timezone(timedelta(hours=5))))]  # fmt: skip
    other = [
        replace(job, model_name="other"),
        replace(job, output_table="p-1234.d.o"),
        replace(job, as_of=DAY - timedelta(1)),
    ]
    assert {j.run_id("dev") for j in same} == {job.run_id("dev")}
    assert len({j.run_id("dev") for j in [job, *other]} | {job.run_id("prod")}) == 5
