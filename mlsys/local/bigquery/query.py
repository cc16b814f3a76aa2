"""GoogleSQL queries, read by sqlglot and written again for DuckDB with every name and type resolved."""
# ruff: noqa: S608 -- to write SQL is what this module does; every name in it is quoted

import itertools
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from sqlglot import exp

from mlsys.local.bigquery import dates, functions
from mlsys.local.bigquery import values as v
from mlsys.local.bigquery.functions import call
from mlsys.local.bigquery.parser import parse
from mlsys.local.bigquery.scope import Column, Scope, field_of, label, named, one, only, path_of, unpacked
from mlsys.local.bigquery.signatures import INTERVAL, ORDERED, PART, Modifiers, mismatch
from mlsys.local.bigquery.statements import Catalog, TableRef, View
from mlsys.local.bigquery.types import quote, relation, text
from mlsys.local.bigquery.values import Type, Value, array, cast, coerced, common, fill, invalid
from mlsys.local.errors import ApiError, unsupported

_TAIL = ("order", "limit", "offset")
_SELECT = (
    "expressions",
    "distinct",
    "from_",
    "joins",
    "where",
    "group",
    "having",
    "qualify",
    "windows",
    "with_",
    *_TAIL,
)


def parameter_name(name: str) -> str:
    """Return DuckDB's name for query parameter ``name`` (positional ones are "1", "2", …)."""
    return f"p_{name.lower()}"


