"""The twin's BigQuery over REST, through Google's own client."""

import base64
import contextlib
import datetime as dt
import io
import json
import threading
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal

import pandas as pd
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import requests
from google.api_core import exceptions
from google.cloud import bigquery
from google.cloud.bigquery import SchemaField
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from mlsys.local.bigquery.jobs import Job
from mlsys.local.faults import Fault

UTC = dt.UTC
TYPES = [
    ("INT64", 2**63 - 1),
    ("FLOAT64", 0.1),
    ("BOOL", True),
    ("STRING", "Zoë 🦆"),
    ("BYTES", b"\x00\xff"),
    ("NUMERIC", Decimal("-12345678901234567890123456789.123456789")),
    ("DATE", dt.date(1, 1, 1)),
    ("TIME", dt.time(23, 59, 59, 999999)),
    ("DATETIME", dt.datetime(9999, 12, 31, 23, 59, 59, 999999)),
    ("TIMESTAMP", dt.datetime(2024, 2, 29, 1, 2, 3, 456789, UTC)),
]


def rows_of(client, sql: str, **config) -> list[tuple]:
    """Return a query's rows over REST."""
    return [tuple(row) for row in client.query(sql, job_config=bigquery.QueryJobConfig(**config)).result()]


def load_parquet(client, table: pa.Table, table_id: str, **config):
    """Load an Arrow table as a Parquet file, and return the finished job."""
    file = io.BytesIO()
    pq.write_table(table, file)
    file.seek(0)
    config = bigquery.LoadJobConfig(source_format="PARQUET", **config)
    return client.load_table_from_file(file, table_id, job_config=config).result()


def load_text(client, text: str, table_id: str, source_format: str, schema=None, **config):
    """Load CSV or JSON, and return the finished job."""
    config = bigquery.LoadJobConfig(source_format=source_format, schema=schema, **config)
    return client.load_table_from_file(io.BytesIO(text.encode()), table_id, job_config=config).result()


@pytest.fixture
def people(bigquery_client, dataset) -> str:
    """A table of three people."""
    table_id = f"{dataset}.people"
    table = pa.table({"name": ["Ada", "Bob", None], "age": pa.array([36, 7, 52], pa.int64())})
    load_parquet(bigquery_client, table, table_id)
    return table_id


# Datasets


def test_a_dataset_lives_from_insert_to_delete(bigquery_client):
    path = f"{bigquery_client.project}.life_{uuid.uuid4().hex}"
    made = bigquery.Dataset(path)
    made.description, made.labels, made.location = "for tests", {"env": "local"}, "EU"
    bigquery_client.create_dataset(made)
    found = bigquery_client.get_dataset(path)
    assert (found.description, found.labels, found.location) == ("for tests", {"env": "local"}, "EU")
    assert path.split(".")[1] in {item.dataset_id for item in bigquery_client.list_datasets()}
    bigquery_client.delete_dataset(path)
    with pytest.raises(exceptions.NotFound, match="Not found: Dataset"):
        bigquery_client.get_dataset(path)


def test_a_second_insert_conflicts(bigquery_client, dataset):
    with pytest.raises(exceptions.Conflict, match="Already Exists: Dataset"):
        bigquery_client.create_dataset(dataset)
    assert bigquery_client.create_dataset(dataset, exists_ok=True).dataset_id == dataset.split(".")[1]


def test_a_name_that_differs_in_case_is_refused(bigquery_client, dataset):
    with pytest.raises(exceptions.BadRequest, match="not supported locally"):
        bigquery_client.create_dataset(dataset.replace("test_", "TEST_"))
    with pytest.raises(exceptions.NotFound):
        bigquery_client.get_dataset(dataset.replace("test_", "TEST_"))


def test_labels_are_patched_one_by_one(bigquery_client, dataset):
    found = bigquery_client.get_dataset(dataset)
    found.labels = {"a": "1", "b": "2"}
    found = bigquery_client.update_dataset(found, ["labels"])
    found.labels = {"a": None, "c": "3"}
    assert bigquery_client.update_dataset(found, ["labels"]).labels == {"b": "2", "c": "3"}


def test_a_change_of_an_old_copy_is_refused(bigquery_client, dataset):
    old, new = bigquery_client.get_dataset(dataset), bigquery_client.get_dataset(dataset)
    new.description = "first"
    bigquery_client.update_dataset(new, ["description"])
    old.description = "second"
    with pytest.raises(exceptions.PreconditionFailed):
        bigquery_client.update_dataset(old, ["description"])


def test_a_full_dataset_needs_delete_contents(bigquery_client, dataset, people):
    with pytest.raises(exceptions.BadRequest, match="still in use"):
        bigquery_client.delete_dataset(dataset)
    bigquery_client.delete_dataset(dataset, delete_contents=True)
    with pytest.raises(exceptions.NotFound):
        bigquery_client.get_table(people)


def test_projects_are_listed(bigquery_client, dataset):
    assert bigquery_client.project in {project.project_id for project in bigquery_client.list_projects()}


# Tables


def test_metadata_survives(bigquery_client, dataset):
    schema = [
        SchemaField("day", "DATE", "REQUIRED", description="when"),
        SchemaField("tags", "STRING", "REPEATED"),
        SchemaField("at", "RECORD", fields=[SchemaField("lat", "FLOAT"), SchemaField("names", "STRING", "REPEATED")]),
    ]
    table = bigquery.Table(f"{dataset}.t", schema=schema)
    table.time_partitioning = bigquery.TimePartitioning(field="day")
    table.clustering_fields = ["day"]
    table.description, table.labels, table.friendly_name = "a table", {"k": "v"}, "T"
    bigquery_client.create_table(table)
    found = bigquery_client.get_table(table)
    assert found.schema == schema
    assert (found.time_partitioning.field, found.time_partitioning.type_) == ("day", "DAY")
    assert (found.clustering_fields, found.description, found.labels) == (["day"], "a table", {"k": "v"})
    assert (found.num_rows, found.num_bytes, found.table_type) == (0, 0, "TABLE")
    (listed,) = bigquery_client.list_tables(dataset)
    assert (listed.table_id, listed.labels) == ("t", {"k": "v"})


@pytest.mark.parametrize("kind", ["BIGNUMERIC", "GEOGRAPHY", "INTERVAL"])
def test_types_that_are_not_exact_are_refused(bigquery_client, dataset, kind):
    with pytest.raises(exceptions.BadRequest, match=f"not supported locally: type {kind}"):
        bigquery_client.create_table(bigquery.Table(f"{dataset}.t", schema=[SchemaField("x", kind)]))


def test_columns_can_be_added_relaxed_and_described(bigquery_client, dataset):
    table_id = f"{dataset}.t"
    bigquery_client.create_table(bigquery.Table(table_id, schema=[SchemaField("a", "INTEGER", "REQUIRED")]))
    rows_of(bigquery_client, f"INSERT INTO `{table_id}` VALUES (1)")
    table = bigquery_client.get_table(table_id)
    table.schema = [SchemaField("a", "INTEGER", description="id"), SchemaField("b", "STRING", "REPEATED")]
    assert bigquery_client.update_table(table, ["schema"]).schema == table.schema
    rows_of(bigquery_client, f"INSERT INTO `{table_id}` (a) VALUES (NULL)")
    assert rows_of(bigquery_client, f"SELECT a, b FROM `{table_id}` ORDER BY a") == [(None, []), (1, [])]


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ([SchemaField("name", "STRING")], "Field age is missing in new schema"),
        ([SchemaField("name", "STRING"), SchemaField("age", "STRING")], "changed type from INTEGER to STRING"),
        ([SchemaField("name", "STRING", "REPEATED"), SchemaField("age", "INTEGER")], "changed mode"),
    ],
    ids=["removed", "retyped", "repeated"],
)
def test_other_schema_changes_are_refused(bigquery_client, people, schema, message):
    table = bigquery_client.get_table(people)
    table.schema = schema
    with pytest.raises(exceptions.BadRequest, match=message):
        bigquery_client.update_table(table, ["schema"])


