"""What all tasks of an execution agree on, kept in the model bucket: written by the first, read by all, never changed.

Cloud Storage decides who is first: each object is created, never overwritten. An object that is there stays there, so a
task that is started again finds what was decided and what is done.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Self

from mlsys.bq import PinnedRows
from mlsys.errors import AccessError, AlreadyExistsError, VerificationError
from mlsys.gcs import gcs_get_bytes, gcs_list, gcs_put
from mlsys.names import run_prefix

if TYPE_CHECKING:
    from google.cloud.storage import Client as StorageClient


@dataclass(frozen=True)
class Counts:
    """What became of rows: each was scored or rejected."""

    scored: int = 0
    rejected: int = 0

    @property
    def rows(self) -> int:
        """How many rows were read."""
        return self.scored + self.rejected

    def __add__(self, other: Self) -> Self:
        return type(self)(self.scored + other.scored, self.rejected + other.rejected)


@dataclass(frozen=True)
class Plan:
    """The input, pinned, and by which version and in which portions it is scored.

    Parameters
    ----------
    prediction_timestamp
        When the execution started. It is the same in every row, and tells this execution's rows from earlier ones.
    part_rows
        Rows that are loaded in one job: the portion that a task that is started again need not repeat.
    max_rejects
        How many rows may be rejected, in all.
    bytes_processed
        What the query reads, by BigQuery's dry run.
    """

    model_version: str
    prediction_timestamp: datetime
    rows: PinnedRows
    tasks: int
    part_rows: int
    max_rejects: int
    bytes_processed: int

    def streams_of(self, task: int) -> list[int]:
        """Return the numbers of the streams that a task scores."""
        return list(range(task, len(self.rows.streams), self.tasks))

    def to_json(self) -> bytes:
        """Return what `from_json` reads back."""
        plain = {name: getattr(self, name) for name in self.__dataclass_fields__}
        plain |= {"prediction_timestamp": self.prediction_timestamp.isoformat(), "rows": self.rows.to_json()}
        return json.dumps(plain, indent=1).encode()

    @classmethod
    def from_json(cls, data: bytes) -> Self:
        """Read what `to_json` returned."""
        try:
            plain = json.loads(data)
            moment = datetime.fromisoformat(plain["prediction_timestamp"])
            return cls(**plain | {"prediction_timestamp": moment, "rows": PinnedRows.from_json(plain["rows"])})
        except (KeyError, TypeError, ValueError) as exc:
            raise VerificationError(
                f"the plan of this execution cannot be read ({exc}), or is of another mlsys: start a new execution"
            ) from exc


@dataclass(frozen=True)
class RunFolder:
    """The folder of one execution of a run."""

    bucket_name: str
    prefix: str
    client: "StorageClient"

    @classmethod
    def of(cls, run_id: str, execution: str, bucket_name: str, client: "StorageClient") -> Self:
        """Return the folder of an execution; nothing is read or written."""
        return cls(bucket_name, run_prefix(run_id, execution), client)

    def plan(self) -> Plan | None:
        """Return the plan, if there is one already."""
        return Plan.from_json(self._read("plan.json")) if "plan.json" in self._there() else None

    def agree(self, plan: Plan) -> Plan:
        """Make ``plan`` the plan, unless another task was quicker; return the one that holds."""
        self._create("plan.json", plan.to_json())
        return self.plan() or plan

    def finish(self, task: int, counts: Counts) -> None:
        """Note that a task has loaded all its parts."""
        self._create(f"task-{task}.json", json.dumps(asdict(counts)).encode())

    def finished(self, tasks: Iterable[int]) -> list[Counts] | None:
        """Return what each of ``tasks`` came to; None while one of them is not done."""
        names, there = [f"task-{task}.json" for task in tasks], self._there()
        return [Counts(**json.loads(self._read(name))) for name in names] if there.issuperset(names) else None

    def publish(self, outcome: dict[str, Any]) -> None:
        """Note that the execution's rows are in the output table."""
        self._create("published.json", json.dumps(outcome).encode())

    @property
    def is_published(self) -> bool:
        """Whether `publish` was called."""
        return "published.json" in self._there()

    def outcome(self) -> dict[str, Any]:
        """Return what the first call of `publish` noted."""
        return json.loads(self._read("published.json"))

    def _there(self) -> set[str]:
        paths = gcs_list(self.bucket_name, self.prefix, client=self.client)
        return {path.removeprefix(self.prefix) for path in paths}

    def _read(self, name: str) -> bytes:
        return gcs_get_bytes(self.bucket_name, self.prefix + name, progress=False, client=self.client)

    def _create(self, name: str, data: bytes) -> None:
        try:
            gcs_put(data, self.bucket_name, self.prefix + name, create_only=True, content_type="application/json",
                    progress=False, client=self.client)  # fmt: skip
        except AlreadyExistsError:
            pass  # the first one holds
        except AccessError:  # who may create objects, but not replace them, can be told so instead
            if name not in self._there():
                raise
