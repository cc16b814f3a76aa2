"""DataFrames and Arrow batches to the twin and back, through Google's own clients."""

import datetime as dt
import io
import json
import time
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from itertools import count

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.api_core.exceptions import Conflict
from google.cloud.bigquery import ArrayQueryParameter, QueryJobConfig, ScalarQueryParameter, SchemaField, Table
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pandas.testing import assert_frame_equal

from mlsys.bq import (
    arrow_schema,
    bq_dry_run,
    bq_get,
    bq_get_batches,
    bq_pin,
    bq_put,
    bq_put_batches,
    bq_schema,
    jobs,
    to_frame,
)
from mlsys.bq.errors import explained
from mlsys.bq.loading import write_file
from mlsys.bq.parameters import query_parameters
from mlsys.bq.schema import describe
from mlsys.errors import (
    AccessError,
    AlreadyExistsError,
    NotFoundError,
    QueryError,
    SchemaError,
    TableIdError,
)
from mlsys.local.faults import Fault
from mlsys.names import TableId

UTC = dt.UTC
FIELDS = [
    SchemaField("row", "INTEGER"),
    SchemaField("i", "INTEGER"),
    SchemaField("f", "FLOAT"),
    SchemaField("b", "BOOLEAN"),
    SchemaField("s", "STRING"),
    SchemaField("x", "BYTES"),
    SchemaField("d", "DATE"),
    SchemaField("t", "TIME"),
    SchemaField("dtm", "DATETIME"),
    SchemaField("ts", "TIMESTAMP"),
    SchemaField("n", "NUMERIC"),
    SchemaField("st", "RECORD", fields=[SchemaField("a", "INTEGER"), SchemaField("z", "STRING")]),
    SchemaField("ai", "INTEGER", mode="REPEATED"),
    SchemaField("ast", "RECORD", mode="REPEATED", fields=[SchemaField("d", "DATE"), SchemaField("f", "FLOAT")]),
]
ints = st.integers(-(2**63), 2**63 - 1)
floats = st.floats(allow_nan=False)
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
rows_of_all_types = st.lists(
    st.fixed_dictionaries(
        {
            "i": st.none() | ints,
            "f": st.none() | floats,
            "b": st.none() | st.booleans(),
            "s": st.none() | texts,
            "x": st.none() | st.binary(max_size=8),
            "d": st.none() | st.dates(),
            "t": st.none() | st.times(),
            "dtm": st.none() | st.datetimes(),
            "ts": st.none() | st.datetimes(timezones=st.just(UTC)),
            "n": st.none() | st.decimals(Decimal("-9e28"), Decimal("9e28"), places=9),
            "st": st.none() | st.fixed_dictionaries({"a": st.none() | ints, "z": st.none() | texts}),
            "ai": st.lists(ints, max_size=3),
            "ast": st.lists(st.fixed_dictionaries({"d": st.none() | st.dates(), "f": st.none() | floats}), max_size=2),
        }
    ),
    max_size=6,
)
against_the_twin = settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
table_names = (f"t{number}" for number in count())