class Translator:
    """Translate the queries and expressions of one statement.

    ``reads`` and ``parameters`` gather what was used on the way.
    """

    def __init__(
        self, catalog: Catalog, project: str, dataset: str | None, parameter_types: Mapping[str, dict]
    ) -> None:
        self.catalog, self.project, self.dataset = catalog, project, dataset
        self.parameter_types = {name.lower(): (name, kind) for name, kind in parameter_types.items()}
        self.reads: set[TableRef] = set()
        self.parameters: set[str] = set()
        self._numbers = itertools.count(1)
        self._ctes: dict[str, tuple[str, list[Column]]] = {}

    def fresh(self, name: str) -> str:
        """Return an alias that no other table of the statement has, so that scopes never mix in DuckDB."""
        return f"{name}_{next(self._numbers)}"

    # --- FROM --------------------------------------------------------------------------------------------------------

    def table(self, node: exp.Table) -> TableRef:
        """Return the full name of a table as written."""
        only(node, "this", "db", "catalog", "alias", "joins")
        if not isinstance(node.this, exp.Identifier):
            raise unsupported("table functions")
        if "*" in node.name:
            raise unsupported("wildcard tables")
        dataset = node.db or self.dataset
        if dataset is None:
            raise invalid(f'Table "{node.name}" must be qualified with a dataset (e.g. dataset.table).')
        return TableRef(node.catalog or self.project, dataset, node.name)

    def target(self, node: exp.Table) -> tuple[TableRef, str, Scope]:
        """Return the name of a table to be changed, its SQL under a fresh alias, and its columns."""
        ref = self.table(node)
        sql, scope = self._stored(ref, node.alias or node.name)
        if ref not in self.reads:
            raise invalid(f"{'.'.join(ref)} is a view, whose rows cannot be changed")
        return ref, sql, scope

    def _stored(self, ref: TableRef, name: str) -> tuple[str, Scope]:
        """Translate a table, or a view by its text, as BigQuery does in every query."""
        found = self.catalog.source(ref)
        if isinstance(found, View):
            inner = Translator(self.catalog, found.project, found.dataset, {})
            inner.reads, inner._numbers = self.reads, self._numbers
            ((_text, tree),) = parse(found.text)
            sql, columns = inner.query(tree)
            return self._aliased(f"({sql})", name, columns)
        self.reads.add(ref)
        alias = quote(self.fresh(name))
        columns = [Column(item["name"], Value(f"{alias}.{quote(item['name'])}", v.from_rest(item))) for item in found]
        return f"{relation(ref)} AS {alias}", Scope(list(columns), {name.lower(): columns})

    def _source(self, node: exp.Expression, scope: Scope) -> tuple[str, Scope]:
        """Translate one item of FROM."""
        if isinstance(node, exp.Unnest):
            only(node, "expressions", "alias", "offset")
            return self._unnest(node.expressions, node, scope)
        if isinstance(node, exp.Subquery) and isinstance(node.this, exp.Query):
            only(node, "this", "alias", "with_")
            if node.args.get("alias") and node.args["alias"].columns:
                raise unsupported("column names in a subquery's alias")
            sql, columns = self.query(node.this, scope.parent)
            return self._aliased(f"({sql})", node.alias, columns)
        if not isinstance(node, exp.Table):
            raise unsupported(f"{label(node)} in FROM")
        if node.args.get("alias") and node.args["alias"].columns:
            raise unsupported("column names in a table's alias")
        first = (node.catalog or node.db).lower()
        if first and (first in scope.tables or first in scope.elements or named(scope.columns, first)):
            path = exp.column(*[part.copy() for part in reversed(node.parts)])  # an array of a table before this one
            return self._unnest([path], node, scope)
        if not first and node.name.lower() in self._ctes:
            only(node, "this", "alias", "joins")
            name, columns = self._ctes[node.name.lower()]
            return self._aliased(quote(name), node.alias or node.name, columns)
        if node.name.upper().startswith("INFORMATION_SCHEMA."):
            return self._information_schema(node)
        return self._stored(self.table(node), node.alias or node.name)

    def _aliased(self, sql: str, name: str, columns: Sequence[Column]) -> tuple[str, Scope]:
        alias = quote(self.fresh(name or "q"))
        moved = [Column(each.name, Value(f"{alias}.{each.value.sql}", each.value.type)) for each in columns]
        return f"{sql} AS {alias}", Scope(list(moved), {name.lower(): moved} if name else {})

    def _unnest(self, expressions: list, node: exp.Expression, scope: Scope) -> tuple[str, Scope]:
        if len(expressions) != 1:
            raise unsupported("UNNEST of several arrays")
        value = self.expression(expressions[0], scope)
        if value.type.name != "ARRAY":
            raise invalid(f"Values referenced in UNNEST must be arrays, not {value.type}")
        given = node.args.get("alias")
        name = (given.columns[0].name if given.columns else given.name) if given else node.name
        alias = quote(self.fresh(name or "u"))
        element = Value(f'{alias}."v"', value.type.element)
        inner = Scope(unpacked(element) if element.type.name == "STRUCT" else [Column(name or None, element)])
        if element.type.name == "STRUCT" and name:
            inner.tables[name.lower()] = list(inner.columns)
            inner.elements[name.lower()] = element
        offset = node.args.get("offset")
        if not offset:
            return f'unnest({value.sql}) AS {alias}("v")', inner
        offset_name = offset.name if isinstance(offset, exp.Expression) else "offset"
        inner.columns.append(Column(offset_name, Value(f'({alias}."o" - 1)', v.INT64)))
        return f'unnest({value.sql}) WITH ORDINALITY AS {alias}("v", "o")', inner

    def _information_schema(self, node: exp.Table) -> tuple[str, Scope]:
        view = node.name.split(".", 1)[1].upper()
        if view not in INFORMATION_SCHEMA or node.db.lower().startswith("region-"):
            raise unsupported(f"INFORMATION_SCHEMA.{view} here")
        project, dataset = node.catalog or self.project, node.db or self.dataset or ""
        rows = self.catalog.information_schema(view, project, dataset)
        alias, columns, items = quote(self.fresh(view.lower())), [], []
        for name in INFORMATION_SCHEMA[view].split():
            kind = _OTHER_TYPES.get(name, v.STRING)
            columns.append(Column(name, Value(f"{alias}.{quote(name)}", kind)))
            cells = ", ".join(_constant(row[name], kind) for row in rows)
            items.append(f"unnest(CAST([{cells}] AS {kind.duck()}[])) AS {quote(name)}")
        sql = f"(SELECT {', '.join(items)}) AS {alias}"
        return sql, Scope(columns, {(node.alias or view).lower(): columns}, partial=True)

    def sources(self, first: exp.Expression, joins: Sequence[exp.Join], scope: Scope) -> str:
        """Translate FROM and its joins, and put their names into ``scope``."""
        sql, inner = self._source(first, scope)
        scope.columns, scope.tables, scope.elements = inner.columns, inner.tables, inner.elements
        scope.partial = inner.partial
        for join in (*(first.args.get("joins") or ()), *joins):
            only(join, "this", "side", "kind", "on", "using")
            sql = self._join(join, sql, scope)
        return sql

    def _join(self, join: exp.Join, left: str, scope: Scope) -> str:
        sql, inner = self._source(join.this, scope)
        if twice := scope.tables.keys() & inner.tables.keys():
            raise invalid(f"Duplicate table alias {min(twice)} in the same FROM clause")
        if join.kind.upper() not in ("", "INNER", "OUTER", "CROSS"):
            raise unsupported(f"{join.kind.upper()} JOIN")
        side, using, on = join.side.upper(), join.args.get("using"), join.args.get("on")
        if side in ("RIGHT", "FULL"):
            scope.optional |= scope.tables.keys()
        if side in ("LEFT", "FULL"):
            scope.optional |= inner.tables.keys()
        before, after = scope.columns, inner.columns
        scope.columns, scope.tables = before + after, scope.tables | inner.tables
        scope.elements, scope.partial = scope.elements | inner.elements, scope.partial or inner.partial
        if join.kind.upper() == "CROSS" and (using or on):
            raise invalid("Syntax error: CROSS JOIN takes neither ON nor USING")
        if using:
            condition, scope.columns = self._using([item.name for item in using], before, after, side)
        elif on:
            condition = self.boolean(on, scope, "JOIN ON")
        elif join.kind.upper() == "CROSS" or sql.startswith("unnest("):
            if not side:
                return f"{left} CROSS JOIN {sql}"
            condition = "true"
        else:
            raise invalid("JOIN must have an immediately following ON or USING clause")
        return f"{left} {side or 'INNER'} JOIN {sql} ON {condition}"

    def _using(
        self, names: list[str], before: list[Column], after: list[Column], side: str
    ) -> tuple[str, list[Column]]:
        """Return the condition, and the columns of both sides with the common ones merged and first."""
        merged, conditions = [], []
        for name in names:
            if not named(before, name) or not named(after, name):
                raise invalid(f"Column {name} in USING clause not found")
            left, right = one(named(before, name), name), one(named(after, name), name)
            conditions.append(call("=", [left, right]).sql)
            both = call("COALESCE", [left, right]) if side == "FULL" else left
            merged.append(Column(name, right if side == "RIGHT" else both))
        rest = [column for column in (*before, *after) if not column.name or not named(merged, column.name)]
        return " AND ".join(conditions), [*merged, *rest]

    # --- queries -----------------------------------------------------------------------------------------------------

    def query(self, node: exp.Expression, parent: Scope | None = None) -> tuple[str, list[Column]]:
        """Translate a query; its columns' values hold the quoted names that DuckDB gives them."""
        outer = self._ctes
        self._ctes = dict(outer)
        clause = self._with(node.args.get("with_"), parent)
        if isinstance(node, exp.Subquery):
            only(node, "this", "with_", *_TAIL)
            sql, columns = self.query(node.this, parent)
            sql, columns = self._tail(node, f"({sql})", columns, parent)
        elif isinstance(node, exp.SetOperation):
            sql, columns = self._set_operation(node, parent)
        elif isinstance(node, exp.Select):
            sql, columns = self._select(node, parent)
        else:
            raise unsupported(label(node))
        self._ctes = outer
        return clause + sql, columns

    def single(self, node: exp.Expression, scope: Scope, what: str) -> tuple[str, Value]:
        """Translate a subquery that must have one column."""
        sql, columns = self.query(node, scope)
        if len(columns) != 1:
            raise invalid(f"{what} cannot have more than one column unless using SELECT AS STRUCT")
        return sql, columns[0].value

    def _with(self, node: exp.With | None, parent: Scope | None) -> str:
        if node is None:
            return ""
        only(node, "expressions")
        clauses, names = [], [cte.alias.lower() for cte in node.expressions]
        if len(set(names)) < len(names):
            raise invalid(f"Duplicate alias {max(names, key=names.count)} for WITH subquery")
        for cte in node.expressions:
            only(cte, "this", "alias")
            if cte.args["alias"].columns:
                raise unsupported("column names of a WITH clause")
            sql, columns = self.query(cte.this, parent)
            name = self.fresh(cte.alias)
            self._ctes[cte.alias.lower()] = (name, columns)
            clauses.append(f"{quote(name)} AS ({sql})")
        return f"WITH {', '.join(clauses)} "

    def _set_operation(self, node: exp.SetOperation, parent: Scope | None) -> tuple[str, list[Column]]:
        only(node, "this", "expression", "distinct", "with_", *_TAIL)
        word = f"{type(node).__name__.upper()} {'DISTINCT' if node.args['distinct'] else 'ALL'}"
        if word in ("EXCEPT ALL", "INTERSECT ALL"):
            raise unsupported(word)
        sides = [self.query(side, parent) for side in _flat(node, node)]
        if len({len(columns) for _, columns in sides}) > 1:
            raise invalid(f"Queries in {word} have mismatched column count")
        columns = []
        for number, column in enumerate(zip(*(given for _, given in sides), strict=True), 1):
            kind = common([each.value for each in column])
            if kind is None:
                kinds = ", ".join(str(each.value.type) for each in column)
                raise invalid(f"Column {number} in {word} has incompatible types: {kinds}")
            if word != "UNION ALL" and kind.name not in ORDERED:
                raise unsupported(f"{word} of {kind}")
            columns.append(Column(column[0].name, Value(column[0].value.sql, kind)))
        parts = []
        for sql, given in sides:
            pairs = zip(given, columns, strict=True)
            items = ", ".join(f"{coerced(old.value, new.value.type).sql} AS {new.value.sql}" for old, new in pairs)
            parts.append(f"(SELECT {items} FROM ({sql}) AS {quote(self.fresh('q'))})")
        word = "UNION" if word == "UNION DISTINCT" else word.removesuffix(" DISTINCT")
        return self._tail(node, f"({f' {word} '.join(parts)})", columns, parent)

    def _tail(
        self, node: exp.Expression, sql: str, columns: list[Column], parent: Scope | None
    ) -> tuple[str, list[Column]]:
        """Order and limit a finished result, of which only the columns can be named."""
        source, scope = self._aliased(sql, "", columns)
        scope.parent = parent
        tail = self._order(node, scope, scope.columns) + self._limit(node)
        return (f"SELECT * FROM {source}{tail}" if tail else sql[1:-1]), columns

    def _select(self, node: exp.Select, parent: Scope | None) -> tuple[str, list[Column]]:
        only(node, *_SELECT)
        scope = Scope(parent=parent)
        source, joins = node.args.get("from_"), node.args.get("joins") or ()
        source = f" FROM {self.sources(source.this, joins, scope)}" if source else ""
        where = self._condition(node, "where", scope)
        scope.windows = {window.this.name.lower(): window for window in node.args.get("windows") or ()}
        items = list(self._items(node.expressions, scope))
        if not items:
            raise invalid("Syntax error: SELECT list must not be empty")
        seen = Counter(item.name.lower() for item in items if item.name)
        aliases = {item.name.lower(): item.value for item in items if item.name and seen[item.name.lower()] == 1}
        after = replace(scope, aliases=aliases)
        group = self._group(node.args.get("group"), scope, items)
        having, qualify = self._condition(node, "having", after), self._condition(node, "qualify", after)
        columns, shown = _output(items)
        sql = f"{shown}{source}{where}{group}{having}{qualify}"
        if not node.args.get("distinct"):
            return f"SELECT {sql}{self._order(node, after, items)}{self._limit(node)}", columns
        only(node.args["distinct"])
        for item in items:
            if item.value.type.name not in ORDERED:
                raise unsupported(f"SELECT DISTINCT of {item.value.type}")
        return self._tail(node, f"(SELECT DISTINCT {sql})", columns, parent)

    def _condition(self, node: exp.Expression, key: str, scope: Scope) -> str:
        clause, word = node.args.get(key), key.upper()
        return f" {word} {self.boolean(clause.this, scope, f'{word} clause')}" if clause else ""

    def _items(self, nodes: Sequence[exp.Expression], scope: Scope) -> Iterator[Column]:
        for node in nodes:
            star = node.this if isinstance(node, exp.Column | exp.Dot) and isinstance(node.this, exp.Star) else node
            if isinstance(star, exp.Star):
                yield from self._star(star, node, scope)
                continue
            if isinstance(node, exp.Alias) and not node.alias:
                raise invalid("Syntax error: Unexpected end of an alias")
            value = self.expression(node.unalias(), scope)
            if value.type == INTERVAL:
                raise unsupported("INTERVAL in a SELECT list")
            yield Column(node.alias if isinstance(node, exp.Alias) else value.name, value)

    def _star(self, star: exp.Star, node: exp.Expression, scope: Scope) -> list[Column]:
        only(star, "except_", "replace")
        if scope.partial:
            raise unsupported("SELECT * from INFORMATION_SCHEMA")
        columns = scope.columns
        if node is not star:
            path = [part.name for part in node.parts[:-1]]
            known = scope.tables.get(path[0].lower()) if len(path) == 1 else None
            columns = known or unpacked(scope.resolve(path))
        if not columns:
            raise invalid("SELECT * must have a FROM clause")
        dropped = [item.name for item in star.args.get("except_") or ()]
        swapped = {item.alias.lower(): item.this for item in star.args.get("replace") or ()}
        listed = [name.lower() for name in (*dropped, *(item.alias for item in star.args.get("replace") or ()))]
        if len(set(listed)) < len(listed):
            raise invalid(f"Duplicate column name {max(listed, key=listed.count)} in SELECT * EXCEPT or REPLACE list")
        for name in (*dropped, *swapped):
            if not named(columns, name):
                raise invalid(f"Column {name} in SELECT * EXCEPT or REPLACE list does not exist")
        gone = {column.name for name in dropped for column in named(columns, name)}
        kept = [column for column in columns if not column.name or column.name not in gone]
        found = ((column, swapped.get((column.name or "").lower())) for column in kept)
        return [Column(column.name, self.expression(new, scope)) if new else column for column, new in found]

    def _group(self, node: exp.Group | None, scope: Scope, items: list[Column]) -> str:
        if node is None:
            return ""
        only(node, "expressions")
        keys = []
        for item in node.expressions:
            position = _position(item, items)
            value = items[position].value if position is not None else self.expression(item, scope)
            if value.origin:
                raise invalid("Cannot GROUP BY literal values")
            if value.type.name not in ORDERED:
                raise unsupported(f"GROUP BY an expression of type {value.type}")
            keys.append(value.sql if position is None else str(position + 1))
        if not keys:
            raise invalid("Syntax error: GROUP BY list must not be empty")
        return f" GROUP BY {', '.join(keys)}"

    def _order(self, node: exp.Expression, scope: Scope, items: list[Column]) -> str:
        order = node.args.get("order")
        if not order:
            return ""
        keys = []
        for item in order.expressions:
            position = _position(item.this, items)
            value = items[position].value if position is not None else self.expression(item.this, scope)
            if position is not None and (value.volatile or value.type != v.FLOAT64):
                value = replace(value, sql=str(position + 1))
            keys.append(_key(item, value))
        return f" ORDER BY {', '.join(keys)}"

    def _keys(self, nodes: Sequence[exp.Ordered], scope: Scope) -> str:
        return ", ".join(_key(node, self.expression(node.this, scope)) for node in nodes)

    def _limit(self, node: exp.Expression) -> str:
        sql = ""
        if node.args.get("offset") and not node.args.get("limit"):
            raise invalid("Syntax error: OFFSET without LIMIT")
        for key in ("limit", "offset"):
            if clause := node.args.get(key):
                only(clause, "expression")
                value = self.expression(clause.expression, Scope())
                if value.type != v.INT64 or value.origin not in ("literal", "parameter"):
                    raise invalid(f"{key.upper()} must be an integer literal or parameter")
                sql += f" {key.upper()} coalesce({value.sql}, _bq_error('{key.upper()} must not be NULL'))"
        return sql

    # --- expressions -------------------------------------------------------------------------------------------------

    def boolean(self, node: exp.Expression, scope: Scope, where: str) -> str:
        """Translate a condition."""
        value = self.expression(node, scope)
        if coerced(value, v.BOOL) is None:
            raise invalid(f"{where} should return type BOOL, but returns {value.type}")
        return coerced(value, v.BOOL).sql

    def expression(self, node: exp.Expression, scope: Scope) -> Value:
        """Translate an expression, refusing what is not known to be exact."""
        value, operands = self._raw(node, scope)
        if not operands or value.volatile:
            return value
        # BigQuery raises where finite numbers give infinity; looking once, at the root of the arithmetic, is enough.
        finite = "".join(f" AND isfinite({operand})" for operand in dict.fromkeys(operands))
        if len(value.sql) > v.LONGEST:
            raise unsupported("arithmetic nested so deeply")
        sql = f"CASE WHEN NOT isfinite({value.sql}){finite} THEN _bq_error('double overflow') ELSE {value.sql} END"
        return replace(value, sql=sql)

    def all(self, nodes: Sequence[exp.Expression], scope: Scope) -> list[Value]:
        """Translate several expressions."""
        return [self.expression(node, scope) for node in nodes]

    def _raw(self, node: exp.Expression, scope: Scope) -> tuple[Value, list[str]]:
        """Translate; of FLOAT64 arithmetic also return the operands."""
        if isinstance(node, exp.Paren):
            return self._raw(node.this, scope)
        if type(node) in ARITHMETIC:
            return self._arithmetic(node, scope)
        if isinstance(node, _COMPARISONS) and any(
            isinstance(side, (*_COMPARISONS, exp.Not, exp.Connector))
            for side in (node.this, node.args.get("expression"))
        ):
            raise unsupported("a comparison of a comparison without parentheses: BigQuery's do not associate")
        if type(node) in _OPERATORS:
            sides = self.all([side for side in (node.this, node.args.get("expression")) if side], scope)
            return call(_OPERATORS[type(node)], sides), []
        if type(node) not in HANDLERS:
            raise unsupported(label(node))
        return HANDLERS[type(node)](self, node, scope), []

    def _arithmetic(self, node: exp.Binary, scope: Scope) -> tuple[Value, list[str]]:
        operator = ARITHMETIC[type(node)]
        (left, below_left), (right, below_right) = self._raw(node.this, scope), self._raw(node.expression, scope)
        if operator == "+" and left.type == INTERVAL:
            left, right = right, left
        if operator in "+-" and right.type == INTERVAL and left.type in (v.DATE, v.DATETIME, v.TIMESTAMP):
            return dates.shift(cast(left, v.DATETIME) if left.type == v.DATE else left, operator, right), []
        if operator == "+" and (left.type, right.type) == (v.INT64, v.DATE):
            left, right = right, left
        if operator in "+-" and (left.type, right.type) == (v.DATE, v.INT64):
            return dates.shift(left, operator, replace(right, text="DAY")), []
        value = call(operator, [left, right])
        if value.type != v.FLOAT64:
            return value, []
        operands = (below_left or [coerced(left, v.FLOAT64).sql]) + (below_right or [coerced(right, v.FLOAT64).sql])
        return value, operands

    def _literal(self, node: exp.Literal, _: Scope, sign: str = "") -> Value:
        if node.is_string:
            return Value(text(node.this), v.STRING, "literal", node.this)
        written = f"{sign}{node.this}"
        if not node.is_int:
            if not re.fullmatch(r"-?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", written):
                raise invalid(f"Syntax error: Invalid floating point literal {written}")
            if math.isinf(float(written)):
                raise unsupported(f"the literal {written}, which is beyond FLOAT64")
            return Value(f"CAST('{written}' AS DOUBLE)", v.FLOAT64, "literal", written)
        if not -(2**63) <= int(written) < 2**63:
            raise invalid(f"Invalid integer literal: {written}")
        return Value(f"CAST({int(written)} AS BIGINT)", v.INT64, "literal", written)

    def _negative(self, node: exp.Neg, scope: Scope) -> Value:
        if isinstance(node.this, exp.Literal) and not node.this.is_string:
            return self._literal(node.this, scope, "-")
        return call("-", [self.expression(node.this, scope)])

    def _column(self, node: exp.Expression, scope: Scope) -> Value:
        path = path_of(node)
        if isinstance(node, exp.Dot) and not path:
            if isinstance(node.expression, exp.Anonymous):
                raise unsupported(f"{node.this.name}.{node.expression.name}")
            return field_of(self.expression(node.this, scope), node.expression.name)
        try:
            return scope.resolve(path)
        except ApiError:
            if re.fullmatch(r"(?i)CURRENT_(DATE|TIME|DATETIME|TIMESTAMP)", ".".join(path)):
                return call(path[0].upper(), [])
            raise

    def _parameter(self, node: exp.Parameter, _: Scope) -> Value:
        if not isinstance(node.this, exp.Var):
            raise unsupported("system variables (@@…)")
        if node.name.lower() not in self.parameter_types:
            raise invalid(f"Query parameter '{node.name}' not found")
        name, given = self.parameter_types[node.name.lower()]
        self.parameters.add(name)
        kind = v.from_parameter(given)
        return Value(f"CAST(${parameter_name(name)} AS {kind.duck()})", kind, "parameter")

    def type(self, node: exp.DataType) -> Type:
        """Return the type that a DDL column or a CAST names."""
        if node.this == exp.DType.ARRAY and node.expressions:
            return array(self.type(node.expressions[0]))
        if node.this == exp.DType.STRUCT:
            typed = (
                (part.name, part.kind) if isinstance(part, exp.ColumnDef) else ("", part) for part in node.expressions
            )
            return Type("STRUCT", tuple((name, self.type(kind)) for name, kind in typed))
        if node.meta.get("written", "STRING").upper() not in _TYPE_NAMES:
            raise invalid(f"Type not found: {node.meta['written']}")
        if node.this not in _TYPES or node.expressions:
            raise unsupported(f"type {node.sql('bigquery')}")
        return Type(_TYPES[node.this])

    def _cast(self, node: exp.Cast, scope: Scope) -> Value:
        only(node, "this", "to", "safe")
        kind = self.type(node.to)
        if isinstance(node.this, exp.Array) and kind.name == "ARRAY":  # ARRAY<FLOAT64>[1, 2]
            fitted = [coerced(item, kind.element) for item in self.all(node.this.expressions, scope)]
            if None in fitted:
                raise invalid(f"Array elements do not coerce to {kind.element}")
            return Value(f"CAST([{', '.join(item.sql for item in fitted)}] AS {kind.duck()})", kind)
        if not isinstance(node.this, exp.Struct):
            return cast(self.expression(node.this, scope), kind, safe=isinstance(node, exp.TryCast))
        values = self.all(node.this.expressions, scope)  # STRUCT<a INT64>(1)
        fitted = [coerced(value, wanted) for value, (_, wanted) in zip(values, kind.fields, strict=False)]
        if None in fitted or len(values) != len(kind.fields):
            raise invalid(f"Values do not fit the fields of {kind}")
        return v.struct([(name, value) for (name, _), value in zip(kind.fields, fitted, strict=True)])

    def _between(self, node: exp.Between, scope: Scope) -> Value:
        only(node, "this", "low", "high")
        value, low, high = self.all([node.this, node.args["low"], node.args["high"]], scope)
        if value.volatile:
            raise unsupported("RAND() BETWEEN")
        return call("AND", [call(">=", [value, low]), call("<=", [value, high])])

    def _in(self, node: exp.In, scope: Scope) -> Value:
        only(node, "this", "expressions", "query", "unnest")
        value = self.expression(node.this, scope)
        if value.volatile:
            raise unsupported("RAND() IN")
        if node.expressions:
            items = self.all(node.expressions, scope)
            tests = [call("=", [value, item]).sql for item in items]
            kind = common([value, *items])
            if kind is None or kind == v.FLOAT64:
                return Value(f"({' OR '.join(tests)})", v.BOOL)
            return Value(
                f"({coerced(value, kind).sql} IN ({', '.join(coerced(item, kind).sql for item in items)}))", v.BOOL
            )
        if unnest := node.args.get("unnest"):
            source, scope = self._unnest(unnest.expressions, unnest, scope)
            sql, found = f'SELECT "v" FROM {source}', Value('"v"', scope.columns[0].value.type)
        elif subquery := node.args.get("query"):
            sql, found = self.single(subquery, scope, "Subquery of type IN")
        else:
            raise invalid("Syntax error: IN needs a list, a subquery or UNNEST")
        call("=", [value, found])
        kind = common([value, found])
        if kind == v.FLOAT64:
            raise unsupported("FLOAT64 IN a subquery or UNNEST")
        sql = f"(SELECT {coerced(found, kind).sql} FROM ({sql}) AS {quote(self.fresh('q'))})"
        return Value(f"({coerced(value, kind).sql} IN {sql})", v.BOOL)

    def _is(self, node: exp.Is, scope: Scope) -> Value:
        value = self.expression(node.this, scope)
        if isinstance(node.expression, exp.Null):
            return Value(f"({value.sql} IS NULL)", v.BOOL)
        if not isinstance(node.expression, exp.Boolean):
            raise unsupported(f"IS {label(node.expression)}")
        return call(
            "IS NOT DISTINCT FROM", [call("NOT", [call("NOT", [value])]), self.expression(node.expression, scope)]
        )

    def _like(self, node: exp.Like, scope: Scope) -> Value:
        only(node, "this", "expression", "negate")
        value = call("LIKE", self.all([node.this, node.expression], scope))
        return call("NOT", [value]) if node.args.get("negate") else value

    def _pipe(self, node: exp.DPipe, scope: Scope) -> Value:
        sides = self.all([node.this, node.expression], scope)
        if any(side.type.name == "ARRAY" for side in sides):
            return call("ARRAY_CONCAT", sides)
        if not all(side.origin == "null" or side.type in (v.STRING, v.BYTES) for side in sides):
            raise mismatch("operator ||", sides)
        return call("CONCAT", sides)

    def _case(self, node: exp.Case, scope: Scope) -> Value:
        only(node, "this", "ifs", "default")
        branches, default = node.args["ifs"], node.args.get("default")
        tests = self.all([branch.this for branch in branches], scope)
        if node.this:
            subject = self.expression(node.this, scope)
            if subject.volatile:
                raise unsupported("CASE of RAND()")
            tests = [call("=", [subject, test]) for test in tests]
        results = self.all([*(branch.args["true"] for branch in branches), *([default] if default else [])], scope)
        kind = common(results)
        if kind is None or not all(coerced(test, v.BOOL) for test in tests):
            raise mismatch("operator CASE", results)
        sqls = [coerced(result, kind).sql for result in results]
        whens = (f"WHEN {coerced(test, v.BOOL).sql} THEN {sql}" for test, sql in zip(tests, sqls, strict=False))
        otherwise = f"ELSE {sqls[-1]} " if default else ""
        return Value(f"CASE {' '.join(whens)} {otherwise}END", kind, volatile=any(each.volatile for each in results))

    def _array(self, node: exp.Array, scope: Scope) -> Value:
        only(node, "expressions", "struct_name_inheritance")
        items = self.all(node.expressions, scope)
        if not items:
            return Value("[]", array(v.INT64))
        kind = common(items)
        if kind is None:
            kinds = ", ".join(str(item.type) for item in items)
            if any(item.type.name == "STRUCT" for item in items):
                raise unsupported(f"an array of {kinds}")
            raise invalid(f"Array elements of types {{{kinds}}} do not have a common supertype")
        return Value(f"[{', '.join(coerced(item, kind).sql for item in items)}]", array(kind))

    def _struct(self, nodes: Sequence[exp.Expression], scope: Scope, *, bare: bool = False) -> Value:
        pairs = []
        if not nodes:
            raise unsupported("a STRUCT without fields")
        for node in nodes:
            value = self.expression(node.unalias(), scope)
            name = node.alias if isinstance(node, exp.Alias) else value.name
            pairs.append((name if name and not bare else "", coerced(value, value.type)))
        return v.struct(pairs)

    def _bracket(self, node: exp.Bracket, scope: Scope) -> Value:
        only(node, "this", "expressions", "offset", "safe")
        value, index = self.all([node.this, node.expressions[0]], scope)
        if value.type.name != "ARRAY" or "offset" not in node.args:
            raise unsupported(f"[…] on {value.type}; arrays take OFFSET or ORDINAL")
        if index.type != v.INT64:
            raise invalid(f"Array position must be coercible to type INT64, but has type {index.type}")
        template = (
            "CASE WHEN {1} + {shift} BETWEEN 1 AND len({0}) THEN ({0})[{1} + {shift}] "
            "WHEN {0} IS NOT NULL AND {1} IS NOT NULL THEN «'Array index ' || {1} || ' is out of bounds (' || "
            "CASE WHEN {1} + {shift} < 1 THEN 'underflow' ELSE 'overflow' END || ')'» END"
        )
        shift, safe = str(1 - node.args["offset"]), bool(node.args.get("safe"))
        return Value(fill(template, [value, index], safe=safe, what="[…]", shift=shift), value.type.element)

    def _subquery(self, node: exp.Subquery, scope: Scope) -> Value:
        sql, value = self.single(node, scope, "Scalar subquery")
        return Value(f"({sql})", value.type)

    def _extract(self, node: exp.Extract, scope: Scope) -> Value:
        source, where = node.expression, "UTC"
        if isinstance(source, exp.AtTimeZone):
            source, where = source.this, dates.zone("EXTRACT", self.expression(source.args["zone"], scope))
        value = self.expression(source, scope)
        if where != "UTC" and value.type != v.TIMESTAMP:
            raise invalid("EXTRACT … AT TIME ZONE takes a TIMESTAMP")
        return dates.extract(_part(node.this), value, where)

    def _interval(self, node: exp.Interval, scope: Scope) -> Value:
        unit, number = node.args.get("unit"), node.this
        if not isinstance(unit, exp.Var):
            raise unsupported("INTERVAL with a range of date parts")
        if isinstance(number, exp.Literal) and number.is_string:  # so does sqlglot write INTERVAL 1 DAY
            if not re.fullmatch(r"-?\d+", number.this):
                raise invalid(f"Invalid INTERVAL value '{number.this}'")
            number = exp.Literal.number(number.this)
        value = self._literal(number, scope) if isinstance(number, exp.Literal) else self.expression(number, scope)
        if coerced(value, v.INT64) is None:
            raise invalid(f"INTERVAL takes INT64, not {value.type}")
        return Value(coerced(value, v.INT64).sql, INTERVAL, text=unit.name.upper())

    # --- function calls ----------------------------------------------------------------------------------------------

    def _call(self, node: exp.Expression, scope: Scope, over: exp.Window | None = None) -> Value:
        found: dict = {}
        while isinstance(node, exp.IgnoreNulls | exp.RespectNulls | exp.SafeFunc):  # around the function itself
            found |= {"safe": True} if isinstance(node, exp.SafeFunc) else {"nulls": type(node).__name__}
            node = node.this
        if not isinstance(node, exp.Anonymous):
            raise unsupported(f"{label(node)} as a function")
        name, nodes = node.name.upper(), list(node.expressions)
        if name == "STRUCT":
            return self._struct(nodes, scope)
        if name == "ARRAY":
            if len(nodes) != 1 or not isinstance(nodes[0], exp.Query):
                raise invalid("ARRAY takes a subquery")
            sql, value = self.single(nodes[0], scope, "ARRAY subquery")
            return Value(f"array({sql})", array(value.type))
        if over:
            found["over"] = f" OVER ({self._over(over, scope, name)})"
        elif scope.parent and functions.is_aggregate(name):
            self._check_own(nodes, scope)
        for index in (0, -1) if nodes else ():
            if (
                isinstance(nodes[index], exp.Distinct) and nodes[index].expressions
            ):  # sqlglot puts all arguments into it
                nodes, found["distinct"] = list(nodes[index].expressions), True
            nodes[index], more = self._unwrap(nodes[index], scope)
            found |= more
        if name == "COUNT" and len(nodes) == 1 and isinstance(nodes[0], exp.Star):
            nodes = []
        arguments = [
            Value("", PART, text=_part(item)) if index == dates.PARTS.get(name) else self.expression(item, scope)
            for index, item in enumerate(nodes)
        ]
        return call(name, arguments, Modifiers(**found))

    @staticmethod
    def _check_own(nodes: Sequence[exp.Expression], scope: Scope) -> None:
        """Refuse an aggregate of columns that are all of an outer query: DuckDB would aggregate that one's rows."""
        paths = [path_of(column) for node in nodes for column in node.find_all(exp.Column)]
        own = replace(scope, parent=None)
        for path in paths:
            try:
                own.resolve(path)
            except ApiError:
                continue
            return
        if paths:
            raise unsupported(f"an aggregate in a subquery of {'.'.join(paths[0])}, which belongs to the outer query")

    def _unwrap(self, node: exp.Expression, scope: Scope) -> tuple[exp.Expression, dict]:
        """Take DISTINCT, IGNORE NULLS, ORDER BY and LIMIT off an argument."""
        found: dict = {}
        while True:
            if isinstance(node, exp.Limit) and isinstance(node.expression, exp.Literal) and node.expression.this != "0":
                found["limit"] = str(int(node.expression.this))
            elif isinstance(node, exp.Order):
                found["order"] = self._keys(node.expressions, scope)
            elif isinstance(node, exp.IgnoreNulls | exp.RespectNulls):
                found["nulls"] = type(node).__name__
            else:
                return node, found
            node = node.this

    def _window(self, node: exp.Window, scope: Scope) -> Value:
        only(node, "this", "partition_by", "order", "spec", "alias", "over")
        return self._call(node.this, scope, node)

    def _over(self, node: exp.Window, scope: Scope, function: str) -> str:
        if alias := node.args.get("alias"):
            if node.args.get("partition_by") or node.args.get("order") or node.args.get("spec"):
                raise unsupported("a window that extends a named window")
            if alias.name.lower() not in scope.windows:
                raise invalid(f"Unrecognized window alias {alias.name}")
            return self._over(scope.windows[alias.name.lower()], scope, function)
        parts, order, spec = [], node.args.get("order"), node.args.get("spec")
        if node.args.get("partition_by"):
            keys = self.all(node.args["partition_by"], scope)
            for key in keys:
                if key.origin:
                    raise unsupported("a window partitioned by a literal or parameter")
                if key.type.name not in ORDERED - {"FLOAT64"}:
                    raise invalid(f"Partitioning by expressions of type {key.type} is not allowed")
            parts.append(f"PARTITION BY {', '.join(key.sql for key in keys)}")
        if order:
            if any(self.expression(item.this, scope).origin for item in order.expressions):
                raise unsupported("a window ordered by a literal or parameter")
            parts.append(f"ORDER BY {self._keys(order.expressions, scope)}")
        elif function in _RANKED:
            raise invalid(f"Window ORDER BY is required for analytic function {function.lower()}")
        if spec:
            if function in (*_RANKED, "ROW_NUMBER"):
                raise invalid(f"Window framing clause is not allowed for analytic function {function.lower()}")
            parts.append(self._frame(spec, order, scope))
        return " ".join(parts)

    def _frame(self, spec: exp.WindowSpec, order: exp.Order | None, scope: Scope) -> str:
        only(spec, "kind", "start", "start_side", "end", "end_side")
        rows = spec.args["kind"].upper() == "ROWS"
        if not rows and spec.args["kind"].upper() != "RANGE":
            raise unsupported(f"{spec.args['kind']} frames")
        keys = [self.expression(item.this, scope).type for item in order.expressions] if order else []
        if not rows and not order:
            raise unsupported("a RANGE frame without ORDER BY")
        bounds = []
        for key in ("start", "end"):
            bound, side = spec.args.get(key), spec.args.get(f"{key}_side")
            if isinstance(bound, exp.Expression):
                value = self.expression(bound, scope)
                if value.type != v.INT64 or (not rows and keys != [v.INT64]):
                    raise unsupported("a RANGE frame over anything but one INT64")
                bound = value.sql
            bounds.append(f"{bound} {side or ''}".strip() if bound else "CURRENT ROW")
        return f"{'ROWS' if rows else 'RANGE'} BETWEEN {bounds[0]} AND {bounds[1]}"


