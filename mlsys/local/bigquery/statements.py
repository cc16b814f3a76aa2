"""What the SQL translation hands to the job runner: one value per GoogleSQL statement.

Schemas are lists of BigQuery's ``TableFieldSchema`` in its REST form (``{"name", "type", "mode", "fields",
"description"}``, types as REST spells them: ``INTEGER``, ``FLOAT``, ``BOOLEAN``, ``RECORD`` …).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

Schema = list[dict]


class TableRef(NamedTuple):
    """A table by its three names."""

    project: str
    dataset: str
    table: str


class Catalog(Protocol):
    """What the translation must know about the tables that a statement names."""

    def schema(self, ref: TableRef) -> Schema:
        """Return the columns of a table or view; raise ``ApiError`` 404 when it is not there."""


@dataclass(frozen=True)
class Query:
    """A statement that DuckDB runs: a SELECT, or DML on ``target``.

    ``sql`` is DuckDB's, its parameters are named ``$name``; ``parameters`` lists those it uses.
    ``schema`` describes the columns of the result exactly as BigQuery would name and type them (None for DML).
    """

    kind: str  # BigQuery's statementType: SELECT, INSERT, UPDATE, DELETE, MERGE, TRUNCATE_TABLE
    sql: str
    parameters: frozenset[str] = frozenset()
    schema: Schema | None = None
    target: TableRef | None = None
    reads: frozenset[TableRef] = frozenset()


@dataclass(frozen=True)
class CreateTable:
    """``CREATE TABLE``, with columns, from a query, or both. The store builds the table and keeps the metadata."""

    target: TableRef
    schema: Schema | None
    query: Query | None = None
    or_replace: bool = False
    if_not_exists: bool = False
    #: In REST form: ``timePartitioning``, ``rangePartitioning``, ``clustering``, ``description``, ``labels``,
    #: ``friendlyName``, ``expirationTime``, ``requirePartitionFilter``.
    properties: Mapping = field(default_factory=dict)


@dataclass(frozen=True)
class CreateView:
    """``CREATE VIEW``; ``text`` is the GoogleSQL of its query as the user wrote it."""

    target: TableRef
    text: str
    query: Query
    or_replace: bool = False
    if_not_exists: bool = False
    properties: Mapping = field(default_factory=dict)


@dataclass(frozen=True)
class CreateSchema:
    """``CREATE SCHEMA``: a dataset."""

    project: str
    dataset: str
    if_not_exists: bool = False
    properties: Mapping = field(default_factory=dict)


@dataclass(frozen=True)
class Drop:
    """``DROP TABLE | VIEW | SCHEMA``; for a schema ``target.table`` is empty."""

    what: str  # TABLE, VIEW or SCHEMA
    target: TableRef
    if_exists: bool = False
    cascade: bool = False


@dataclass(frozen=True)
class AddColumns:
    """``ALTER TABLE … ADD COLUMN``."""

    target: TableRef
    schema: Schema
    if_not_exists: bool = False


@dataclass(frozen=True)
class Transaction:
    """``BEGIN``, ``COMMIT`` or ``ROLLBACK TRANSACTION``."""

    action: str  # BEGIN, COMMIT or ROLLBACK


Statement = Query | CreateTable | CreateView | CreateSchema | Drop | AddColumns | Transaction
