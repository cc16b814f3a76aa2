"""GoogleSQL's types, values on their way to DuckDB, and the conversions between them."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from mlsys.local.bigquery.types import SCALARS, quote, text
from mlsys.local.errors import ApiError, unsupported

_DUCK = {scalar.sql: scalar.duckdb for scalar in SCALARS.values()}
_REST = {scalar.sql: rest for rest, scalar in SCALARS.items()}
_FROM_REST = {rest: name for name, rest in _REST.items()} | {name: name for name in (*_DUCK, "STRUCT")}
_FROM_REST["RECORD"] = "STRUCT"


@dataclass(frozen=True)
class Type:
    """A GoogleSQL type; ``fields`` are a STRUCT's, or an ARRAY's element under the name ``""``."""

    name: str
    fields: tuple[tuple[str, "Type"], ...] = ()

    def __str__(self) -> str:
        inner = ", ".join(f"{name} {kind}".strip() for name, kind in self.fields)
        return f"{self.name}<{inner}>" if self.fields else self.name

    @property
    def element(self) -> "Type":
        """Return the type of an ARRAY's elements."""
        return self.fields[0][1]

    def duck(self) -> str:
        """Return DuckDB's spelling."""
        if self.name == "ARRAY":
            return f"{self.element.duck()}[]"
        if self.name == "STRUCT":
            return f"STRUCT({', '.join(f'{quote(name)} {kind.duck()}' for name, kind in named(self.fields))})"
        if self.name not in _DUCK:
            raise unsupported(f"{self.name} as a value")
        return _DUCK[self.name]

    def rest(self, name: str) -> dict:
        """Return the ``TableFieldSchema`` of a column of this type."""
        if self.name == "ARRAY":
            return self.element.rest(name) | {"mode": "REPEATED"}
        if self.name == "STRUCT":
            fields = [kind.rest(field) for field, kind in anonymous(self.fields)]
            return {"name": name, "type": "RECORD", "mode": "NULLABLE", "fields": fields}
        self.duck()
        return {"name": name, "type": _REST[self.name], "mode": "NULLABLE"}


INT64, FLOAT64, BOOL, STRING, BYTES = (Type(name) for name in ("INT64", "FLOAT64", "BOOL", "STRING", "BYTES"))
DATE, DATETIME, TIME, TIMESTAMP = (Type(name) for name in ("DATE", "DATETIME", "TIME", "TIMESTAMP"))
NUMERIC, JSON = Type("NUMERIC"), Type("JSON")
_ORDER = {"INT64": 0, "NUMERIC": 1, "FLOAT64": 2, "DATE": 3, "DATETIME": 4}  # implicit widening goes to the right


@dataclass(frozen=True)
class Value:
    """An expression that has been translated: DuckDB's text, GoogleSQL's type, and what literals may still become."""

    sql: str
    type: Type
    origin: str = ""  # literal, parameter or null (of any type, as ERROR() is): those coerce further than columns do
    text: str | None = None  # a literal's own text
    name: str | None = None  # what a SELECT list calls it when it has no alias
    volatile: bool = False  # evaluating it twice gives two answers


def array(element: Type) -> Type:
    """Return ARRAY of ``element``; GoogleSQL has no arrays of arrays."""
    if element.name == "ARRAY":
        raise invalid("Cannot construct array with element type ARRAY because nested arrays are not supported")
    return Type("ARRAY", (("", element),))


def invalid(message: str) -> ApiError:
    """Return BigQuery's answer to a statement that is wrong."""
    return ApiError(400, "invalidQuery", message)


def named(fields: Sequence[tuple[str, Type]]) -> list[tuple[str, Type]]:
    """Give each field the name that it has inside DuckDB, where none may be empty."""
    return [(name or f"_field_{number}", kind) for number, (name, kind) in enumerate(fields, 1)]


def anonymous(fields: Sequence[tuple[str | None, Type]]) -> list[tuple[str, Type]]:
    """Name the nameless columns of a result ``f0_``, ``f1_`` … as BigQuery does."""
    numbers = iter(range(len(fields)))
    return [(name or f"f{next(numbers)}_", kind) for name, kind in fields]


def from_rest(field: dict) -> Type:
    """Return the type of a ``TableFieldSchema``."""
    name = _FROM_REST.get(field["type"].upper())
    if name is None:
        raise unsupported(f"columns of type {field['type']}")
    kind = Type(name, tuple((part["name"], from_rest(part)) for part in field.get("fields", ())))
    return array(kind) if field.get("mode") == "REPEATED" else kind