def by_row(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.sort_values("row", ignore_index=True)


@pytest.fixture
def table(dataset) -> str:
    return f"{dataset}.rows"


# --- round trips


@against_the_twin
@given(rows=rows_of_all_types)
def test_every_type_and_null_comes_back_as_it_was(dataset, rows):
    """What bq_get returns is what bq_put was given, values and dtypes, for every BigQuery type."""
    numbered = [{"row": i, **row} for i, row in enumerate(rows)]
    frame = to_frame(pa.Table.from_pylist(numbered, schema=arrow_schema(FIELDS)))
    table = f"{dataset}.{next(table_names)}"
    assert bq_put(frame, table) == len(rows)
    got = by_row(bq_get(table))
    assert_frame_equal(got, frame)
    bq_put(got, table, "WRITE_TRUNCATE")
    assert_frame_equal(by_row(bq_get(f"SELECT * FROM `{table}`")), frame)


@against_the_twin
@given(rows=rows_of_all_types)
def test_batches_come_back_as_they_were(dataset, rows):
    """The streaming forms agree with each other, value for value."""
    arrow = pa.Table.from_pylist([{"row": i, **row} for i, row in enumerate(rows)], schema=arrow_schema(FIELDS))
    table = f"{dataset}.{next(table_names)}"
    assert bq_put_batches(arrow.to_batches(), table, schema=arrow.schema) == len(rows)
    batches = bq_get_batches(table)
    assert batches.schema == arrow.schema
    assert pa.Table.from_batches(batches, batches.schema).sort_by("row") == arrow


def test_python_values_get_the_type_that_they_have(table, bigquery_client):
    """Object columns of plain Python values need no schema."""
    frame = pd.DataFrame(
        {
            "row": [0, 1, 2],
            "u8": np.array([1, 2, 255], "uint8"),
            "f32": np.array([0.5, np.nan, 2], "float32"),
            "text": ["a", None, "c"],
            "cat": pd.Categorical(["x", None, "x"]),
            "day": [dt.date(2024, 2, 29), None, None],
            "clock": [dt.time(1, 2, 3, 4), None, None],
            "ns": np.array(["2024-01-01T00:00:00.000001", "NaT", "2024-01-02"], "datetime64[ns]"),
            "zoned": [pd.Timestamp("2024-01-01", tz="Asia/Tokyo"), pd.NaT, None],
            "money": [Decimal("1.10"), None, Decimal("NaN")],
            "raw": [b"\x00\xff", None, b""],
            "tags": [["a"], [], None],
            "inner": [{"a": 1, "b": [{"c": 1.5}]}, None, {"b": []}],
            "mixed_numbers": [1, 2.5, None],
        }
    )
    bq_put(frame, table)
    kinds = {field.name: describe(field) for field in bigquery_client.get_table(table).schema}
    assert kinds == {
        "row": "INT64",
        "u8": "INT64",
        "f32": "FLOAT64",
        "text": "STRING",
        "cat": "STRING",
        "day": "DATE",
        "clock": "TIME",
        "ns": "DATETIME",
        "zoned": "TIMESTAMP",
        "money": "NUMERIC",
        "raw": "BYTES",
        "tags": "ARRAY<STRING>",
        "inner": "STRUCT<a INT64, b ARRAY<STRUCT<c FLOAT64>>>",
        "mixed_numbers": "FLOAT64",
    }
    first, second, third = by_row(bq_get(table)).to_dict("records")
    assert first["zoned"] == dt.datetime(2023, 12, 31, 15, tzinfo=UTC)
    assert first["money"] == Decimal("1.1")
    assert first["ns"] == pd.Timestamp("2024-01-01T00:00:00.000001")
    assert first["inner"] == {"a": 1, "b": [{"c": 1.5}]}
    assert third["inner"]["a"] is None
    assert [pd.isna(second[name]) for name in ("text", "cat", "day", "money", "raw", "f32", "zoned")] == [True] * 7
    assert [list(row["tags"]) for row in (first, second, third)] == [["a"], [], []]


def test_what_comes_can_be_written_to(table):
    """No column is read-only, as memory that Arrow shares would be."""
    frame = pd.DataFrame({"f": [1.0, 2.0], "i": [1, 2], "ts": pd.to_datetime(["2024-01-01"] * 2, utc=True)})
    bq_put(frame, table)
    got = bq_get(table)
    got.loc[0, "f"], got.loc[0, "i"] = 5.0, 5
    got.loc[0, "ts"] = pd.Timestamp("1999-01-01", tz="UTC").as_unit("us")
    assert got.iloc[0].tolist() == [5.0, 5, pd.Timestamp("1999-01-01", tz="UTC")]


def test_dtypes_follow_from_the_schema_alone():
    """An empty result has the dtypes of a full one."""
    fields = [f for f in FIELDS if f.name in ("i", "f", "b", "s", "ts", "dtm", "n")]
    dtypes = {
        "i": "Int64",
        "f": "float64",
        "b": "boolean",
        "s": "str",
        "dtm": "datetime64[us]",
        "ts": "datetime64[us, UTC]",
        "n": "decimal128(38, 9)[pyarrow]",
    }
    row = {"i": 1, "f": 1.0, "b": True, "s": "a", "ts": dt.datetime.now(UTC), "dtm": dt.datetime(2024, 1, 1), "n": 1}
    for rows in ([], [dict.fromkeys(row)], [row]):
        frame = to_frame(pa.Table.from_pylist(rows, schema=arrow_schema(fields)))
        assert {name: str(dtype) for name, dtype in frame.dtypes.items()} == dtypes


def test_a_categorical_of_numbers_is_numbers(table):
    """A category is written as what it stands for."""
    bq_put(pd.DataFrame({"c": pd.Categorical([3, 1, 3])}), table)
    assert sorted(bq_get(table)["c"]) == [1, 3, 3]


def test_json_stays_json(table, bigquery_client):
    """JSON and STRING are told apart both ways, and no number in a JSON value loses a digit."""
    texts = ['{"a": 1.10, "b": [true, null]}', None, "[1, 2]"]
    frame = pd.DataFrame({"row": range(3), "j": texts, "s": texts})
    bq_put(frame, table, schema=[SchemaField("j", "JSON")])
    got = by_row(bq_get(table))
    assert str(got["j"].dtype) == "extension<arrow.json>[pyarrow]"
    bq_put(got, table, "WRITE_TRUNCATE")
    assert [describe(f) for f in bigquery_client.get_table(table).schema] == ["INT64", "JSON", "STRING"]
    again = by_row(bq_get(table))
    assert [value if pd.isna(value) else json.loads(value) for value in again["j"]] == [
        {"a": 1.1, "b": [True, None]},
        pd.NA,
        [1, 2],
    ]
    assert again["s"].dropna().tolist() == [texts[0], texts[2]]


def test_every_type_travels_beside_json(table):
    """A JSON column makes the whole load newline-delimited JSON: nothing else may change by it."""
    row = {
        "row": 0,
        "i": 2**62,
        "f": 0.1,
        "b": True,
        "s": 'a "quoted"\nline',
        "x": b"\x00\xff",
        "d": dt.date(2024, 2, 29),
        "t": dt.time(1, 2, 3, 4),
        "dtm": dt.datetime(2024, 1, 1, 1, 2, 3, 4),
        "ts": dt.datetime(2024, 1, 1, 1, 2, 3, 4, tzinfo=UTC),
        "n": Decimal("12345678901234567890.123456789"),
        "st": {"a": 1, "z": None},
        "ai": [1, 2],
        "ast": [{"d": dt.date(1, 1, 1), "f": 1e300}],
        "j": '{"k": "v"}',
    }
    fields = [*FIELDS, SchemaField("j", "JSON")]
    empty = {name: [] if name in ("ai", "ast") else None for name in row} | {"row": 1}
    plain = pa.schema([field.with_type(pa.string()) if field.name == "j" else field for field in arrow_schema(fields)])
    frame = to_frame(pa.Table.from_pylist([row, empty], schema=plain).cast(arrow_schema(fields)))
    bq_put(frame, table)
    got = by_row(bq_get(table))
    assert_frame_equal(got.drop(columns="j"), frame.drop(columns="j"))
    assert json.loads(got["j"][0]) == {"k": "v"}


def test_columns_without_a_value_become_text_or_what_the_table_says(dataset, bigquery_client):
    """All-NULL columns say nothing: STRING in a new table, the table's own type in one that is there."""
    frame = pd.DataFrame({"a": [None, None], "b": [np.nan, np.nan], "c": [[], None]})
    bq_put(frame, f"{dataset}.new")
    kinds = [describe(f) for f in bigquery_client.get_table(f"{dataset}.new").schema]
    assert kinds == ["STRING", "FLOAT64", "ARRAY<STRING>"]
    fields = [SchemaField("a", "DATE"), SchemaField("b", "INTEGER"), SchemaField("c", "INTEGER", mode="REPEATED")]
    bigquery_client.create_table(Table(f"{dataset}.there", fields))
    for disposition in ("WRITE_APPEND", "WRITE_TRUNCATE"):
        bq_put(frame, f"{dataset}.there", disposition, schema=fields[1:2])
        assert [describe(f) for f in bigquery_client.get_table(f"{dataset}.there").schema] == [
            "DATE",
            "INT64",
            "ARRAY<INT64>",
        ]


def test_an_empty_frame_makes_a_table(table, bigquery_client):
    """No rows are still columns with types."""
    frame = pd.DataFrame({"a": pd.Series(dtype="Int64"), "o": pd.Series(dtype=object), "when": pd.to_datetime([])})
    assert bq_put(frame, table) == 0
    assert [describe(f) for f in bigquery_client.get_table(table).schema] == ["INT64", "STRING", "DATETIME"]
    got = bq_get(table)
    assert got.empty
    assert list(map(str, got.dtypes)) == ["Int64", "str", "datetime64[us]"]


@pytest.mark.parametrize(
    "name",
    [
        "Größe",
        "年龄",
        "_x",
        "x" * 300,
        "two words",
        "a-b",
        "50% & more",
        "1st",
    ],
)
def test_odd_but_legal_column_names_are_kept(dataset, name):
    """Flexible column names come back letter for letter."""
    table = f"{dataset}.{next(table_names)}"
    bq_put(pd.DataFrame({name: [1]}), table)
    assert list(bq_get(table).columns) == [name]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (["a.b"], "'a.b' has no name that BigQuery takes"),
        ([""], "'' has no name"),
        (["a\nb"], r"'a\\nb' has no name"),
        (["x" * 301], "1 to 300"),
        (["_PARTITIONTIME"], "starts with '_PARTITION'"),
        (["_table_x"], "starts with '_TABLE_'"),
        ([7], "must be text, got 7"),
        ([("a", "b")], "must be text, got"),
        (["a", "A"], "differ in more than case, got 'a', 'A'"),
        (["a", "a"], "differ in more than case"),
        ([], "no columns"),
        ([f"c{i}" for i in range(10_001)], "10,000 columns in a table, got 10,001"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_illegal_column_names_are_refused_before_the_network(columns, message):
    """The column and the rule are named; no client is needed to say so."""
    frame = pd.DataFrame([range(len(columns))], columns=pd.Index(columns, dtype=object, tupleize_cols=False))
    with pytest.raises(SchemaError, match=message):
        bq_put(frame, "some-project.d.t", client=object())


def test_a_field_of_a_struct_is_named_by_its_path(table):
    """The same rules hold inside."""
    with pytest.raises(SchemaError, match=r"'s\.a\.b' has no name"):
        bq_put(pd.DataFrame({"s": [{"a.b": 1}]}), table)


def test_pinned_rows_are_counted_unless_somebody_writes(twin, table):
    """A number of rows that may be out of date is not called exact."""
    bq_put(pd.DataFrame({"x": range(10)}), table)
    rows = bq_pin(table, streams=(1, 1))
    assert (rows.total_rows, rows.exact) == (10, True)
    twin.faults.add(Fault("bigqueryread.CreateReadSession", "slow", delay_s=2.0))
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(bq_pin, table, streams=(1, 1))
        time.sleep(0.7)
        bq_put(pd.DataFrame({"x": [10]}), table)
        assert not waiting.result().exact
    assert bq_pin(f"SELECT * FROM `{table}`", streams=(1, 1)).exact


def test_as_many_columns_as_bigquery_allows(table):
    """10,000 columns are BigQuery's limit, and work."""
    frame = pd.DataFrame([range(10_000)], columns=[f"c{i}" for i in range(10_000)])
    assert bq_put(frame, table) == 1
    assert bq_get(table).iloc[0].tolist() == list(range(10_000))


def test_named_index_levels_become_columns_and_others_do_not(dataset):
    """groupby() puts data in the index; a plain index only counts rows."""
    frame = pd.DataFrame({"sex": ["f", "m", "f"], "age": [1.0, 2.0, 3.0]})
    bq_put(frame.groupby("sex").mean(), f"{dataset}.named")
    bq_put(frame.iloc[::-1], f"{dataset}.plain")
    assert bq_get(f"{dataset}.named").columns.tolist() == ["sex", "age"]
    assert bq_get(f"{dataset}.plain").columns.tolist() == ["sex", "age"]
    with pytest.raises(SchemaError, match="'sex' is both an index level and a column"):
        bq_put(frame.set_index("sex", drop=False), f"{dataset}.clash")


# --- what would change on the way is refused


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([1, "a"], r"'c' mixes types: 1 is int and 'a' is str"),
        (["a", b"a"], r"mixes types: 'a' is str and b'a' is bytes"),
        ([True, 1], "mixes types"),
        ([Decimal(1), 1.5], "mixes types"),
        ([dt.date(2024, 1, 1), dt.datetime(2024, 1, 1)], "mixes types"),
        ([dt.datetime(2024, 1, 1), dt.datetime(2024, 1, 1, tzinfo=UTC)], "with and without a zone"),
        ([[1], ["a"]], "mixes types: 1 is int and 'a' is str"),
        ([{"a": 1}, {"a": "x"}], r"'c\.a' mixes types"),
        ([{1: 2}], "dict with key 1"),
        ([[[1]]], "array of arrays"),
        ([[1, None]], "ARRAY with a NULL in it"),
        ([{}], "at least one field"),
        ([1 + 2j], "BigQuery has no type for complex"),
        ([object], "BigQuery has no type for type"),
        ([dt.timedelta(1)], "BigQuery has no type for timedelta"),
        (pd.to_timedelta(["1s"]), r"total_seconds\(\)"),
        (pd.period_range("2024", periods=1), "dtype period"),
        ([2**63], "9223372036854775808"),
        (np.array([2**64 - 1], "uint64"), "cannot hold 18446744073709551615"),
        ([Decimal("1e29")], "does not fit.*Decimal"),
        ([Decimal("0.0000000001")], "does not fit.*Decimal"),
        (["\ud800"], "does not fit"),
        (np.array(["2024-01-01", "2024-01-01T00:00:00.000000001"], "datetime64[ns]"), "cannot hold .*2024"),
        ([pd.Timestamp("2024-01-01T00:00:00.000000001")], "keeps microseconds"),
        (np.array(["20000-01-01"], "datetime64[s]"), "outside the years 1 to 9999"),
    ],
    ids=lambda value: str(value)[:40].replace("\ud800", "surrogate"),
)
def test_values_that_would_change_are_refused_by_name(dataset, values, message):
    """Nothing is rounded, cut or guessed in silence, and no table is made."""
    with pytest.raises(SchemaError, match=message) as caught:
        bq_put(
            pd.DataFrame({"c": pd.Series(values, dtype=object if isinstance(values, list) else None)}), f"{dataset}.no"
        )
    assert "'c" in str(caught.value)
    assert "\n" not in str(caught.value).strip()


