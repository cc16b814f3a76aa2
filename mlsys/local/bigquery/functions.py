"""GoogleSQL's functions. Most are lines of ``functions.sql``; those that look at their arguments are here."""

import json
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from importlib.resources import files

import farmhash
import numpy as np
import pyarrow as pa

from mlsys.local.bigquery import values as v
from mlsys.local.bigquery.values import Type, Value, array, cast, coerced, common, fill, invalid, text
from mlsys.local.errors import ApiError, unsupported

INTERVAL, PART = Type("INTERVAL"), Type("date part")  # arguments that are no values
ORDERED = frozenset({"INT64", "FLOAT64", "NUMERIC", "BOOL", "STRING", "BYTES", "DATE", "DATETIME", "TIME", "TIMESTAMP"})


@dataclass(frozen=True)
class Overload:
    """One line of the table."""

    name: str
    parameters: tuple[str, ...]
    result: str
    sql: str
    group: str  # scalar, aggregate or window


@dataclass(frozen=True)
class Modifiers:
    """What a call may carry beside its arguments, already in DuckDB's words."""

    safe: bool = False
    distinct: bool = False
    nulls: str = ""  # IgnoreNulls or RespectNulls
    order: str = ""
    limit: str = ""
    over: str = ""


def _load() -> tuple[dict[str, list[Overload]], frozenset[str]]:
    table, absent, group = defaultdict(list), set(), ""
    for line in (files(__package__) / "functions.sql").read_text("utf-8").splitlines():
        if match := re.fullmatch(r"(\S[A-Z0-9_/ =>]*)\((.*?)\) (\S+) \| (.*)", line):
            parameters = tuple(filter(None, match[2].split(", ")))
            for name in match[1].split("/") if len(match[1]) > 1 else match[1]:
                table[name].append(Overload(name, parameters, match[3], match[4], group))
        elif line.startswith("-- ") and line.count(" ") == 1:
            group = line[3:]
        elif group == "refused":
            absent.update(line.split())
    return dict(table), frozenset(absent)


TABLE, ABSENT = _load()
_MORE = {
    # What GoogleSQL's TRIM takes for white space; DuckDB's takes only the space.
    "blanks": text(
        "".join(map(chr, (*range(9, 14), 32, 133, 160, 5760, *range(8192, 8203), 8232, 8233, 8239, 8287, 12288)))
    ),
    "offset": "CASE WHEN {1} < 0 THEN _bq_error('Offset cannot be negative') ELSE {1} END",
    "start": "CASE WHEN {1} = 0 OR {1} < -length({0}) THEN 1 ELSE {1} END",
}


def is_aggregate(name: str) -> bool:
    """Say whether a function makes one value of many rows."""
    return name in _AGGREGATES or any(overload.group == "aggregate" for overload in TABLE.get(name, ()))


def call(name: str, arguments: Sequence[Value], modifiers: Modifiers = Modifiers()) -> Value:
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
    return _chosen(name, arguments, modifiers)


def _chosen(name: str, arguments: Sequence[Value], modifiers: Modifiers) -> Value:
    for exact in (True, False):
        for overload in TABLE[name]:
            if bound := _bind(overload, arguments, exact):
                return _apply(overload, *bound, modifiers)
    operator = not re.fullmatch("[A-Z0-9_]+", name) or name in ("AND", "OR", "NOT", "LIKE")
    raise mismatch(f"{'operator' if operator else 'function'} {name}", arguments)


def mismatch(what: str, arguments: Sequence[Value]) -> ApiError:
    """Say that no signature fits; where ours may be fewer than BigQuery's, refuse instead of blaming the user."""
    kinds = ", ".join("NULL" if value.origin == "null" else str(value.type) for value in arguments)
    overloads = [each.parameters for each in TABLE.get(what.removeprefix("function "), ())]
    lengths = {len(parameters) for parameters in overloads if parameters[-1:] != ("T...",)}
    known = not lengths or len(arguments) in lengths
    known = (
        known
        and (what.startswith("operator") or bool(overloads))
        and all(value.origin != "null" for value in arguments)
    )
    if known and all(value.type.name in ORDERED - {"NUMERIC", "BYTES", "TIME"} for value in arguments):
        return invalid(f"No matching signature for {what} for argument types: {kinds}")
    return unsupported(f"{what} for argument types {kinds}")


