"""The twin's SQL answers as BigQuery's documentation says, or refuses."""

import datetime as dtm
import math
import re
from decimal import Decimal
from pathlib import Path

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlsys.local.bigquery import parser, sql, types
from mlsys.local.bigquery.statements import (
    AddColumns,
    Create,
    Drop,
    Query,
    TableRef,
    Transaction,
)
from mlsys.local.errors import ApiError, not_found

_UTC = dtm.UTC


def _field(name, kind, mode="NULLABLE", **more):
    return {"name": name, "type": kind, "mode": mode, **more}


TABLES = {
    "t": [
        _field("id", "INTEGER"),
        _field("s", "STRING"),
        _field("f", "FLOAT"),
        _field("ts", "TIMESTAMP"),
        _field("day", "DATE"),
        _field("arr", "INTEGER", "REPEATED"),
        _field("r", "RECORD", fields=[_field("x", "INTEGER"), _field("Y", "STRING")]),
        _field("j", "JSON"),
        _field("n", "NUMERIC"),
        _field("b", "BOOLEAN"),
    ],
    "u": [_field("id", "INTEGER"), _field("v", "STRING")],
    "empty": [_field("id", "INTEGER"), _field("tags", "STRING", "REPEATED")],
    "Cased": [_field("Id", "INTEGER"), _field("Name", "STRING")],
}
ROWS = """
INSERT INTO "p.d"."t" VALUES
 (1, 'a', 1.5, '2024-01-01 10:00:00+00', '2024-01-01', [1, 2], {'x': 1, 'Y': 'one'},
  '{"k": "v", "m": {"auc": 0.91}}', 1.5, true),
 (2, 'b', 'nan', '2024-01-02 10:00:00+00', '2024-01-02', [3], {'x': 2, 'Y': NULL}, NULL, 2, false),
 (3, 'a', NULL, NULL, NULL, [], NULL, NULL, NULL, NULL);
INSERT INTO "p.d"."u" VALUES (1, 'one'), (2, 'two'), (4, 'four');
INSERT INTO "p.d"."Cased" VALUES (7, 'x');
"""
PARAMETERS = {
    "i": ({"type": "INT64"}, 2),
    "s": ({"type": "STRING"}, "a"),
    "none": ({"type": "STRING"}, None),
    "null": ({"type": "INT64"}, None),
    "day": ({"type": "STRING"}, "2024-01-02"),
    "ts": ({"type": "TIMESTAMP"}, "2024-01-02 00:00:00+00"),
    "ids": ({"type": "ARRAY", "arrayType": {"type": "INT64"}}, [1, 3]),
    "rows": (
        {
            "type": "ARRAY",
            "arrayType": {
                "type": "STRUCT",
                "structTypes": [{"name": "id", "type": {"type": "INT64"}}, {"name": "v", "type": {"type": "STRING"}}],
            },
        },
        [{"id": 1, "v": "new"}, {"id": 9, "v": "nine"}],
    ),
    "1": ({"type": "INT64"}, 40),
    "2": ({"type": "INT64"}, 2),
}


class Tables:
    """A catalog of a few tables."""

    def source(self, ref):
        """Return a table's columns."""
        if (ref.project, ref.dataset) != ("p", "d") or ref.table not in TABLES:
            raise not_found(f"Table {ref.project}:{ref.dataset}.{ref.table} was not found in location US")
        return TABLES[ref.table]

    def information_schema(self, view, project, dataset):
        """Return the one column that INFORMATION_SCHEMA knows."""
        if view != "COLUMNS":
            return []
        names = dict.fromkeys(["table_catalog", "table_schema", "is_nullable", "is_partitioning_column"], "")
        known = {"table_name": "t", "column_name": "id", "data_type": "INT64"}
        return [names | known | {"ordinal_position": 1, "clustering_ordinal_position": None}]