def _constant(value: Any, kind: Type) -> str:
    """Write a value of INFORMATION_SCHEMA."""
    if value is None:
        return "NULL"
    return text(value) if kind == v.STRING else f"make_timestamptz({value})" if kind == v.TIMESTAMP else str(value)


def _flat(node: exp.Expression, top: exp.SetOperation) -> list[exp.Expression]:
    """Return the queries of a chain of one set operation; BigQuery wants parentheses around any other."""
    if not isinstance(node, exp.SetOperation):
        return [node]
    if (type(node), node.args["distinct"]) != (type(top), top.args["distinct"]):
        raise invalid("Syntax error: Different set operations need parentheses for grouping")
    if node is not top:
        only(node, "this", "expression", "distinct")
    return [*_flat(node.this, top), *_flat(node.expression, top)]


def _position(node: exp.Expression, items: Sequence[Column]) -> int | None:
    """Return which item of the SELECT list a key names by number or by alias."""
    if isinstance(node, exp.Literal) and node.is_int:
        if not 1 <= int(node.name) <= len(items):
            raise invalid(f"Column number {node.name} is out of range; the SELECT list has {len(items)} columns")
        return int(node.name) - 1
    found = named(items, node.name) if isinstance(node, exp.Column) and not node.table else []
    if len(found) > 1:
        raise invalid(f"Name {node.name} is ambiguous")
    return items.index(found[0]) if found else None