def _bind(overload: Overload, arguments: Sequence[Value], exact: bool) -> tuple[list[Value], Type | None] | None:
    """Fit arguments to parameters; None when they do not fit."""
    wanted = list(overload.parameters)
    if wanted and wanted[-1].endswith("..."):
        wanted[-1:] = [wanted[-1][:-3]] * max(len(arguments) - len(wanted) + 1, 0)
    if len(wanted) != len(arguments):
        return None
    generic = [value for value, want in zip(arguments, wanted, strict=True) if want in ("T", "ORDERED")]
    kind = common(generic) if generic else None
    if (generic and kind is None) or ("ORDERED" in wanted and kind.name not in ORDERED):
        return None
    bound = []
    for value, want in zip(arguments, wanted, strict=True):
        if want == "ARRAY<T>":
            if value.type.name != "ARRAY":
                return None
            kind = value.type.element
            bound.append(value)
            continue
        to = kind if want in ("T", "ORDERED") else _type(want)
        if exact and generic != [value] and value.type != to:
            return None
        if value.type == v.NUMERIC and to == v.FLOAT64 and v.FLOAT64 not in (each.type for each in arguments):
            return None  # there BigQuery has a function of NUMERIC that we have not
        bound.append(coerced(value, to))
    return None if None in bound else (bound, kind)


def _type(name: str) -> Type:
    return array(Type(name[6:-1])) if name.startswith("ARRAY<") else Type(name)


def _apply(overload: Overload, bound: list[Value], kind: Type | None, modifiers: Modifiers) -> Value:
    name, sql = overload.name, overload.sql
    if overload.group == "scalar" and modifiers != Modifiers(safe=modifiers.safe):
        raise invalid(f"{name} is not an aggregate or window function")
    if overload.group == "window" and not modifiers.over:
        raise invalid(f"Analytic function {name} cannot be called without an OVER clause")
    idle = name in ("MIN", "MAX", "LOGICAL_AND", "LOGICAL_OR", "BIT_AND", "BIT_OR")  # DISTINCT changes nothing
    if modifiers.distinct and (("{d}" not in sql and not idle) or bound[0].type.name not in ORDERED):
        raise unsupported(f"{name}(DISTINCT …)")
    if modifiers.safe and overload.group != "scalar":
        raise unsupported(f"SAFE.{name}")
    if modifiers.distinct and "ORDER BY" in modifiers.over:
        raise invalid(f"Window ORDER BY is not allowed if DISTINCT is specified in {name}")
    for value, parameter in zip(bound, overload.parameters, strict=False):
        if overload.group == "window" and parameter == "INT64" and value.origin not in ("literal", "parameter"):
            raise invalid(f"The offset or number of {name} must be a literal or a parameter")
    if modifiers.order or modifiers.limit or (modifiers.nulls and "{nulls}" not in sql):
        raise unsupported(f"{name} with ORDER BY, LIMIT or IGNORE NULLS")
    slots = {
        "d": "DISTINCT " * modifiers.distinct,
        "over": modifiers.over,
        "nulls": " IGNORE NULLS" if modifiers.nulls == "IgnoreNulls" else "",
        "all": ", ".join(value.sql for value in bound),
    }
    for word, meaning in _MORE.items():
        sql = sql.replace(f"{{{word}}}", meaning)
    generic = {"T": kind, "ORDERED": kind}
    result = array(kind) if overload.result == "ARRAY<T>" else generic.get(overload.result) or _type(overload.result)
    volatile = name in ("RAND", "GENERATE_UUID") or any(value.volatile for value in bound)
    return Value(fill(sql, bound, safe=modifiers.safe, what=name, **slots), result, volatile=volatile)


# --- arguments ---------------------------------------------------------------------------------------------------


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
    (message,) = _exactly(name, arguments, 1)
    if message.type != v.STRING:
        raise mismatch(f"function {name}", arguments)
    return Value(f"_bq_error({message.sql})", v.INT64, "null")


def _exactly(name: str, arguments: Sequence[Value], *counts: int) -> Sequence[Value]:
    if len(arguments) not in counts:
        raise invalid(f"Number of arguments does not match for function {name}")
    return arguments