def test_the_table_has_the_last_word(table, bigquery_client):
    """Columns are cast to the table's types where every value survives, and refused where one does not."""
    fields = [
        SchemaField("i", "INTEGER", mode="REQUIRED"),
        SchemaField("f", "FLOAT"),
        SchemaField("n", "NUMERIC"),
        SchemaField("ts", "TIMESTAMP"),
    ]
    bigquery_client.create_table(Table(table, fields))
    assert bq_put(pd.DataFrame({"I": [1.0, 2.0], "f": [1, 2], "n": [3, 4]}), table) == 2
    assert bq_get(table)["i"].sort_values().tolist() == [1, 2]
    refused = {
        "cannot hold 1.5": {"i": [1.5]},
        r"no column 'zz': it has 'i', 'f', 'n', 'ts'": {"i": [1], "zz": [1]},
        "requires column 'i'": {"f": [1.0]},
        "'i' is REQUIRED, and row 1 is NULL": {"i": pd.array([1, None], "Int64")},
        "'f' as FLOAT64, got STRING": {"i": [1], "f": ["x"]},
        "tz_localize": {"i": [1], "ts": pd.to_datetime(["2024-01-01"])},
        "as INT64, got ARRAY<INT64>": {"i": [[1]]},
    }
    for message, columns in refused.items():
        with pytest.raises(SchemaError, match=message):
            bq_put(pd.DataFrame(columns), table)
    assert len(bq_get(table)) == 2


