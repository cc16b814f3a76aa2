"""Rows into a table under BigQuery's dispositions: what loads and query destinations have in common."""

import re
from collections.abc import Iterable, Mapping

import pyarrow as pa

from mlsys.local.bigquery import types
from mlsys.local.bigquery.catalog import PROPERTIES, Session, path_of
from mlsys.local.bigquery.statements import Schema, TableRef
from mlsys.local.errors import ApiError, not_found, unsupported

_BATCH = "_mlsys_batch"


def split_decorator(ref: TableRef) -> tuple[TableRef, str | None]:
    """Return the table and the partition that ``table$20240131`` names."""
    table, found, partition = ref.table.partition("$")
    return ref._replace(table=table), partition if found else None


def prepare(
    session: Session, ref: TableRef, partition: str | None, fields: Schema, config: Mapping, disposition: str
) -> None:
    """Make the destination ready for rows of ``fields``: create it, empty it or change its columns.

    Parameters
    ----------
    config
        The job's ``configuration.load`` or ``.query``.
    disposition
        What ``writeDisposition`` is when the job does not say.
    """
    disposition = config.get("writeDisposition") or disposition
    described = dict(config.get("destinationTableProperties") or {})
    body = session.find(ref)
    if body is None:
        if config.get("createDisposition") == "CREATE_NEVER":
            raise not_found(f"Table {path_of(ref)}")
        session.create(ref, fields, {key: config[key] for key in PROPERTIES if key in config} | described)
        return
    if body["type"] == "VIEW":
        why = "is not allowed for this operation because it is currently a VIEW."
        raise ApiError(400, "invalid", f"{path_of(ref)} {why}")
    if changed := [key for key, value in described.items() if value and value != body.get(key)]:
        raise ApiError(400, "invalid", f"{changed[0]} differs from that of the existing table {path_of(ref)}")
    _check_partitioning(body, config)
    old = body["schema"]["fields"]
    if disposition == "WRITE_EMPTY" and _has_rows(session, ref, body, partition):
        raise ApiError(409, "duplicate", f"Already Exists: Table {path_of(ref)}")
    if disposition == "WRITE_TRUNCATE" and partition is None:
        session.replace_schema(ref, fields)
        return
    schema = types.merged(path_of(ref), old, fields, config.get("schemaUpdateOptions") or ()) if old else fields
    if schema != old:
        session.alter(ref, schema)
    if disposition in ("WRITE_TRUNCATE", "WRITE_TRUNCATE_DATA"):
        where = f" WHERE {_in_partition(session.table(ref), partition)}" if partition else ""
        session.db.execute(f"DELETE FROM {types.relation(ref)}{where}")  # noqa: S608
        session.save(ref, session.table(ref))


def _has_rows(session: Session, ref: TableRef, body: dict, partition: str | None) -> bool:
    if partition is None or not session.size(body)[0]:
        return session.size(body)[0] > 0
    inside = f"SELECT 1 FROM {types.relation(ref)} WHERE {_in_partition(body, partition)} LIMIT 1"  # noqa: S608
    return bool(session.db.execute(inside).fetchall())


def _check_partitioning(body: dict, config: Mapping) -> None:
    for key in ("timePartitioning", "rangePartitioning"):
        given, own = config.get(key), body.get(key)
        if given and _layout(given) != _layout(own or {}):
            raise ApiError(
                400, "invalid", "Incompatible table partitioning specification. "
                f"Expected partitioning specification {_layout(own or {}) or 'none'}, but input is {_layout(given)}",
            )  # fmt: skip


def _layout(partitioning: Mapping) -> dict:
    return {key: value for key, value in partitioning.items() if key in ("type", "field", "range") and value}


def _in_partition(body: dict, partition: str) -> str:
    """Return a condition that holds for the rows of one day's partition."""
    layout = body.get("timePartitioning") or {}
    if layout.get("type") != "DAY" or not layout.get("field"):
        raise unsupported("partition decorators, except of tables that a column partitions by DAY")
    if not re.fullmatch(r"[0-9]{8}", partition):
        raise unsupported(f"partition id {partition} of a table partitioned by DAY")
    return f"coalesce(strftime({types.quote(layout['field'])}, '%Y%m%d') = '{partition}', false)"


def insert(
    session: Session, ref: TableRef, fields: Schema, batches: Iterable[pa.RecordBatch], partition: str | None = None
) -> tuple[int, int]:
    """Append rows of ``fields`` to a table; return how many and their logical bytes."""
    names = ", ".join(types.quote(f["name"]) for f in fields)
    append = f"INSERT INTO {types.relation(ref)} ({names}) SELECT {types.tidy_columns(fields)} FROM {_BATCH}"  # noqa: S608
    sizes = types.total_sizes(fields)
    body, rows, size = session.table(ref), 0, 0
    for batch in batches:
        session.db.register(_BATCH, batch)
        try:
            if partition:
                _check_inside(session, body, partition)
            session.db.execute(append)
            size += int(sum(session.db.execute(f"SELECT {sizes} FROM {_BATCH}").fetchall()[0]))  # noqa: S608
        finally:
            session.db.unregister(_BATCH)
        rows += batch.num_rows
    session.grow(ref, rows, size)
    return rows, size


def _check_inside(session: Session, body: dict, partition: str) -> None:
    outside = f"SELECT 1 FROM {_BATCH} WHERE NOT ({_in_partition(body, partition)}) LIMIT 1"  # noqa: S608
    if session.db.execute(outside).fetchall():
        message = f"Some rows belong to different partitions rather than destination partition {partition}"
        raise ApiError(400, "invalid", message)


def fill_null_arrays(session: Session, ref: TableRef) -> None:
    """Make NULL arrays that DML wrote empty: BigQuery stores no other."""
    for field in session.table(ref)["schema"]["fields"]:
        if types.holds_arrays(field):
            name = types.quote(field["name"])
            tidy = types.without_null_arrays(name, field)
            session.db.execute(f"UPDATE {types.relation(ref)} SET {name} = {tidy} WHERE {tidy} IS DISTINCT FROM {name}")  # noqa: S608