def _literal(name: str, value: Value) -> str:
    if value.origin != "literal" or value.text is None:
        raise unsupported(f"{name} where this argument is no literal")
    return value.text


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
    _exactly(name, arguments, 3 if name == "REGEXP_REPLACE" else 2)
    if any(coerced(value, v.STRING) is None for value in arguments):
        raise mismatch(f"function {name}", arguments)
    subject, pattern = (coerced(value, v.STRING).sql for value in arguments[:2])
    if name == "REGEXP_CONTAINS":
        return Value(f"regexp_matches({subject}, {pattern})", v.BOOL)
    literal = _literal(name, arguments[1])
    plain = re.sub(r"\[:\^?\w+:\]", "x", literal)  # [[:alpha:]] is RE2's own
    try:
        compiled = re.compile(plain)
    except re.error as error:
        raise unsupported(f"{name} with the pattern {literal}") from error
    bare = re.sub(r"\((?!\?)[^()]*\)", "()", literal)  # a group that took no part is NULL there, and '' here
    least, _most = re._parser.parse(plain).getwidth()
    if least == 0 or (compiled.groups and re.search(r"\||\)[?*]|\)\{0", bare)):
        raise unsupported(f"{name} with a pattern that can match nothing: {literal}")
    if name == "REGEXP_REPLACE":
        groups = re.fullmatch(r"(?:[^\\]|\\[0-9\\])*", replacement := _literal(name, arguments[2]))
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


def _format(name: str, arguments: Sequence[Value], _: Modifiers) -> Value:
    """Only %d, %s, %t and %.Nf, with zeros and widths that printf shares."""
    pattern = _literal(name, arguments[0])
    specifiers = re.findall(r"%(?:%|0?\d*d|s|t|\.\d+f)|%", pattern)
    wanted = [item for item in specifiers if item != "%%"]
    if "%" in wanted or len(wanted) != len(arguments) - 1:
        raise unsupported(f"FORMAT({pattern})")
    parts = []
    for item, value in zip(wanted, arguments[1:], strict=True):
        accepted = {"d": (v.INT64,), "s": (v.STRING,), "t": (v.STRING, v.INT64), "f": (v.FLOAT64,)}[item[-1]]
        if value.type not in accepted or value.origin == "null" or (item == "%t" and value.type != v.STRING):
            raise unsupported(f"FORMAT({item}) of {value.type}")
        parts.append(value.sql if item != "%t" else f"coalesce({value.sql}, 'NULL')")
    return Value(f"printf({', '.join([text(pattern.replace('%t', '%s')), *parts])})", v.STRING)


# --- JSON ------------------------------------------------------------------------------------------------------------


def _json(name: str, arguments: Sequence[Value], _: Modifiers) -> Value:
    value = _exactly(name, arguments, 1, 2)[0]
    path = _literal(name, arguments[1]) if len(arguments) == 2 else "$"
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
    (value,) = _exactly(name, arguments, 1)
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
        inner = _chosen(name, [value, cast(value, v.STRING)], Modifiers()).sql
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
    (value,) = _exactly(name, arguments, 1)
    kind = array(value.type)
    return Value(_collect(value, modifiers, keep_nulls=modifiers.nulls != "IgnoreNulls"), kind)


def _string_agg(name: str, arguments: Sequence[Value], modifiers: Modifiers) -> Value:
    value = _exactly(name, arguments, 1, 2)[0]
    separator = arguments[1] if len(arguments) == 2 else Value("','", v.STRING)
    if (value.type, separator.type) != (v.STRING, v.STRING) or modifiers.nulls:
        raise mismatch(f"function {name}", arguments)
    return Value(f"array_to_string({_collect(value, modifiers, keep_nulls=False)}, {separator.sql})", v.STRING)


def _quantiles(name: str, arguments: Sequence[Value], modifiers: Modifiers) -> Value:
    """BigQuery approximates; the exact quantile is one of the answers that it may give."""
    value, number = _exactly(name, arguments, 2)
    if value.type.name not in ORDERED or modifiers != Modifiers():
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


# --- dates and times -------------------------------------------------------------------------------------------------

_DAYS = ("SUNDAY", "MONDAY", "TUESDAY", "WEDNESDAY", "THURSDAY", "FRIDAY", "SATURDAY")
_MICROSECONDS = {"MICROSECOND": 1, "MILLISECOND": 10**3, "SECOND": 10**6, "MINUTE": 6 * 10**7, "HOUR": 36 * 10**8}
_CALENDAR = ("DAY", "WEEK", "MONTH", "QUARTER", "YEAR")
_STEPS = {
    "DATE": _CALENDAR,
    "DATETIME": (*_MICROSECONDS, *_CALENDAR),
    "TIMESTAMP": (*_MICROSECONDS, "DAY"),
    "TIME": tuple(_MICROSECONDS),
}


#: That a date or time is one of BigQuery's; year() would not do, it counts the years before 1 upwards again.
BOUNDS = "epoch_us({0}) BETWEEN -62135596800000000 AND 253402300799999999"
IN_RANGE = f"CASE WHEN NOT {BOUNDS} THEN _bq_error('date or time out of range: ' || {{0}}) ELSE {{0}} END"