def test_the_same_text_follows_its_tables(bigquery_client, dataset):
    """Translations are kept; not beyond a table's columns or types, a view's text, or what another name stands for."""

    def run(sql):
        bigquery_client.query_and_wait(sql)

    def what(sql):
        result = bigquery_client.query_and_wait(sql)
        return [(field.name, field.field_type) for field in result.schema], [tuple(row) for row in result]

    table, other, view = (f"`{dataset}.{name}`" for name in ("t", "o", "v"))
    run(f"CREATE TABLE {table} AS SELECT 1 AS a")
    run(f"CREATE TABLE {other} AS SELECT 'x' AS b")
    run(f"CREATE VIEW {view} AS SELECT * FROM {table}")
    for source in (table, view, table, view):
        assert what(f"SELECT * FROM {source} LIMIT 5") == ([("a", "INTEGER")], [(1,)])
    run(f"ALTER TABLE {table} ADD COLUMN c STRING")
    for source in (table, view):
        assert what(f"SELECT * FROM {source} LIMIT 5") == ([("a", "INTEGER"), ("c", "STRING")], [(1, None)])
    run(f"CREATE OR REPLACE VIEW {view} AS SELECT * FROM {other}")
    run(f"DROP TABLE {table}")
    assert what(f"SELECT * FROM {view} LIMIT 5") == ([("b", "STRING")], [("x",)])
    with pytest.raises(exceptions.NotFound):
        what(f"SELECT * FROM {table} LIMIT 5")
    run(f"CREATE TABLE {table} AS SELECT 1.5 AS a")
    assert what(f"SELECT * FROM {table} LIMIT 5") == ([("a", "FLOAT")], [(1.5,)])
    run(f"DROP TABLE {table}")
    run(f"CREATE VIEW {table} AS SELECT TRUE AS a")
    assert what(f"SELECT * FROM {table} LIMIT 5") == ([("a", "BOOLEAN")], [(True,)])
    in_columns = f"SELECT column_name FROM `{dataset}`.INFORMATION_SCHEMA.COLUMNS WHERE table_name = 'o'"
    assert what(in_columns)[1] == [("b",)]
    run(f"ALTER TABLE {other} ADD COLUMN d STRING")
    assert what(in_columns)[1] == [("b",), ("d",)]
    parameters = [("INT64", 1, "INTEGER"), ("STRING", "1", "STRING"), ("INT64", 2, "INTEGER")]
    for kind, value, found in parameters:  # the same text, of another type
        config = bigquery.QueryJobConfig(query_parameters=[bigquery.ScalarQueryParameter("p", kind, value)])
        result = bigquery_client.query_and_wait(f"SELECT @p AS p FROM {other}", job_config=config)
        assert (result.schema[0].field_type, [row.p for row in result]) == (found, [value])


def test_writers_see_what_they_have_changed_and_others_what_is_committed(bigquery_client, dataset):
    """A script's own transaction, and readers that ask for the table all the while it is made anew."""
    table = f"`{dataset}.t`"
    bigquery_client.query_and_wait(f"CREATE TABLE {table} AS SELECT 0 AS n")
    ended, odd = threading.Event(), []

    def read():
        last = 0
        while not ended.is_set():
            fields = bigquery_client.get_table(f"{dataset}.t").schema
            columns = [field.name for field in fields]
            number = int(columns[-1][1:]) if len(columns) > 1 else 0
            if number < last:  # what was there is back
                odd.append((last, columns))
            last = number

    with ThreadPoolExecutor(3) as pool:
        readers = [pool.submit(read) for _ in range(3)]
        for number in range(1, 15):
            bigquery_client.query_and_wait(f"ALTER TABLE {table} ADD COLUMN c{number} INT64")
            assert bigquery_client.get_table(f"{dataset}.t").schema[-1].name == f"c{number}"
            bigquery_client.query_and_wait(f"UPDATE {table} SET c{number} = 1 WHERE TRUE")
        ended.set()
        for reader in readers:
            reader.result()
    assert not odd
    assert rows_of(bigquery_client, f"SELECT c1 + c14 FROM {table}") == [(2,)]


def test_an_expired_table_is_gone(bigquery_client, people):
    table = bigquery_client.get_table(people)
    table.expires = dt.datetime.now(UTC) + dt.timedelta(seconds=0.5)
    bigquery_client.update_table(table, ["expires"])
    time.sleep(0.6)
    with pytest.raises(exceptions.NotFound):
        bigquery_client.get_table(people)
    bigquery_client.create_table(bigquery.Table(people, schema=[SchemaField("x", "INTEGER")]))


def test_a_table_without_columns_takes_those_of_its_first_load(bigquery_client, dataset):
    bigquery_client.create_table(bigquery.Table(f"{dataset}.empty"))
    with pytest.raises(exceptions.BadRequest, match="does not have a schema"):
        rows_of(bigquery_client, f"SELECT * FROM `{dataset}.empty`")
    load_parquet(bigquery_client, pa.table({"x": [1]}), f"{dataset}.empty")
    assert rows_of(bigquery_client, f"SELECT * FROM `{dataset}.empty`") == [(1,)]


def test_views_answer_and_cannot_be_listed(bigquery_client, dataset, people):
    view = bigquery.Table(f"{dataset}.adults")
    view.view_query = f"SELECT name FROM `{people}` WHERE age >= 18 AND name IS NOT NULL"
    made = bigquery_client.create_table(view)
    assert (made.table_type, [f.name for f in made.schema]) == ("VIEW", ["name"])
    job = bigquery_client.query(f"SELECT * FROM `{dataset}.adults`")
    assert [tuple(row) for row in job.result()] == [("Ada",)]
    assert job.total_bytes_processed == bigquery_client.get_table(people).num_bytes
    with pytest.raises(exceptions.BadRequest, match="VIEW"):
        list(bigquery_client.list_rows(view, selected_fields=made.schema))


def test_sizes_are_the_documented_ones(bigquery_client, dataset):
    """Bytes: 8 for an INT64, 2 and the text for a STRING, 16 for a NUMERIC, nothing for a NULL, sums for arrays."""
    table = pa.table({
        "i": pa.array([1, None]), "s": ["é", None], "n": pa.array([Decimal(1), None], pa.decimal128(9, 2)),
        "a": pa.array([[1, 2], []]), "r": pa.array([{"x": 1, "y": "ab"}, None]),
    })  # fmt: skip
    options = bigquery.ParquetOptions()
    options.enable_list_inference = True
    load_parquet(bigquery_client, table, f"{dataset}.t", parquet_options=options)
    assert bigquery_client.get_table(f"{dataset}.t").num_bytes == 8 + 4 + 16 + 16 + 12
    rows_of(bigquery_client, f"INSERT INTO `{dataset}.t` (i) VALUES (1)")
    assert bigquery_client.get_table(f"{dataset}.t").num_bytes == 56 + 8


# Queries


def test_a_result_can_be_read_three_ways(bigquery_client, read_client):
    job = bigquery_client.query("SELECT x, x * x AS y FROM UNNEST([1, 2, 3]) AS x ORDER BY x")
    expected = [(1, 1), (2, 4), (3, 9)]
    assert [tuple(row) for row in job.result()] == expected
    assert [tuple(row) for row in bigquery_client.list_rows(bigquery_client.get_table(job.destination))] == expected
    arrow = job.result().to_arrow(bqstorage_client=read_client)
    assert list(zip(*arrow.to_pydict().values(), strict=True)) == expected
    assert job.destination.dataset_id.startswith("_")


def test_results_come_in_pages(bigquery_client):
    sql = "SELECT x FROM UNNEST(GENERATE_ARRAY(1, 25)) AS x ORDER BY x"
    pages = [len(list(page)) for page in bigquery_client.query(sql).result(page_size=10).pages]
    assert pages == [10, 10, 5]
    assert [r.x for r in bigquery_client.query(sql).result(start_index=22)] == [23, 24, 25]
    assert len(list(bigquery_client.query(sql).result(max_results=7))) == 7
    assert [r.x for r in bigquery_client.query_and_wait(sql, page_size=10)] == list(range(1, 26))


