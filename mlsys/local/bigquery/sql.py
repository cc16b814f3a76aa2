"""GoogleSQL for DuckDB: exact, or refused.

The text is read by `parser`; every name, type and function is then resolved by `query`, `functions` and `values`, and
only what is in an allow-list comes through. `supported` and `refusals` are made from those same lists.

Dataset and table names keep their case in DuckDB, which compares them without: the catalog is asked first and knows the
exact names, and the store never keeps two that differ by case alone.
"""
# ruff: noqa: S608 -- to write SQL is what this module does; every name in it is quoted

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import duckdb
from sqlglot import exp

from mlsys.local.bigquery import dates, functions, parser, query, signatures, udfs
from mlsys.local.bigquery import values as v
from mlsys.local.bigquery.query import Translator, parameter_name
from mlsys.local.bigquery.scope import Column, Scope, label, named, only, path_of
from mlsys.local.bigquery.statements import (
    AddColumns,
    Catalog,
    Create,
    Drop,
    Query,
    Schema,
    Statement,
    TableRef,
    Transaction,
    View,
)  # fmt: skip
from mlsys.local.bigquery.types import quote, relation, text
from mlsys.local.bigquery.values import Value, coerced, invalid
from mlsys.local.errors import ApiError, unsupported

__all__ = ["parameter_name", "prepare", "refusals", "runtime_error", "script", "supported"]


def script(
    sql: str, *, catalog: Catalog, project: str, dataset: str | None, parameter_types: Mapping[str, dict]
) -> Iterator[Statement]:
    """Translate a script, statement by statement.

    Parameters
    ----------
    sql
        One or more GoogleSQL statements. All are parsed before the first is translated; each is translated only when it
        is asked for, because it may need a table that an earlier one creates.
    catalog
        Where the columns of tables and views are looked up.
    project, dataset
        What completes a table's name. Without a dataset, names must carry one.
    parameter_types
        REST ``parameterType`` by name; positional parameters are named "1", "2", ….

    Returns
    -------
    An iterator of statements, each to be run before the next is asked for.

    Examples
    --------
    >>> [query] = script("SELECT 1 AS n", catalog=None, project="p", dataset=None, parameter_types={})
    >>> query.sql, query.schema[0]["type"]
    ('SELECT CAST(1 AS BIGINT) AS "n"', 'INTEGER')
    """
    parsed = parser.parse(sql)
    if not parsed:
        raise invalid("Syntax error: Unexpected end of statement")
    return _translated(parsed, catalog, project, dataset, parameter_types)


def _translated(
    parsed: Iterable[tuple[str, exp.Expression]], catalog: Catalog, project: str, dataset: str | None, types: Mapping
) -> Iterator[Statement]:
    for source, tree in parsed:
        key = source, project, dataset, json.dumps(types, sort_keys=True)
        known = _translations.get(key)
        # In the order in which they were asked for: a view that is as it was asks for the same tables again.
        if known and all(catalog.source(ref) == answer for ref, answer in known[1].items()):
            yield known[0]
            continue
        asked = _Asked(catalog)
        statement = _statement(tree, Translator(asked, project, dataset, types), source)
        if isinstance(statement, Query) and asked.lasting and len(statement.sql) <= _SHORT:
            if len(_translations) >= _MOST:
                _translations.clear()
            _translations[key] = statement, asked.answers
        yield statement


def _statement(tree: exp.Expression, translator: Translator, source: str) -> Statement:
    handler = _STATEMENTS.get(type(tree), _query if isinstance(tree, exp.Query) else None)
    if handler is None:
        raise unsupported(label(tree))
    try:
        return handler(tree, translator, source)
    except RecursionError as error:
        raise unsupported("a statement nested so deeply") from error