def shift(value: Value, operator: str, interval: Value) -> Value:
    """Add an interval to a date or time, or take it away; months stop at their last day."""
    kind, unit = value.type, interval.text
    if unit not in _STEPS.get(kind.name, ()):
        raise invalid(f"{kind} arithmetic does not support the {unit} date part")
    moved = Value(f"({value.sql} {operator} to_{unit.lower()}s({interval.sql}))", kind)
    if kind == v.TIME:
        return moved
    return Value(fill(f"CAST({IN_RANGE} AS {kind.duck()})", [moved], what=f"{kind} arithmetic"), kind)


def _shift(name: str, arguments: Sequence[Value], _: Modifiers) -> Value:
    value, interval = _exactly(name, arguments, 2)
    kind, verb = name.split("_")
    value = coerced(value, Type(kind)) if value.type != v.DATE else value
    if value is None or value.type != Type(kind) or interval.type != INTERVAL:
        raise mismatch(f"function {name}", arguments)
    return shift(value, "+" if verb == "ADD" else "-", interval)


def _week_start(part: str) -> int | None:
    """Return which day a week begins on, Monday being 0; None for other parts."""
    if part in ("WEEK", "ISOWEEK"):
        return 6 if part == "WEEK" else 0
    match = re.fullmatch(r"WEEK\((\w+)\)", part)
    if match and match[1] not in _DAYS:
        raise invalid(f"Invalid weekday {match[1]}")
    return (_DAYS.index(match[1]) - 1) % 7 if match else None


def _truncated(part: str, kind: Type) -> str:
    """Return the template that cuts a date or a civil time down to ``part``."""
    start = _week_start(part)
    if start is not None:
        day = "CAST({0} AS DATE)"
        return f"(CAST(date_trunc('week', {day} - {start}) AS DATE) + {start})"
    if part == "ISOYEAR":
        return "CAST(date_trunc('week', make_date(isoyear({0}), 1, 4)) AS DATE)"
    if part in _CALENDAR or (part in _MICROSECONDS and kind != v.DATE):
        return f"date_trunc('{part.lower()}', {{0}})"
    raise invalid(f"{kind} does not support the {part} date part")


def _trunc(name: str, arguments: Sequence[Value], _: Modifiers) -> Value:
    value, part = _exactly(name, arguments, 2, 3)[:2]
    value = coerced(value, Type(name.removesuffix("_TRUNC"))) if value.origin == "literal" else value
    if value is None or value.type not in (v.DATE, v.DATETIME, v.TIMESTAMP):
        raise mismatch(f"function {name}", arguments)
    if (value.type == v.DATE) != (name == "DATE_TRUNC") and name != "DATE_TRUNC":
        raise mismatch(f"function {name}", arguments)
    if len(arguments) == 3 and _literal(name, arguments[2]) != "UTC":
        raise unsupported(f"{name} in a time zone other than UTC")
    cut = Value(fill(_truncated(part.text, value.type), [civil(value)], what=name), value.type)
    sql = fill(IN_RANGE, [cut], what=name) if "WEEK" in part.text or part.text == "ISOYEAR" else cut.sql
    if value.type == v.TIMESTAMP:
        return Value(f"(CAST({sql} AS TIMESTAMP) AT TIME ZONE 'UTC')", value.type)
    return Value(f"CAST({sql} AS {value.type.duck()})", value.type)


def _diff(name: str, arguments: Sequence[Value], _: Modifiers) -> Value:
    later, earlier, part = _exactly(name, arguments, 3)
    kind = Type(name.removesuffix("_DIFF"))
    pair = [coerced(value, kind) for value in (later, earlier)]
    if None in pair or part.type != PART:
        raise mismatch(f"function {name}", arguments)
    if kind == v.TIMESTAMP:  # whole units, not boundaries
        if part.text not in (*_MICROSECONDS, "DAY"):
            raise invalid(f"TIMESTAMP_DIFF does not support the {part.text} date part")
        size = _MICROSECONDS.get(part.text, 864 * 10**8)
        return Value(f"((epoch_us({pair[0].sql}) - epoch_us({pair[1].sql})) // {size})", v.INT64)
    number = _boundaries(part.text, kind)
    return Value(f"({fill(number, pair[:1], what=name)} - {fill(number, pair[1:], what=name)})", v.INT64)


