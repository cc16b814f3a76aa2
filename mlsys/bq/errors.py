"""Google's exceptions, told again where we can add the table's name and the way out."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

from google.api_core import exceptions

from mlsys.errors import AccessError, AlreadyExistsError, MlsysError, NotFoundError, QueryError, SchemaError
from mlsys.names import TableId

if TYPE_CHECKING:
    from google.cloud import bigquery

_OVER_THE_CAP = re.compile(r"limit for bytes billed: (\d+)\. (\d+) or higher")
_MISSING = re.compile(r"Not found: (Table|Dataset|Project|Routine) ([\w.:$ -]+?)(?: was not found|\s*$|[;\n])", re.I)
# What BigQuery says, under reasons that it gives for many other things, when statements change one table at once.
_CONTENTION = re.compile(r"could not serialize access|too many DML statements outstanding", re.I)
_ACCESS_REASONS = {"accessDenied", "forbidden", ""}


@contextmanager
def explained(client: "bigquery.Client", *, reads: str | TableId = "", writes: TableId | None = None) -> Iterator[None]:
    """Turn what Google raises inside the block into mlsys's errors; leave alone what we know no more about.

    ``reads`` is the query or the table that rows come from, ``writes`` the table that they go to.
    """
    try:
        yield
    except exceptions.GoogleAPICallError as exc:
        better = _explain(exc, client, reads, writes)
        if better is None:
            raise
        raise better from exc


def _explain(
    exc: exceptions.GoogleAPICallError, client: "bigquery.Client", reads: str | TableId, writes: TableId | None
) -> MlsysError | None:
    text, table = first_line(exc), writes or (reads if isinstance(reads, TableId) else None)
    if cap := _OVER_THE_CAP.search(text):
        allowed, needed = (int(number) for number in cap.groups())
        return over_the_cap(needed, allowed)
    if is_contention(text):
        return QueryError(f"{table or 'the table'} is changed by too many statements at once: try again later ({text})")
    if isinstance(exc, exceptions.NotFound):
        return _not_found(text, client, str(table or ""))
    if isinstance(exc, exceptions.Forbidden) and reason(exc) in _ACCESS_REASONS:
        return _no_access(text, client, table, writes=writes is not None)
    if isinstance(exc, exceptions.Conflict) and writes:
        return AlreadyExistsError(f"table {writes} holds rows already and write_disposition is WRITE_EMPTY: {text}")
    if isinstance(exc, exceptions.BadRequest) and writes:
        return SchemaError(f"table {writes} does not take these rows: {text}")
    return QueryError(f"BigQuery refused the query: {text}") if isinstance(exc, exceptions.BadRequest) else None


def over_the_cap(needed: int, allowed: int) -> QueryError:
    """Return the error for a query, or a table, that is larger than ``max_bytes_billed``."""
    return QueryError(
        f"the query would be billed {needed:,} bytes > {allowed:,} allowed: read fewer columns or partitions, "
        "or raise max_bytes_billed"
    )


def is_contention(text: str) -> bool:
    """Say whether a statement failed only because others were changing its table: it did nothing itself."""
    return _CONTENTION.search(text) is not None


def _no_access(text: str, client: "bigquery.Client", table: TableId | None, *, writes: bool) -> AccessError:
    if "bigquery.jobs.get" in text:  # a job that another account started, such as an earlier turn of a chain
        return AccessError(
            f"no access to a job of another account: the caller needs bigquery.jobs.get on project {client.project},"
            f" which roles/bigquery.resourceViewer has ({text})"
        )
    what = table or "what the query reads"
    data = "roles/bigquery.dataEditor on its dataset" if writes else "roles/bigquery.dataViewer on what it reads"
    work = "roles/bigquery.jobUser" if writes else "roles/bigquery.jobUser and roles/bigquery.readSessionUser"
    return AccessError(f"no access to {what}: the caller needs {data}, and {work} on project {client.project} ({text})")


def _not_found(text: str, client: "bigquery.Client", table: str) -> NotFoundError:
    kind, path = _missing(text, table)
    if kind == "table":
        return NotFoundError(f"table {path} is not there{_nearest(client, path)}")
    if kind == "dataset":
        way_out = "create it first (as mlsys put --create-dataset does), or correct the table's path"
        return NotFoundError(f"dataset {path} is not there: {way_out}")
    return NotFoundError(f"BigQuery found no such thing: {text}")


def _missing(text: str, table: str) -> tuple[str, str]:
    if match := _MISSING.search(text):
        return match[1].lower(), match[2].replace(":", ".")
    return ("table", table) if table else ("", "")


def _nearest(client: "bigquery.Client", path: str) -> str:
    """Say what the dataset holds instead. It is a courtesy: when it cannot be had, the error goes out without it."""
    dataset, _, name = path.rpartition(".")
    try:
        once: Any = None  # which Google's annotation leaves out
        tables = client.list_tables(dataset, max_results=1000, retry=once, timeout=5)
        names = [table.table_id for table in tables]
    except Exception:  # noqa: BLE001 - never hide the error that is being told
        return ": check the path"
    if close := get_close_matches(name, names, n=3, cutoff=0.5):
        return f": did you mean {' or '.join(close)}?"
    shown = ", ".join(names[:5]) or "no tables"
    return f": dataset {dataset} has {shown}{', …' if len(names) > 5 else ''}"


def first_line(exc: exceptions.GoogleAPICallError) -> str:
    """Return BigQuery's own words, without the URL before them and the job's details after."""
    errors = getattr(exc, "errors", None)
    text = errors[0].get("message") if errors and isinstance(errors[0], dict) else None
    text = text or re.sub(r"^(?:GET|POST|PUT) \S+: ", "", str(exc.message or exc))
    return text.strip().partition("\n")[0]


def reason(exc: BaseException) -> str:
    """Return the reason of a BigQuery error (``accessDenied``), or an empty string."""
    errors = getattr(exc, "errors", None)
    return errors[0].get("reason", "") if errors and isinstance(errors[0], dict) else ""