class _Asked:
    """A catalog, and what it has answered: a translation holds as long as it would answer the same."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog, self.lasting = catalog, True
        self.answers: dict[TableRef, Schema | View] = {}

    def source(self, ref: TableRef) -> Schema | View:
        answer = self.answers[ref] = self._catalog.source(ref)
        self.lasting &= isinstance(answer, View) or len(answer) <= _WIDEST
        return answer

    def information_schema(self, view: str, project: str, dataset: str) -> list[dict]:
        self.lasting = False
        return self._catalog.information_schema(view, project, dataset)


#: What programs ask comes again and again.
_translations: dict[tuple, tuple[Query, dict[TableRef, Schema | View]]] = {}
_MOST, _SHORT, _WIDEST = 256, 1 << 15, 500  # translations, characters of one, columns of a table: to bound their memory


_COLUMNS = 10_000  # BigQuery's limit of a result


# --- queries and DML -------------------------------------------------------------------------------------------------


def _query(tree: exp.Expression, translator: Translator, _: str = "", *, named: str = "") -> Query:
    sql, columns = translator.query(tree)
    if named and not all(column.name for column in columns):
        raise invalid(f"{named} columns must be named")
    if named and any(_nameless(column.value.type) for column in columns):
        raise unsupported(f"{named} with a STRUCT whose fields have no names")
    if len(columns) > _COLUMNS:
        raise invalid(f"Too many columns: {len(columns)}; a result can have {_COLUMNS}")
    names = v.anonymous([(column.name, column.value.type) for column in columns])
    seen = Counter(name.lower() for name, _kind in names)
    if twice := [name for name, _kind in names if seen[name.lower()] > 1]:
        raise invalid(f"Duplicate column names in the result are not supported. Found duplicate(s): {twice[0]}")
    sql = _checked(sql, columns, translator)
    schema, reads = [kind.rest(name) for name, kind in names], frozenset(translator.reads)
    whole = _whole(tree, translator)
    return Query("SELECT", sql, frozenset(translator.parameters), schema, reads=reads, whole=whole)


def _whole(tree: exp.Expression, translator: Translator) -> TableRef | None:
    """Return the table of which a query is ``SELECT * FROM table``; None when it is anything else, or that a view."""
    source = tree.args["from_"].this if tree.args.get("from_") else None
    clauses = {key for key, value in tree.args.items() if value}
    if clauses != {"expressions", "from_"} or tree.expressions != [exp.Star()] or not isinstance(source, exp.Table):
        return None
    (ref,) = translator.reads if len(translator.reads) == 1 else (None,)
    return ref if ref and not source.args.get("joins") and ref == translator.table(source) else None


def _nameless(kind: v.Type) -> bool:
    """Say whether a field of a STRUCT somewhere inside has no name."""
    return any((kind.name == "STRUCT" and not name) or _nameless(inner) for name, inner in kind.fields)


def _checked(sql: str, columns: list[Column], translator: Translator) -> str:
    """Raise where a result would hold an array with a NULL in it, which BigQuery cannot return or store."""
    alias = quote(translator.fresh("q"))
    moved = [(column, Value(f"{alias}.{column.value.sql}", column.value.type)) for column in columns]
    if not any(_null_inside(value) for _, value in moved):
        return sql
    items = (f"{_without_nulls(value, column.name or '')} AS {column.value.sql}" for column, value in moved)
    return f"SELECT {', '.join(items)} FROM ({sql}) AS {alias}"


def _without_nulls(value: Value, name: str) -> str:
    found = _null_inside(value)
    if not found:
        return value.sql
    message = text(f"Array cannot have a null element; error in writing field {name}")
    return f"CASE WHEN {found} THEN _bq_error({message}) ELSE {value.sql} END"


def _null_inside(value: Value) -> str:
    """Return the condition that some array in a value has a NULL element; nothing when no array is there."""
    if value.type.name == "STRUCT":
        parts = (_null_inside(v.field(value, index)) for index in range(len(value.type.fields)))
        return " OR ".join(filter(None, parts))
    if value.type.name != "ARRAY":
        return ""
    inner = _null_inside(Value("_e", value.type.element))
    return f"len(list_filter({value.sql}, lambda _e: _e IS NULL{inner and ' OR ' + inner})) > 0"


def _dml(kind: str, sql: str, target: TableRef, translator: Translator) -> Query:
    parameters, reads = frozenset(translator.parameters), frozenset(translator.reads)
    return Query(kind, sql, parameters, target=target, reads=reads)


def _fitted(value: Value, column: Column, words: str) -> str:
    """Convert a value to the column that takes it, or say in BigQuery's ``words`` that it does not fit."""
    fitted = coerced(value, column.value.type)
    if fitted is None and value.type.name == column.value.type.name == "STRUCT":
        raise unsupported(f"{value.type} for column {column.name}, which has type {column.value.type}")
    if fitted is None:
        raise invalid(words.format(value.type, column.name, column.value.type))
    return _without_nulls(fitted, column.name)