def _boundaries(part: str, kind: Type) -> str:
    """Return the template that numbers the units of ``part`` from a far past: differences count boundaries."""
    if part in _MICROSECONDS and kind in (v.DATETIME, v.TIME):
        past = 62135596800000000 if kind == v.DATETIME else 0  # 0001-01-01
        return f"((epoch_us({{0}}) + {past}) // {_MICROSECONDS[part]})"
    years = {"YEAR": "year({0})", "ISOYEAR": "isoyear({0})", "QUARTER": "(year({0}) * 4 + quarter({0}))"}
    years["MONTH"] = "(year({0}) * 12 + month({0}))"
    if kind == v.TIME or (part not in years and part != "DAY" and _week_start(part) is None):
        raise invalid(f"{kind}_DIFF does not support the {part} date part")
    if part in years:
        return years[part]
    if part == "DAY":
        return "(CAST({0} AS DATE) - DATE '1970-01-01')"
    return f"(({_truncated(part, kind)} - DATE '1970-01-01' + 7000000) // 7)"


def civil(value: Value, zone: str = "UTC") -> Value:
    """Return the wall clock of a TIMESTAMP; other types are their own."""
    if value.type != v.TIMESTAMP:
        return value
    local = replace(value, sql=f"({value.sql} AT TIME ZONE {text(zone)})", type=v.DATETIME)
    return local if zone == "UTC" else replace(local, sql=fill(IN_RANGE, [local], what="a time zone"))


def zone(name: str, value: Value) -> str:
    """Return a time zone that DuckDB's ICU has under the same name."""
    written = _literal(name, value)
    if not re.fullmatch(r"UTC|[A-Z][A-Za-z_]+(/[A-Za-z_]+)+", written):
        raise unsupported(f"the time zone {written}")
    return written


EXTRACTS = {
    "DAYOFWEEK": "(dayofweek({0}) + 1)",
    "ISOWEEK": "weekofyear({0})",
    "MILLISECOND": "(microsecond({0}) % 1000000 // 1000)",
    "MICROSECOND": "(microsecond({0}) % 1000000)",
    "DATE": "CAST({0} AS DATE)",
    "TIME": "CAST({0} AS TIME)",
    "DATETIME": "{0}",
} | {
    part: part.lower() + "({0})"
    for part in ("YEAR", "ISOYEAR", "QUARTER", "MONTH", "DAY", "DAYOFYEAR", "HOUR", "MINUTE", "SECOND")
}
_CLOCK_PARTS = (*_MICROSECONDS, "TIME", "DATETIME")


def extract(part: str, value: Value, where: str = "UTC") -> Value:
    """Translate ``EXTRACT(part FROM value AT TIME ZONE where)``."""
    if value.type not in (v.DATE, v.DATETIME, v.TIMESTAMP, v.TIME):
        raise mismatch("function EXTRACT", [value])
    start = _week_start(part) if part != "ISOWEEK" else None
    template = EXTRACTS.get(part)
    if start is not None:  # days before the year's first such weekday are in week 0
        template = f"((dayofyear({{0}}) + 6 - (isodow({{0}}) + 6 - {start}) % 7) // 7)"
    clock = part in _CLOCK_PARTS
    if template is None or (value.type == v.DATE and clock) or (value.type == v.TIME and part not in _MICROSECONDS):
        raise invalid(f"EXTRACT from {value.type} does not support the {part} date part")
    kind = Type(part) if part in ("DATE", "TIME", "DATETIME") else v.INT64
    return Value(fill(template, [civil(value, where)], what="EXTRACT"), kind)


def _zoned(name: str, arguments: Sequence[Value], modifiers: Modifiers) -> Value | None:
    """DATE, DATETIME and TIMESTAMP take a time zone last; the rest of their forms are in the table."""
    if len(arguments) == 2 and coerced(arguments[1], v.STRING) and arguments[1].origin != "null":
        value, where = arguments[0], zone(name, arguments[1])
        if name == "TIMESTAMP" and where == "UTC":
            arguments = [value]
        elif name != "TIMESTAMP" and value.type == v.TIMESTAMP:
            return cast(civil(value, where), Type(name), safe=modifiers.safe)
        else:
            raise unsupported(f"{name} in a time zone, except of a TIMESTAMP or in UTC")
    if len(arguments) == 1 and arguments[0].type in (v.STRING, Type(name)):
        return cast(arguments[0], Type(name), safe=modifiers.safe)
    return _chosen(name, arguments, modifiers)