def test_required_columns_are_required_in_the_file_too():
    """BigQuery takes an OPTIONAL Parquet field for NULLABLE, and refuses it for a column that is REQUIRED."""
    inner = [SchemaField("a", "INTEGER", mode="REQUIRED"), SchemaField("z", "STRING")]
    fields = [
        SchemaField("i", "INTEGER", mode="REQUIRED"),
        SchemaField("n", "INTEGER"),
        SchemaField("s", "RECORD", fields=inner),
        SchemaField("l", "RECORD", mode="REPEATED", fields=inner),
    ]
    rows = [{"i": 1, "n": None, "s": None, "l": [{"a": 1, "z": None}]}]
    file = io.BytesIO()
    write_file(file, [pa.RecordBatch.from_pylist(rows, schema=arrow_schema(fields))], fields)
    written = pq.read_table(file)
    assert written.to_pylist() == rows
    assert [field.nullable for field in written.schema] == [False, True, True, True]
    assert [field.nullable for field in written.schema.field("s").type] == [False, True]
    assert [field.nullable for field in written.schema.field("l").type.value_type] == [False, True]


def test_a_null_in_a_required_column_is_refused_by_name(table):
    """In a STRUCT too, unless all of it is NULL: then it has no fields."""
    fields = [
        SchemaField("i", "INTEGER", mode="REQUIRED"),
        SchemaField("s", "RECORD", fields=[SchemaField("a", "INTEGER", mode="REQUIRED")]),
    ]
    rows = pd.DataFrame({"i": [1, 2], "s": [{"a": 1}, None]})
    assert bq_put(rows, table, schema=fields) == 2
    assert bq_get(f"SELECT s FROM `{table}` ORDER BY i")["s"].tolist() == [{"a": 1}, pd.NA]
    for i, a, path in ((None, 1, "i"), (3, None, r"s\.a")):
        with pytest.raises(SchemaError, match=f"'{path}' is REQUIRED, and row 0 is NULL"):
            bq_put(pd.DataFrame({"i": pd.array([i], "Int64"), "s": [{"a": a}]}), table)


# --- layout