def test_table_rows_come_in_pages_of_one_state(bigquery_client, people):
    table = bigquery_client.get_table(people)
    pages = bigquery_client.list_rows(table, page_size=2, selected_fields=table.schema[1:]).pages
    assert [tuple(row) for row in next(pages)] == [(36,), (7,)]
    rows_of(bigquery_client, f"DELETE FROM `{people}` WHERE TRUE")
    assert [tuple(row) for row in next(pages)] == [(52,)]


@pytest.mark.parametrize(("kind", "value"), TYPES, ids=[kind for kind, _ in TYPES])
def test_parameters_of_every_type_come_back(bigquery_client, kind, value):
    scalar, null = bigquery.ScalarQueryParameter("x", kind, value), bigquery.ScalarQueryParameter("n", kind, None)
    array = bigquery.ArrayQueryParameter("a", kind, [value, value])
    struct = bigquery.StructQueryParameter("s", bigquery.ScalarQueryParameter("inner", kind, value))
    sql = "SELECT @x AS x, @n AS n, @a AS a, @s AS s"
    ((x, n, a, s),) = rows_of(bigquery_client, sql, query_parameters=[scalar, null, array, struct])
    assert (x, n, a, s) == (value, None, [value, value], {"inner": value})


def test_positional_parameters_and_a_default_dataset(bigquery_client, dataset, people):
    parameters = [bigquery.ScalarQueryParameter(None, "INT64", n) for n in (7, 36)]
    sql = "SELECT name FROM people WHERE age IN (?, ?) ORDER BY name"
    assert rows_of(bigquery_client, sql, default_dataset=dataset, query_parameters=parameters) == [
        ("Ada",),
        ("Bob",),
    ]


def test_nested_and_special_values_over_rest(bigquery_client):
    sql = """SELECT [STRUCT(1 AS a, ['x', 'y'] AS b)] AS r, CAST('nan' AS FLOAT64) AS f, CAST('-inf' AS FLOAT64) AS g,
             NUMERIC '1.50' AS n, JSON '{"k": [1, null]}' AS j, CAST(NULL AS STRUCT<a INT64>) AS z"""
    ((r, f, g, n, j, z),) = rows_of(bigquery_client, sql)
    assert (r, n, j, z) == ([{"a": 1, "b": ["x", "y"]}], Decimal("1.5"), {"k": [1, None]}, None)
    assert str(f) == "nan"
    assert g == float("-inf")


@pytest.mark.parametrize("disposition", ["WRITE_TRUNCATE", "WRITE_APPEND", "WRITE_EMPTY"])
def test_a_destination_table_is_written_by_its_disposition(bigquery_client, people, disposition):
    def write():
        config = {"destination": people, "write_disposition": disposition}
        return rows_of(bigquery_client, "SELECT 'Eve' AS name, 1 AS age", **config)

    if disposition == "WRITE_EMPTY":
        with pytest.raises(exceptions.Conflict, match="Already Exists: Table"):
            write()
        return
    assert write() == [("Eve", 1)]
    assert bigquery_client.get_table(people).num_rows == (1 if disposition == "WRITE_TRUNCATE" else 4)


def test_a_destination_can_forbid_its_creation(bigquery_client, dataset):
    with pytest.raises(exceptions.NotFound, match="Not found: Table"):
        rows_of(bigquery_client, "SELECT 1 AS x", destination=f"{dataset}.no", create_disposition="CREATE_NEVER")


def test_dry_run_says_schema_and_bytes_and_does_nothing(bigquery_client, dataset, people):
    config = bigquery.QueryJobConfig(dry_run=True)
    job = bigquery_client.query(f"SELECT age FROM `{people}`", job_config=config)
    assert job.total_bytes_processed == 3 * 8 + 5 + 5  # over all columns of the table
    assert [field.name for field in job.schema] == ["age"]
    with pytest.raises(exceptions.NotFound):
        bigquery_client.get_job(job.job_id)
    bigquery_client.query(f"CREATE TABLE `{dataset}.never` (x INT64)", job_config=config)
    assert [t.table_id for t in bigquery_client.list_tables(dataset)] == ["people"]


def test_a_budget_refuses_before_it_runs(bigquery_client, people):
    message = "Query exceeded limit for bytes billed: 1000. 10485760 or higher required."
    with pytest.raises(Exception, match=message):
        rows_of(bigquery_client, f"SELECT * FROM `{people}`", maximum_bytes_billed=1000)
    assert len(rows_of(bigquery_client, f"SELECT * FROM `{people}`", maximum_bytes_billed=10485760)) == 3


def test_legacy_sql_is_refused(bigquery_client):
    with pytest.raises(exceptions.BadRequest, match="not supported locally: legacy SQL"):
        rows_of(bigquery_client, "SELECT 1", use_legacy_sql=True)


@pytest.mark.parametrize(
    ("sql", "error", "message"),
    [
        ("SELEC 1", exceptions.BadRequest, "Syntax error"),
        ("SELECT * FROM `{dataset}.nothing`", exceptions.NotFound, "Not found: Table"),
        ("SELECT 1 / 0", exceptions.BadRequest, "division by zero"),
        ("SELECT 1 / (x - 300000) FROM UNNEST(GENERATE_ARRAY(1, 300000)) AS x", exceptions.BadRequest, "by zero"),
        ("", exceptions.BadRequest, "Required parameter is missing: query"),
    ],
    ids=["syntax", "table", "runtime", "late", "empty"],
)  # fmt: skip
def test_errors_are_answered_by_both_apis(bigquery_client, dataset, sql, error, message):
    sql = sql.format(dataset=dataset)
    with pytest.raises(error, match=message):
        bigquery_client.query(sql, retry=None, job_retry=None).result()
    with pytest.raises(error, match=message):
        bigquery_client.query_and_wait(sql, retry=None, job_retry=None)


def test_a_failed_job_is_inserted_and_says_why(bigquery_client):
    job = bigquery_client.query("SELECT * FROM nowhere.nothing", job_id=f"failed-{uuid.uuid4()}")
    found = bigquery_client.get_job(job.job_id)
    assert (found.state, found.error_result["reason"]) == ("DONE", "notFound")


def test_dml_counts_its_rows(bigquery_client, people):
    def affected(sql):
        job = bigquery_client.query(sql.format(t=people))
        job.result()
        return job.statement_type, job.num_dml_affected_rows

    assert affected("INSERT INTO `{t}` VALUES ('Cy', 1), ('Di', 2)") == ("INSERT", 2)
    assert affected("UPDATE `{t}` SET age = age + 1 WHERE age < 5") == ("UPDATE", 2)
    assert affected("DELETE FROM `{t}` WHERE name = 'Cy'") == ("DELETE", 1)
    merge = """MERGE `{t}` t USING (SELECT 'Ada' AS name, 37 AS age UNION ALL SELECT 'Flo', 1) s ON t.name = s.name
               WHEN MATCHED THEN UPDATE SET age = s.age WHEN NOT MATCHED THEN INSERT (name, age) VALUES (name, age)"""
    assert affected(merge) == ("MERGE", 2)
    assert bigquery_client.get_table(people).num_rows == 5


def test_ddl_says_what_it_did(bigquery_client, dataset):
    def performed(sql):
        job = bigquery_client.query(sql.format(d=dataset))
        job.result()
        return job.ddl_operation_performed, job.ddl_target_table.table_id

    assert performed("CREATE TABLE `{d}.a` AS SELECT 1 AS x") == ("CREATE", "a")
    assert performed("CREATE TABLE IF NOT EXISTS `{d}.a` (y INT64)") == ("SKIP", "a")
    assert performed("CREATE OR REPLACE TABLE `{d}.a` (y INT64)") == ("REPLACE", "a")
    assert performed("ALTER TABLE `{d}.a` ADD COLUMN z STRING") == ("ALTER", "a")
    assert performed("CREATE VIEW `{d}.v` AS SELECT y FROM `{d}.a`") == ("CREATE", "v")
    assert performed("DROP VIEW `{d}.v`") == ("DROP", "v")
    assert performed("DROP TABLE IF EXISTS `{d}.v`") == ("SKIP", "v")
    with pytest.raises(exceptions.Conflict, match="Already Exists: Table"):
        rows_of(bigquery_client, f"CREATE TABLE `{dataset}.a` (y INT64)")