FORMATS = {
    **{f"%{letter}": f"strftime({{0}}, '%{letter}')" for letter in "YmdHMSyBbAajpIuwUWGV"},
    "%h": "strftime({0}, '%b')",
    "%F": "strftime({0}, '%Y-%m-%d')",
    "%T": "strftime({0}, '%H:%M:%S')",
    "%X": "strftime({0}, '%H:%M:%S')",
    "%R": "strftime({0}, '%H:%M')",
    "%D": "strftime({0}, '%m/%d/%y')",
    "%x": "strftime({0}, '%m/%d/%y')",
    "%e": "lpad(CAST(day({0}) AS VARCHAR), 2, ' ')",
    "%k": "lpad(CAST(hour({0}) AS VARCHAR), 2, ' ')",
    "%Q": "CAST(quarter({0}) AS VARCHAR)",
    "%s": "CAST(CAST(floor(epoch({0})) AS BIGINT) AS VARCHAR)",
    "%n": "chr(10)",
    "%t": "chr(9)",
    "%%": "'%'",
    "%E4Y": "strftime({0}, '%Y')",
    "%E3S": "strftime({0}, '%S.%g')",
    "%E6S": "strftime({0}, '%S.%f')",
    "%E*S": "rtrim(rtrim(strftime({0}, '%S.%f'), '0'), '.')",
    "%Z": "'UTC'",
    "%z": "'+0000'",
    "%Ez": "'+00:00'",
}
_TIME_ELEMENTS = re.compile(r"%(E4Y|E\*S|E\dS|Ez|.)", re.DOTALL)
_ONLY_CLOCK = frozenset({"%H", "%M", "%S", "%p", "%I", "%T", "%X", "%R", "%k", "%s", "%E3S", "%E6S", "%E*S"})


def _format_time(name: str, arguments: Sequence[Value], _: Modifiers) -> Value:
    kind = Type(name.removeprefix("FORMAT_"))
    pattern, value = _exactly(name, arguments, 2, 3)[:2]
    value = coerced(value, kind)
    if value is None or coerced(pattern, v.STRING) is None:
        raise mismatch(f"function {name}", arguments)
    where = zone(name, arguments[2]) if len(arguments) == 3 else "UTC"
    written, pieces, literals, last = _literal(name, pattern), ["''"], {}, 0
    for match in _TIME_ELEMENTS.finditer(written):
        element = match[0]
        zoned = element in ("%Z", "%z", "%Ez", "%s")
        wrong = {
            "DATE": element in _ONLY_CLOCK or zoned,
            "TIME": element not in _ONLY_CLOCK - {"%s"} and element != "%%",
        }
        if element not in FORMATS or wrong.get(kind.name) or (zoned and (kind != v.TIMESTAMP or where != "UTC")):
            raise unsupported(f"{name} with {element}")
        literals[f"at{last}"] = text(written[last : match.start()])
        pieces += [f"{{at{last}}}", FORMATS[element]]
        last = match.end()
    if written[last:].endswith("%"):
        raise unsupported(f"{name} with a % at the end")
    literals["rest"] = text(written[last:])
    template = f"({' || '.join([*pieces, '{rest}'])})"
    value = civil(value, where)
    value = replace(value, sql=f"(DATE '1970-01-01' + {value.sql})") if kind == v.TIME else value
    return Value(fill(template, [value], what=name, **literals), v.STRING)


_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
PARSES = {  # element: (the field that it sets, how it must be written so that no two readings are possible)
    "%Y": ("Y", r"(\d\d\d\d)"),
    "%E4Y": ("Y", r"(\d\d\d\d)"),
    "%m": ("m", r"(\d\d?)"),
    "%d": ("d", r"(\d\d?)"),
    "%e": ("d", r"(\d\d?)"),
    "%b": ("b", f"((?i:{'|'.join(_MONTHS)}))"),
    "%H": ("H", r"([01]?\d|2[0-3])"),
    "%M": ("M", r"(\d\d?)"),
    "%S": ("S", r"([0-5]?\d)"),
    "%E*S": ("S", r"([0-5]?\d(?:\.\d{1,6})?)"),
}
_SHORT = {"%F": "%Y-%m-%d", "%T": "%H:%M:%S", "%R": "%H:%M"}


