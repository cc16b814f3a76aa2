"""The text of GoogleSQL scripts, cut into statements and read by sqlglot as strictly as BigQuery reads them."""

import functools
import itertools
import re
from typing import ClassVar

import sqlglot
from sqlglot import exp
from sqlglot.dialects.bigquery import BigQuery
from sqlglot.tokens import Token, TokenType

from mlsys.local.bigquery.values import invalid
from mlsys.local.errors import unsupported


class _GoogleSQL(BigQuery):
    """sqlglot's reader of BigQuery's SQL, which leaves function calls as written: `functions` says what they mean."""

    class Parser(BigQuery.Parser):
        FUNCTIONS: ClassVar[dict] = {}
        FUNCTION_PARSERS: ClassVar = {
            name: BigQuery.Parser.FUNCTION_PARSERS[name] for name in ("CAST", "SAFE_CAST", "EXTRACT")
        }
        NO_PAREN_FUNCTIONS: ClassVar[dict] = {}
        NO_PAREN_FUNCTION_PARSERS: ClassVar = {"CASE": BigQuery.Parser.NO_PAREN_FUNCTION_PARSERS["CASE"]}

        def _parse_column(self) -> exp.Expression | None:
            return super(BigQuery.Parser, self)._parse_column()  # BigQuery's own splits `a.b`, which is one name

        def _parse_types(self, *args: object, **kwargs: object) -> exp.Expression | None:
            token, found = self._curr, super()._parse_types(*args, **kwargs)
            if isinstance(found, exp.DataType) and token:
                found.meta["written"] = token.text  # sqlglot knows types of other dialects, too
            return found


_LONGEST = 1 << 20  # BigQuery's limit
_SHORT = 1 << 12  # characters; longer is not remembered, as a tree takes hundreds of times the memory of its text
TOKENS = {"|>": "pipe syntax", "->": "lambdas", "=>": "named arguments"} | dict.fromkeys(("::", "==", "<=>", "!"))
_ESCAPES = frozenset("abfnrtv\\'\"`?")


def parse(sql: str) -> tuple[tuple[str, exp.Expression], ...]:
    """Split a script into statements, each with its own text and its tree, which nobody changes."""
    if len(sql) > _LONGEST:
        raise invalid("The query is too large. The maximum standard SQL query length is 1024.00K characters")
    return _remembered(sql) if len(sql) <= _SHORT else _parsed(sql)


def _parsed(sql: str) -> tuple[tuple[str, exp.Expression], ...]:
    dialect = _GoogleSQL()
    try:
        chunks: list[list[Token]] = [[]]
        positions = itertools.count(1)
        for token in dialect.tokenize(sql):
            if token.token_type == TokenType.SEMICOLON:
                chunks.append([])
            elif token.token_type == TokenType.PLACEHOLDER:  # the first ? is called @1, and so on
                where = (token.line, token.col, token.start, token.end)
                chunks[-1].append(Token(TokenType.PARAMETER, "@", *where))
                chunks[-1].append(Token(TokenType.VAR, str(next(positions)), *where))
            else:
                chunks[-1].append(token)
        return tuple((_text(sql, chunk), _tree(dialect, sql, chunk)) for chunk in chunks if chunk)
    except RecursionError as error:
        raise unsupported("a statement nested so deeply") from error
    except (sqlglot.errors.ParseError, sqlglot.errors.TokenError, ValueError) as error:
        first = next(iter(getattr(error, "errors", ())), None)
        at = f" at [{first['line']}:{first['col']}]" if first else ""
        what = first["description"] if first else str(error).splitlines()[0]
        raise invalid(f"Syntax error: {what.rstrip('.')}{at}") from error


_remembered = functools.lru_cache(maxsize=64)(_parsed)  # views and what programs ask come again and again


def _text(sql: str, tokens: list) -> str:
    return sql[tokens[0].start : tokens[-1].end + 1]