def test_null_arrays_are_stored_empty(bigquery_client, dataset):
    rows_of(bigquery_client, f"CREATE TABLE `{dataset}.t` (a ARRAY<INT64>, s STRUCT<b ARRAY<INT64>>)")
    rows_of(bigquery_client, f"INSERT INTO `{dataset}.t` VALUES (NULL, STRUCT(CAST(NULL AS ARRAY<INT64>)))")
    assert rows_of(bigquery_client, f"SELECT a IS NULL, ARRAY_LENGTH(s.b) FROM `{dataset}.t`") == [(False, 0)]


def test_information_schema_describes_the_tables(bigquery_client, dataset):
    rows_of(bigquery_client, f"""CREATE TABLE `{dataset}.t` (
                                     d DATE NOT NULL, s ARRAY<STRUCT<a INT64, b STRING>>, k STRING)
                                 PARTITION BY d CLUSTER BY k""")  # fmt: skip
    columns = f"""SELECT column_name, ordinal_position, is_nullable, data_type, is_partitioning_column,
                  clustering_ordinal_position FROM `{dataset}`.INFORMATION_SCHEMA.COLUMNS ORDER BY 2"""
    assert rows_of(bigquery_client, columns) == [
        ("d", 1, "NO", "DATE", "YES", None),
        ("s", 2, "YES", "ARRAY<STRUCT<a INT64, b STRING>>", "NO", None),
        ("k", 3, "YES", "STRING", "NO", 1),
    ]
    tables = f"SELECT table_name, table_type FROM `{dataset}`.INFORMATION_SCHEMA.TABLES"
    assert rows_of(bigquery_client, tables) == [("t", "BASE TABLE")]


# Scripts


def test_the_last_statement_answers_and_children_are_listed(bigquery_client, dataset):
    sql = "CREATE TABLE t AS SELECT 1 AS x; INSERT INTO t VALUES (2); SELECT SUM(x) FROM t"
    job = bigquery_client.query(sql, job_config=bigquery.QueryJobConfig(default_dataset=dataset))
    assert [tuple(row) for row in job.result()] == [(3,)]
    assert (job.statement_type, job.num_child_jobs) == ("SCRIPT", 3)
    children = [child.statement_type for child in bigquery_client.list_jobs(parent_job=job)]
    assert children == ["SELECT", "INSERT", "CREATE_TABLE_AS_SELECT"]
    assert job.job_id in {j.job_id for j in bigquery_client.list_jobs(max_results=5)}


def test_a_failed_transaction_leaves_nothing(bigquery_client, people):
    sql = "BEGIN TRANSACTION; DELETE FROM `{t}` WHERE TRUE; SELECT 1 / 0; COMMIT TRANSACTION"
    with pytest.raises(exceptions.BadRequest, match="division by zero"):
        rows_of(bigquery_client, sql.format(t=people))
    assert bigquery_client.get_table(people).num_rows == 3


def test_a_committed_transaction_is_there_and_a_rolled_back_one_is_not(bigquery_client, people):
    sql = "BEGIN TRANSACTION; DELETE FROM `{t}` WHERE age = 7; INSERT INTO `{t}` VALUES ('Eve', 1); {end}"
    rows_of(bigquery_client, sql.format(t=people, end="ROLLBACK TRANSACTION"))
    assert ("Bob", 7) in rows_of(bigquery_client, f"SELECT * FROM `{people}`")
    rows_of(bigquery_client, sql.format(t=people, end="COMMIT TRANSACTION"))
    assert ("Eve", 1) in rows_of(bigquery_client, f"SELECT * FROM `{people}`")


def test_statements_before_the_error_stay_done(bigquery_client, people):
    with pytest.raises(exceptions.NotFound):
        rows_of(bigquery_client, f"DELETE FROM `{people}` WHERE age = 7; SELECT * FROM `{people}_not`")
    assert bigquery_client.get_table(people).num_rows == 2


# Loads


def test_dispositions(bigquery_client, dataset):
    table_id = f"{dataset}.t"

    def load(rows, disposition, **config):
        load_parquet(bigquery_client, pa.table({"x": rows}), table_id, write_disposition=disposition, **config)
        return bigquery_client.get_table(table_id).num_rows

    assert load([1], "WRITE_EMPTY") == 1
    with pytest.raises(exceptions.Conflict, match="Already Exists: Table"):
        load([1], "WRITE_EMPTY")
    assert load([2, 3], "WRITE_APPEND") == 3
    assert load([4], "WRITE_TRUNCATE_DATA") == 1
    assert load([5, 6], "WRITE_TRUNCATE") == 2
    table_id = f"{dataset}.other"
    with pytest.raises(exceptions.NotFound, match="Not found: Table"):
        load([1], "WRITE_APPEND", create_disposition="CREATE_NEVER")


def test_truncate_takes_the_new_schema_and_truncate_data_keeps_it(bigquery_client, people):
    with pytest.raises(exceptions.BadRequest, match="Cannot add fields"):
        load_parquet(bigquery_client, pa.table({"z": [1.5]}), people, write_disposition="WRITE_TRUNCATE_DATA")
    load_parquet(bigquery_client, pa.table({"z": [1.5]}), people, write_disposition="WRITE_TRUNCATE")
    assert [field.name for field in bigquery_client.get_table(people).schema] == ["z"]


def test_changed_types_are_refused_in_bigquerys_words(bigquery_client, people):
    path = people.replace(".", ":", 1)
    message = f"Provided Schema does not match Table {path}. Field age has changed type from INTEGER to STRING"
    with pytest.raises(exceptions.BadRequest, match=message):
        load_parquet(bigquery_client, pa.table({"name": ["x"], "age": ["y"]}), people)
    schema = [SchemaField("name", "STRING"), SchemaField("age", "INT64")]
    with pytest.raises(exceptions.BadRequest, match="Parquet column 'age' has type STRING which does not match"):
        load_parquet(bigquery_client, pa.table({"name": ["x"], "age": ["y"]}), people, schema=schema)
    assert bigquery_client.get_table(people).num_rows == 3


def test_columns_are_added_and_relaxed_only_when_allowed(bigquery_client, dataset):
    table_id = f"{dataset}.t"
    bigquery_client.create_table(bigquery.Table(table_id, schema=[SchemaField("a", "INT64", "REQUIRED")]))
    table = pa.table({"a": [None, 1], "b": ["x", "y"]})
    with pytest.raises(exceptions.BadRequest, match="changed mode from REQUIRED to NULLABLE"):
        load_parquet(bigquery_client, table, table_id)
    with pytest.raises(exceptions.BadRequest, match="Cannot add fields"):
        load_parquet(bigquery_client, table, table_id, schema_update_options=["ALLOW_FIELD_RELAXATION"])
    options = ["ALLOW_FIELD_RELAXATION", "ALLOW_FIELD_ADDITION"]
    load_parquet(bigquery_client, table, table_id, schema_update_options=options)
    assert [(f.name, f.mode) for f in bigquery_client.get_table(table_id).schema] == [
        ("a", "NULLABLE"),
        ("b", "NULLABLE"),
    ]


def test_a_null_in_a_required_column_leaves_nothing(bigquery_client, dataset):
    schema = [SchemaField("a", "INT64", "REQUIRED")]
    with pytest.raises(exceptions.BadRequest, match="Only optional fields can be set to NULL"):
        load_parquet(bigquery_client, pa.table({"a": pa.array([1, None])}), f"{dataset}.t", schema=schema)
    with pytest.raises(exceptions.NotFound):
        bigquery_client.get_table(f"{dataset}.t")