def _chosen(nodes: list[exp.Expression], columns: list[Column]) -> list[Column]:
    chosen = []
    for node in nodes:
        if not (found := named(columns, node.name)):
            raise invalid(f"Column {node.name} is not present in the table")
        chosen += found
    return chosen


def _value(node: exp.Expression, translator: Translator, scope: Scope) -> Value:
    default = isinstance(node, exp.Var | exp.Column) and node.name.upper() == "DEFAULT" and not node.args.get("table")
    return Value("NULL", v.INT64, "null") if default else translator.expression(node, scope)


def _insert(tree: exp.Insert, translator: Translator, _: str) -> Query:
    only(tree, "this", "expression", "is_function")
    schema = tree.this if isinstance(tree.this, exp.Schema) else None
    ref, _sql, scope = translator.target(schema.this if schema else tree.this)
    translator.reads.discard(ref)
    chosen = _chosen(schema.expressions, scope.columns) if schema else scope.columns
    if isinstance(tree.expression, exp.Values):
        rows = (_row(row.expressions, chosen, translator, Scope()) for row in tree.expression.expressions)
        source = f"VALUES {', '.join(rows)}"
    else:
        sql, given = translator.query(tree.expression)
        _same_length(given, chosen)
        items = []
        for number, (column, into) in enumerate(zip(given, chosen, strict=True), 1):
            value = replace(column.value, origin=column.value.origin.replace("parameter", ""))
            words = (
                f"Query column {number} has type {{}} which cannot be inserted into column {{}}, which has type {{}}"
            )
            items.append(_fitted(value, into, words))
        source = f"SELECT {', '.join(items)} FROM ({sql}) AS {quote(translator.fresh('q'))}"
    return _dml("INSERT", f"INSERT INTO {relation(ref)} ({_names(chosen)}) {source}", ref, translator)


def _names(columns: list[Column]) -> str:
    return ", ".join(quote(column.name) for column in columns)


def _same_length(given: list, columns: list[Column]) -> None:
    if len(given) != len(columns):
        raise invalid(f"Inserted row has wrong column count; Has {len(given)}, expected {len(columns)}")


def _row(nodes: list[exp.Expression], columns: list[Column], translator: Translator, scope: Scope) -> str:
    _same_length(nodes, columns)
    words = "Value has type {} which cannot be inserted into column {}, which has type {}"
    pairs = ((_value(node, translator, scope), column) for node, column in zip(nodes, columns, strict=True))
    return f"({', '.join(_fitted(value, column, words) for value, column in pairs)})"


def _settings(nodes: list[exp.Expression], columns: list[Column], translator: Translator, scope: Scope) -> str:
    """Translate the assignments of an UPDATE."""
    pairs = []
    for node in nodes:
        path = path_of(node.this)
        if len(path) > 1 and named(columns, path[0]):
            raise unsupported("UPDATE of one field of a STRUCT")
        (column,) = _chosen([node.this], columns)
        value = _value(node.expression, translator, scope)
        words = "Value of type {} cannot be assigned to {}, which has type {}"
        pairs.append(f"{quote(column.name)} = {_fitted(value, column, words)}")
    return ", ".join(pairs)


def _where(tree: exp.Update | exp.Delete, translator: Translator, scope: Scope) -> str:
    if tree.args.get("where") is None:
        raise invalid(f"{label(tree)} must have a WHERE clause")
    return translator.boolean(tree.args["where"].this, scope, "WHERE clause")