def from_parameter(kind: dict) -> Type:
    """Return the type of a query parameter from its REST ``parameterType``."""
    name = kind["type"].upper()
    if name == "ARRAY":
        return array(from_parameter(kind["arrayType"]))
    if name == "STRUCT":
        return Type(
            "STRUCT", tuple((part.get("name", ""), from_parameter(part["type"])) for part in kind["structTypes"])
        )
    if name not in _FROM_REST:
        raise unsupported(f"parameters of type {name}")
    return Type(_FROM_REST[name])


def supertype(types: Sequence[Type]) -> Type | None:
    """Return the type that all of ``types`` widen to, or None."""
    if len(set(types)) == 1:
        return types[0]
    names = {kind.name for kind in types}
    if names <= {"INT64", "NUMERIC", "FLOAT64"} or names <= {"DATE", "DATETIME"}:
        return Type(max(names, key=_ORDER.__getitem__))
    if names == {"STRUCT"} and len({len(kind.fields) for kind in types}) == 1:
        columns = list(zip(*(kind.fields for kind in types), strict=True))
        kinds = [supertype([kind for _, kind in column]) for column in columns]
        if all(kinds):
            return Type("STRUCT", tuple((column[0][0], kind) for column, kind in zip(columns, kinds, strict=True)))
    return None


def common(values: Sequence[Value]) -> Type | None:
    """Return the type at which ``values`` meet, literals giving way to columns."""
    typed = [value for value in values if value.origin != "null"]
    firm = [value.type for value in typed if value.origin not in ("literal", "parameter")]
    for types in (firm, [value.type for value in typed] or [INT64]):
        kind = supertype(types) if types else None
        if kind and all(coerced(value, kind) for value in values):
            return kind
    return None


def coerced(value: Value, to: Type) -> Value | None:
    """Convert ``value`` as GoogleSQL does without being asked; None when it does not."""
    source = value.type
    if source == to and value.origin != "null":
        return value
    if value.origin == "null":
        return replace(value, sql=f"CAST({value.sql} AS {to.duck()})", type=to, origin="")
    if value.origin == "literal" and source == FLOAT64 and to == NUMERIC:
        return cast(Value(text(value.text), STRING), to) if value.text else None
    if value.origin in ("literal", "parameter") and source == STRING and to in (DATE, DATETIME, TIME, TIMESTAMP):
        return cast(value, to)
    if source.name == to.name and source.name == "ARRAY" and value.sql == "[]":
        return replace(value, sql=f"CAST([] AS {to.duck()})", type=to)
    if supertype([to, source]) != to:
        return None
    if value.origin == "literal" and source == INT64 and to == FLOAT64:
        return replace(value, sql=f"CAST('{value.text}' AS DOUBLE)", type=to)
    return cast(value, to)


def field(value: Value, index: int) -> Value:
    """Return one field of a STRUCT."""
    name, kind = named(value.type.fields)[index]
    return Value(f"struct_extract({value.sql}, {text(name)})", kind, name=value.type.fields[index][0] or None)


def struct(fields: Sequence[tuple[str, Value]]) -> Value:
    """Build a STRUCT."""
    kind = Type("STRUCT", tuple((name, value.type) for name, value in fields))
    names = [name for name, _ in named(kind.fields)]
    if len({name.lower() for name in names}) < len(names):
        raise unsupported("a STRUCT with two fields of one name")
    items = (f"{quote(name)} := {value.sql}" for name, (_, value) in zip(names, fields, strict=True))
    return Value(f"struct_pack({', '.join(items)})", kind, volatile=any(value.volatile for _, value in fields))


LONGEST = 4_000_000
#: When the microseconds of a date or time are BigQuery's; year() counts the years before 1 upwards again.
SPAN = "BETWEEN -62135596800000000 AND 253402300799999999"

# Casts: {0} is the value. «…» raises what BigQuery would say, and is NULL in SAFE_CAST; refuse(…) stops both.
_BLANK = r"[ \t\n\v\f\r]"
_DATE = r"\d\d\d\d-\d{1,2}-\d{1,2}"
_CLOCK = r"([01]?\d|2[0-3]):[0-5]?\d:[0-5]?\d(\.\d{1,6})?"
_ZONE = r"(Z| ?UTC|[+-](0\d|1[0-3])(:[0-5]\d)?|[+-]14(:00)?)"


