"""The signatures of GoogleSQL's functions, read from ``functions.sql``, and how a call is bound to one of them."""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

from mlsys.local.bigquery import values as v
from mlsys.local.bigquery.types import text
from mlsys.local.bigquery.values import Type, Value, array, coerced, common, fill, invalid
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


NONE = Modifiers()


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


def chosen(name: str, arguments: Sequence[Value], modifiers: Modifiers) -> Value:
    """Translate a call of a function in the table by the signature that fits best."""
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


def exactly(name: str, arguments: Sequence[Value], *counts: int) -> Sequence[Value]:
    """Return the arguments, if there are as many as the function takes."""
    if len(arguments) not in counts:
        raise invalid(f"Number of arguments does not match for function {name}")
    return arguments


def literal(name: str, value: Value) -> str:
    """Return the text of an argument that must be known beforehand."""
    if value.origin != "literal" or value.text is None:
        raise unsupported(f"{name} where this argument is no literal")
    return value.text