def _update(tree: exp.Update, translator: Translator, _: str) -> Query:
    only(tree, "this", "expressions", "from_", "where")
    ref, target, scope = translator.target(tree.this)
    if not (source := tree.args.get("from_")):
        condition = _where(tree, translator, scope)
        settings = _settings(tree.expressions, scope.columns, translator, scope)
        return _dml("UPDATE", f"UPDATE {target} SET {settings} WHERE {condition}", ref, translator)
    if source.this.args.get("joins"):
        raise unsupported("UPDATE FROM a join; put it in a subquery")
    # As a MERGE, so that two source rows for one target row are an error as they are in BigQuery.
    inner = Scope()
    using = translator.sources(source.this, (), inner)
    condition = _where(tree, translator, scope | inner)
    settings = _settings(tree.expressions, scope.columns, translator, scope | inner)
    sql = f"MERGE INTO {target} USING {using} ON {condition} WHEN MATCHED THEN UPDATE SET {settings}"
    return _dml("UPDATE", sql, ref, translator)


def _delete(tree: exp.Delete, translator: Translator, _: str) -> Query:
    only(tree, "this", "tables", "where")
    ref, target, scope = translator.target(tree.this or tree.args["tables"][0])
    return _dml("DELETE", f"DELETE FROM {target} WHERE {_where(tree, translator, scope)}", ref, translator)


def _truncate(tree: exp.TruncateTable, translator: Translator, _: str) -> Query:
    only(tree, "expressions")
    ref, target, _scope = translator.target(tree.expressions[0])
    return _dml("TRUNCATE_TABLE", f"DELETE FROM {target}", ref, translator)


def _merge(tree: exp.Merge, translator: Translator, _: str) -> Query:
    only(tree, "this", "using", "on", "whens")
    ref, target, scope = translator.target(tree.this)
    inner = Scope()
    using = translator.sources(tree.args["using"], (), inner)
    condition = translator.boolean(tree.args["on"], scope | inner, "MERGE ON")
    if isinstance(tree.args["on"], exp.Boolean) and not tree.args["on"].this:
        # DuckDB would compare every row with every row. An equation of a row's number, never negative, with a number
        # that always is finds nothing just as well, by a hash join.
        alias = target.rpartition(" AS ")[2]
        condition = f"{alias}.rowid = -1 - CAST(hash({inner.columns[0].value.sql}) % 1000 AS BIGINT)"
    clauses = []
    for when in tree.args["whens"].expressions:
        head, seen = "WHEN MATCHED", scope | inner
        if not when.args["matched"]:
            head, seen = ("BY SOURCE", scope) if when.args.get("source") else ("BY TARGET", inner)
            head = f"WHEN NOT MATCHED {head}"
        if when.args.get("condition") is not None:
            head += f" AND {translator.boolean(when.args['condition'], seen, 'WHEN')}"
        clauses.append(f"{head} THEN {_action(when.args['then'], seen, scope.columns, translator)}")
    return _dml("MERGE", f"MERGE INTO {target} USING {using} ON {condition} {' '.join(clauses)}", ref, translator)


def _action(then: exp.Expression, scope: Scope, columns: list[Column], translator: Translator) -> str:
    if isinstance(then, exp.Var) and then.name.upper() == "DELETE":
        return "DELETE"
    if isinstance(then, exp.Update):
        return f"UPDATE SET {_settings(then.expressions, columns, translator, scope)}"
    if not isinstance(then, exp.Insert):
        raise unsupported(f"MERGE … THEN {label(then)}")
    chosen = _chosen(then.this.expressions, columns) if isinstance(then.this, exp.Tuple) else columns
    if isinstance(then.this, exp.Var) or isinstance(
        then.expression, exp.Var
    ):  # INSERT ROW: the source's columns in order
        _same_length(scope.columns, chosen)
        words = "Value has type {} which cannot be inserted into column {}, which has type {}"
        values = (_fitted(given.value, into, words) for given, into in zip(scope.columns, chosen, strict=True))
        row = f"({', '.join(values)})"
    else:
        row = _row(then.expression.expressions, chosen, translator, scope)
    return f"INSERT ({_names(chosen)}) VALUES {row}"


# --- DDL -------------------------------------------------------------------------------------------------------------


