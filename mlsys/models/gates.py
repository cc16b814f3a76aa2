"""What a version must pass before it is promoted. The project says so, in its pyproject.toml, never the version itself.

    [tool.mlsys.gates.titanic-survival]
    minimum = { accuracy = 0.75 }
    maximum = { log_loss = 0.6 }
    beats_champion = "roc_auc"

A measure that the held-out rows of the version give is taken from them; only without such rows counts what its author
recorded.
"""

import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from operator import ge, le
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from mlsys.errors import SettingsError
from mlsys.models.holdout import LOWER_IS_BETTER, MEASURES


class Gates(BaseModel):
    """The gates of one model: bounds of measures, and the measure in which it must be better than the champion."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    minimum: dict[str, float] = {}
    maximum: dict[str, float] = {}
    beats_champion: str | None = None


@dataclass(frozen=True)
class Verdict:
    """What came of one gate: whether it was passed (None: it does not apply), and why."""

    gate: str
    passed: bool | None
    found: str

    def __str__(self) -> str:
        word = {True: "passed", False: "failed", None: "does not apply"}[self.passed]
        return f"{self.gate} {word}: {self.found}"


def read_gates(model_name: str, folder: Path | None = None) -> Gates:
    """Return the gates of a model in the nearest pyproject.toml, from ``folder`` (the current one) upwards.

    Raises
    ------
    SettingsError
        There is none, or they are not written as this module says.
    """
    folder = folder or Path.cwd()
    file = next((d / "pyproject.toml" for d in (folder, *folder.parents) if (d / "pyproject.toml").exists()), None)
    if file is None:
        raise SettingsError(f"no pyproject.toml in {folder} or above, which could name gates: promote from the project")
    try:
        project = tomllib.loads(file.read_text(encoding="utf-8"))
        return Gates.model_validate(project.get("tool", {}).get("mlsys", {}).get("gates", {}).get(model_name, {}))
    except ValidationError as exc:
        first = exc.errors()[0]
        place = ".".join(["tool.mlsys.gates", model_name, *map(str, first["loc"])])
        raise SettingsError(f"{place} in {file}: {first['msg']}, got {first['input']!r}") from None
    except (OSError, ValueError, AttributeError) as exc:
        raise SettingsError(f"the gates of {model_name} in {file} cannot be read ({exc})") from exc


def judge(
    gates: Gates, recorded: Mapping[str, float], measured: Mapping[str, float], champion: Mapping[str, float] | str
) -> Iterator[Verdict]:
    """Yield the verdict of each gate.

    Parameters
    ----------
    recorded, measured
        What the author recorded, and what the version scores on its held-out rows (empty without any).
    champion
        What the champion scores on those rows; a text says why there is nothing to compare with.
    """
    for name, least in gates.minimum.items():
        yield _bound(f"{name} >= {least:g}", name, recorded, measured, partial(le, least))
    for name, most in gates.maximum.items():
        yield _bound(f"{name} <= {most:g}", name, recorded, measured, partial(ge, most))
    if gates.beats_champion:
        yield _better(gates.beats_champion, measured, champion)


def _bound(
    gate: str,
    name: str,
    recorded: Mapping[str, float],
    measured: Mapping[str, float],
    holds: Callable[[float], bool],
) -> Verdict:
    if measured and name in MEASURES and name not in measured:
        return Verdict(gate, False, f"{name} cannot be measured on its held-out rows, which have one class or one row")
    for values, how in ((measured, "measured on its held-out rows"), (recorded, "as its author recorded")):
        if name in values:
            return Verdict(gate, bool(holds(values[name])), f"{values[name]:.4g}, {how}")
    there = ", ".join(sorted({*measured, *recorded})) or "nothing"
    return Verdict(gate, False, f"{name} was not recorded: save the model with metrics={{...}}; it has {there}")


def _better(name: str, measured: Mapping[str, float], champion: Mapping[str, float] | str) -> Verdict:
    gate = f"better {name} than the champion"
    if isinstance(champion, str):
        return Verdict(gate, None, champion)
    for values, whose in ((measured, "the version's"), (champion, "the champion's")):
        if name not in values:
            return Verdict(gate, False, f"{name} is not among {whose} measures: {', '.join(values)}")
    ours, theirs = measured[name], champion[name]
    better = ours < theirs if name in LOWER_IS_BETTER else ours > theirs
    return Verdict(gate, better, f"{ours:.4g}, the champion has {theirs:.4g} on the same held-out rows")
