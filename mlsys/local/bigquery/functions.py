"""GoogleSQL's functions: most are lines of ``functions.sql``; here and in `dates` are those that look at arguments."""

import json
import re
from collections.abc import Callable, Sequence

from mlsys.local.bigquery import dates
from mlsys.local.bigquery import values as v
from mlsys.local.bigquery.signatures import ABSENT, NONE, ORDERED, TABLE, Modifiers, chosen, exactly, literal, mismatch
from mlsys.local.bigquery.types import text
from mlsys.local.bigquery.values import Value, array, cast, coerced, common, fill, invalid
from mlsys.local.errors import unsupported


def is_aggregate(name: str) -> bool:
    """Say whether a function makes one value of many rows."""
    return name in _AGGREGATES or any(overload.group == "aggregate" for overload in TABLE.get(name, ()))


def call(name: str, arguments: Sequence[Value], modifiers: Modifiers = NONE) -> Value:
    """Translate a call of function ``name``, or refuse it."""
    if name in HANDLERS:
        if name not in _AGGREGATES and modifiers != Modifiers(safe=modifiers.safe):
            raise invalid(f"{name} is not an aggregate or window function")
        if modifiers.safe and name not in _SAFE:
            raise unsupported(f"SAFE.{name}")
        if modifiers.over and (modifiers.distinct or modifiers.order or modifiers.limit):
            raise unsupported(f"{name} OVER a window with DISTINCT, ORDER BY or LIMIT inside")
        return HANDLERS[name](name, arguments, modifiers)
    if name not in TABLE:
        if name in ABSENT or name.startswith(("ST_", "S2_", "LAX_", "BIT_CAST_")):
            raise unsupported(name)
        raise invalid(f"Function not found: {name}")
    return chosen(name, arguments, modifiers)


def _extreme(name: str, arguments: Sequence[Value], _: Modifiers) -> Value:
    kind = common(arguments)
    if kind is None or kind.name not in ORDERED:
        raise mismatch(f"function {name}", arguments)
    items = [coerced(value, kind) for value in arguments]
    slots = [f"{{{number}}}" for number in range(len(items))]
    branches = f"WHEN {' OR '.join(f'{slot} IS NULL' for slot in slots)} THEN NULL "
    if kind == v.FLOAT64:
        branches += f"WHEN {' OR '.join(f'isnan({slot})' for slot in slots)} THEN CAST('nan' AS DOUBLE) "
    if any(value.volatile for value in arguments):
        raise unsupported(f"RAND() or GENERATE_UUID() inside {name}")
    return Value(fill(f"CASE {branches}ELSE {name.lower()}({', '.join(slots)}) END", items, what=name), kind)


def _raise(name: str, arguments: Sequence[Value], _: Modifiers) -> Value:
    (message,) = exactly(name, arguments, 1)
    if message.type != v.STRING:
        raise mismatch(f"function {name}", arguments)
    return Value(f"_bq_error({message.sql})", v.INT64, "null")


# --- strings ---------------------------------------------------------------------------------------------------------


def _concat(name: str, arguments: Sequence[Value], _: Modifiers) -> Value:
    """CONCAT writes numbers and dates as strings first."""
    kind = v.BYTES if arguments and all(value.type == v.BYTES for value in arguments) else v.STRING
    if not arguments or (kind == v.STRING and any(value.type.name not in ORDERED - {"BYTES"} for value in arguments)):
        raise mismatch(f"function {name}", arguments)
    pieces = (
        value.sql if value.type == kind and value.origin != "null" else cast(value, kind).sql for value in arguments
    )
    return Value(f"({' || '.join(pieces)})", kind, volatile=any(value.volatile for value in arguments))