def _create(tree: exp.Create, translator: Translator, source: str) -> Statement:
    only(tree, "this", "kind", "replace", "expression", "exists", "properties")
    kind = tree.kind.upper()
    given = tree.args["properties"].expressions if tree.args.get("properties") else []
    flags: dict[str, Any] = {
        "or_replace": bool(tree.args.get("replace")),
        "if_not_exists": bool(tree.args.get("exists")),
    }
    if kind not in ("TABLE", "VIEW"):
        raise unsupported(f"CREATE {kind}")
    schema = tree.this if isinstance(tree.this, exp.Schema) else None
    target = translator.table(schema.this if schema else tree.this)
    made = _query(tree.expression, translator, named=f"CREATE {kind}") if tree.expression else None
    if kind == "VIEW":
        if schema:
            raise unsupported("CREATE VIEW with a column list")
        if made.parameters:
            raise invalid("Query parameters cannot be used in a view")
        properties = _properties(given, kind)
        return Create("VIEW", target, made.schema, made, parser.text_after_as(source), **flags, properties=properties)
    columns = [_column(node, translator) for node in schema.expressions] if schema else None
    if columns and made:
        raise unsupported("CREATE TABLE with a column list and AS SELECT")
    properties = _properties(given, kind)
    if not columns and not made:
        raise invalid("CREATE TABLE needs columns or a query")
    by_day = [node.this.name for node in given if isinstance(node, exp.PartitionedByProperty) and _is_name(node.this)]
    if any(column["name"] in by_day and column["type"] != "DATE" for column in columns or made.schema):
        raise invalid("PARTITION BY expression must be DATE(<timestamp_column>), a DATE column or a _TRUNC of one")
    return Create("TABLE", target, columns or made.schema, made, **flags, properties=properties)


def _column(node: exp.Expression, translator: Translator) -> dict:
    if not isinstance(node, exp.ColumnDef):
        raise unsupported(f"{label(node)} in CREATE TABLE")
    only(node, "this", "kind", "constraints", "exists")
    column = translator.type(node.kind).rest(node.name)
    for constraint in node.args.get("constraints") or ():
        kind = constraint.kind
        if isinstance(kind, exp.NotNullColumnConstraint) and not kind.args.get("allow_null"):
            if column["mode"] == "REPEATED":
                raise invalid("NOT NULL constraint is not supported for an ARRAY")
            column["mode"] = "REQUIRED"
        elif isinstance(kind, exp.Properties):
            options = {item.name.lower(): _constant(item.args["value"]) for item in kind.expressions}
            if set(options) - {"description"}:
                raise unsupported(f"column option {min(set(options) - {'description'})}")
            column |= options
        else:
            raise unsupported(f"{label(kind)} of a column")
    return column


def _constant(node: exp.Expression) -> Any:
    if isinstance(node, exp.Literal):
        return node.this if node.is_string else float(node.this) if not node.is_int else int(node.this)
    if isinstance(node, exp.Boolean):
        return node.this
    if isinstance(node, exp.Cast) and node.to.this == exp.DType.TIMESTAMPTZ and isinstance(node.this, exp.Literal):
        try:
            moment = datetime.fromisoformat(node.this.name)
        except ValueError as error:
            raise invalid(f"Invalid timestamp: '{node.this.name}'") from error
        return str(int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000))
    if isinstance(node, exp.Array):
        return [_constant(item) for item in node.expressions]
    if isinstance(node, exp.Tuple):
        return tuple(_constant(item) for item in node.expressions)
    raise unsupported(f"{label(node)} in OPTIONS")


def _properties(nodes: list[exp.Expression], kind: str) -> dict:
    """Return the OPTIONS, PARTITION BY and CLUSTER BY of a CREATE in REST's form."""
    found: dict = {}
    for node in nodes:
        if isinstance(node, exp.PartitionedByProperty):
            found |= _partitioning(node.this)
        elif isinstance(node, exp.ClusterProperty | exp.Cluster):
            found["clustering"] = {"fields": [item.name for item in node.expressions]}
        elif isinstance(node, exp.Property) and isinstance(node.this, exp.Var | exp.Identifier):
            name, value = node.name.lower(), _constant(node.args["value"])
            if name not in _OPTIONS[kind]:
                raise unsupported(f"the option {name}")
            if name.endswith("_days"):
                value = str(int(value * 86400000))
            if name == "partition_expiration_days":
                found.setdefault("timePartitioning", {})["expirationMs"] = value
            else:
                found[_OPTIONS[kind][name]] = dict(value) if name == "labels" else value
        else:
            raise unsupported(f"CREATE {kind} with {label(node)}")
    if "timePartitioning" in found and "type" not in found["timePartitioning"]:
        raise invalid("partition_expiration_days needs PARTITION BY")
    return found