@pytest.fixture(scope="module")
def database():
    """A DuckDB as the store would have it."""
    connection = duckdb.connect()
    sql.prepare(connection)
    connection.execute('CREATE SCHEMA "p.d"')
    for name, fields in TABLES.items():
        columns = ", ".join(f'"{f["name"]}" {types.duckdb_type(types.normalize([f])[0])}' for f in fields)
        connection.execute(f'CREATE TABLE "p.d"."{name}" ({columns})')
    connection.execute(ROWS)
    return connection


def translate(statement, dataset="d"):
    given = {name: kind for name, (kind, _) in PARAMETERS.items()}
    return sql.script(statement, catalog=Tables(), project="p", dataset=dataset, parameter_types=given)


def run(connection, statement):
    """Run statements as the job runner does; return the last one's schema and rows."""
    schema, rows = None, None
    for query in translate(statement):
        assert isinstance(query, Query)
        bound = {sql.parameter_name(name): PARAMETERS[name][1] for name in query.parameters}
        try:
            if query.schema is None:
                rows = connection.execute(query.sql, bound or None).fetchone()[0]
                continue
            table = connection.sql(query.sql, params=bound or None).to_arrow_table()
        except duckdb.Error as error:
            raise sql.runtime_error(error) from error
        schema = query.schema
        names = [field["name"] for field in schema]
        table = table.rename_columns(names).cast(types.arrow_schema(schema))
        rows = [tuple(row[name] for name in names) for row in table.to_pylist()]
    return schema, rows


# --- the corpus ------------------------------------------------------------------------------------------------------


def cases(section):
    """Read one section of the corpus as (statement, expectation) pairs."""
    text = (Path(__file__).parent / "sql_corpus.txt").read_text("utf-8")
    body = re.search(rf"^== {section} ==\n(.*?)(?=^== |\Z)", text, re.DOTALL | re.MULTILINE)[1]
    lines = (line for line in body.splitlines() if line and not line.startswith("#"))
    return [pytest.param(*line.split(" => ", 1), id=line.split(" => ")[0][:80]) for line in lines]


def _ts(text):
    return dtm.datetime.fromisoformat(text).replace(tzinfo=_UTC)


WORDS = {
    "ts": _ts,
    "dt": dtm.datetime.fromisoformat,
    "d": dtm.date.fromisoformat,
    "t": dtm.time.fromisoformat,
    "Decimal": Decimal,
    "nan": math.nan,
    "inf": math.inf,
}


def same(left, right):
    """Compare values and their Python types; NaN equals itself, and the zeros differ."""
    if isinstance(left, list | tuple) and isinstance(right, list | tuple):
        return len(left) == len(right) and all(map(same, left, right))
    return type(left) is type(right) and (left == right or (left != left and right != right))


@pytest.mark.parametrize(("expression", "expected"), cases("expressions"))
def test_an_expression_has_bigquerys_value_and_type(database, expression, expected):
    kind, value = re.fullmatch(r"((?:ARRAY|STRUCT)<.*?>|\w+) (.*)", expected).groups()
    (field,), ((got,),) = run(database, f"SELECT {expression}")
    assert same(got, eval(value, WORDS)), got
    assert types.standard_type(field) == kind


@pytest.mark.parametrize(("query", "expected"), cases("queries"))
def test_a_query_has_bigquerys_columns_and_rows(database, query, expected):
    columns, rows = re.fullmatch(r"\((.*?)\) (\[.*)", expected).groups()
    schema, got = run(database, query)
    assert ", ".join(f"{f['name']} {types.standard_type(f)}" for f in schema) == columns
    wanted = eval(rows, WORDS)
    if "ORDER BY" not in query.rsplit(")", 1)[-1]:
        got, wanted = sorted(got, key=repr), sorted(wanted, key=repr)
    assert same(got, wanted), got


@pytest.mark.parametrize(("statement", "words"), cases("errors"))
def test_an_error_is_bigquerys(database, statement, words):
    with pytest.raises(ApiError, match=re.escape(words)):
        run(database, statement)


@pytest.mark.parametrize(("statement", "words"), cases("refused"))
def test_what_is_not_exact_is_refused(database, statement, words):
    with pytest.raises(ApiError, match=re.escape(words)) as caught:
        run(database, statement)
    assert caught.value.message.startswith("not supported locally: ")