def _when(pattern: str, then: str, otherwise: str) -> str:
    """Read a string only when it is written so that BigQuery and DuckDB agree on it."""
    return f"CASE WHEN regexp_full_match({{0}}, '{pattern}') THEN {then} WHEN {{0}} IS NOT NULL THEN {otherwise} END"


def _moment(pattern: str, duck: str, noun: str) -> str:
    bad = f"«'Invalid {noun}: ''' || {{0}} || ''''»"
    other = f"CASE WHEN regexp_matches({{0}}, '^ *[0-9]') THEN refuse('{noun}s written as ' || {{0}}) ELSE {bad} END"
    if noun != "time string":  # DuckDB goes on before the year 1 and after 9999
        duck = f"CASE WHEN epoch_us({duck}) {SPAN} THEN {duck} END"
    return _when(pattern, f"coalesce({duck}, {bad})", other)


_SUBSECONDS = (
    "CASE WHEN microsecond({0}) % 1000000 = 0 THEN '' WHEN microsecond({0}) % 1000 = 0 "
    "THEN strftime({1}, '.%g') ELSE strftime({1}, '.%f') END"
)
_CIVIL = "(strftime({0}, '%Y-%m-%d %H:%M:%S') || " + _SUBSECONDS.replace("{1}", "{0}") + ")"
_CLOCKED = "(DATE '2000-01-01' + {0})"
CASTS = {
    ("INT64", "BOOL"): "({0} <> 0)",
    ("INT64", "FLOAT64"): "CAST({0} AS DOUBLE)",
    ("INT64", "NUMERIC"): "CAST({0} AS DECIMAL(38,9))",
    ("INT64", "STRING"): "CAST({0} AS VARCHAR)",
    # round() goes half away from zero; DuckDB's cast alone goes half to even.
    ("FLOAT64", "INT64"): "CAST(round({0}) AS BIGINT)",
    # The shorter of 15 or 17 digits that reads back as the same number.
    ("FLOAT64", "STRING"): "CASE WHEN {0} = 0 THEN '0' WHEN CAST(printf('%.15g', {0}) AS DOUBLE) = {0} "
    "THEN printf('%.15g', {0}) ELSE printf('%.17g', {0}) END",
    ("NUMERIC", "INT64"): "CAST({0} AS BIGINT)",
    ("NUMERIC", "FLOAT64"): "CAST(CAST({0} AS VARCHAR) AS DOUBLE)",
    ("NUMERIC", "STRING"): "rtrim(rtrim(CAST({0} AS VARCHAR), '0'), '.')",
    ("BOOL", "INT64"): "CAST({0} AS BIGINT)",
    ("BOOL", "STRING"): "CAST({0} AS VARCHAR)",
    ("STRING", "BOOL"): _when("(?i)true|false", "(lower({0}) = 'true')", "«'Bad bool value: ' || {0}»"),
    ("STRING", "INT64"): _when(
        rf"{_BLANK}*[+-]?\d+{_BLANK}*",
        r"coalesce(TRY_CAST(trim({0}, E' \t\n\v\f\r') AS BIGINT), «'Bad int64 value: ' || {0}»)",
        "CASE WHEN regexp_matches({0}, '^ *[+-]?0[xX]') THEN refuse('CAST of a hexadecimal string') "
        "ELSE «'Bad int64 value: ' || {0}» END",
    ),
    ("STRING", "FLOAT64"): _when(
        rf"(?i){_BLANK}*[+-]?((\d+\.?\d*|\.\d+)(e[+-]?\d+)?|inf|infinity|nan){_BLANK}*",
        r"CASE WHEN isinf(TRY_CAST(ltrim(trim({0}, E' \t\n\v\f\r'), '+') AS DOUBLE)) "
        r"AND NOT regexp_matches({0}, '(?i)inf') "
        r"THEN refuse('a number beyond FLOAT64: ' || {0}) "
        r"ELSE TRY_CAST(ltrim(trim({0}, E' \t\n\v\f\r'), '+') AS DOUBLE) END",
        "«'Bad double value: ' || {0}»",
    ),
    ("STRING", "NUMERIC"): _when(
        r"[+-]?\d{1,29}(\.\d{0,9})?", "CAST({0} AS DECIMAL(38,9))", "refuse('this string as NUMERIC: ' || {0})"
    ),
    ("STRING", "BYTES"): "encode({0})",
    (
        "BYTES",
        "STRING",
    ): "coalesce(list_transform([{0}], lambda _x: TRY(decode(_x)))[1], "
    "CASE WHEN {0} IS NOT NULL THEN «'Invalid cast of bytes to UTF8 string'» END)",
    ("STRING", "DATE"): _moment(_DATE, "TRY_CAST({0} AS DATE)", "date"),
    ("STRING", "DATETIME"): _moment(rf"{_DATE}([ T]{_CLOCK})?", "TRY_CAST({0} AS TIMESTAMP)", "datetime string"),
    ("STRING", "TIME"): _moment(_CLOCK, "TRY_CAST({0} AS TIME)", "time string"),
    ("STRING", "TIMESTAMP"): _moment(
        rf"{_DATE}([ T]{_CLOCK}{_ZONE}?)?",
        "TRY_CAST(regexp_replace({0}, ' ?UTC$', 'Z') AS TIMESTAMPTZ)",
        "timestamp",
    ),
    ("DATE", "STRING"): "strftime({0}, '%Y-%m-%d')",
    ("DATE", "DATETIME"): "CAST({0} AS TIMESTAMP)",
    ("DATE", "TIMESTAMP"): "(CAST({0} AS TIMESTAMP) AT TIME ZONE 'UTC')",
    ("DATETIME", "STRING"): _CIVIL,
    ("DATETIME", "DATE"): "CAST({0} AS DATE)",
    ("DATETIME", "TIME"): "CAST({0} AS TIME)",
    ("DATETIME", "TIMESTAMP"): "({0} AT TIME ZONE 'UTC')",
    ("TIME", "STRING"): f"(strftime({_CLOCKED}, '%H:%M:%S') || {_SUBSECONDS.replace('{1}', _CLOCKED)})",
    ("TIMESTAMP", "STRING"): f"({_CIVIL} || '+00')",
    ("TIMESTAMP", "DATE"): "CAST({0} AT TIME ZONE 'UTC' AS DATE)",
    ("TIMESTAMP", "DATETIME"): "({0} AT TIME ZONE 'UTC')",
    ("TIMESTAMP", "TIME"): "CAST({0} AT TIME ZONE 'UTC' AS TIME)",
}