_COMMON = {"description": "description", "friendly_name": "friendlyName", "labels": "labels"}
_OPTIONS = {
    "VIEW": _COMMON | {"expiration_timestamp": "expirationTime"},
    "TABLE": _COMMON
    | {"expiration_timestamp": "expirationTime", "require_partition_filter": "requirePartitionFilter"}
    | {"partition_expiration_days": ""},
}


def _is_name(node: exp.Expression) -> bool:
    return isinstance(node, exp.Column | exp.Identifier) and not node.name.upper().startswith("_PARTITION")


def _partitioning(node: exp.Expression) -> dict:
    if _is_name(node):
        return {"timePartitioning": {"type": "DAY", "field": node.name}}
    call, arguments = (node.name.upper(), node.expressions) if isinstance(node, exp.Anonymous) else ("", [])
    names = [argument.name.upper() for argument in arguments]
    if call == "DATE" and len(names) == 1:
        return {"timePartitioning": {"type": "DAY", "field": arguments[0].name}}
    if call.endswith("_TRUNC") and names[1:] and names[1] in ("HOUR", "DAY", "MONTH", "YEAR"):
        return {"timePartitioning": {"type": names[1], "field": arguments[0].name}}
    if call == "RANGE_BUCKET" and names[1:] == ["GENERATE_ARRAY"] and len(arguments[1].expressions) == 3:
        limits = dict(zip(("start", "end", "interval"), (item.name for item in arguments[1].expressions), strict=True))
        return {"rangePartitioning": {"field": arguments[0].name, "range": limits}}
    raise unsupported("PARTITION BY this expression")


def _drop(tree: exp.Drop, translator: Translator, _: str) -> Drop:
    only(tree, "tables", "kind", "exists")
    kind = tree.args["kind"].upper()
    if kind not in ("TABLE", "VIEW") or len(tree.args["tables"]) != 1:
        raise unsupported(f"DROP {kind}")
    return Drop(kind, translator.table(tree.args["tables"][0]), bool(tree.args.get("exists")))


def _alter(tree: exp.Alter, translator: Translator, _: str) -> AddColumns:
    only(tree, "this", "kind", "actions")
    actions = tree.args["actions"]
    if tree.args["kind"].upper() != "TABLE" or not all(isinstance(action, exp.ColumnDef) for action in actions):
        raise unsupported(f"ALTER {tree.args['kind']} except TABLE … ADD COLUMN")
    tolerant = {bool(action.args.get("exists")) for action in actions}
    if len(tolerant) > 1:
        raise unsupported("ADD COLUMN with and without IF NOT EXISTS in one statement")
    return AddColumns(translator.table(tree.this), [_column(action, translator) for action in actions], tolerant.pop())


def _command(tree: exp.Command, _: Translator, source: str) -> Transaction:
    if source.strip().upper() == "BEGIN":
        return Transaction("BEGIN")
    raise unsupported(f"{tree.name.upper()} …")


_STATEMENTS: dict[type, Callable[..., Statement]] = {
    exp.Insert: _insert,
    exp.Update: _update,
    exp.Delete: _delete,
    exp.TruncateTable: _truncate,
    exp.Merge: _merge,
    exp.Create: _create,
    exp.Drop: _drop,
    exp.Alter: _alter,
    exp.Command: _command,
    exp.Transaction: lambda *_: Transaction("BEGIN"),
    exp.Commit: lambda *_: Transaction("COMMIT"),
    exp.Rollback: lambda *_: Transaction("ROLLBACK"),
}


# --- beside statements -----------------------------------------------------------------------------------------------


