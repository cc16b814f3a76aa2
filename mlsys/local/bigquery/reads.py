"""Which rows and columns of a table a reader gets."""

from collections.abc import Iterable

import pyarrow as pa

from mlsys.local.bigquery import sql, types
from mlsys.local.bigquery.catalog import Session, path_of
from mlsys.local.bigquery.statements import Schema, TableRef
from mlsys.local.errors import ApiError, unsupported

BATCH_ROWS = 1 << 17


def readable(session: Session, ref: TableRef) -> Schema:
    """Return the columns of a table that can be read or filled directly: no view."""
    body = session.table(ref)
    if body["type"] == "VIEW":
        raise ApiError(400, "invalid", f"{path_of(ref)} is a VIEW: query it instead.")
    return body["schema"]["fields"]


def chosen(schema: Schema, columns: Iterable[str]) -> Schema:
    """Return the fields of ``columns`` in the table's order, all of them when none is named."""
    wanted = {name.lower().strip("`") for name in columns}
    if any("." in name for name in wanted):
        raise unsupported("the selection of a field inside a RECORD")
    if unknown := wanted - {f["name"].lower() for f in schema}:
        raise ApiError(400, "invalid", f"No such field: {min(unknown)}")
    return [f for f in schema if not wanted or f["name"].lower() in wanted]


def scan(
    session: Session, relation: str, schema: Schema, fields: Schema, restriction: str = "", limit: str = ""
) -> Iterable[pa.RecordBatch]:
    """Return the ``fields`` of a DuckDB relation of ``schema``, in the rows where a GoogleSQL ``restriction`` holds."""
    if not fields:
        return []
    where = f"WHERE {sql.restriction(restriction, schema)}" if restriction else ""
    text = f"SELECT {types.tidy_columns(fields)} FROM {relation} {where} {limit}"  # noqa: S608
    return session.db.sql(text).to_arrow_reader(BATCH_ROWS)