# --- DML, DDL and scripts --------------------------------------------------------------------------------------------


@pytest.fixture
def scratch(database):
    """The same database, put back after the test."""
    database.execute("BEGIN")
    yield database
    database.execute("ROLLBACK")


def rows(connection, query):
    return run(connection, query)[1]


CHANGES = [
    (
        "INSERT INTO u (id, v) VALUES (5, 'x'), (6, DEFAULT)",
        2,
        [(1, "one"), (2, "two"), (4, "four"), (5, "x"), (6, None)],
    ),
    ("INSERT d.u SELECT id, s FROM t WHERE id = @i", 1, [(1, "one"), (2, "two"), (2, "b"), (4, "four")]),
    (
        "INSERT INTO u (v) SELECT r.v FROM UNNEST(@rows) AS r WHERE r.id > 1",
        1,
        [(None, "nine"), (1, "one"), (2, "two"), (4, "four")],
    ),
    ("UPDATE u SET v = CONCAT(v, '!') WHERE id < 3", 2, [(1, "one!"), (2, "two!"), (4, "four")]),
    ("UPDATE u AS x SET v = t.s, id = x.id + 10 FROM t WHERE x.id = t.id", 2, [(4, "four"), (11, "a"), (12, "b")]),
    ("DELETE FROM u WHERE id IN UNNEST(@ids)", 1, [(2, "two"), (4, "four")]),
    ("DELETE u AS x WHERE x.v = @none", 0, [(1, "one"), (2, "two"), (4, "four")]),
    ("DELETE FROM u WHERE true", 3, []),
    ("TRUNCATE TABLE d.u", 3, []),
    (
        "MERGE d.u AS target USING (SELECT @i AS id, @s AS v) AS source ON target.id = source.id "
        "WHEN MATCHED AND source.v < target.v THEN UPDATE SET v = source.v "
        "WHEN NOT MATCHED THEN INSERT (id, v) VALUES (source.id, source.v)",
        1,
        [(1, "one"), (2, "a"), (4, "four")],
    ),
    (
        "MERGE INTO u USING UNNEST(@rows) AS s ON u.id = s.id WHEN MATCHED THEN UPDATE SET v = s.v "
        "WHEN NOT MATCHED THEN INSERT ROW WHEN NOT MATCHED BY SOURCE AND u.id > 2 THEN DELETE",
        3,
        [(1, "new"), (2, "two"), (9, "nine")],
    ),
    (
        "MERGE u USING (SELECT 7 AS id, 'seven' AS v) ON FALSE "
        "WHEN NOT MATCHED BY SOURCE THEN DELETE WHEN NOT MATCHED THEN INSERT ROW",
        4,
        [(7, "seven")],
    ),
    (  # two source rows for one target row are fine as long as one of them acts
        "MERGE u USING (SELECT 1 AS id, 'x' AS v UNION ALL SELECT 1, 'y') AS s ON u.id = s.id "
        "WHEN MATCHED AND s.v = 'y' THEN UPDATE SET v = s.v",
        1,
        [(1, "y"), (2, "two"), (4, "four")],
    ),
]


@pytest.mark.parametrize(("statement", "count", "after"), CHANGES)
def test_dml_changes_what_bigquery_would(scratch, statement, count, after):
    schema, affected = run(scratch, statement)
    assert schema is None
    assert affected == count
    assert sorted(rows(scratch, "SELECT id, v FROM u ORDER BY id"), key=repr) == sorted(after, key=repr)


def test_replacing_a_runs_slice_is_one_transaction():
    script = (
        "BEGIN TRANSACTION; DELETE FROM u WHERE id = @i AND v >= @s; "
        "INSERT INTO u (id, v) SELECT id, s FROM t; COMMIT TRANSACTION;"
    )
    begin, delete, insert, commit = translate(script)
    assert (begin, commit) == (Transaction("BEGIN"), Transaction("COMMIT"))
    assert (delete.kind, delete.target, delete.parameters) == ("DELETE", TableRef("p", "d", "u"), frozenset("is"))
    assert insert.reads == {TableRef("p", "d", "t")}


