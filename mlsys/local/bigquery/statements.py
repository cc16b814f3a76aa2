"""What the SQL translation hands to the job runner: one value per GoogleSQL statement.

Schemas are lists of BigQuery's ``TableFieldSchema`` in its REST form (``{"name", "type", "mode", "fields",
"description"}``, types as REST spells them: ``INTEGER``, ``FLOAT``, ``BOOLEAN``, ``RECORD`` …).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple, Protocol

Schema = list[dict]


class TableRef(NamedTuple):
    """A table by its three names."""

    project: str
    dataset: str
    table: str


class View(NamedTuple):
    """A view: its GoogleSQL, and the project and dataset that complete the names in it.

    ``query`` is its translation when it is made. Each query that reads the view translates its text anew.
    """

    text: str
    query: "Query | None"
    project: str
    dataset: str | None


class Catalog(Protocol):
    """What the translation must know about the tables that a statement names."""

    def source(self, ref: TableRef) -> Schema | View:
        """Return the columns of a table, or what a view stands for; raise ``ApiError`` 404 when it is not there."""

    def information_schema(self, view: str, project: str, dataset: str) -> list[dict]:
        """Return the rows of COLUMNS or TABLES by column, times in microseconds."""


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
    whole: TableRef | None = None  # set when it is ``SELECT * FROM`` this table or view, and nothing else


@dataclass(frozen=True)
class Create:
    """``CREATE TABLE``, with columns or from a query, or ``CREATE VIEW``."""

    what: str  # TABLE or VIEW
    target: TableRef
    schema: Schema
    query: Query | None = None
    text: str = ""  # of a view: the GoogleSQL of its query as the user wrote it
    or_replace: bool = False
    if_not_exists: bool = False
    #: In REST form: ``timePartitioning``, ``rangePartitioning``, ``clustering``, ``description``, ``labels``,
    #: ``friendlyName``, ``expirationTime``, ``requirePartitionFilter``.
    properties: Mapping = field(default_factory=dict)

    @property
    def kind(self) -> str:
        """Return BigQuery's ``statementType``."""
        return f"CREATE_{self.what}" + ("_AS_SELECT" if self.query and self.what == "TABLE" else "")


@dataclass(frozen=True)
class Drop:
    """``DROP TABLE`` or ``DROP VIEW``."""

    what: str  # TABLE or VIEW
    target: TableRef
    if_exists: bool = False

    @property
    def kind(self) -> str:
        """Return BigQuery's ``statementType``."""
        return f"DROP_{self.what}"


@dataclass(frozen=True)
class AddColumns:
    """``ALTER TABLE … ADD COLUMN``."""

    target: TableRef
    schema: Schema
    if_not_exists: bool = False
    kind: ClassVar[str] = "ALTER_TABLE"


@dataclass(frozen=True)
class Transaction:
    """``BEGIN``, ``COMMIT`` or ``ROLLBACK TRANSACTION``."""

    action: str  # BEGIN, COMMIT or ROLLBACK

    @property
    def kind(self) -> str:
        """Return BigQuery's ``statementType``."""
        return f"{self.action}_TRANSACTION"


Statement = Query | Create | Drop | AddColumns | Transaction