def test_parquet_lists_need_list_inference(bigquery_client, dataset):
    table = pa.table({"a": pa.array([[1], None], pa.list_(pa.int64()))})
    with pytest.raises(exceptions.BadRequest, match="enable_list_inference"):
        load_parquet(bigquery_client, table, f"{dataset}.t")
    options = bigquery.ParquetOptions()
    options.enable_list_inference = True
    load_parquet(bigquery_client, table, f"{dataset}.t", parquet_options=options)
    assert rows_of(bigquery_client, f"SELECT a FROM `{dataset}.t`") == [([1],), ([],)]
    with pytest.raises(exceptions.BadRequest, match="NULL in an array"):
        load_parquet(bigquery_client, pa.table({"a": [[None, 1]]}), f"{dataset}.t", parquet_options=options)


@pytest.mark.parametrize(
    ("array", "kind"),
    [
        (pa.array([1], pa.int8()), "INTEGER"),
        (pa.array([1], pa.uint32()), "INTEGER"),
        (pa.array([1.5], pa.float32()), "FLOAT"),
        (pa.array(["a"]).dictionary_encode(), "STRING"),
        (pa.array([b"a"], pa.binary(1)), "BYTES"),
        (pa.array([0], pa.timestamp("ms")), "DATETIME"),
        (pa.array([0], pa.timestamp("ns", "Europe/Paris")), "TIMESTAMP"),
        (pa.array([Decimal("1.5")], pa.decimal128(5, 2)), "NUMERIC"),
        (pa.array([0], pa.time32("ms")), "TIME"),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else None,
)
def test_parquet_types_describe_themselves(bigquery_client, dataset, array, kind):
    load_parquet(bigquery_client, pa.table({"x": array}), f"{dataset}.t")
    table = bigquery_client.get_table(f"{dataset}.t")
    assert (table.schema[0].field_type, table.num_rows) == (kind, 1)


@pytest.mark.parametrize(
    "array",
    [pa.array([1], pa.uint64()), pa.array([1], pa.timestamp("ns")), pa.array([Decimal("1e-10")])],
    ids=["uint64", "nanoseconds", "bignumeric"],
)
def test_parquet_values_that_would_lose_are_refused(bigquery_client, dataset, array):
    with pytest.raises(exceptions.BadRequest, match=r"not supported locally|lose data"):
        load_parquet(bigquery_client, pa.table({"x": array}), f"{dataset}.t")


def test_a_job_is_done_when_its_effect_can_be_seen():
    """Not when its record is written: the commit of a wide table takes seconds."""
    job = Job("p", {"configuration": {"load": {}}})
    assert job.done()["status"] == {"state": "DONE"}
    assert job.record()["status"] == {"state": "RUNNING"}


def test_parquet_holds_no_json(bigquery_client, dataset):
    """BigQuery refuses JSON columns in Parquet, whether the schema or the file calls them so."""
    schema = [SchemaField("x", "JSON")]
    with pytest.raises(exceptions.BadRequest, match="Unsupported field type: JSON"):
        load_parquet(bigquery_client, pa.table({"x": ["1"]}), f"{dataset}.t", schema=schema)
    with pytest.raises(exceptions.BadRequest, match="not supported locally: Parquet column x"):
        load_parquet(bigquery_client, pa.table({"x": pa.array(["1"], pa.json_())}), f"{dataset}.t")


def test_a_view_is_expanded_in_every_query(bigquery_client, dataset):
    table, view, outer = (f"{dataset}.{name}" for name in ("base", "inside", "outside"))
    rows_of(bigquery_client, f"CREATE TABLE {table} AS SELECT 1 AS a")
    rows_of(bigquery_client, f"CREATE VIEW {view} AS SELECT * FROM {table}")
    config = bigquery.QueryJobConfig(default_dataset=dataset)
    bigquery_client.query(f"CREATE VIEW {outer} AS SELECT i.* FROM inside i", job_config=config).result()
    rows_of(bigquery_client, f"CREATE OR REPLACE TABLE {table} AS SELECT 2 AS a")
    assert rows_of(bigquery_client, f"SELECT x.a FROM {outer} AS x JOIN {view} AS y USING (a)") == [(2,)]
    rows_of(bigquery_client, f"ALTER TABLE {table} ADD COLUMN b INT64")
    for name in (view, outer):
        assert rows_of(bigquery_client, f"SELECT * FROM {name}") == [(2, None)]
    with pytest.raises(exceptions.BadRequest, match="is a view"):
        rows_of(bigquery_client, f"DELETE FROM {view} WHERE TRUE")
    rows_of(bigquery_client, f"CREATE OR REPLACE VIEW {view} AS SELECT * FROM {outer}")
    with pytest.raises(exceptions.BadRequest, match="nested so deeply"):
        rows_of(bigquery_client, f"SELECT * FROM {view}")


def test_select_star_answers_what_the_table_holds_now(bigquery_client, dataset):
    """Rows that were frozen for an earlier reader serve a later one only while nothing has changed."""
    table = f"{dataset}.t"
    rows_of(bigquery_client, f"CREATE TABLE {table} (a INT64 NOT NULL OPTIONS (description='x'))")
    select = f"SELECT * FROM {table}"
    for number in (1, 2):
        rows_of(bigquery_client, f"INSERT INTO {table} VALUES ({number})")
        assert len(rows_of(bigquery_client, select)) == len(rows_of(bigquery_client, select)) == number
    script = f"BEGIN TRANSACTION; DELETE FROM {table} WHERE a = 1; {select}; {{end}} TRANSACTION"
    assert rows_of(bigquery_client, script.format(end="ROLLBACK")) == [(2,)]
    assert sorted(rows_of(bigquery_client, select)) == [(1,), (2,)]
    bigquery_client.query(select, job_config=bigquery.QueryJobConfig(destination=f"{dataset}.copy")).result()
    (field,) = bigquery_client.get_table(f"{dataset}.copy").schema
    assert (field.mode, field.description) == ("NULLABLE", None)


@pytest.mark.parametrize(
    ("kind", "columns"), [("FLOAT64", "x"), ("ARRAY<INT64>", "x"), ("INT64", "x, x")], ids=["float", "array", "twice"]
)
def test_clustering_is_checked(bigquery_client, dataset, kind, columns):
    with pytest.raises(exceptions.BadRequest, match=r"[Cc]lustering"):
        rows_of(bigquery_client, f"CREATE TABLE {dataset}.t (x {kind}) CLUSTER BY {columns}")


def test_flexible_names_hold_inside_records(bigquery_client, dataset):
    rows_of(bigquery_client, f"CREATE TABLE {dataset}.t AS SELECT STRUCT(1 AS `it's`, ['x'] AS `b c`) AS `50% & more`")
    assert rows_of(bigquery_client, f"SELECT `50% & more`.`it's` FROM {dataset}.t") == [(1,)]
    assert bigquery_client.get_table(f"{dataset}.t").num_bytes == 8 + 3
    with pytest.raises(exceptions.BadRequest, match="Invalid field name"):
        rows_of(bigquery_client, f"CREATE TABLE {dataset}.u AS SELECT 1 AS `a.b`")


@pytest.mark.parametrize(
    ("kind", "value"),
    [("INT64", "٣"), ("NUMERIC", "1_0"), ("TIMESTAMP", "2024-01-01 00:00:00+15:00")],
)
def test_values_that_only_python_reads_are_refused(bigquery_client, kind, value):
    config = bigquery.QueryJobConfig(query_parameters=[bigquery.ScalarQueryParameter("x", kind, value)])
    with pytest.raises(exceptions.BadRequest, match="Invalid value"):
        list(bigquery_client.query_and_wait("SELECT @x", job_config=config))


def test_a_csv_timestamp_may_be_a_date(bigquery_client, dataset):
    load_text(bigquery_client, "2024-01-02\n", f"{dataset}.t", "CSV", [SchemaField("x", "TIMESTAMP")])
    assert rows_of(bigquery_client, f"SELECT DATE(x) FROM {dataset}.t") == [(dt.date(2024, 1, 2),)]


def test_json_is_kept_as_bigquery_keeps_it(bigquery_client, dataset):
    """Keys in order, the first of equal ones."""
    schema = [SchemaField("j", "JSON")]
    load_text(bigquery_client, '{"j": {"b": 1.0, "a": [2]}}\n', f"{dataset}.t", "NEWLINE_DELIMITED_JSON", schema)
    rows = bigquery_client.query_and_wait(f"SELECT j FROM {dataset}.t").to_arrow(create_bqstorage_client=False)
    assert rows["j"].to_pylist() == ['{"a":[2],"b":1.0}']


def test_a_query_too_large_is_refused(bigquery_client):
    with pytest.raises(exceptions.BadRequest, match="The query is too large"):
        rows_of(bigquery_client, f"SELECT '{'x' * (1 << 20)}'")
    with pytest.raises(exceptions.BadRequest, match="Too many columns: 10001"):
        rows_of(bigquery_client, f"SELECT {', '.join(f'1 AS c{n}' for n in range(10_001))}")
    with pytest.raises(exceptions.BadRequest, match="nested so deeply"):
        rows_of(bigquery_client, f"SELECT {'GREATEST(' * 20}1.5{', 2.5)' * 20}")


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b"null", b"\xff", b'{"jobReference": 5}', b'{"labels": 5}', b'{"rows": [5]}']
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "jobs"), ("POST", "queries"), ("POST", "datasets"), ("PATCH", "datasets/{}"),
        ("POST", "datasets/{}/tables"), ("PATCH", "datasets/{}/tables/t"), ("POST", "datasets/{}/tables/t/insertAll"),
    ],
)  # fmt: skip
def test_a_malformed_body_is_the_callers_fault(bigquery_client, dataset, method, path, body):
    rows_of(bigquery_client, f"CREATE TABLE IF NOT EXISTS {dataset}.t (x INT64)")
    base = f"{bigquery_client._connection.API_BASE_URL}/bigquery/v2/projects/{bigquery_client.project}"
    assert requests.request(method, f"{base}/{path.format(dataset)}", data=body, timeout=10).status_code < 500