def test_a_new_table_gets_its_layout_and_a_replaced_one_keeps_it(table, bigquery_client):
    """Partitioning, clustering and descriptions survive WRITE_TRUNCATE."""
    frame = pd.DataFrame({"at": pd.to_datetime(["2024-01-01"], utc=True), "model": ["m"], "p": [0.5]})
    bq_put(
        frame,
        table,
        partition_by="at",
        cluster_by=["model"],
        description="what was predicted",
        descriptions={"p": "probability"},
    )
    bq_put(frame, table, "WRITE_TRUNCATE")
    made = bigquery_client.get_table(table)
    assert (made.time_partitioning.field, made.time_partitioning.type_) == ("at", "DAY")
    assert made.clustering_fields == ["model"]
    assert made.description == "what was predicted"
    assert [field.description for field in made.schema] == [None, None, "probability"]
    assert len(bq_get(table)) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"partition_by": "zz"}, "partition_by names 'zz'"),
        ({"partition_by": "p"}, "got 'p', which is FLOAT64"),
        ({"partition_by": ("day", "HOUR")}, "got 'day', which is DATE, by HOUR"),
        ({"cluster_by": ["zz"]}, "cluster_by names 'zz'"),
        ({"cluster_by": ["p"] * 5}, "at most 4 columns"),
        ({"schema": [SchemaField("zz", "STRING")]}, "schema names 'zz'"),
        ({"schema": [SchemaField("p", "DATE")]}, "schema has 'p' as DATE, got FLOAT64"),
        ({"write_disposition": "TRUNCATE"}, "must be one of WRITE_APPEND"),
    ],
    ids=str,
)
def test_a_layout_that_cannot_be_is_refused(table, options, message):
    """The option and the column are named."""
    with pytest.raises(SchemaError, match=message):
        bq_put(pd.DataFrame({"p": [0.5], "day": [dt.date(2024, 1, 1)]}), table, **options)


def test_partitioning_cannot_be_changed(table):
    """BigQuery does not change it, and says so less clearly."""
    frame = pd.DataFrame({"a": pd.to_datetime(["2024-01-01"], utc=True), "b": pd.to_datetime(["2024-01-01"], utc=True)})
    bq_put(frame, table, partition_by="a")
    with pytest.raises(SchemaError, match=r"is partitioned by .*'a', 'DAY'"):
        bq_put(frame, table, partition_by=("b", "MONTH"))


def test_one_partition_is_replaced(table):
    """A partition decorator limits WRITE_TRUNCATE to its day."""
    days = pd.to_datetime(["2024-01-01", "2024-01-02"], utc=True)
    bq_put(pd.DataFrame({"at": days, "v": [1, 2]}), table, partition_by="at")
    bq_put(pd.DataFrame({"at": days[:1], "v": [7]}), f"{table}$20240101", "WRITE_TRUNCATE")
    assert sorted(bq_get(table)["v"]) == [2, 7]


def test_write_empty_refuses_a_table_with_rows(table):
    """The error says which table and why."""
    frame = pd.DataFrame({"a": [1]})
    bq_put(frame, table, "WRITE_EMPTY")
    with pytest.raises(AlreadyExistsError, match=f"{table} holds rows already"):
        bq_put(frame, table, "WRITE_EMPTY")
    assert len(bq_get(table)) == 1


def test_jobs_carry_labels(table, bigquery_client):
    """Every job says who started it, and what the caller adds."""
    bq_put(pd.DataFrame({"a": [1]}), table, job_id="labelled-" + table.replace(".", "-"), labels={"model": "m"})
    job = bigquery_client.get_job("labelled-" + table.replace(".", "-"))
    assert job.labels == {"env": "local", "managed_by": "mlsys", "model": "m"}


# --- queries


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (True, "BOOL"),
        (np.int32(7), "INT64"),
        (2**62, "INT64"),
        (0.1, "FLOAT64"),
        ("it's", "STRING"),
        (b"\x00\xff", "BYTES"),
        (Decimal("1.5"), "NUMERIC"),
        (dt.date(2024, 2, 29), "DATE"),
        (dt.datetime(2024, 2, 29, 1, 2, 3, 4), "DATETIME"),
        (dt.datetime(2024, 2, 29, 1, 2, 3, 4, tzinfo=UTC), "TIMESTAMP"),
        (dt.time(1, 2, 3, 4), "TIME"),
    ],
    ids=lambda value: value if isinstance(value, str) else repr(value),
)
def test_a_parameter_arrives_as_what_it_is(value, kind, dataset):
    """The Python type says the BigQuery type, and the value comes back the same."""
    assert query_parameters({"p": value})[0].type_ == kind
    got = bq_get("SELECT @p AS p", parameters={"p": value})["p"][0]
    assert got == value


def test_parameters_can_be_arrays_and_structs(dataset):
    """Lists and dicts go in as ARRAY and STRUCT; Google's own objects are taken for what Python cannot say."""
    got = bq_get(
        "SELECT (SELECT SUM(x) FROM UNNEST(@xs) AS x) AS total, @s.name AS name, @none IS NULL AS is_null, "
        "ARRAY_LENGTH(@empty) AS length",
        parameters={
            "xs": [1, 2, 3],
            "s": {"name": "Ada", "age": 36},
            "none": ScalarQueryParameter(None, "DATE", None),
            "empty": ArrayQueryParameter(None, "STRING", []),
        },
    )
    assert got.iloc[0].tolist() == [6, "Ada", True, 0]


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (None, "'p' is NULL, which has no type: pass google.cloud.bigquery.ScalarQueryParameter"),
        ([], "'p' is an empty list"),
        ([1, "a"], "values of one type"),
        ([[1]], "none of them a list"),
        (2**63, "cannot be 9223372036854775808"),
        (object, "cannot be"),
    ],
    ids=str,
)
def test_a_parameter_without_a_type_is_refused(value, message):
    """Before the network, by name."""
    with pytest.raises(QueryError, match=message):
        query_parameters({"p": value})