def _parse_time(name: str, arguments: Sequence[Value], modifiers: Modifiers) -> Value:
    """Read with a regular expression that BigQuery would agree with; what it does not match is not guessed."""
    pattern, value = _exactly(name, arguments, 2, 3)[:2]
    value = coerced(value, v.STRING)
    kind, written = Type(name.removeprefix("PARSE_")), _literal(name, pattern)
    if value is None or (len(arguments) == 3 and _literal(name, arguments[2]) != "UTC"):
        raise unsupported(f"{name} of these arguments")
    for short, full in _SHORT.items():
        written = written.replace(short, full)
    strict, fields, last = "", [], 0
    for match in _TIME_ELEMENTS.finditer(written):
        field, piece = PARSES.get(match[0], ("", ""))
        if not field or field in fields or (kind == v.DATE and field in "HMS") or (kind == v.TIME and field in "Ymdb"):
            raise unsupported(f"{name} with {match[0]}")
        fields.append(field)
        if written[match.end() :].startswith("%"):  # side by side, each must have all its digits
            piece = piece.replace("?", "")
        strict += re.escape(written[last : match.start()]) + piece
        last = match.end()
    strict += re.escape(written[last:])
    # A lambda, because TRY takes no expression in which an error may have been written already.
    group = {field: f"regexp_extract(_x, {{strict}}, {index})" for index, field in enumerate(fields, 1)}
    number = {field: f"CAST({group[field]} AS BIGINT)" for field in fields}
    if "b" in fields:
        number["m"] = f"list_position({list(_MONTHS)}, lower({group['b']}))"
    date = f"make_date(nullif({number.get('Y', 1970)}, 0), {number.get('m', 1)}, {number.get('d', 1)})"
    clock = f"make_time({number.get('H', 0)}, {number.get('M', 0)}, CAST({group.get('S', '0')} AS DOUBLE))"
    made = {"DATE": date, "TIME": clock}.get(kind.name, f"({date} + {clock})")
    bad = "«'Failed to parse input string \"' || {0} || '\"'»"
    hopeless = "regexp_full_match({0}, '\\D*')" if set(fields) - {"b"} else "false"
    sql = fill(
        "CASE WHEN {0} IS NULL THEN NULL WHEN regexp_full_match({0}, {strict}) "
        f"THEN coalesce(list_transform([{{0}}], lambda _x: TRY({made}))[1], {bad}) "
        f"WHEN {hopeless} THEN {bad} ELSE refuse('{name} of ' || {{0}}) END",
        [value],
        safe=modifiers.safe,
        what=name,
        strict=text(strict),
    )
    return Value(f"({sql} AT TIME ZONE 'UTC')" if kind == v.TIMESTAMP else sql, kind)


def _generate_dates(name: str, arguments: Sequence[Value], _: Modifiers) -> Value:
    first, last = (coerced(value, v.DATE) for value in _exactly(name, arguments, 2, 3)[:2])
    step = arguments[2] if len(arguments) == 3 else Value("1", INTERVAL, text="DAY")
    if first is None or last is None or step.type != INTERVAL:
        raise mismatch(f"function {name}", arguments)
    if step.text not in ("DAY", "WEEK") or not re.fullmatch(r"CAST\([1-9]\d* AS BIGINT\)|1", step.sql):
        raise unsupported(f"{name} by other steps than days and weeks forward")
    size = f"INTERVAL '1 {step.text.lower()}' * {step.sql}"
    return Value(
        f"list_transform(generate_series({first.sql}, {last.sql}, {size}), lambda _d: CAST(_d AS DATE))", array(v.DATE)
    )


_AGGREGATES = ("ARRAY_AGG", "STRING_AGG", "APPROX_QUANTILES")  # of those that look at their arguments
_SAFE = frozenset({"GREATEST", "LEAST", "CONCAT", "DATE", "DATETIME", "TIMESTAMP", "TIMESTAMP_DIFF"}) | {
    f"{verb}_{kind}" for verb in ("PARSE", "FORMAT") for kind in _STEPS
}  # those that heed SAFE., or cannot fail
HANDLERS: dict[str, Callable[[str, Sequence[Value], Modifiers], Value]] = {
    "ERROR": _raise,
    "GREATEST": _extreme,
    "LEAST": _extreme,
    "CONCAT": _concat,
    "REGEXP_CONTAINS": _regexp,
    "REGEXP_EXTRACT": _regexp,
    "REGEXP_EXTRACT_ALL": _regexp,
    "REGEXP_REPLACE": _regexp,
    "FORMAT": _format,
    "JSON_VALUE": _json,
    "JSON_EXTRACT_SCALAR": _json,
    "JSON_QUERY": _json,
    "JSON_EXTRACT": _json,
    "TO_JSON_STRING": _to_json,
    "ARRAY_CONCAT": _array_concat,
    "ARRAY_AGG": _array_agg,
    "STRING_AGG": _string_agg,
    "APPROX_QUANTILES": _quantiles,
    "GENERATE_DATE_ARRAY": _generate_dates,
    "DATE": _zoned,
    "DATETIME": _zoned,
    "TIMESTAMP": _zoned,
    **{f"{kind}_{verb}": _shift for kind in _STEPS for verb in ("ADD", "SUB")},
    **{f"{kind}_DIFF": _diff for kind in _STEPS},
    **{f"{kind}_TRUNC": _trunc for kind in ("DATE", "DATETIME", "TIMESTAMP")},
    **{f"FORMAT_{kind}": _format_time for kind in _STEPS},
    **{f"PARSE_{kind}": _parse_time for kind in _STEPS},
}
#: Which argument of a function is a date part.
PARTS = {name: 2 if name.endswith("_DIFF") else 1 for name in HANDLERS if name.endswith(("_DIFF", "_TRUNC"))}
PARTS["LAST_DAY"] = 1