def test_positional_parameters_count_through_a_script():
    first, second = translate("SELECT ? AS a; SELECT ? AS b")
    assert (first.parameters, second.parameters) == (frozenset("1"), frozenset("2"))


def test_a_translation_changes_no_tree():
    """Trees are remembered, and the next translation of the same text starts from them."""
    expressions = [f"SELECT {case.values[0]}" for case in cases("expressions")]
    queries = [case.values[0] for case in cases("queries")]
    for statement in [*expressions, *queries, *(text for text, *_ in CHANGES), *(text for text, _ in DEFINITIONS)]:
        before = _structure(statement)
        first, again = list(translate(statement)), list(translate(statement))
        assert _structure(statement) == before
        assert first == again


def _structure(statement):
    nodes = [node for _, tree in parser.parse(statement) for node in tree.walk()]
    return [(id(node), id(node.parent), type(node), node.arg_key, dict(node.meta), repr(node)) for node in nodes]


def test_statements_are_translated_one_at_a_time():
    script = translate("SELECT 1 AS a; SELECT * FROM not_yet")
    assert next(script).kind == "SELECT"
    with pytest.raises(ApiError, match="not_yet was not found"):
        next(script)


def test_all_statements_are_parsed_before_the_first_is_translated():
    with pytest.raises(ApiError, match="Syntax error"):
        translate("SELECT 1; SELEC 2")


DEFINITIONS = [
    (
        "CREATE TABLE d.x (a INT64 NOT NULL OPTIONS (description='the a'), b ARRAY<STRUCT<c STRING, d FLOAT64>>) "
        "PARTITION BY DATE(ts) CLUSTER BY a, b "
        "OPTIONS (description='z', labels=[('k', 'v')], partition_expiration_days=2)",
        Create(
            "TABLE",
            TableRef("p", "d", "x"),
            [
                _field("a", "INTEGER", "REQUIRED", description="the a"),
                _field("b", "RECORD", "REPEATED", fields=[_field("c", "STRING"), _field("d", "FLOAT")]),
            ],
            properties={
                "timePartitioning": {"type": "DAY", "field": "ts", "expirationMs": "172800000"},
                "clustering": {"fields": ["a", "b"]},
                "description": "z",
                "labels": {"k": "v"},
            },
        ),
    ),
    (
        "CREATE TABLE IF NOT EXISTS `q.e.x` (ts TIMESTAMP) PARTITION BY TIMESTAMP_TRUNC(ts, HOUR)",
        Create(
            "TABLE",
            TableRef("q", "e", "x"),
            [_field("ts", "TIMESTAMP")],
            if_not_exists=True,
            properties={"timePartitioning": {"type": "HOUR", "field": "ts"}},
        ),
    ),
    (
        "CREATE TABLE x (n INT64) PARTITION BY RANGE_BUCKET(n, GENERATE_ARRAY(0, 100, 10))",
        Create(
            "TABLE",
            TableRef("p", "d", "x"),
            [_field("n", "INTEGER")],
            properties={"rangePartitioning": {"field": "n", "range": {"start": "0", "end": "100", "interval": "10"}}},
        ),
    ),
    ("DROP TABLE IF EXISTS d.x", Drop("TABLE", TableRef("p", "d", "x"), if_exists=True)),
    ("DROP VIEW x", Drop("VIEW", TableRef("p", "d", "x"))),
    (
        "ALTER TABLE d.x ADD COLUMN IF NOT EXISTS a INT64, ADD COLUMN IF NOT EXISTS b STRING OPTIONS (description='q')",
        AddColumns(TableRef("p", "d", "x"), [_field("a", "INTEGER"), _field("b", "STRING", description="q")], True),
    ),
    ("BEGIN", Transaction("BEGIN")),
    ("ROLLBACK TRANSACTION", Transaction("ROLLBACK")),
]