def test_order_is_kept_where_it_was_asked_for(table):
    """ORDER BY reads in one stream."""
    bq_put(pd.DataFrame({"v": np.arange(300_000)}), table)
    got = bq_get(f"SELECT v FROM `{table}` ORDER BY v DESC")["v"]
    assert got.is_monotonic_decreasing
    assert len(got) == 300_000


def test_columns_and_rows_can_be_limited(table):
    """Only what is asked for is read, spelled as the table does and ordered as asked."""
    bq_put(pd.DataFrame({"a": range(10), "b": range(10), "c": range(10)}), table)
    got = bq_get(table, columns=["C", "a"], max_rows=3)
    assert got.columns.tolist() == ["c", "a"]
    assert len(got) == 3
    assert (got["c"] == got["a"]).all()
    assert bq_get(f"SELECT * FROM `{table}`", max_rows=0).shape == (0, 3)
    with pytest.raises(SchemaError, match=r"no column 'zz' in .*: it has a, b, c"):
        bq_get(table, columns=["zz"])


def test_a_view_is_read_like_a_table(table, bigquery_client):
    """A path may name a view."""
    bq_put(pd.DataFrame({"a": [1, 2]}), table)
    view = Table(f"{table}_view")
    view.view_query = f"SELECT a * 10 AS b FROM `{table}`"
    bigquery_client.create_table(view)
    assert sorted(bq_get(f"{table}_view")["b"]) == [10, 20]


@pytest.mark.parametrize(
    "sql", ["CREATE TABLE `{t}` (a INT64)", "CREATE TABLE `{t}` AS SELECT 1 AS a"], ids=["ddl", "ctas"]
)
def test_a_statement_without_rows_gives_an_empty_frame(table, sql):
    """DDL and DML run, and return nothing."""
    assert bq_get(sql.format(t=table)).empty
    assert bq_get(f"INSERT INTO `{table}` (a) VALUES (2)").shape == (0, 0)
    assert 2 in bq_get(table)["a"].tolist()


def test_a_script_gives_the_rows_of_its_last_select(table):
    """Several statements run as one job, whose children hold the results."""
    bq_put(pd.DataFrame({"a": [1]}), table)
    insert = f"BEGIN TRANSACTION; INSERT INTO `{table}` (a) VALUES (2); COMMIT TRANSACTION"
    got = bq_get(f"{insert}; SELECT SUM(a) AS n FROM `{table}`")
    assert got["n"].tolist() == [3]


def test_a_bar_is_shown_on_request_only(table, capfd):
    """Tests are no terminal: by default there is silence."""
    bq_put(pd.DataFrame({"a": range(1000)}), table)
    bq_get(table)
    assert capfd.readouterr().err == ""
    bq_get(table, progress=True)
    assert "rows from BigQuery: 100%" in capfd.readouterr().err


def test_batches_have_the_size_that_is_asked_for(table):
    """batch_rows cuts and joins what comes; the schema and the number of rows are known before."""
    bq_put(pd.DataFrame({"v": np.arange(250_001)}), table)
    rows = bq_get_batches(table, batch_rows=100_000)
    assert (rows.total_rows, rows.schema) == (250_001, pa.schema([("v", pa.int64())]))
    batches = list(rows)
    assert [batch.num_rows for batch in batches] == [100_000, 100_000, 50_001]
    assert sum(batch["v"].to_numpy().sum() for batch in batches) == 250_001 * 250_000 // 2


def test_batches_can_be_cast_to_the_table_and_must_agree(table):
    """Batches with other columns, or none at all without a schema, are refused by name."""
    one = pa.RecordBatch.from_pydict({"a": [1], "b": ["x"]})
    other_order = pa.RecordBatch.from_pydict({"b": ["y"], "a": [2]})
    assert bq_put_batches(iter([one, other_order]), table, partition_by=None) == 2
    assert sorted(bq_get(table)["b"]) == ["x", "y"]
    with pytest.raises(SchemaError, match="must have the columns 'a', 'b', got one with 'a'"):
        bq_put_batches([one, one.select(["a"])], table)
    with pytest.raises(SchemaError, match="pass schema="):
        bq_put_batches([], table)
    assert bq_put_batches([], table, schema=[SchemaField("a", "INTEGER")]) == 0
    assert len(bq_get(table)) == 2


def test_a_dry_run_says_bytes_and_columns(table):
    """Nothing runs, and the text can be read by a person."""
    bq_put(pd.DataFrame({"a": range(1000)}), table)
    said = bq_dry_run(f"SELECT a, 'x' AS tag FROM `{table}`")
    assert said.bytes_processed > 0
    assert str(said).startswith("would process ")
    assert str(said).endswith("and return a INT64, tag STRING")
    assert str(bq_dry_run(table)).endswith("and return a INT64")


# --- errors


def test_a_missing_table_is_named_with_the_nearest(table):
    """Both for a path and for a query."""
    bq_put(pd.DataFrame({"a": [1]}), table)
    for query in (f"{table[:-1]}", f"SELECT * FROM `{table[:-1]}`"):
        with pytest.raises(NotFoundError, match=rf"table {table[:-1]} is not there: did you mean rows\?"):
            bq_get(query)