def test_a_dataframe_loads(bigquery_client, dataset):
    frame = pd.DataFrame(
        {"i": pd.array([1, None], "Int64"), "s": ["a", None], "t": pd.to_datetime(["2024-01-01", None], utc=True)}
    )
    bigquery_client.load_table_from_dataframe(frame, f"{dataset}.t").result()
    assert [f.field_type for f in bigquery_client.get_table(f"{dataset}.t").schema] == [
        "INTEGER",
        "STRING",
        "TIMESTAMP",
    ]


def test_csv(bigquery_client, dataset):
    schema = [
        SchemaField(name, kind)
        for name, kind in zip("isfbdt", ["INT64", "STRING", "FLOAT64", "BOOL", "DATE", "TIMESTAMP"], strict=True)
    ]
    text = 'i;s;f;b;d;t\n1;"a;""b""\nc";1.5;yes;2024-01-31;2024-01-31 10:00:00+02:00\n;"";;;;\n'
    options = {"skip_leading_rows": 1, "field_delimiter": ";", "allow_quoted_newlines": True}
    load_text(bigquery_client, text, f"{dataset}.t", "CSV", schema, **options)
    assert rows_of(bigquery_client, f"SELECT * FROM `{dataset}.t` ORDER BY i NULLS LAST") == [
        (1, 'a;"b"\nc', 1.5, True, dt.date(2024, 1, 31), dt.datetime(2024, 1, 31, 8, tzinfo=UTC)),
        (None, "", None, None, None, None),
    ]
    with pytest.raises(exceptions.BadRequest, match="Cannot convert value to int64"):
        load_text(bigquery_client, "x;a;1;true;2024-01-01;", f"{dataset}.t", "CSV", schema, field_delimiter=";")
    with pytest.raises(exceptions.BadRequest, match="not supported locally: autodetect"):
        load_text(bigquery_client, "1,2", f"{dataset}.u", "CSV", autodetect=True)


def test_json(bigquery_client, dataset):
    schema = [
        SchemaField("n", "NUMERIC"), SchemaField("j", "JSON"), SchemaField("b", "BYTES"),
        SchemaField("r", "RECORD", "REPEATED",
                    fields=[SchemaField("x", "INT64", "REQUIRED"), SchemaField("y", "STRING")]),
    ]  # fmt: skip
    line = '{"n": 0.123456789, "j": {"a": [1, null]}, "b": "AP8=", "r": [{"x": 1}, {"x": "2", "y": "z"}]}'
    load_text(bigquery_client, line + "\n\n{}\n", f"{dataset}.t", "NEWLINE_DELIMITED_JSON", schema)
    assert rows_of(bigquery_client, f"SELECT * FROM `{dataset}.t` ORDER BY n") == [
        (None, None, None, []),
        (Decimal("0.123456789"), {"a": [1, None]}, b"\x00\xff", [{"x": 1, "y": None}, {"x": 2, "y": "z"}]),
    ]
    bigquery_client.load_table_from_json([{"n": "1.5"}], f"{dataset}.t").result()
    for bad, message in (
        ('{"q": 1}', "no such field: q"),
        ('{"r": [{}]}', "Missing required field: r.x"),
        ("[", "row 1"),
    ):
        with pytest.raises(exceptions.BadRequest, match=message):
            load_text(bigquery_client, bad, f"{dataset}.t", "NEWLINE_DELIMITED_JSON")
    load_text(bigquery_client, '{"q": 1}', f"{dataset}.t", "NEWLINE_DELIMITED_JSON", ignore_unknown_values=True)
    assert bigquery_client.get_table(f"{dataset}.t").num_rows == 4


def test_a_partition_decorator_replaces_one_day(bigquery_client, dataset):
    table_id, inside, outside = f"{dataset}.t", dt.datetime(2024, 1, 31, 23), dt.datetime(2024, 2, 1)
    rows = pa.table({"t": pa.array([inside, inside, outside], pa.timestamp("us", "UTC"))})
    partitioning = bigquery.TimePartitioning("DAY", field="t")
    load_parquet(bigquery_client, rows, table_id, time_partitioning=partitioning, clustering_fields=["t"])
    found = bigquery_client.get_table(table_id)
    assert (found.time_partitioning.type_, found.clustering_fields) == ("DAY", ["t"])
    one = pa.table({"t": pa.array([inside], pa.timestamp("us", "UTC"))})
    load_parquet(bigquery_client, one, f"{table_id}$20240131", write_disposition="WRITE_TRUNCATE")
    assert bigquery_client.get_table(table_id).num_rows == 2
    with pytest.raises(exceptions.BadRequest, match="Some rows belong to different partitions"):
        load_parquet(bigquery_client, rows, f"{table_id}$20240131", write_disposition="WRITE_TRUNCATE")
    with pytest.raises(exceptions.BadRequest, match="Incompatible table partitioning"):
        load_parquet(bigquery_client, rows, table_id, time_partitioning=bigquery.TimePartitioning("DAY", field="u"))
    assert bigquery_client.get_table(table_id).num_rows == 2


@pytest.mark.parametrize(("kind", "partition"), [("HOUR", "2024013123"), ("DAY", "202401"), ("DAY", "__NULL__")])
def test_other_partitions_cannot_be_named(bigquery_client, dataset, kind, partition):
    rows = pa.table({"t": pa.array([dt.datetime(2024, 1, 31, 23)], pa.timestamp("us", "UTC"))})
    partitioning = bigquery.TimePartitioning(kind, field="t")
    load_parquet(bigquery_client, rows, f"{dataset}.t", time_partitioning=partitioning)
    with pytest.raises(exceptions.BadRequest, match="not supported locally: partition"):
        load_parquet(bigquery_client, rows, f"{dataset}.t${partition}")


def test_range_partitions(bigquery_client, dataset):
    table_id = f"{dataset}.t"
    range_ = bigquery.RangePartitioning(bigquery.PartitionRange(0, 100, 10), field="x")
    load_parquet(bigquery_client, pa.table({"x": [5, 15]}), table_id, range_partitioning=range_)
    assert bigquery_client.get_table(table_id).range_partitioning.range_.interval == 10