def cast(value: Value, to: Type, *, safe: bool = False) -> Value:
    """Convert ``value`` explicitly; with ``safe``, what cannot be converted is NULL."""
    source = value.type
    if value.origin == "null" or source == to:
        return replace(value, sql=f"CAST({value.sql} AS {to.duck()})", type=to, origin="", text=None)
    if source.name == to.name == "STRUCT" and len(source.fields) == len(to.fields) and not safe:
        parts = [(name, cast(field(value, index), kind)) for index, (name, kind) in enumerate(to.fields)]
        return Value(f"CASE WHEN {value.sql} IS NOT NULL THEN {struct(parts).sql} END", to)
    template = CASTS.get((source.name, to.name))
    if template is None:
        if to.name in _DUCK and source.name in _DUCK and {source.name, to.name}.isdisjoint({"JSON", "NUMERIC"}):
            raise invalid(f"Invalid cast from {source} to {to}")
        raise unsupported(f"CAST from {source} to {to}")
    return Value(fill(template, [value], safe=safe, what=f"CAST to {to}"), to, volatile=value.volatile)


def fill(template: str, values: Sequence[Value], *, safe: bool = False, what: str = "", **more: str) -> str:
    """Put translated arguments into a template of DuckDB's SQL: {0}, {1} … are ``values``, {word} one of ``more``."""
    for number, value in enumerate(values):  # chance decides neither whether a value is NULL nor whether it is NaN
        slot = f"{{{number}}}"
        twice = template.count(slot) - template.count(f"isnan({slot})") - template.count(f"{slot} IS NOT NULL") > 1
        if value.volatile and twice:
            raise unsupported(f"RAND() or GENERATE_UUID() inside {what}")
    if safe:
        template = template.replace("CAST(round(", "TRY_CAST(round(")
    template = re.sub("«(.*?)»", "NULL" if safe else r"_bq_error(\1)", template)
    template = template.replace("refuse(", "_bq_error('not supported locally: ' || ")
    size = sum(template.count(f"{{{number}}}") * len(value.sql) for number, value in enumerate(values))
    if size > LONGEST:  # templates name their arguments several times, so nested calls grow exponentially
        raise unsupported(f"calls of functions nested so deeply ({what})")
    return re.sub(r"\{(\w+)\}", lambda slot: values[int(slot[1])].sql if slot[1].isdigit() else more[slot[1]], template)
