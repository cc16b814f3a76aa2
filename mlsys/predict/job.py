"""What a prediction run is asked to do, and what it reports."""

import hashlib
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime

from mlsys.errors import InvalidNameError
from mlsys.html import facts
from mlsys.names import TableId, check_model_name

_LONGEST_NAME = 1024 - len("__staging_" + "0" * 24 + "_rejects")  # BigQuery's limit is for the longest derived name


@dataclass(frozen=True)
class PredictionJob:
    """One run to make.

    Parameters
    ----------
    model_name, model_version
        The model, and the version by number or alias; ``latest`` is the highest registered one.
    source
        Where the rows come from: a full table path, or a query. A query may use ``@as_of``.
    output_table
        Full path of the table that gets the predictions. It is created when it is not there.
    id_columns
        The columns of the source that say which row a prediction is for. They are copied to the output.
    as_of
        The moment that the run is for, aware, not in the future: a schedule's logical date. The same model, output
        table and ``as_of`` are the same run: done again, it replaces its own rows.
    max_bytes_billed
        Refuse an input that would read more bytes.
    max_rejects
        The fraction of the rows, from 0 to 1, that the model may be unable to score. They go to a table of their own.
    check_environment
        Refuse a model that was trained with other packages than those that are installed.
    part_rows
        Rows that are loaded in one job: what a task that was killed need not score again. Rounded to whole batches.

    Raises
    ------
    InvalidNameError
        An argument has not the form that is needed.
    """

    model_name: str
    source: str
    output_table: TableId
    id_columns: tuple[str, ...]
    model_version: str = "latest"
    as_of: datetime = field(default_factory=lambda: start_of_day(datetime.now(UTC)))
    max_bytes_billed: int | None = None
    max_rejects: float = 0.0
    check_environment: bool = True
    part_rows: int = 1_048_576

    def __post_init__(self) -> None:
        check_model_name(self.model_name)
        object.__setattr__(self, "output_table", TableId.parse(self.output_table))
        if not self.id_columns:
            raise InvalidNameError("id_columns is empty: name the columns that identify a row, such as passenger_id")
        if len({name.lower() for name in self.id_columns}) < len(self.id_columns):
            raise InvalidNameError(f"id_columns names a column twice, got {', '.join(self.id_columns)}")
        if "$" in self.output_table.table:
            raise InvalidNameError(f"output_table must be a whole table, got the partition {self.output_table}")
        if len(self.output_table.table) > _LONGEST_NAME:
            raise InvalidNameError(
                f"output_table must have a name of at most {_LONGEST_NAME} characters, for its staging"
            )
        if not 0 <= self.max_rejects <= 1:
            raise InvalidNameError(f"max_rejects is a fraction from 0 to 1, got {self.max_rejects}")
        if self.part_rows < 1:
            raise InvalidNameError(f"part_rows must be 1 or more, got {self.part_rows}")
        if self.as_of.tzinfo is None:
            raise InvalidNameError(f"as_of needs a time zone, got {self.as_of.isoformat()}: add +00:00 for UTC")
        if self.as_of > datetime.now(UTC):
            raise InvalidNameError(
                f"as_of lies in the future, got {self.as_of.isoformat()}: a run is for a past moment"
            )
        if not self.is_query:
            TableId.parse(self.source)

    @property
    def is_query(self) -> bool:
        """Whether the source is a query and not a table."""
        return bool(re.search(r"\s", self.source.strip().strip("`")))

    @property
    def parameters(self) -> dict[str, datetime] | None:
        """The parameters of the source, when it is a query that uses ``@as_of``."""
        return {"as_of": self.as_of.astimezone(UTC)} if "@as_of" in self.source else None

    def run_id(self, env: str) -> str:
        """Return the identity of this run in ``env``: 32 hexadecimal digits, the same for every attempt at it."""
        moment = self.as_of.astimezone(UTC).isoformat(timespec="microseconds")
        key = "\n".join([self.model_name, env, str(self.output_table), moment])
        return hashlib.sha256(key.encode()).hexdigest()[:32]


@dataclass(frozen=True)
class RunRecord:
    """What a run did. Times are UTC.

    ``rows`` were scored and ``rejected`` were not; of a task that was not the last one to finish, and so has not
    ``published``, they are its own. ``seconds`` is from this process's start of the run to its end.
    """

    run_id: str
    execution: str
    model_name: str
    model_version: str
    output_table: TableId
    as_of: datetime
    prediction_timestamp: datetime
    rows: int
    rejected: int
    published: bool
    seconds: float

    def _repr_html_(self) -> str:
        lines = {
            "predictions": f"{self.rows:,}" + (f" ({self.rejected:,} rows rejected)" if self.rejected else ""),
            "by": f"{self.model_name}/{self.model_version}",
            "in": str(self.output_table) if self.published else "nothing yet: the last task publishes",
            "as of": f"{self.as_of:%Y-%m-%d %H:%M:%S} UTC",
            "prediction timestamp": f"{self.prediction_timestamp:%Y-%m-%d %H:%M:%S} UTC",
            "seconds": f"{self.seconds:.1f}",
            "run": self.run_id,
        }
        return facts("Prediction run", lines)


def parse_as_of(text: str) -> datetime:
    """Read an ISO 8601 date or time; one without a zone is UTC. Raise `InvalidNameError` for anything else."""
    try:
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        raise InvalidNameError(
            f"as_of must be a date or time like 2026-01-31 or 2026-01-31T06:00Z, got {text!r}"
        ) from None


def start_of_day(moment: datetime) -> datetime:
    """Return the midnight (UTC) that begins the day of ``moment``."""
    return moment.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