def _key(node: exp.Ordered, value: Value) -> str:
    """Write a sort key. NULL is lowest in GoogleSQL, then NaN; in DuckDB both are highest."""
    only(node, "this", "desc", "nulls_first")
    if value.type.name not in ORDERED:
        raise invalid(f"ORDER BY does not support expressions of type {value.type}")
    way, back = ("DESC", "ASC") if node.args.get("desc") else ("ASC", "DESC")
    nulls = "NULLS FIRST" if node.args.get("nulls_first") else "NULLS LAST"
    nan = f"isnan({value.sql}) {back} {nulls}, " if value.type == v.FLOAT64 and not value.volatile else ""
    return f"{nan}{value.sql} {way} {nulls}"


def _part(node: exp.Expression) -> str:
    """Return a date part as text, such as DAY or WEEK(MONDAY)."""
    if isinstance(node, exp.Anonymous) and len(node.expressions) == 1:
        return f"{node.name}({node.expressions[0].name})".upper()
    if not isinstance(node, exp.Column | exp.Var):
        raise invalid(f"A valid date part name is required but found {node.sql('bigquery')}")
    return node.name.upper()


def _output(items: Sequence[Column]) -> tuple[list[Column], str]:
    """Give the columns of a SELECT distinct names in DuckDB, and write its list."""
    taken: set[str] = set()
    columns, shown = [], []
    for number, item in enumerate(items, 1):
        name = item.name or f"_f{number}"
        while name.lower() in taken:
            name += f"_{number}"
        taken.add(name.lower())
        value = coerced(item.value, item.value.type)
        columns.append(Column(item.name, Value(quote(name), value.type, item.value.origin, item.value.text)))
        shown.append(f"{value.sql} AS {quote(name)}")
    return columns, ", ".join(shown)


