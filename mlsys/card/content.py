"""What a card says in words and numbers: computed from the manifest, apart from how it looks."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from mlsys.manifest import InputField, Manifest

if TYPE_CHECKING:
    from mlsys.vis import Evaluation

_LEVELS = 4  # of a category, before the others are summed up


@dataclass(frozen=True)
class Metric:
    """A number that was measured; ``low`` and ``high`` bound it with 95 % confidence where that is known."""

    name: str
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Share:
    """A level of a category and the percentage of the rows that have it."""

    name: str
    percent: float


@dataclass(frozen=True)
class Feature:
    """An input and what training saw of it: ``missing`` in percent, quantiles of a number, or shares of levels.

    ``spread`` holds the 5 %, 25 %, 50 %, 75 % and 95 % quantiles; ``nullable`` says whether NULLs can be scored.
    """

    name: str
    type: str
    nullable: bool
    missing: float
    spread: tuple[float, ...] = ()
    shares: tuple[Share, ...] = ()
    distinct: int = 0

    @property
    def box(self) -> tuple[float, float, float]:
        """Where the box begins, how wide it is, and where the median is, in percent of the way from 5 % to 95 %."""
        low, lower, middle, upper, high = self.spread
        whole = (high - low) or 1.0
        return 100 * (lower - low) / whole, 100 * (upper - lower) / whole, 100 * (middle - low) / whole


def metrics(manifest: Manifest, evaluation: "Evaluation | None") -> list[Metric]:
    """Return the manifest's metrics, each with its interval where the evaluation has one for that same number."""
    intervals = {} if evaluation is None else evaluation.intervals
    measured = {} if evaluation is None else evaluation.metrics
    return [
        Metric(name, value, *(intervals.get(name, ()) if measured.get(name) == value else ()))
        for name, value in manifest.metrics.items()
    ]


def limits(manifest: Manifest) -> list[str]:
    """Return what follows from the data that the model was trained on, one sentence each."""
    inputs = manifest.signature.inputs
    complete = [field.name for field in inputs if not field.nullable]
    levels = [field for field in inputs if field.categories is not None]
    said = [f"It learnt from {manifest.training_rows:,} rows; what is not like them, it has not seen."]
    if complete:
        said.append(f"A missing value in {_and(complete)} is refused: training saw none.")
    said += [f"{field.name} takes {_levels(field)}; any other value is refused." for field in levels]
    return said


def features(manifest: Manifest) -> list[Feature]:
    """Return the inputs in the signature's order with their profiles."""
    return [_feature(field, manifest.profile.get(field.name, {})) for field in manifest.signature.inputs]


def _feature(field: InputField, profile: Mapping[str, Any]) -> Feature:
    count, missing = profile.get("count", 0), profile.get("missing", 0)
    levels = profile.get("levels", {})
    known = count - missing
    shares = [Share(name, 100 * rows / known) for name, rows in levels.items()][:_LEVELS] if known else []
    spread = tuple(profile.get("quantiles", {}).values())
    return Feature(
        name=field.name,
        type=field.type,
        nullable=field.nullable,
        missing=100 * missing / count if count else 0.0,
        spread=() if None in spread else spread,
        shares=tuple(shares),
        distinct=profile.get("distinct", 0),
    )


def _levels(field: InputField) -> str:
    levels = field.categories or ()
    shown = [str(level) for level in levels[:_LEVELS]]
    more = len(levels) - len(shown)
    return f"{', '.join(shown)} and {more:,} more" if more else _and(shown)


def _and(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def number(value: float | None) -> str:
    """Return a number for people: four significant digits, thousands apart.

    Examples
    --------
    >>> number(0.81234), number(1309), number(123456.7)
    ('0.8123', '1,309', '123,457')
    """
    if value is None:
        return "–"  # noqa: RUF001 - a dash, for what is not known
    if (float(value).is_integer() and abs(value) < 1e15) or 1000 <= abs(value) < 1e15:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def measured(value: float) -> str:
    """Return a metric for people: as `number`, with its zeros at the end, which were measured too.

    Examples
    --------
    >>> measured(0.734), measured(0.84), measured(1520.6), measured(1.0)
    ('0.7340', '0.8400', '1,521', '1.000')
    """
    return f"{value:#.4g}" if 1e-4 <= abs(value) < 1000 else number(value)


def moment(value: datetime | None) -> str:
    """Return a time as ``2026-01-31 06:00 UTC``."""
    return "–" if value is None else f"{value:%Y-%m-%d %H:%M} UTC"  # noqa: RUF001


def size(count: int) -> str:
    """Return bytes as ``4.1 kB``."""
    return f"{count / 1000:,.1f} kB" if count < 1e6 else f"{count / 1e6:,.1f} MB"


def plain(value: Any) -> Any:
    """Return a cell of a DataFrame with None for what is missing."""
    import pandas as pd

    return None if not isinstance(value, list | dict) and pd.isna(value) else value