def _tree(dialect: BigQuery, sql: str, tokens: list) -> exp.Expression:
    for before, token in zip([None, *tokens], tokens, strict=False):
        written, string = sql[token.start : token.end + 1], token.token_type in _STRINGS
        if written in TOKENS:
            if TOKENS[written]:
                raise unsupported(TOKENS[written])
            raise invalid(f'Syntax error: Unexpected "{written}" at [{token.line}:{token.col}]')
        if before and string and before.token_type == TokenType.ALIAS and tokens[0].text.upper() != "CREATE":
            raise invalid(f"Syntax error: Unexpected string literal {written} at [{token.line}:{token.col}]")
        if before and before.token_type == TokenType.NUMBER and before.end + 1 == token.start and _is_word(written):
            dashed = sql[before.start - 1] == "-" and _is_word(sql[before.start - 2])  # my-project-1a.d.t
            if not dashed:
                raise invalid(
                    f"Syntax error: Missing whitespace between literal and alias at [{token.line}:{token.col}]"
                )
        if token.token_type == TokenType.NOTNULL:
            raise unsupported("NOTNULL as a name")
        if token.token_type == TokenType.BYTE_STRING and not written.isascii():
            raise unsupported("characters other than ASCII in a literal of BYTES")
        if string and written[:1] not in ("r", "R"):
            for escape in set(re.findall(r"\\(.)", written, re.DOTALL)) - _ESCAPES:
                raise unsupported(f"the escape \\{escape} in a string")
    first = tokens[0].text.upper()
    if first in SCRIPTING:
        raise unsupported(f"scripting ({first})")
    (tree,) = dialect.parser().parse(tokens, sql)
    for name in tree.find_all(exp.Identifier):
        first = not isinstance(name.parent, exp.Dot) and name.arg_key == (_first_part(name.parent) or name.arg_key)
        if not name.quoted and first and name.name.upper() in _RESERVED:
            raise invalid(
                f"Syntax error: Unexpected keyword {name.name.upper()}; put it in backticks to use it as a name"
            )
    return tree


def _first_part(node: exp.Expression) -> str | None:
    """Return which part of a dotted name comes first: those after it may be keywords."""
    parts = ("catalog", "db", "table", "this") if isinstance(node, exp.Column | exp.Table) else ()
    return next((part for part in parts if node.args.get(part)), None)


def _is_word(text: str) -> bool:
    return text[:1].isalnum() or text[:1] == "_"


#: GoogleSQL's reserved keywords, but DEFAULT, which sqlglot takes for a column.
_RESERVED = frozenset({
    "ALL", "AND", "ANY", "ARRAY", "AS", "ASC", "ASSERT_ROWS_MODIFIED", "AT", "BETWEEN", "BY", "CASE", "CAST",
    "COLLATE", "CONTAINS", "CREATE", "CROSS", "CUBE", "CURRENT", "DEFINE", "DESC", "DISTINCT", "ELSE", "END",
    "ENUM", "ESCAPE", "EXCEPT", "EXCLUDE", "EXISTS", "EXTRACT", "FALSE", "FETCH", "FOLLOWING", "FOR", "FROM",
    "FULL", "GROUP", "GROUPING", "GROUPS", "HASH", "HAVING", "IF", "IGNORE", "IN", "INNER", "INTERSECT", "INTERVAL",
    "INTO", "IS", "JOIN", "LATERAL", "LEFT", "LIKE", "LIMIT", "LOOKUP", "MERGE", "NATURAL", "NEW", "NO", "NOT",
    "NULL", "NULLS", "OF", "ON", "OR", "ORDER", "OUTER", "OVER", "PARTITION", "PRECEDING", "PROTO", "QUALIFY",
    "RANGE", "RECURSIVE", "RESPECT", "RIGHT", "ROLLUP", "ROWS", "SELECT", "SET", "SOME", "STRUCT", "TABLESAMPLE",
    "THEN", "TO", "TREAT", "TRUE", "UNBOUNDED", "UNION", "UNNEST", "USING", "WHEN", "WHERE", "WINDOW", "WITH",
    "WITHIN",
})  # fmt: skip
_STRINGS = (TokenType.STRING, TokenType.RAW_STRING, TokenType.BYTE_STRING, TokenType.HEREDOC_STRING)
SCRIPTING = frozenset({
    "DECLARE", "SET", "IF", "LOOP", "WHILE", "REPEAT", "FOR", "CASE", "CALL", "EXECUTE", "RAISE", "RETURN", "BREAK",
    "CONTINUE", "ASSERT", "EXPORT", "LOAD", "END",
})  # fmt: skip


def text_after_as(source: str) -> str:
    """Return the text of a view's query."""
    depth = 0
    for token in _GoogleSQL().tokenize(source):
        depth += (token.text == "(") - (token.text == ")")
        if depth == 0 and token.token_type == TokenType.ALIAS:
            return source[token.end + 1 :].strip()
    raise invalid("CREATE VIEW needs AS")