def _refuse_adjacent(*_: object) -> Value:
    raise invalid("Syntax error: Expected end of input but got string literal")


_RANKED = ("RANK", "DENSE_RANK", "PERCENT_RANK", "CUME_DIST", "NTILE", "LAG", "LEAD")
ARITHMETIC = {exp.Add: "+", exp.Sub: "-", exp.Mul: "*", exp.Div: "/"}
_OPERATORS = {
    exp.EQ: "=", exp.NEQ: "<>", exp.LT: "<", exp.LTE: "<=", exp.GT: ">", exp.GTE: ">=", exp.And: "AND", exp.Or: "OR",
    exp.Not: "NOT", exp.NullSafeEQ: "IS NOT DISTINCT FROM", exp.NullSafeNEQ: "IS DISTINCT FROM",
}  # fmt: skip
_TYPES = {
    exp.DType.BIGINT: "INT64", exp.DType.DOUBLE: "FLOAT64", exp.DType.BOOLEAN: "BOOL", exp.DType.TEXT: "STRING",
    exp.DType.BINARY: "BYTES", exp.DType.DATE: "DATE", exp.DType.TIME: "TIME", exp.DType.DATETIME: "DATETIME",
    exp.DType.TIMESTAMP: "DATETIME", exp.DType.TIMESTAMPTZ: "TIMESTAMP", exp.DType.DECIMAL: "NUMERIC",
    exp.DType.JSON: "JSON",
}  # fmt: skip
#: The columns that the catalog fills, a part of BigQuery's.
INFORMATION_SCHEMA = {
    "COLUMNS": "table_catalog table_schema table_name column_name ordinal_position is_nullable data_type "
    "is_partitioning_column clustering_ordinal_position",
    "TABLES": "table_catalog table_schema table_name table_type creation_time",
}
_COMPARISONS = (exp.EQ, exp.NEQ, exp.LT, exp.LTE, exp.GT, exp.GTE, exp.Is, exp.In, exp.Like, exp.Between,
                exp.NullSafeEQ, exp.NullSafeNEQ)  # fmt: skip
