"""A query job: GoogleSQL statements one after the other, each a transaction of its own or within the script's."""

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import duckdb

from mlsys.local.bigquery import cells, reads, sql, types, writes
from mlsys.local.bigquery.catalog import Session, named_by, path_of, reference
from mlsys.local.bigquery.snapshots import Snapshot, Snapshots
from mlsys.local.bigquery.statements import (
    AddColumns,
    Create,
    Drop,
    Query,
    Statement,
    Transaction,
    View,
)
from mlsys.local.errors import ApiError, unsupported

_MEBI = 1 << 20
#: Options of a query job that change its answer and are not done here.
_REFUSED = (
    "tableDefinitions", "userDefinedFunctionResources", "connectionProperties", "createSession", "continuous",
    "destinationEncryptionConfiguration", "scriptOptions",
)  # fmt: skip


@dataclass
class Outcome:
    """What one statement did: its part of the job's ``statistics.query``, and its rows when it has any."""

    kind: str
    statistics: dict = field(default_factory=dict)
    snapshot: Snapshot | None = None
    schema: list[dict] | None = None


class QueryRun:
    """One query job on one session.

    Parameters
    ----------
    query
        The job's ``configuration.query``.
    finish
        Called in the last transaction with the final outcome, so that the job's record commits with its effect.
    save_child
        Called for each statement of a script with its number and outcome.
    """

    def __init__(
        self,
        session: Session,
        project: str,
        query: dict,
        snapshots: Snapshots,
        finish: Callable[[Outcome], None],
        save_child: Callable[[int, Outcome], None],
    ) -> None:
        self._session, self._project, self._query, self._snapshots = session, project, query, snapshots
        self._finish, self._save_child = finish, save_child
        self._values = cells.parameters(query)
        self._in_transaction = False  # between the script's own BEGIN and COMMIT
        _check_options(query)

    def _default_dataset(self) -> tuple[str, str | None]:
        default = self._query.get("defaultDataset") or {}
        return default.get("projectId") or self._project, default.get("datasetId")

    def _statements(self) -> Iterator[Statement]:
        project, dataset = self._default_dataset()
        named = enumerate(self._query.get("queryParameters") or (), 1)
        return sql.script(
            self._query["query"],
            catalog=self._session,
            project=project,
            dataset=dataset,
            parameter_types={p.get("name") or str(n): p["parameterType"] for n, p in named},
        )

    def dry_run(self) -> Outcome:
        """Say what the query would answer and read, without running it."""
        statements = self._statements()
        statement = next(statements)
        try:
            more = next(statements, None)
        except ApiError:
            more = statement
        if more is not None:
            raise unsupported("a dry run of several statements: later ones depend on what earlier ones did")
        query = statement if isinstance(statement, Query) else getattr(statement, "query", None)
        statistics = self._reads(query) if query else {"totalBytesProcessed": "0"}
        schema = query.schema if query else None
        if schema is not None:
            statistics["schema"] = {"fields": schema}
        return Outcome(statement.kind, statistics, schema=schema)

    def run(self) -> None:
        """Run all statements; an error leaves undone what was not committed."""
        statements, number, last = self._statements(), 0, Outcome("SCRIPT")
        statement: Statement | None = next(statements)  # an empty script has been refused
        while statement is not None:
            outcome = self._execute(statement)
            last = outcome or last
            upcoming, failure = self._upcoming(statements)
            number += 1
            whole = number == 1 and not upcoming and not failure
            if not whole and outcome:
                self._save_child(number, outcome)
            if not upcoming and not failure:
                if self._in_transaction:  # BigQuery rolls back what a script does not commit
                    self._session.rollback()
                self._finish(last if whole else Outcome("SCRIPT", last.statistics, last.snapshot, last.schema))
            if not self._in_transaction:
                self._session.commit()
            if failure:
                raise failure
            statement = upcoming

    @staticmethod
    def _upcoming(statements: Iterator[Statement]) -> tuple[Statement | None, ApiError | None]:
        try:
            return next(statements, None), None
        except ApiError as exc:  # what came before it has happened all the same
            return None, exc

    def _begin(self) -> None:
        if not self._in_transaction:
            self._session.begin(write=True)

    def _execute(self, statement: Statement) -> Outcome | None:
        """Run one statement; outside the script's own transaction, one of its own stays open for its record."""
        handlers: dict[type, Callable[..., Outcome | None]] = {
            Query: self._run_query,
            Create: self._create,
            Drop: self._drop,
            AddColumns: self._add_columns,
            Transaction: self._transaction,
        }
        if self._query.get("destinationTable") and not (isinstance(statement, Query) and statement.target is None):
            raise ApiError(400, "invalidQuery", "Cannot set destination table in jobs with DML or DDL statements")
        if self._in_transaction and not isinstance(statement, Query | Transaction):
            raise ApiError(400, "invalidQuery", f"{statement.kind} is not supported in a transaction.")
        try:
            return handlers[type(statement)](statement)
        except duckdb.InterruptException:
            raise
        except duckdb.Error as exc:
            raise sql.runtime_error(exc) from exc

    # Queries

    def _bound(self, query: Query) -> dict[str, Any]:
        return {sql.parameter_name(name): self._values[name] for name in query.parameters}

    def _reads(self, query: Query) -> dict:
        """Return what a query reads, by BigQuery's logical sizes of all columns of its tables."""
        sizes = [self._session.size(self._session.table(ref))[1] for ref in query.reads]
        billed = sum(max(10 * _MEBI, -(-size // _MEBI) * _MEBI) for size in sizes if size)
        limit = self._query.get("maximumBytesBilled")
        if limit and billed > int(limit):
            message = f"Query exceeded limit for bytes billed: {limit}. {billed} or higher required."
            raise ApiError(400, "bytesBilledLimitExceeded", message)
        return {
            "totalBytesProcessed": str(sum(sizes)),
            "totalBytesBilled": str(billed),
            "referencedTables": [reference(ref) for ref in sorted(query.reads)],
        }

    def _select(self, query: Query) -> Snapshot:
        if query.whole:
            rows = reads.frozen(self._session, self._snapshots, query.whole)
            if rows.schema == types.arrow_schema(query.schema):  # else it was altered since the translation
                return rows.described(query.schema)
        text = query.sql
        if any(types.holds_arrays(f) for f in query.schema):
            names = ", ".join(types.quote(f["name"]) for f in query.schema)
            text = f"SELECT {types.tidy_columns(query.schema)} FROM ({text}) AS q({names})"  # noqa: S608
        reader = self._session.db.sql(text, params=self._bound(query) or None).to_arrow_reader(reads.BATCH_ROWS)
        return Snapshot.write(self._snapshots.folder, query.schema, reader)

    def _run_query(self, query: Query) -> Outcome:
        statistics = self._reads(query)
        if query.target is None:
            return self._answer(query, statistics)
        self._begin()
        ((affected,),) = self._session.db.execute(query.sql, self._bound(query) or None).fetchall()
        writes.fill_null_arrays(self._session, query.target)
        self._session.save(query.target, self._session.table(query.target))
        counts = {"INSERT": "insertedRowCount", "UPDATE": "updatedRowCount"}.get(query.kind, "deletedRowCount")
        statistics["numDmlAffectedRows"] = str(affected)
        if query.kind != "MERGE":
            statistics["dmlStats"] = {counts: str(affected)}
        return Outcome(query.kind, statistics)

    def _answer(self, query: Query, statistics: dict) -> Outcome:
        snapshot, target = self._select(query), self._query.get("destinationTable")
        if target:
            self._begin()
            ref, partition = writes.split_decorator(named_by(target))
            fields = snapshot.fields
            writes.prepare(self._session, ref, partition, fields, self._query, "WRITE_EMPTY")
            writes.insert(self._session, ref, fields, snapshot.batches(), partition)
        elif not self._in_transaction:
            self._session.begin(write=False)  # for the record alone: a reader does not queue behind writers
        return Outcome(query.kind, statistics, snapshot, snapshot.fields)

    # Definitions

    @staticmethod
    def _defined(statement: Create | Drop | AddColumns, what: str, statistics: dict | None = None) -> Outcome:
        done = {"ddlOperationPerformed": what, "ddlTargetTable": reference(statement.target)}
        return Outcome(statement.kind, {"totalBytesProcessed": "0"} | (statistics or {}) | done)

    def _create(self, statement: Create) -> Outcome:
        query, statistics, snapshot, view = statement.query, None, None, None
        if statement.what == "VIEW":
            view = View(statement.text, query, *self._default_dataset())
        elif query:
            statistics, snapshot = self._reads(query), self._select(query)
        self._begin()
        done, there = "CREATE", self._session.find(statement.target)
        if there and statement.if_not_exists:
            return self._defined(statement, "SKIP", statistics)
        if there and statement.or_replace:
            if there["type"] != statement.what:
                why = f"is not allowed for this operation because it is currently a {there['type']}."
                raise ApiError(400, "invalid", f"{path_of(statement.target)} {why}")
            self._session.drop(statement.target)
            done = "REPLACE"
        self._session.create(statement.target, statement.schema, statement.properties, view)
        if snapshot:
            writes.insert(self._session, statement.target, snapshot.fields, snapshot.batches())
        return self._defined(statement, done, statistics)

    def _drop(self, statement: Drop) -> Outcome:
        self._begin()
        target, done = statement.target, "DROP"
        body = self._session.find(target)
        if body is None and statement.if_exists:
            done = "SKIP"
        elif (body or self._session.table(target))["type"] != statement.what:
            raise ApiError(400, "invalidQuery", f"Cannot drop {path_of(target)}: it is a {body['type']}")
        else:
            self._session.drop(target)
        return self._defined(statement, done)

    def _add_columns(self, statement: AddColumns) -> Outcome:
        self._begin()
        old, new = self._session.table(statement.target)["schema"]["fields"], types.normalize(statement.schema)
        there = {f["name"].lower() for f in old}
        for column in list(new):
            if column["name"].lower() in there:
                if not statement.if_not_exists:
                    raise ApiError(400, "invalidQuery", f"Column already exists: {column['name']}")
                new.remove(column)
        schema = types.merged(path_of(statement.target), old, old + new, ["ALLOW_FIELD_ADDITION"])
        self._session.alter(statement.target, schema)
        return self._defined(statement, "ALTER")

    def _transaction(self, statement: Transaction) -> None:
        if (statement.action == "BEGIN") == self._in_transaction:
            state = "already" if self._in_transaction else "no"
            raise ApiError(400, "invalidQuery", f"{statement.action} TRANSACTION: there is {state} active transaction.")
        if statement.action == "BEGIN":
            self._session.begin(write=True)
            self._in_transaction = True
            return
        if statement.action == "ROLLBACK":
            self._session.rollback()
            self._session.begin(write=False)
        self._in_transaction = False  # `run` commits


def _check_options(query: dict) -> None:
    if not query.get("query"):
        raise ApiError(400, "invalid", "Required parameter is missing: query")
    if query.get("useLegacySql", True) and not query["query"].lstrip().lower().startswith("#standardsql"):
        raise unsupported("legacy SQL; set useLegacySql to false")
    for option in _REFUSED:
        if query.get(option):
            raise unsupported(f"the query option {option}")


def child_id(parent: str, number: int) -> str:
    """Return the id of a script's child job."""
    return f"script_job_{uuid.uuid5(uuid.NAMESPACE_OID, parent).hex}_{number}"