def _regexp(name: str, arguments: Sequence[Value], _: Modifiers) -> Value:
    """Both sides are RE2; what must be known beforehand is which group is wanted."""
    exactly(name, arguments, 3 if name == "REGEXP_REPLACE" else 2)
    if any(coerced(value, v.STRING) is None for value in arguments):
        raise mismatch(f"function {name}", arguments)
    subject, pattern = (coerced(value, v.STRING).sql for value in arguments[:2])
    if name == "REGEXP_CONTAINS":
        return Value(f"regexp_matches({subject}, {pattern})", v.BOOL)
    written = literal(name, arguments[1])
    plain = re.sub(r"\[:\^?\w+:\]", "x", written)  # [[:alpha:]] is RE2's own
    try:
        compiled = re.compile(plain)
    except re.error as error:
        raise unsupported(f"{name} with the pattern {written}") from error
    bare = re.sub(r"\((?!\?)[^()]*\)", "()", written)  # a group that took no part is NULL there, and '' here
    least, _most = re._parser.parse(plain).getwidth()  # type: ignore[attr-defined]  # re keeps it to itself
    if least == 0 or (compiled.groups and re.search(r"\||\)[?*]|\)\{0", bare)):
        raise unsupported(f"{name} with a pattern that can match nothing: {written}")
    if name == "REGEXP_REPLACE":
        groups = re.fullmatch(r"(?:[^\\]|\\[0-9\\])*", replacement := literal(name, arguments[2]))
        if not groups or any(int(number) > compiled.groups for number in re.findall(r"\\([0-9])", replacement)):
            raise invalid(f"Invalid REGEXP_REPLACE pattern: {replacement}")
        return Value(f"regexp_replace({subject}, {pattern}, {arguments[2].sql}, 'g')", v.STRING)
    if compiled.groups > 1:
        raise invalid("Regular expressions passed into extraction functions must not have more than 1 capturing group")
    if name == "REGEXP_EXTRACT_ALL":
        return Value(f"regexp_extract_all({subject}, {pattern}, {compiled.groups})", array(v.STRING))
    template = "CASE WHEN regexp_matches({0}, {1}) THEN regexp_extract({0}, {1}, {group}) END"
    sides = [Value(subject, v.STRING), Value(pattern, v.STRING)]
    return Value(fill(template, sides, what=name, group=str(compiled.groups)), v.STRING)


# --- JSON ------------------------------------------------------------------------------------------------------------


def _json(name: str, arguments: Sequence[Value], _: Modifiers) -> Value:
    value = exactly(name, arguments, 1, 2)[0]
    path = literal(name, arguments[1]) if len(arguments) == 2 else "$"
    if not re.fullmatch(r"\$(\.\w+|\.\"[^\"]+\"|\[\d+\])*", path):
        raise unsupported(f"the JSON path {path}")
    if value.origin == "null":
        raise unsupported(f"{name} of NULL")
    wanted = (v.JSON,) if name in ("JSON_QUERY", "JSON_EXTRACT") else (v.JSON, v.STRING)
    if value.type not in wanted:
        raise mismatch(f"function {name}", arguments)
    where = text(path)
    if wanted == (v.JSON,):
        return Value(f"json_extract({value.sql}, {where})", v.JSON)
    # Numbers come out as BigQuery writes them only when they are written the one canonical way.
    template = (
        "CASE json_type({0}, {path}) WHEN 'OBJECT' THEN NULL WHEN 'ARRAY' THEN NULL WHEN 'DOUBLE' THEN CASE WHEN "
        r"regexp_full_match(json_extract_string({0}, {path}), '-?(0|[1-9]\d{0,9})\.(0|\d{0,14}[1-9])') "
        r"AND NOT regexp_matches(CAST({0} AS VARCHAR), '\.\d*0([^\d]|$)|\d[eE]') "
        "THEN json_extract_string({0}, {path}) ELSE refuse('JSON_VALUE of this number: ' || "
        "json_extract_string({0}, {path})) END ELSE json_extract_string({0}, {path}) END"
    )
    return Value(fill(template, [value], what=name, path=where), v.STRING)


def _to_json(name: str, arguments: Sequence[Value], _: Modifiers) -> Value:
    """Write out BigQuery's compact JSON, field by field."""
    (value,) = exactly(name, arguments, 1)
    sql, kind = value.sql, value.type
    if value.volatile:
        raise unsupported(f"{name} of RAND() or GENERATE_UUID()")
    if kind.name == "ARRAY":
        item = _to_json(name, [Value("_item", kind.element)], _)
        inner = f"'[' || coalesce(array_to_string(list_transform({sql}, lambda _item: {item.sql}), ','), '') || ']'"
    elif kind.name == "STRUCT":
        fields = enumerate(kind.fields)  # a field without a name is called ""
        parts = [
            f"{text(json.dumps(field, ensure_ascii=False) + ':')} || {_to_json(name, [v.field(value, index)], _).sql}"
            for index, (field, _kind) in fields
        ]
        inner = "'{' || " + " || ',' || ".join(parts) + " || '}'"
    elif kind in (v.DATE, v.DATETIME, v.TIMESTAMP, v.TIME):
        written = cast(value, v.STRING).sql
        written = f"replace({written}, ' ', 'T')" if kind in (v.DATETIME, v.TIMESTAMP) else written
        inner = f"""'"' || {f"replace({written}, '+00', 'Z')" if kind == v.TIMESTAMP else written} || '"'"""
    else:
        inner = chosen(name, [value, cast(value, v.STRING)], Modifiers()).sql
    return Value(f"CASE WHEN {sql} IS NULL THEN 'null' ELSE {inner} END", v.STRING)


