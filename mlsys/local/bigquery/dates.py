"""Dates and times: arithmetic, parts, zones, and their texts, where DuckDB's own functions differ from GoogleSQL's."""

import re
from collections.abc import Sequence
from dataclasses import replace

from mlsys.local.bigquery import values as v
from mlsys.local.bigquery.signatures import INTERVAL, PART, Modifiers, chosen, exactly, literal, mismatch
from mlsys.local.bigquery.types import text
from mlsys.local.bigquery.values import Type, Value, array, cast, coerced, fill, invalid
from mlsys.local.errors import unsupported

_DAYS = ("SUNDAY", "MONDAY", "TUESDAY", "WEDNESDAY", "THURSDAY", "FRIDAY", "SATURDAY")
_MICROSECONDS = {"MICROSECOND": 1, "MILLISECOND": 10**3, "SECOND": 10**6, "MINUTE": 6 * 10**7, "HOUR": 36 * 10**8}
_CALENDAR = ("DAY", "WEEK", "MONTH", "QUARTER", "YEAR")
_STEPS = {
    "DATE": _CALENDAR,
    "DATETIME": (*_MICROSECONDS, *_CALENDAR),
    "TIMESTAMP": (*_MICROSECONDS, "DAY"),
    "TIME": tuple(_MICROSECONDS),
}


IN_RANGE = (
    f"CASE WHEN NOT epoch_us({{0}}) {v.SPAN} THEN _bq_error('date or time out of range: ' || {{0}}) ELSE {{0}} END"
)


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
    value, interval = exactly(name, arguments, 2)
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
    value, part = exactly(name, arguments, 2, 3)[:2]
    value = coerced(value, Type(name.removesuffix("_TRUNC"))) if value.origin == "literal" else value
    if value is None or value.type not in (v.DATE, v.DATETIME, v.TIMESTAMP):
        raise mismatch(f"function {name}", arguments)
    if (value.type == v.DATE) != (name == "DATE_TRUNC") and name != "DATE_TRUNC":
        raise mismatch(f"function {name}", arguments)
    if len(arguments) == 3 and literal(name, arguments[2]) != "UTC":
        raise unsupported(f"{name} in a time zone other than UTC")
    cut = Value(fill(_truncated(part.text, value.type), [civil(value)], what=name), value.type)
    sql = fill(IN_RANGE, [cut], what=name) if "WEEK" in part.text or part.text == "ISOYEAR" else cut.sql
    if value.type == v.TIMESTAMP:
        return Value(f"(CAST({sql} AS TIMESTAMP) AT TIME ZONE 'UTC')", value.type)
    return Value(f"CAST({sql} AS {value.type.duck()})", value.type)


def _diff(name: str, arguments: Sequence[Value], _: Modifiers) -> Value:
    later, earlier, part = exactly(name, arguments, 3)
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
    written = literal(name, value)
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
    return chosen(name, arguments, modifiers)


#: GoogleSQL's format elements that DuckDB's strftime has, under the same name or another.
FORMATS = {f"%{letter}": f"%{letter}" for letter in "YmdHMSyBbAajpIuwUWGV%"} | {
    "%F": "%Y-%m-%d", "%T": "%H:%M:%S", "%R": "%H:%M", "%E4Y": "%Y", "%E3S": "%S.%g", "%E6S": "%S.%f", "%Z": "UTC",
    "%Ez": "+00:00",
}  # fmt: skip
_ELEMENTS = re.compile(r"%(E4Y|E\*S|E\dS|Ez|.|$)", re.DOTALL)
_ONLY_CLOCK = frozenset({"%H", "%M", "%S", "%p", "%I", "%T", "%R", "%E3S", "%E6S"})
_ONLY_ZONED = frozenset({"%Z", "%Ez"})


def _format_time(name: str, arguments: Sequence[Value], _: Modifiers) -> Value:
    kind = Type(name.removeprefix("FORMAT_"))
    pattern, value = exactly(name, arguments, 2, 3)[:2]
    value = coerced(value, kind)
    if value is None or coerced(pattern, v.STRING) is None:
        raise mismatch(f"function {name}", arguments)
    where = zone(name, arguments[2]) if len(arguments) == 3 else "UTC"
    allowed = frozenset(FORMATS)
    if kind == v.DATE:
        allowed -= _ONLY_CLOCK
    if kind == v.TIME:
        allowed = _ONLY_CLOCK | {"%%"}
    if kind != v.TIMESTAMP or where != "UTC":
        allowed -= _ONLY_ZONED
    written = literal(name, pattern)
    if unknown := [match[0] for match in _ELEMENTS.finditer(written) if match[0] not in allowed]:
        raise unsupported(f"{name} with {unknown[0]}")
    duck = _ELEMENTS.sub(lambda match: FORMATS[match[0]], written)
    value = civil(value, where)
    value = replace(value, sql=f"(DATE '1970-01-01' + {value.sql})") if kind == v.TIME else value
    return Value(f"strftime({value.sql}, {text(duck)})", v.STRING)