@pytest.mark.parametrize(("statement", "expected"), DEFINITIONS, ids=[text[:40] for text, _ in DEFINITIONS])
def test_a_definition_becomes_what_the_store_needs(statement, expected):
    assert list(translate(statement)) == [expected]


def test_create_table_as_select_takes_the_querys_schema():
    (made,) = translate("CREATE OR REPLACE TABLE d.x AS SELECT id, ARRAY_AGG(s) AS ss FROM t GROUP BY id")
    assert made.or_replace
    assert made.schema == made.query.schema == [_field("id", "INTEGER"), _field("ss", "STRING", "REPEATED")]


def test_a_view_keeps_the_text_that_was_written(database):
    text = "SELECT *\nFROM t -- all of it\nQUALIFY ROW_NUMBER() OVER (PARTITION BY s ORDER BY id DESC) = 1"
    (view,) = translate(f"CREATE OR REPLACE VIEW d.x OPTIONS (description='v') AS {text};")
    assert (view.text, view.or_replace, view.properties) == (text, True, {"description": "v"})
    database.execute(f"CREATE TEMP VIEW the_view AS {view.query.sql}")
    assert database.sql("SELECT id FROM the_view ORDER BY id").fetchall() == [(2,), (3,)]


# --- beside statements -----------------------------------------------------------------------------------------------


def test_an_error_is_one_clean_line(database):
    with pytest.raises(ApiError) as caught:
        run(database, "SELECT DATE '9999-12-31' + 1")
    assert caught.value.message == "date or time out of range: 10000-01-01 00:00:00"


def test_nothing_is_downloaded():
    connection = duckdb.connect()
    sql.prepare(connection)
    sql.prepare(connection.cursor())  # again does no harm
    settings = "SELECT count(*) FROM duckdb_settings() WHERE name LIKE 'auto%known_extensions' AND value = 'false'"
    assert connection.sql(settings).fetchall() == [(2,)]


def test_the_published_lists_come_from_the_tables():
    supported, refused = sql.supported(), sql.refusals()
    assert {"SUM", "DATE_TRUNC", "JSON_VALUE", "ARRAY_AGG", "CAST"} <= set(supported["functions"])
    assert {"SELECT", "MERGE", "CREATE"} <= set(supported["statements"])
    assert not set(supported["functions"]) & set(refused["functions"])


# --- laws ------------------------------------------------------------------------------------------------------------

_STAMPS = st.datetimes(dtm.datetime(1900, 1, 1), dtm.datetime(2200, 1, 1))
_DAYS = st.dates(dtm.date(1, 2, 1), dtm.date(9999, 11, 1))
_INTS = st.integers(-(2**63), 2**63 - 1)
_UNITS = {
    "MICROSECOND": 1,
    "MILLISECOND": 1000,
    "SECOND": 10**6,
    "MINUTE": 60 * 10**6,
    "HOUR": 3600 * 10**6,
    "DAY": 86400 * 10**6,
}


def value(connection, expression):
    return run(connection, f"SELECT {expression}")[1][0][0]


@given(_STAMPS, _STAMPS, st.sampled_from(list(_UNITS)))
@settings(max_examples=40, deadline=None)
def test_timestamp_diff_counts_whole_units(database, later, earlier, unit):
    micros = (later - earlier) // dtm.timedelta(microseconds=1)
    whole = abs(micros) // _UNITS[unit] * (1 if micros >= 0 else -1)
    assert value(database, f"TIMESTAMP_DIFF('{later}+00', '{earlier}+00', {unit})") == whole


@given(_DAYS, st.integers(0, 6))
@settings(max_examples=40, deadline=None)
def test_date_trunc_week_goes_back_to_its_weekday(database, day, start):
    name = ("SUNDAY", "MONDAY", "TUESDAY", "WEDNESDAY", "THURSDAY", "FRIDAY", "SATURDAY")[start]
    back = (day.isoweekday() - start) % 7
    assert value(database, f"DATE_TRUNC(DATE '{day}', WEEK({name}))") == day - dtm.timedelta(back)