# --- arrays and aggregates that keep an order ------------------------------------------------------------------------


def _array_concat(name: str, arguments: Sequence[Value], _: Modifiers) -> Value:
    kind = common(arguments)
    if kind is None or kind.name != "ARRAY":
        raise mismatch(f"function {name}", arguments)
    items = [coerced(value, kind).sql for value in arguments]
    missing = " OR ".join(f"{item} IS NULL" for item in items)
    return Value(f"CASE WHEN {missing} THEN NULL ELSE list_concat({', '.join(items)}) END", kind)


def _collect(value: Value, modifiers: Modifiers, *, keep_nulls: bool) -> str:
    order = f" ORDER BY {modifiers.order}" if modifiers.order else ""
    kept = "" if keep_nulls else f" FILTER (WHERE {value.sql} IS NOT NULL)"
    items = f"list({'DISTINCT ' * modifiers.distinct}{value.sql}{order}){kept}{modifiers.over}"
    return f"({items})[1:{modifiers.limit}]" if modifiers.limit else items


def _array_agg(name: str, arguments: Sequence[Value], modifiers: Modifiers) -> Value:
    (value,) = exactly(name, arguments, 1)
    kind = array(value.type)
    return Value(_collect(value, modifiers, keep_nulls=modifiers.nulls != "IgnoreNulls"), kind)


def _string_agg(name: str, arguments: Sequence[Value], modifiers: Modifiers) -> Value:
    value = exactly(name, arguments, 1, 2)[0]
    separator = arguments[1] if len(arguments) == 2 else Value("','", v.STRING)
    if (value.type, separator.type) != (v.STRING, v.STRING) or modifiers.nulls:
        raise mismatch(f"function {name}", arguments)
    return Value(f"array_to_string({_collect(value, modifiers, keep_nulls=False)}, {separator.sql})", v.STRING)


def _quantiles(name: str, arguments: Sequence[Value], modifiers: Modifiers) -> Value:
    """BigQuery approximates; the exact quantile is one of the answers that it may give."""
    value, number = exactly(name, arguments, 2)
    if value.type.name not in ORDERED or modifiers != NONE:
        raise unsupported(f"{name} with modifiers or of {value.type}")
    count = int(number.text) if number.type == v.INT64 and (number.text or "").isdecimal() else 0
    if not count:
        raise unsupported(f"{name} where the number is no positive literal")
    points = ", ".join(str(index / count) for index in range(count + 1))
    sql = f"quantile_disc({value.sql}, [{points}])"
    if value.type == v.FLOAT64:  # DuckDB holds NaN for the highest number
        sql = (
            f"CASE WHEN bool_or(isnan({value.sql})) THEN {fill("refuse('APPROX_QUANTILES of NaN')", [])} ELSE {sql} END"
        )
    return Value(sql, array(value.type))


_AGGREGATES = ("ARRAY_AGG", "STRING_AGG", "APPROX_QUANTILES")  # of those that look at their arguments
_SAFE = dates.SAFE | {"GREATEST", "LEAST", "CONCAT"}  # those that heed SAFE., or cannot fail
HANDLERS: dict[str, Callable[[str, Sequence[Value], Modifiers], Value]] = {
    "ERROR": _raise,
    **dict.fromkeys(("GREATEST", "LEAST"), _extreme),
    "CONCAT": _concat,
    **dict.fromkeys(("REGEXP_CONTAINS", "REGEXP_EXTRACT", "REGEXP_EXTRACT_ALL", "REGEXP_REPLACE"), _regexp),
    **dict.fromkeys(("JSON_VALUE", "JSON_EXTRACT_SCALAR", "JSON_QUERY", "JSON_EXTRACT"), _json),
    "TO_JSON_STRING": _to_json,
    "ARRAY_CONCAT": _array_concat,
    "ARRAY_AGG": _array_agg,
    "STRING_AGG": _string_agg,
    "APPROX_QUANTILES": _quantiles,
    **dates.HANDLERS,
}