PARSES = {  # element: (the field that it sets, how it must be written so that no two readings are possible)
    "%Y": ("Y", r"(\d\d\d\d)"),
    "%m": ("m", r"(\d\d?)"),
    "%d": ("d", r"(\d\d?)"),
    "%H": ("H", r"([01]?\d|2[0-3])"),
    "%M": ("M", r"(\d\d?)"),
    "%S": ("S", r"([0-5]?\d)"),
    "%E*S": ("S", r"([0-5]?\d(?:\.\d{1,6})?)"),
}


def _parse_time(name: str, arguments: Sequence[Value], modifiers: Modifiers) -> Value:
    """Read with a regular expression that BigQuery would agree with; what it does not match is not guessed."""
    pattern, value = exactly(name, arguments, 2, 3)[:2]
    value, kind = coerced(value, v.STRING), Type(name.removeprefix("PARSE_"))
    if value is None or (len(arguments) == 3 and literal(name, arguments[2]) != "UTC"):
        raise unsupported(f"{name} of these arguments")
    written = literal(name, pattern).replace("%F", "%Y-%m-%d").replace("%T", "%H:%M:%S")
    allowed = {"DATE": "Ymd", "TIME": "HMS"}.get(kind.name, "YmdHMS")
    groups: dict[str, str] = {}  # field: the group that holds it
    strict, last = "", 0
    for match in _ELEMENTS.finditer(written):
        field, piece = PARSES.get(match[0], ("", ""))
        if field in groups or not field or field not in allowed:
            raise unsupported(f"{name} with {match[0]}")
        groups[field] = rf"\{len(groups) + 1}"
        if written[match.end() :].startswith("%"):  # side by side, each must have all its digits
            piece = piece.replace("?", "")
        strict += re.escape(written[last : match.start()]) + piece
        last = match.end()
    strict += re.escape(written[last:])
    fields = {"Y": "1970", "m": "01", "d": "01", "H": "00", "M": "00", "S": "00"} | groups
    duck = "TIMESTAMP" if kind == v.TIMESTAMP else kind.duck()
    shapes = {"DATE": "{Y}-{m}-{d}", "TIME": "{H}:{M}:{S}"}
    canonical = shapes.get(kind.name, "{Y}-{m}-{d} {H}:{M}:{S}").format(**fields)
    made = f"TRY_CAST(regexp_replace({{0}}, {{strict}}, '{canonical}') AS {duck})"
    if kind != v.TIME:
        made = f"CASE WHEN epoch_us({made}) {v.SPAN} THEN {made} END"
    bad = "«'Failed to parse input string \"' || {0} || '\"'»"
    template = (
        f"CASE WHEN regexp_full_match({{0}}, {{strict}}) THEN coalesce({made}, {bad}) "
        f"WHEN regexp_full_match({{0}}, '\\D*') THEN {bad} "
        f"WHEN {{0}} IS NOT NULL THEN refuse('{name} of ' || {{0}}) END"
    )
    sql = fill(template, [value], safe=modifiers.safe, what=name, strict=text(strict))
    return Value(f"({sql} AT TIME ZONE 'UTC')" if kind == v.TIMESTAMP else sql, kind)


def _generate_dates(name: str, arguments: Sequence[Value], _: Modifiers) -> Value:
    first, last = (coerced(value, v.DATE) for value in exactly(name, arguments, 2, 3)[:2])
    step = arguments[2] if len(arguments) == 3 else Value("1", INTERVAL, text="DAY")
    if first is None or last is None or step.type != INTERVAL:
        raise mismatch(f"function {name}", arguments)
    if step.text not in ("DAY", "WEEK") or not re.fullmatch(r"CAST\([1-9]\d* AS BIGINT\)|1", step.sql):
        raise unsupported(f"{name} by other steps than days and weeks forward")
    size = f"INTERVAL '1 {step.text.lower()}' * {step.sql}"
    return Value(
        f"list_transform(generate_series({first.sql}, {last.sql}, {size}), lambda _d: CAST(_d AS DATE))", array(v.DATE)
    )


HANDLERS = {
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
#: Those that heed SAFE., or cannot fail.
SAFE = frozenset({"DATE", "DATETIME", "TIMESTAMP", "TIMESTAMP_DIFF"}) | {
    f"{verb}_{kind}" for verb in ("PARSE", "FORMAT") for kind in _STEPS
}