@given(_DAYS, _DAYS)
@settings(max_examples=40, deadline=None)
def test_date_diff_week_counts_sundays(database, later, earlier):
    sundays = (later.toordinal() // 7) - (earlier.toordinal() // 7)  # ordinal 0 is a Sunday
    assert value(database, f"DATE_DIFF(DATE '{later}', DATE '{earlier}', WEEK)") == sundays


@given(st.floats(-1e15, 1e15))
@settings(max_examples=60, deadline=None)
def test_casting_to_int64_rounds_half_away_from_zero(database, number):
    away = Decimal(number).quantize(Decimal(1), rounding="ROUND_HALF_UP")
    assert value(database, f"CAST(CAST('{number!r}' AS FLOAT64) AS INT64)") == int(away)


@given(st.floats(allow_nan=False, allow_infinity=False))
@settings(max_examples=60, deadline=None)
def test_a_float_survives_its_string(database, number):
    written = value(database, f"CAST(CAST('{number!r}' AS FLOAT64) AS STRING)")
    assert float(written) == number
    assert written == ((f"{number:.15g}" if float(f"{number:.15g}") == number else f"{number:.17g}") if number else "0")


@given(_INTS, _INTS.filter(bool))
@settings(max_examples=60, deadline=None)
def test_div_and_mod_go_together(database, number, divisor):
    if (number, divisor) == (-(2**63), -1):
        return
    quotient, rest = value(database, f"DIV({number}, {divisor})"), value(database, f"MOD({number}, {divisor})")
    assert quotient * divisor + rest == number
    assert abs(rest) < abs(divisor)
    assert rest == 0 or (rest < 0) == (number < 0)


@given(st.lists(st.one_of(st.none(), st.just(math.nan), st.floats(-9, 9).map(lambda x: x + 0.0)), max_size=6))
@settings(max_examples=40, deadline=None)
def test_order_by_puts_null_then_nan_first(database, numbers):
    items = ", ".join("NULL" if x is None else f"CAST('{x!r}' AS FLOAT64)" for x in [0.0, *numbers])
    got = [x for (x,) in rows(database, f"SELECT x FROM UNNEST([{items}]) AS x ORDER BY x")]
    rank = [(0, 0) if x is None else (1, 0) if x != x else (2, x) for x in got]
    assert rank == sorted(rank)
    back = [x for (x,) in rows(database, f"SELECT x FROM UNNEST([{items}]) AS x ORDER BY x DESC")]
    assert same(
        [x or 0.0 if x is not None else None for x in back], [x or 0.0 if x is not None else None for x in got[::-1]]
    )


@given(st.decimals(-(10**6), 10**6, places=6, allow_nan=False), st.integers(-3, 4))
@settings(max_examples=60, deadline=None)
def test_round_works_on_the_exact_number(database, number, digits):
    exact = Decimal(float(number))
    wanted = float(exact.quantize(Decimal(1).scaleb(-digits), rounding="ROUND_HALF_UP"))
    assert value(database, f"ROUND({float(number)!r}, {digits})") == pytest.approx(wanted, rel=1e-15, abs=1e-300)


@given(
    st.text(st.characters(codec="utf-8", exclude_characters="\x00"), max_size=8),
    st.integers(-10, 10),
    st.integers(0, 10),
)
@settings(max_examples=60, deadline=None)
def test_substr_counts_characters_from_either_end(database, text, position, length):
    start = position - 1 if position > 0 else max(len(text) + position, 0) if position < 0 else 0
    (query,) = translate(f"SELECT SUBSTR(@s, {position}, {length}) AS x, REVERSE(@s) AS r")
    got = database.sql(query.sql, params={"p_s": text}).fetchall()
    assert got == [(text[start : start + length], text[::-1])]


def test_published_list_is_up_to_date():
    """SQL.md is made from the tables: ``python -m mlsys.local.bigquery.support > mlsys/local/SQL.md``."""
    from pathlib import Path

    import mlsys.local
    from mlsys.local.bigquery import support

    assert (Path(mlsys.local.__file__).parent / "SQL.md").read_text() == support.page()