def test_a_missing_dataset_is_named(bigquery_client):
    """For reading and for writing."""
    missing = f"{bigquery_client.project}.no_such_dataset.t"
    with pytest.raises(NotFoundError, match="no_such_dataset"):
        bq_put(pd.DataFrame({"a": [1]}), missing)
    with pytest.raises(NotFoundError, match="no_such_dataset"):
        bq_get(missing)


@pytest.mark.parametrize("path", ["titanic", "d.t", "a.b.c.d e", "`p.d`", "My_Project.d.t"])
def test_a_malformed_path_is_refused_before_the_network(path):
    """No client is made."""
    with pytest.raises(TableIdError, match=r"must be 'project\.dataset\.table'"):
        bq_put(pd.DataFrame({"a": [1]}), path, client=object())
    if " " not in path:
        with pytest.raises(TableIdError):
            bq_get(path, client=object(), read_client=object())


def test_a_broken_query_says_where(dataset):
    """BigQuery's own first line, with the position."""
    with pytest.raises(QueryError, match="refused the query: ") as caught:
        bq_get("SELECT nonsense FROM UNNEST([1]) AS x")
    assert "nonsense" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("operation", ["bigquery.tables.get", "bigquery.jobs.insert"])
def test_a_refused_caller_hears_which_role_is_missing(twin, table, operation):
    """403 becomes AccessError with the roles."""
    bq_put(pd.DataFrame({"a": [1]}), table)
    twin.faults.add(Fault(operation, "error", status=403, times=None, message="Access Denied"))
    with pytest.raises(AccessError, match=r"roles/bigquery\.dataEditor.*Access Denied"):
        bq_put(pd.DataFrame({"a": [1]}), table)
    what = table if operation.endswith("get") else "what the query reads"
    with pytest.raises(AccessError, match=rf"no access to {what}: .*roles/bigquery\.dataViewer"):
        bq_get(table if operation.endswith("get") else "SELECT 1")


def test_a_query_over_the_cap_is_refused(table):
    """max_bytes_billed becomes X > Y."""
    bq_put(pd.DataFrame({"a": range(1000)}), table)
    with pytest.raises(QueryError, match=r"billed [\d,]+ bytes > 1 allowed.*raise max_bytes_billed"):
        bq_get(f"SELECT a FROM `{table}`", max_bytes_billed=1)
    assert len(bq_get(f"SELECT a FROM `{table}`", max_bytes_billed=10**9)) == 1000


def test_a_table_over_the_cap_is_refused(table, bigquery_client):
    """Read directly, it is measured by its whole size, as Google counts it."""
    bq_put(pd.DataFrame({"a": range(1000), "b": range(1000)}), table)
    size = bigquery_client.get_table(table).num_bytes
    for read in (bq_get, bq_get_batches):
        with pytest.raises(QueryError, match=f"billed {size:,} bytes > {size - 1:,} allowed.*raise max_bytes_billed"):
            read(table, columns=["a"], max_bytes_billed=size - 1)
    assert len(bq_get(table, max_bytes_billed=size)) == 1000


# --- bad days


BAD_INSERTS = [
    Fault("bigquery.jobs.insert", "error", status=503),
    Fault("bigquery.jobs.insert", "error_after", status=503),
    Fault("bigquery.jobs.insert", "error_after", status=504),
    Fault("bigquery.jobs.insert", "error", status=504),
    Fault("bigquery.jobs.insert", "error", status=429),
    Fault("bigquery.jobs.insert", "reset"),
    Fault("bigquery.jobs.insert", "reset_after"),
    Fault("bigquery.jobs.run", "job_error"),
    Fault("bigquery.jobs.get", "error", status=503),
    Fault("bigquery.jobs.get", "reset"),
]


@pytest.mark.parametrize("fault", BAD_INSERTS, ids=lambda f: f"{f.operation[9:]}-{f.kind}-{f.status}")
def test_a_load_happens_exactly_once(twin, table, fault):
    """Lost replies and failed jobs neither lose rows nor repeat them."""
    bq_put(pd.DataFrame({"a": [0]}), table)
    twin.faults.add(fault)
    assert bq_put(pd.DataFrame({"a": [1, 2]}), table) == 2
    assert sorted(bq_get(table)["a"]) == [0, 1, 2]


@pytest.mark.parametrize("fault", BAD_INSERTS, ids=lambda f: f"{f.operation[9:]}-{f.kind}-{f.status}")
def test_a_query_survives_a_bad_day(twin, table, fault):
    """Also one that changes a table, which must happen once."""
    bq_put(pd.DataFrame({"a": [0]}), table)
    twin.faults.add(fault)
    bq_get(f"INSERT INTO `{table}` (a) VALUES (1)")
    assert sorted(bq_get(f"SELECT a FROM `{table}`")["a"]) == [0, 1]


def test_the_same_job_id_loads_once(table):
    """Called again, in this process or another, the load is found and not repeated."""
    for _ in range(3):
        assert bq_put(pd.DataFrame({"a": [1]}), table, job_id="once-" + table.replace(".", "-")) == 1
    assert len(bq_get(table)) == 1


def test_a_job_that_is_there_is_looked_for_where_it_runs(table, bigquery_client, monkeypatch):
    """Outside of US and EU, Google finds no job without its location."""
    seen = []
    monkeypatch.setitem(bigquery_client._http.hooks, "response", [lambda reply, **_: seen.append(reply.request)])
    job_id = "where-" + table.replace(".", "-")
    for _ in range(2):
        bq_put(pd.DataFrame({"a": [1]}), table, job_id=job_id)
    looked = [call.url for call in seen if call.method == "GET" and f"/jobs/{job_id}" in call.url]
    assert looked
    assert all("location=US" in url for url in looked)