def prepare(connection: duckdb.DuckDBPyConnection) -> None:
    """Set a fresh connection up for what `script` writes: UTC, nothing downloaded, and three functions of our own."""
    connection.execute("SET autoinstall_known_extensions = false; SET autoload_known_extensions = false")
    connection.execute("SET GLOBAL TimeZone = 'UTC'")  # of every later cursor too
    there = connection.execute(
        "SELECT function_name FROM duckdb_functions() WHERE function_name[:4] = '_bq_'"
    ).fetchall()
    for name, (function, kinds, result) in udfs.OURS.items():
        if (name,) not in there:  # they belong to the database, so another connection to it may have brought them
            options: dict[str, Any] = {"type": "arrow", "null_handling": "special"}  # annotated as enumerations only
            connection.create_function(name, function, kinds, result, **options)


#: What DuckDB says, and what BigQuery would.
_WORDS = (
    (r"not supported locally: .*", "{0}"),
    (r"division by zero: (.*?)(?:\.0)? / 0\.0", "division by zero: {1} / 0"),
    (r"Overflow in (?:addition|subtraction|multiplication) of INT64 \((.*)\)", "int64 overflow: {1}"),
    (r"Overflow in division of (.*)", "int64 overflow: {1}"),
    (r"Overflow on abs\((.*)\)", "int64 overflow: ABS({1})"),
    (r"Type (?:INT128|HUGEINT) with value (\S+) can't be cast", "int64 overflow: {1}"),
    (r"Type DOUBLE with value (-?(?:nan|inf)) can't",
     "Illegal conversion of non-finite floating point number to an integer: {1}"),
    (r"Type DOUBLE with value (\S+) can't be cast because the value is out of range", "int64 out of range: {1}"),
    (r"cannot affect the same target row more than once",
     "UPDATE/MERGE must match at most one source row for each target row"),
    (r"More than one row returned by a subquery", "Scalar subquery produced more than one element"),
    (r'column "?(\w+)"? must appear in the GROUP BY clause',
     "SELECT list expression references column {1} which is neither grouped nor aggregated"),
    (r"NOT NULL constraint failed: (?:[^.]*\.)?(.+)", "Required field {1} cannot be null"),
    (r"Malformed JSON.*", "not supported locally: {0}"),
    (r"Substring (?:offset|length) outside of supported range.*", "not supported locally: {0}"),
)  # fmt: skip


def runtime_error(exc: duckdb.Error) -> ApiError:
    """Return DuckDB's error as BigQuery would word it, in one line."""
    message = str(exc)
    for pattern, words in _WORDS:
        if match := re.search(pattern, message):
            return invalid(words.format(match[0], *match.groups()))
    line = message.strip().splitlines()[0]
    return invalid(re.sub(r"^.*executing the UDF: \w+: |^[A-Z][A-Za-z ]* Error: ", "", line))


def supported() -> dict[str, list[str]]:
    """List what `script` translates, from the tables that it goes by."""
    calls = {*signatures.TABLE, *functions.HANDLERS, "ARRAY", "STRUCT", "CAST", "SAFE_CAST", "EXTRACT"}
    operators = {name for name in calls if not re.fullmatch(r"\w{3,}|IF|LN", name)} | {"AND", "NOT", "LIKE", "||", "IN"}
    return {
        "statements": sorted({"SELECT", *(label(kind) for kind in _STATEMENTS if kind is not exp.Command)}),
        "expressions": sorted(label(kind) for kind in query.HANDLERS),
        "operators": sorted(operators),
        "functions": sorted(calls - operators),
        "casts": [f"{source} to {to}" for source, to in v.CASTS],
        "date parts": sorted({*dates.EXTRACTS, "WEEK", "WEEK(<weekday>)"}),
        "format elements": sorted(dates.FORMATS),
        "parse elements": sorted(dates.PARSES),
    }


def refusals() -> dict[str, list[str]]:
    """List what BigQuery has and `script` refuses by name; whatever is in neither list is refused as well."""
    return {
        "functions": sorted(signatures.ABSENT),
        "scripting": sorted(parser.SCRIPTING),
        "syntax": sorted(filter(None, parser.TOKENS.values())),
    }