def test_a_resumable_upload_arrives_in_chunks(bigquery_client, dataset):
    table = pa.table({"x": pa.array(range(300_000)), "s": [uuid.uuid4().hex for _ in range(300_000)]})
    file = io.BytesIO()
    pq.write_table(table, file)
    file.seek(0)
    config = bigquery.LoadJobConfig(source_format="PARQUET")
    job = bigquery_client._initiate_resumable_upload  # the client decides by size: below 10 MiB it would not
    target = bigquery.TableReference.from_string(f"{dataset}.t").to_api_repr()
    load = {**config.to_api_repr()["load"], "destinationTable": target}
    upload, transport = job(file, {"configuration": {"load": load}}, num_retries=0, timeout=None)
    upload._chunk_size = 1 << 20
    while not upload.finished:
        response = upload.transmit_next_chunk(transport)
    assert response.json()["status"] == {"state": "DONE"}
    again = requests.put(upload.resumable_url, headers={"Content-Range": "bytes */*"}, timeout=10)
    assert again.json()["id"] == response.json()["id"]  # who lost the answer gets it again
    assert bigquery_client.get_table(f"{dataset}.t").num_rows == 300_000


@pytest.mark.parametrize("source", ["AVRO", "ORC"])
def test_other_formats_and_uris_are_refused(bigquery_client, dataset, source):
    with pytest.raises(exceptions.BadRequest, match="not supported locally"):
        load_text(bigquery_client, "x", f"{dataset}.t", source, [SchemaField("x", "STRING")])
    with pytest.raises(exceptions.BadRequest, match="not supported locally: load jobs from sourceUris"):
        bigquery_client.load_table_from_uri("gs://b/x.csv", f"{dataset}.t").result()
    with pytest.raises(exceptions.BadRequest, match="not supported locally: extract jobs"):
        bigquery_client.extract_table(f"{dataset}.t", "gs://b/x.csv").result()


def test_loads_at_once_all_arrive(bigquery_client, dataset):
    def load(n):
        load_parquet(bigquery_client, pa.table({"n": [n] * 1000}), f"{dataset}.t")
        return len(rows_of(bigquery_client, "SELECT 1"))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(load, range(16))) == [1] * 16
    counts = rows_of(bigquery_client, f"SELECT n, COUNT(*) FROM `{dataset}.t` GROUP BY n ORDER BY n")
    assert counts == [(n, 1000) for n in range(16)]
    assert bigquery_client.get_table(f"{dataset}.t").num_bytes == 16 * 8000


# Jobs


def test_an_id_is_used_once(bigquery_client, dataset):
    job_id = f"load-{uuid.uuid4()}"

    def load():
        file = io.BytesIO(b"1\n")
        config = bigquery.LoadJobConfig(source_format="CSV", schema=[SchemaField("x", "INT64")])
        return bigquery_client.load_table_from_file(
            file, f"{dataset}.t", job_config=config, job_id=job_id, num_retries=0
        )

    load().result()
    with pytest.raises(exceptions.Conflict, match=f"Already Exists: Job {bigquery_client.project}:US.{job_id}"):
        load()
    assert bigquery_client.get_job(job_id).output_rows == 1
    assert bigquery_client.get_table(f"{dataset}.t").num_rows == 1


def test_copy_jobs_are_refused(bigquery_client, dataset, people):
    with pytest.raises(exceptions.BadRequest, match="not supported locally: copy jobs"):
        bigquery_client.copy_table(people, f"{dataset}.copy").result()


def test_a_backend_error_leaves_nothing(bigquery_client, dataset, twin):
    twin.faults.add(Fault("bigquery.jobs.run", "job_error"))
    job = bigquery_client.load_table_from_json(
        [{"x": 1}], f"{dataset}.t", job_config=bigquery.LoadJobConfig(schema=[SchemaField("x", "INT64")])
    )
    with pytest.raises(exceptions.GoogleAPICallError, match="injected fault"):
        job.result()
    assert bigquery_client.get_job(job.job_id).error_result["reason"] == "backendError"
    with pytest.raises(exceptions.NotFound):
        bigquery_client.get_table(f"{dataset}.t")


def test_a_job_that_takes_long_can_be_polled_and_cancelled(bigquery_client, twin):
    twin.faults.add(Fault("bigquery.jobs.run", "slow", delay_s=4))
    job = bigquery_client.query("SELECT 1")
    assert job.state == "RUNNING"
    job.cancel()
    with pytest.raises(exceptions.GoogleAPICallError, match="cancelled"):
        job.result(job_retry=None)


def test_a_request_that_was_sent_twice_runs_once(bigquery_client, people, twin):
    twin.faults.add(Fault("bigquery.jobs.query", "reset_after"))
    sql = f"INSERT INTO `{people}` VALUES ('Eve', 1)"
    bigquery_client.query_and_wait(sql)
    assert bigquery_client.get_table(people).num_rows == 4


def test_labels_and_listing(bigquery_client):
    before = dt.datetime.now(UTC)
    job = bigquery_client.query("SELECT 1", job_config=bigquery.QueryJobConfig(labels={"run_id": "r1"}))
    job.result()
    listed = {j.job_id: j for j in bigquery_client.list_jobs(min_creation_time=before - dt.timedelta(seconds=1))}
    assert listed[job.job_id].labels == {"run_id": "r1"}
    with pytest.raises(exceptions.GoogleAPICallError, match="not supported locally"):
        bigquery_client.delete_job_metadata(job.job_id)


def test_unknown_options_are_refused_by_name(bigquery_client, dataset):
    config = bigquery.LoadJobConfig(source_format="CSV", schema=[SchemaField("x", "INT64")], max_bad_records=3)
    with pytest.raises(exceptions.BadRequest, match="not supported locally: the load option maxBadRecords"):
        bigquery_client.load_table_from_file(io.BytesIO(b"1"), f"{dataset}.t", job_config=config).result()


# Streaming inserts


@pytest.fixture
def table(bigquery_client, dataset) -> bigquery.Table:
    """A table with a column of each shape."""
    schema = [SchemaField("i", "INT64", "REQUIRED"), SchemaField("n", "NUMERIC"), SchemaField("t", "TIMESTAMP"),
              SchemaField("tags", "STRING", "REPEATED"),
              SchemaField("r", "RECORD", fields=[SchemaField("b", "BYTES")])]  # fmt: skip
    return bigquery_client.create_table(bigquery.Table(f"{dataset}.t", schema=schema))


def test_rows_arrive(bigquery_client, table):
    rows = [
        {"i": 1, "n": Decimal("1.5"), "t": dt.datetime(2024, 1, 1, tzinfo=UTC), "tags": ["a"], "r": {"b": b"x"}},
        {"i": 2},
    ]
    assert bigquery_client.insert_rows(table, rows) == []
    assert [tuple(row) for row in bigquery_client.list_rows(table)] == [
        (1, Decimal("1.5"), dt.datetime(2024, 1, 1, tzinfo=UTC), ["a"], {"b": b"x"}),
        (2, None, None, [], None),
    ]


def test_bad_rows_are_named_and_stop_the_others(bigquery_client, table):
    rows = [{"i": 1}, {"i": "x"}, {}, {"i": 2, "q": 1}, {"i": 3, "r": {"b": 1}}]
    errors = bigquery_client.insert_rows_json(table, rows)
    found = {e["index"]: (e["errors"][0]["reason"], e["errors"][0]["location"]) for e in errors}
    assert found == {
        0: ("stopped", ""),
        1: ("invalid", "i"),
        2: ("invalid", "i"),
        3: ("invalid", "q"),
        4: ("invalid", "r.b"),
    }
    assert "no such field: q." in errors[3]["errors"][0]["message"]
    assert list(bigquery_client.list_rows(table)) == []
    assert len(bigquery_client.insert_rows_json(table, rows, skip_invalid_rows=True, ignore_unknown_values=True)) == 3
    assert [row.i for row in bigquery_client.list_rows(table)] == [1, 2]


def test_an_insert_id_counts_once(bigquery_client, table):
    for _ in range(2):
        assert bigquery_client.insert_rows_json(table, [{"i": 1}], row_ids=["one"]) == []
    assert len(list(bigquery_client.list_rows(table))) == 1