@pytest.mark.parametrize(
    ("message", "location"),
    [
        ("409 POST https://x/jobs: Already Exists: Job a-project:us-central1.the-id", "us-central1"),
        ("Already Exists: Job example.com:a-project:EU.the-id", "EU"),
        ("Already Exists: Job a-project:EU.the-id_1", None),
        ("Already Exists", None),
    ],
)
def test_the_location_of_a_job_is_in_the_conflict(message, location):
    """Google's words for it, of projects with a domain too."""
    assert jobs._location(Conflict(message), "the-id") == location


CONTENTION = [
    "Could not serialize access to table p:d.t due to concurrent update",
    "Resources exceeded during query execution: Too many DML statements outstanding against table p:d.t, limit is 20.",
]


def contended(table: str, message: str) -> str:
    """Return a statement that fails as BigQuery would, until the table has a second row."""
    return f"INSERT INTO `{table}` (a) SELECT IF(COUNT(*) < 2, ERROR('{message}'), 9) FROM `{table}`"


@pytest.mark.parametrize("message", CONTENTION, ids=["serialize", "outstanding"])
def test_a_statement_that_met_others_at_its_table_is_repeated(table, message):
    """It did nothing: a new job of the same statement may."""
    bq_put(pd.DataFrame({"a": [0]}), table)
    with ThreadPoolExecutor(1) as pool:
        statement = pool.submit(bq_get, contended(table, message))
        time.sleep(0.5)
        bq_put(pd.DataFrame({"a": [1]}), table)
        statement.result()
    assert sorted(bq_get(table)["a"]) == [0, 1, 9]


@pytest.mark.parametrize("message", CONTENTION, ids=["serialize", "outstanding"])
def test_others_at_a_table_are_no_fault_of_the_rows(table, bigquery_client, message, monkeypatch):
    """Given up, the error says that it may work later, and nothing of a schema."""
    bq_put(pd.DataFrame({"a": [0]}), table)
    monkeypatch.setattr(jobs, "deadline", lambda: 0.5)
    with (
        pytest.raises(QueryError, match=f"{table} is changed by too many statements at once: try again later"),
        explained(bigquery_client, writes=TableId.parse(table)),
    ):
        jobs.run_query(bigquery_client, contended(table, message), QueryJobConfig())


@pytest.mark.parametrize("operation", ["bigquery.tables.get", "bigquery.jobs.insert", "bigquery.jobs.get"])
def test_a_call_that_stalls_is_given_up_and_repeated(twin, table, operation, set_deadline):
    """A connection that says nothing holds nobody up for longer than one call may take."""
    bq_put(pd.DataFrame({"a": [0]}), table)
    set_deadline(6)  # 3 seconds for one try
    twin.faults.add(Fault("bigquery.jobs.run", "slow", delay_s=2.5), Fault(operation, "slow", delay_s=20))
    started = time.monotonic()
    bq_get(f"INSERT INTO `{table}` (a) VALUES (1)")
    assert sorted(bq_get(table)["a"]) == [0, 1]
    assert twin.faults.hits()[operation] == 1
    assert time.monotonic() - started < 15


def test_a_query_that_fails_while_it_is_waited_for_is_repeated_at_once(twin):
    """Its failure is the job's, not one of the call that asks: asking again would not help."""
    twin.faults.add(Fault("bigquery.jobs.run", "job_error", delay_s=3))
    started = time.monotonic()
    assert bq_get("SELECT 1 AS a")["a"].tolist() == [1]
    assert time.monotonic() - started < 15


def test_a_failed_job_of_the_same_id_is_tried_again(table, twin):
    """A run that failed for a reason that is gone now can be repeated under its name."""
    job_id = "again-" + table.replace(".", "-")
    bq_put(pd.DataFrame({"a": [1]}), table)
    with pytest.raises(AlreadyExistsError):
        bq_put(pd.DataFrame({"a": [1]}), table, "WRITE_EMPTY", job_id=job_id)
    assert bq_put(pd.DataFrame({"a": [2]}), table, job_id=job_id) == 1
    assert sorted(bq_get(table)["a"]) == [1, 2]


@pytest.mark.parametrize("status", ["UNAVAILABLE", "INTERNAL", "DEADLINE_EXCEEDED", "ABORTED", "RESOURCE_EXHAUSTED"])
@pytest.mark.parametrize("after_rows", [0, 70_000])
def test_a_broken_stream_is_resumed_where_it_broke(twin, table, status, after_rows):
    """No row is lost and none comes twice."""
    bq_put(pd.DataFrame({"v": np.arange(200_000)}), table)
    twin.faults.add(Fault("bigqueryread.ReadRows", "stream", grpc_status=status, after_rows=after_rows, times=2))
    assert np.array_equal(np.sort(bq_get(table)["v"].to_numpy()), np.arange(200_000))
    assert twin.faults.hits()
    twin.faults.clear()
    twin.faults.add(Fault("bigqueryread.ReadRows", "stream", grpc_status=status, after_rows=after_rows, times=2))
    assert sum(batch.num_rows for batch in bq_get_batches(table)) == 200_000


def test_a_stream_that_never_works_is_given_up(twin, table):
    """A refusal is not repeated for ever."""
    bq_put(pd.DataFrame({"v": [1]}), table)
    twin.faults.add(Fault("bigqueryread.ReadRows", "stream", grpc_status="PERMISSION_DENIED", times=None))
    with pytest.raises(AccessError):
        bq_get(table)
    with pytest.raises(AccessError):
        list(bq_get_batches(table))


def test_schemas_translate_both_ways():
    """BigQuery → Arrow → BigQuery changes nothing."""
    assert list(map(describe, bq_schema(arrow_schema(FIELDS)))) == list(map(describe, FIELDS))
