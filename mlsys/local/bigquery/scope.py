"""The names that a GoogleSQL expression may use, and what they mean."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from sqlglot import exp

from mlsys.local.bigquery import values as v
from mlsys.local.bigquery.values import Value, invalid
from mlsys.local.errors import unsupported


def label(node: exp.Expression | type) -> str:
    """Name a kind of syntax for a message."""
    name = node.__name__ if isinstance(node, type) else type(node).__name__
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).upper()


def only(node: exp.Expression, *allowed: str) -> None:
    """Refuse a clause that nothing here reads."""
    for key, value in node.args.items():
        if key not in allowed and value not in (None, False, [], ""):
            raise unsupported(f"{key.strip('_').upper().replace('_', ' ')} in {label(node)}")


def path_of(node: exp.Expression) -> list[str]:
    """Return a dotted name's parts, or nothing when it is no plain name."""
    if isinstance(node, exp.Column):
        return [part.name for part in node.parts]
    if isinstance(node, exp.Dot) and isinstance(node.expression, exp.Identifier) and path_of(node.this):
        return [*path_of(node.this), node.expression.name]
    return []


@dataclass(frozen=True)
class Column:
    """A column of a table in FROM, or of a query's result."""

    name: str | None
    value: Value


@dataclass
class Scope:
    """The names that an expression may use."""

    columns: list[Column] = field(default_factory=list)  # what * gives, in order
    tables: dict[str, list[Column]] = field(default_factory=dict)  # by lower-case alias
    elements: dict[str, Value] = field(default_factory=dict)  # the whole element of UNNEST(…) AS alias
    optional: set[str] = field(default_factory=set)  # aliases on the outer side of a join
    aliases: dict[str, Value] = field(default_factory=dict)  # of the SELECT list, where they count
    windows: dict[str, exp.Expression] = field(default_factory=dict)
    partial: bool = False  # of INFORMATION_SCHEMA we have only some columns
    parent: "Scope | None" = None

    def __or__(self, other: "Scope") -> "Scope":
        """Return the names of two tables side by side."""
        tables, elements = self.tables | other.tables, self.elements | other.elements
        return Scope(self.columns + other.columns, tables, elements, self.optional | other.optional)

    def resolve(self, path: Sequence[str]) -> Value:
        """Return what a dotted name means, looking outwards from the innermost query."""
        scope = self
        while scope is not None:
            value = scope.aliases.get(path[0].lower())
            found, rest = (value, path[1:]) if value else scope._find(path)
            if found:
                for name in rest:
                    found = field_of(found, name)
                return found
            if scope.partial:
                raise unsupported(f"{path[0]} of INFORMATION_SCHEMA")
            scope = scope.parent
        raise invalid(f"Unrecognized name: {path[0]}")

    def _find(self, path: Sequence[str]) -> tuple[Value | None, Sequence[str]]:
        first = path[0].lower()
        columns = named(self.columns, first)
        if first in self.elements:
            return self.elements[first], path[1:]
        if first in self.tables:
            of_table = named(self.tables[first], path[1]) if len(path) > 1 else []
            if columns and (len(path) == 1 or of_table):
                raise unsupported(f"the name {path[0]}, which is a column and a table in FROM")
            if of_table:
                return one(of_table, path[1]), path[2:]
            if len(path) > 1 and not columns:
                raise invalid(f"Name {path[1]} not found inside {path[0]}")
            if not columns:
                return self._row(first), []
        return (one(columns, path[0]) if columns else None), path[1:]

    def _row(self, alias: str) -> Value:
        if alias in self.optional or self.partial:
            raise unsupported("a table as a value when its rows may be missing")
        return v.struct([(column.name or "", column.value) for column in self.tables[alias]])


def named(columns: Sequence[Column], name: str) -> list[Column]:
    """Return the columns of that name, whatever its case."""
    return [column for column in columns if column.name and column.name.lower() == name.lower()]


def one(columns: Sequence[Column], name: str) -> Value:
    """Return the value of the only column of a name."""
    if len(columns) > 1:
        raise invalid(f"Column name {name} is ambiguous")
    return replace(columns[0].value, name=name, origin="", text=None)


def field_of(value: Value, name: str) -> Value:
    """Return the field of that name of a STRUCT."""
    if value.type == v.JSON:
        raise unsupported(f"the JSON accessor .{name}; use JSON_VALUE")
    if value.type.name != "STRUCT":
        raise invalid(f"Cannot access field {name} on a value with type {value.type}")
    matches = [index for index, (known, _) in enumerate(value.type.fields) if known.lower() == name.lower()]
    if len(matches) != 1:
        raise invalid(f"Field name {name} does not exist in {value.type}")
    return replace(v.field(value, matches[0]), name=name)


def unpacked(value: Value) -> list[Column]:
    """Return the fields of a STRUCT as columns; nothing for another value."""
    fields = enumerate(value.type.fields if value.type.name == "STRUCT" else ())
    return [Column(name or None, v.field(value, index)) for index, (name, _) in fields]