SCALARS = {
    "i": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "f": (pa.float64(), st.floats(allow_nan=False)),
    "b": (pa.bool_(), st.booleans()),
    "s": (pa.string(), st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))),
    "y": (pa.binary(), st.binary(max_size=8)),
    "t": (
        pa.timestamp("us", "UTC"),
        st.datetimes(dt.datetime(1, 1, 2), dt.datetime(9999, 12, 30), timezones=st.just(UTC)),
    ),
    "m": (pa.timestamp("us"), st.datetimes()),
    "d": (pa.date32(), st.dates()),
    "c": (pa.time64("us"), st.times()),
    "n": (pa.decimal128(38, 9), st.decimals(-(10**28), 10**28, places=9)),
}
SHAPE = pa.struct({name: kind for name, (kind, _) in SCALARS.items()})
RECORDS = st.fixed_dictionaries({name: st.none() | values for name, (_, values) in SCALARS.items()})


@hypothesis_settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    rows=st.lists(
        st.fixed_dictionaries({"r": RECORDS | st.none(), "a": st.lists(RECORDS, max_size=2), "p": RECORDS}), max_size=4
    )
)
def test_every_type_survives_parquet_rest_and_arrow(bigquery_client, read_client, dataset, rows):
    """What goes in as Parquet comes out over REST and over the Read API, at the top, in records and in arrays."""
    flat = [{"r": row["r"], "a": row["a"], **row["p"]} for row in rows]
    schema = pa.schema(
        {"r": SHAPE, "a": pa.list_(SHAPE), **dict(zip(SHAPE.names, [f.type for f in SHAPE], strict=True))}
    )
    table_id = f"{dataset}.t{uuid.uuid4().hex}"
    options = bigquery.ParquetOptions()
    options.enable_list_inference = True
    load_parquet(bigquery_client, pa.Table.from_pylist(flat, schema), table_id, parquet_options=options)
    assert [dict(row) for row in bigquery_client.list_rows(table_id)] == flat
    query = bigquery_client.query(f"SELECT * FROM `{table_id}`").result()
    assert query.to_arrow(bqstorage_client=read_client).to_pylist() == flat


# Crashes


@pytest.fixture
def twins(tmp_path):
    """Twins on one folder of their own, one after the other: start and kill."""
    from google.auth.credentials import AnonymousCredentials

    from mlsys.local import attach

    class Twins:
        def start(self):
            addresses = attach(tmp_path, project="crash", buckets={"local": "crash"})
            return bigquery.Client("crash", AnonymousCredentials(), client_options={"api_endpoint": addresses.http})

        def kill(self):
            process = psutil.Process(json.loads((tmp_path / "twin.json").read_text())["pid"])
            process.kill()
            process.wait(10)

    twins = Twins()
    yield twins
    twins.kill()


def test_data_metadata_and_job_ids_survive_a_kill(twins):
    client = twins.start()
    client.create_dataset("d")
    schema = [SchemaField("x", "INTEGER", "REQUIRED", description="a number")]
    client.create_table(bigquery.Table("crash.d.t", schema=schema))
    client.query("INSERT INTO d.t VALUES (1)", job_id="once", job_retry=None).result()
    answer = client.query("SELECT 1", job_id="answer", job_retry=None)
    answer.result()
    twins.kill()
    client = twins.start()
    table = client.get_table("crash.d.t")
    assert (table.num_rows, table.schema) == (1, schema)
    assert client.get_job("once").state == "DONE"
    with pytest.raises(exceptions.Conflict, match=r"Already Exists: Job crash:US.once"):
        client.query("INSERT INTO d.t VALUES (1)", job_id="once", retry=None, job_retry=None)
    with pytest.raises(exceptions.NotFound):
        list(client.list_rows(answer.destination, selected_fields=schema))  # results end with the process


def test_a_kill_in_the_middle_of_a_load_leaves_all_or_nothing(twins):
    file = io.BytesIO()
    pq.write_table(pa.table({"x": pa.array(range(400_000)), "s": [str(n) * 5 for n in range(400_000)]}), file)
    client = twins.start()
    client.create_dataset("d")
    config = bigquery.LoadJobConfig(source_format="PARQUET")

    def load(client, number):
        file.seek(0)
        with contextlib.suppress(Exception):  # the connection breaks in one way or another
            job = client.load_table_from_file(
                file, "crash.d.t", job_config=config, job_id=f"load-{number}", num_retries=0, timeout=5
            )
            job.result(timeout=0.01)

    for number in range(4):
        thread = threading.Thread(target=load, args=(client, number))
        thread.start()
        time.sleep(0.05 + 0.1 * number)
        twins.kill()
        thread.join()
        client = twins.start()
        rows = client.get_table("crash.d.t").num_rows if list(client.list_tables("d")) else 0
        done = [job for job in client.list_jobs() if job.job_id.startswith("load-")]
        assert rows == 400_000 * len(done)


def test_rest_spells_values_as_bigquery_does(twin, bigquery_client, dataset):
    """The raw cells: numbers as text, timestamps in microseconds, no empty list of rows."""
    url = f"{twin.http}/bigquery/v2/projects/{bigquery_client.project}/queries"
    sql = """SELECT 1 AS i, 1.5 AS f, TRUE AS b, b'a' AS y, TIMESTAMP '2024-01-01' AS t, TIME '10:00:00' AS c,
             [1] AS a, NULL AS n"""
    body = {"query": sql, "useLegacySql": False, "formatOptions": {"useInt64Timestamp": True}}
    answer = requests.post(url, json=body, timeout=10).json()
    cells = [cell["v"] for cell in answer["rows"][0]["f"]]
    micros = str(int(dt.datetime(2024, 1, 1, tzinfo=UTC).timestamp()) * 10**6)
    assert cells == ["1", "1.5", "true", base64.b64encode(b"a").decode(), micros, "10:00:00", [{"v": "1"}], None]
    assert answer["totalRows"] == "1"
    empty = requests.post(url, json={**body, "query": "SELECT 1 AS i LIMIT 0"}, timeout=10).json()
    assert "rows" not in empty
    ddl = requests.post(url, json={**body, "query": f"CREATE TABLE `{dataset}.t` (x INT64)"}, timeout=10).json()
    assert not ddl.keys() & {"rows", "totalRows", "schema"}
    error = requests.post(url, json={**body, "query": "SELECT * FROM d.nothing"}, timeout=10)
    assert (error.status_code, json.loads(error.text)["error"]["errors"][0]["reason"]) == (404, "notFound")


def test_readers_and_writers_at_once_do_not_fail(bigquery_client, dataset):
    """Definitions, DML, loads and queries side by side: writers queue, and nobody sees half of anything."""
    bigquery_client.query(f"CREATE TABLE `{dataset}.shared` AS SELECT 0 AS n").result()

    def work(number: int) -> int:
        name = f"{dataset}.own{number}"
        rows_of(bigquery_client, f"CREATE OR REPLACE TABLE `{name}` AS SELECT {number} AS n")
        rows_of(bigquery_client, f"INSERT INTO `{dataset}.shared` SELECT n FROM `{name}`")
        ((total,),) = rows_of(bigquery_client, f"SELECT COUNT(*) FROM `{dataset}.shared`")
        bigquery_client.delete_table(name)
        return total

    with ThreadPoolExecutor(8) as pool:
        totals = list(pool.map(work, range(24)))
    assert max(totals) <= 25
    found = rows_of(bigquery_client, f"SELECT n FROM `{dataset}.shared` ORDER BY n")
    assert found == [(0,), *((n,) for n in range(24))]


@pytest.mark.parametrize("option", ["require_partition_filter=TRUE", "partition_expiration_days=7"])
def test_partition_options_that_change_answers_are_refused(bigquery_client, dataset, option):
    """Kept as mere metadata they would let queries answer that BigQuery refuses, and rows stay that BigQuery drops."""
    with pytest.raises(exceptions.BadRequest, match="not supported locally"):
        bigquery_client.query_and_wait(f"CREATE TABLE `{dataset}.t` (d DATE) PARTITION BY d OPTIONS({option})")
    assert list(bigquery_client.list_tables(dataset)) == []
