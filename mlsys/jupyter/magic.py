"""``%%bq``: a cell of GoogleSQL, with the notebook's variables as its parameters."""

import re
from collections.abc import Mapping
from typing import Any

from IPython.core.error import UsageError
from IPython.core.magic import Magics, cell_magic, magics_class
from IPython.core.magic_arguments import argument, magic_arguments, parse_argstring
from IPython.display import display

from mlsys.bq import bq_dry_run, bq_get, bq_get_batches, to_frame
from mlsys.errors import QueryError

# Strings, comments, quoted names and system variables are passed over; what is left after an @ is a parameter.
_PARAMETER = re.compile(
    r"""
    \"{3}(?:\\.|[^\\])*?\"{3} | '{3}(?:\\.|[^\\])*?'{3}
    | "(?:\\.|[^"\\\n])*" | '(?:\\.|[^'\\\n])*' | `(?:\\.|[^`\\\n])*`
    | --[^\n]* | \#[^\n]* | /\*.*?\*/
    | @@[\w.]+ | @(?P<name>[A-Za-z_]\w*)
    """,
    re.VERBOSE | re.DOTALL,
)


@magics_class
class BigQueryMagics(Magics):
    """The cell magic ``%%bq``."""

    @magic_arguments()
    @argument("variable", nargs="?", help="Variable that gets the rows as a DataFrame, all of them.")
    @argument("--dry-run", action="store_true", help="Say what the query would read and return; run nothing.")
    @argument("--show", type=int, default=10, metavar="N", help="Show at most N rows (default 10).")
    @argument("--max-rows", type=int, metavar="N", help="Fetch at most N rows.")
    @argument("--max-bytes-billed", type=int, metavar="N", help="Refuse a query that would be billed more bytes.")
    @cell_magic
    def bq(self, line: str, cell: str) -> Any:
        """Run a query and show its first rows; ``@name`` in it is the notebook's variable of that name.

        Without a variable only the rows that are shown leave BigQuery::

            %%bq frame --max-bytes-billed 1_000_000_000
            SELECT * FROM `shoufianesys.titanic.passengers` WHERE pclass = @pclass
        """
        options = parse_argstring(self.bq, line)
        assert self.shell is not None  # noqa: S101 - a magic runs in one
        query, values = cell.strip(), parameters_in(cell, self.shell.user_ns)
        if options.variable is not None and not options.variable.isidentifier():
            raise UsageError(f"%%bq {options.variable}: the rows go to a variable, got no name of one")
        if options.dry_run:
            return self._keep(options.variable, bq_dry_run(query, parameters=values))
        limits = {"max_rows": options.max_rows, "max_bytes_billed": options.max_bytes_billed}
        if options.variable is None:
            _show_first(bq_get_batches(query, parameters=values, **limits), max(0, options.show))
        else:
            frame = bq_get(query, parameters=values, **limits)
            self._keep(options.variable, frame)
            _tell(len(frame), frame.head(max(0, options.show)), f" in {options.variable}")
        return None

    def _keep(self, variable: str | None, value: Any) -> Any:
        if variable is not None and self.shell is not None:
            self.shell.push({variable: value})
        return value


def parameters_in(query: str, variables: Mapping[str, Any]) -> dict[str, Any]:
    """Return the value of each ``@name`` that a query uses, from the variable of that name.

    Raises
    ------
    QueryError
        There is no such variable.

    Examples
    --------
    >>> parameters_in("SELECT @n, '@text' -- @comment", {"n": 1})
    {'n': 1}
    """
    names = dict.fromkeys(match["name"] for match in _PARAMETER.finditer(query) if match["name"])
    if missing := [name for name in names if name not in variables]:
        raise QueryError(
            f"the query uses @{missing[0]}, but there is no variable {missing[0]}: assign it in a cell above"
        )
    return {name: variables[name] for name in names}


def _show_first(rows: Any, show: int) -> None:
    import pyarrow as pa

    taken, left = [], show
    for batch in rows if show else ():
        taken.append(batch.slice(0, left))
        left -= batch.num_rows
        if left <= 0:
            break
    _tell(rows.total_rows, to_frame(pa.Table.from_batches(taken, schema=rows.schema)))


def _tell(total: int, shown: Any, where: str = "") -> None:
    if not len(shown.columns):
        print("done: the statement returns no rows")  # noqa: T201 - a notebook's cell prints
        return
    if len(shown):
        display(shown)
    of_these = f"; the first {len(shown):,} are shown" if 0 < len(shown) < total else ""
    print(f"{total:,} rows, {len(shown.columns)} columns{where}{of_these}")  # noqa: T201