#: Of the words that sqlglot reads as types, those that are BigQuery's.
_TYPE_NAMES = frozenset({
    "INT64", "INT", "SMALLINT", "INTEGER", "BIGINT", "TINYINT", "BYTEINT", "FLOAT64", "NUMERIC", "DECIMAL",
    "BIGNUMERIC", "BIGDECIMAL", "BOOL", "BOOLEAN", "STRING", "BYTES", "DATE", "TIME", "DATETIME", "TIMESTAMP",
    "JSON", "GEOGRAPHY", "INTERVAL", "RANGE", "ARRAY", "STRUCT",
})  # fmt: skip
_OTHER_TYPES = {"ordinal_position": v.INT64, "clustering_ordinal_position": v.INT64, "creation_time": v.TIMESTAMP}
HANDLERS: dict[type, Callable[..., Value]] = {
    exp.Literal: Translator._literal,
    exp.RawString: lambda _, node, __: Value(text(node.this), v.STRING, "literal", node.this),
    exp.ByteString: lambda _, node, __: Value(f"encode({text(node.this)})", v.BYTES, "literal"),
    exp.ParseJSON: lambda _, node, __: call("PARSE_JSON", [Value(text(node.this.this), v.STRING, "literal")]),
    exp.Null: lambda *_: Value("NULL", v.INT64, "null"),
    exp.Boolean: lambda _, node, __: Value(str(node.this).lower(), v.BOOL, "literal"),
    exp.Neg: Translator._negative,
    exp.Column: Translator._column,
    exp.Dot: Translator._column,
    exp.Parameter: Translator._parameter,
    exp.Cast: Translator._cast,
    exp.TryCast: Translator._cast,
    exp.Between: Translator._between,
    exp.In: Translator._in,
    exp.Is: Translator._is,
    exp.Like: Translator._like,
    exp.DPipe: Translator._pipe,
    exp.Concat: _refuse_adjacent,
    exp.Case: Translator._case,
    exp.Array: Translator._array,
    exp.Tuple: lambda self, node, scope: self._struct(node.expressions, scope, bare=True),
    exp.Bracket: Translator._bracket,
    exp.Subquery: Translator._subquery,
    exp.Exists: lambda self, node, scope: Value(f"EXISTS ({self.query(node.this, scope)[0]})", v.BOOL),
    exp.Extract: Translator._extract,
    exp.Interval: Translator._interval,
    exp.Window: Translator._window,
    exp.Anonymous: Translator._call,
    exp.SafeFunc: Translator._call,
}