# --- functions that DuckDB lacks -------------------------------------------------------------------------------------


def _fingerprint(texts: pa.Array) -> pa.Array:
    """FARM_FINGERPRINT: the fingerprint's 64 bits, read as signed."""
    found = [None if item is None else farmhash.fingerprint64(item) for item in texts.to_pylist()]
    return pa.array([None if number is None else number - (number >> 63 << 64) for number in found], pa.int64())


def _round(numbers: pa.Array, digits: pa.Array) -> pa.Array:
    """ROUND(x, digits), in the 80-bit arithmetic that BigQuery does it in: plain doubles make 2.68 of 2.675."""
    if np.finfo(np.longdouble).nmant != 63:
        raise ValueError("not supported locally: ROUND to digits on a machine without 80-bit floating point")
    missing = np.array(numbers.is_null()) | np.array(digits.is_null())
    value = numbers.fill_null(0.0).to_numpy(zero_copy_only=False).astype(np.longdouble)
    places = np.clip(digits.fill_null(0).to_numpy(zero_copy_only=False), -309, 324)
    distinct, which = np.unique(places, return_inverse=True)
    scale = np.array([_power(-int(place)) for place in distinct], np.longdouble)[which]
    with np.errstate(all="ignore"):
        scaled = value / scale
        whole = np.trunc(scaled)
        whole += np.copysign(np.abs(scaled - whole) >= 0.5, scaled)
        rounded = np.where(np.isfinite(value) & (places < 324), whole * scale, value)
    rounded[places < -308] = 0
    return pa.array(rounded.astype(np.float64), mask=missing)


def _power(exponent: int) -> np.longdouble:
    """Ten to ``exponent``, multiplied up or divided down one by one as BigQuery's own table is."""
    power = np.longdouble(1)
    for _ in range(abs(exponent)):
        power = power * 10 if exponent > 0 else power / 10
    return power


class UnsureError(Exception):
    """JSON of which we do not know what BigQuery makes."""


def canonical_json(written: str) -> str:
    """Return JSON as BigQuery keeps it: keys in order, the first of those that are equal, no white space.

    Raises
    ------
    ValueError
        It is no JSON.
    UnsureError
        It holds a number whose text could change.
    """

    def whole(digits: str) -> int:
        if not -(2**63) <= int(digits) < 2**64:
            raise UnsureError(f"not supported locally: the number {digits} in JSON")
        return int(digits)

    def fraction(digits: str) -> float:
        number = float(digits)
        if Decimal(digits) != Decimal(repr(number)) or 1e15 <= abs(number) < 1e16:  # there Python writes no exponent
            raise UnsureError(f"not supported locally: the number {digits} in JSON")
        return number

    def constant(name: str) -> None:
        raise ValueError(f"Invalid JSON: {name}")

    parsed = json.loads(
        written,
        object_pairs_hook=lambda pairs: dict(reversed(pairs)),
        parse_int=whole,
        parse_float=fraction,
        parse_constant=constant,
    )
    return json.dumps(parsed, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def _json_texts(texts: pa.Array) -> pa.Array:
    """Return canonical JSON, and NULL for what is none."""
    found = []
    for item in texts.to_pylist():
        try:
            found.append(None if item is None else canonical_json(item))
        except ValueError:
            found.append(None)
    return pa.array(found, pa.string())


def _error(messages: pa.Array) -> pa.Array:
    """Raise; DuckDB's own error() may not stand in a window's keys nor in TRY, because it is volatile."""
    for message in messages.drop_null().to_pylist():
        raise ValueError(message)
    return pa.nulls(len(messages))


OURS = {
    "_bq_json": (_json_texts, ["VARCHAR"], "VARCHAR"),
    "_bq_error": (_error, ["VARCHAR"], "NULL"),
    "_bq_fingerprint": (_fingerprint, ["BLOB"], "BIGINT"),
    "_bq_round": (_round, ["DOUBLE", "BIGINT"], "DOUBLE"),
}
