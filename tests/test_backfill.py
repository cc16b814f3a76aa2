"""``mlsys backfill``: each past moment once, by the version that is meant, whatever happened before."""

import itertools
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from typer.testing import CliRunner

from mlsys.bq import bq_get, bq_put
from mlsys.cli import app
from mlsys.errors import InvalidNameError, NotFoundError
from mlsys.models import save_model
from mlsys.predict import PredictionJob
from mlsys.predict.backfill import CHAMPION_OF_DAY, Outcome, backfill, exit_code, moments
from mlsys.registry import set_alias
from mlsys.registry.runs import list_runs
from scripts.predict import pull_predict_push

ROWS = 50
DAYS = moments(datetime(2026, 5, 1, tzinfo=UTC), datetime(2026, 5, 4, tzinfo=UTC))


@pytest.fixture
def job(twin, dataset, model_name) -> PredictionJob:
    """A job whose input is there, and a version of its model."""
    frame = pd.DataFrame({"id": np.arange(ROWS), "x": np.random.default_rng(1).normal(size=ROWS)})
    save_model(LogisticRegression().fit(frame[["x"]], frame["x"] > 0), model_name, frame[["x"]])
    bq_put(frame, f"{dataset}.source")
    return PredictionJob(model_name, f"{dataset}.source", f"{dataset}.predictions", ("id",))


def save_another(job: PredictionJob) -> None:
    """Save a second version of its model."""
    frame = pd.DataFrame({"x": [0.0, 1.0, 2.0]})
    save_model(LogisticRegression().fit(frame, frame["x"] > 0.5), job.model_name, frame)


def slices(job: PredictionJob) -> dict[datetime, tuple[str, int]]:
    """Return the version and the number of different rows of each slice that is in the table."""
    columns = "as_of, model_version, COUNT(*) AS n, COUNT(DISTINCT id) AS ids"
    found = list(bq_get(f"SELECT {columns} FROM `{job.output_table}` GROUP BY 1, 2").itertuples(index=False))
    assert all(n == ids for _, _, n, ids in found)
    assert len({as_of for as_of, *_ in found}) == len(found)
    return {as_of.to_pydatetime(): (version, n) for as_of, version, n, _ in found}


def test_each_day_is_made_once_and_the_done_ones_are_skipped(job):
    """One day was made before; a second time nothing is left to do, with ``again`` everything."""
    pull_predict_push(replace(job, as_of=DAYS[1]))
    seen = []
    first = backfill(job, DAYS, advance=seen.append)
    assert [(o.as_of, o.state, o.rows) for o in first] == [
        (day, "skipped" if day == DAYS[1] else "done", ROWS) for day in DAYS
    ]
    assert slices(job) == dict.fromkeys(DAYS, ("v1", ROWS))
    assert sum(seen) == len(DAYS)
    assert {o.state for o in backfill(job, DAYS)} == {"skipped"}
    assert [o.state for o in backfill(job, DAYS[:1], again=True)] == ["done"]
    assert slices(job) == dict.fromkeys(DAYS, ("v1", ROWS))
    assert len(list_runs(job.model_name)) == len(DAYS) + 1


def test_another_version_is_not_done_yet(job):
    """What v1 has made is made again by v2, and then is done."""
    backfill(job, DAYS[:1])
    save_another(job)
    assert [o.state for o in backfill(replace(job, model_version="v1"), DAYS[:1])] == ["skipped"]
    assert [(o.state, o.model_version) for o in backfill(job, DAYS[:1])] == [("done", "v2")]
    assert slices(job) == {DAYS[0]: ("v2", ROWS)}


def test_the_champion_of_a_day_makes_that_day(job):
    """Before there was one, there is no run; the other moments have the version that was champion then."""
    save_another(job)
    before = datetime.now(UTC)
    set_alias(job.model_name, "champion", "v2", reason="first")
    between = datetime.now(UTC)
    set_alias(job.model_name, "champion", "v1", reason="v2 was worse")
    time.sleep(0.01)
    when = [before, between, datetime.now(UTC)]
    outcomes = backfill(replace(job, model_version=CHAMPION_OF_DAY), when)
    assert [(o.state, o.model_version) for o in outcomes] == [("failed", None), ("done", "v2"), ("done", "v1")]
    assert f"had no champion at {before.isoformat()}" in outcomes[0].reason
    assert exit_code(outcomes) == NotFoundError.exit_code
    assert slices(job) == {between: ("v2", ROWS), when[2]: ("v1", ROWS)}


def test_a_day_that_fails_does_not_stop_the_others(job):
    """One day's rows have a column less."""
    bad = f"SELECT id, IF(@as_of = TIMESTAMP '{DAYS[1].isoformat()}', NULL, x) AS x FROM `{job.source}`"
    outcomes = backfill(replace(job, source=bad), DAYS[:3])
    assert [o.state for o in outcomes] == ["done", "failed", "done"]
    assert "rows cannot be scored" in outcomes[1].reason
    assert exit_code(outcomes) == outcomes[1].exit_code == 12
    assert set(slices(job)) == {DAYS[0], DAYS[2]}


def test_ctrl_c_ends_it_cleanly_and_it_goes_on_later(job):
    """By the command: exit code 130, a summary, no process left; started again it makes what is missing."""
    when = moments(datetime(2026, 5, 1, tzinfo=UTC), datetime(2026, 5, 12, tzinfo=UTC))
    heed = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # ignored where a shell's & began
    command = [sys.executable, "-c", f"{heed}; from mlsys.cli import main; main()", "backfill", job.model_name,
               "--from", "2026-05-01", "--to", "2026-05-12", "--source", job.source, "--output", str(job.output_table),
               "--id", "id", "--parallel", "1"]  # fmt: skip
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    end = time.monotonic() + 90
    while not (list_runs(job.model_name)["state"] == "succeeded").sum() and time.monotonic() < end:
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does it
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "stopped" in said
    while _alive(process.pid):
        assert time.monotonic() < end, "a process was left behind"
        time.sleep(0.1)
    made = set(slices(job))
    assert 0 < len(made) < len(when)
    outcomes = backfill(job, when, parallel=2)
    assert {o.as_of for o in outcomes if o.state == "skipped"} >= made
    assert slices(job) == dict.fromkeys(when, ("v1", ROWS))


def _alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_the_command_prints_what_became_of_each(job):
    arguments = ["backfill", job.model_name, "--from", "2026-05-01", "--to", "2026-05-02", "--source", job.source,
                 "--output", str(job.output_table), "--id", "id"]  # fmt: skip
    runner = CliRunner()
    told = runner.invoke(app, arguments)
    assert told.exit_code == 0, told.output
    assert f"2 runs of {job.model_name} into {job.output_table}: 2 done" in told.output
    as_json = runner.invoke(app, [*arguments, "--json"])
    assert '"state": "skipped"' in as_json.stdout


STEPS = {"days": ("1d", 3, timedelta(days=1)), "hours": ("12h", 5, timedelta(hours=12)), "weeks": ("1w", 1, None)}


@pytest.mark.parametrize(("every", "count", "step"), STEPS.values(), ids=STEPS)
def test_moments_are_from_the_first_to_the_last(every, count, step):
    found = moments(datetime(2026, 5, 1, tzinfo=UTC), datetime(2026, 5, 3, tzinfo=UTC), every)
    assert len(found) == count
    assert step is None or {b - a for a, b in itertools.pairwise(found)} == {step}


WRONG = {
    "a step": ((DAYS[0], DAYS[1], "1x"), "step like 1d"),
    "an order": ((DAYS[1], DAYS[0], "1d"), "swap them"),
    "too many": ((DAYS[0], DAYS[0] + timedelta(days=500), "1h"), "do it in parts"),
}


@pytest.mark.parametrize(("given", "said"), WRONG.values(), ids=WRONG)
def test_what_makes_no_sense_is_refused(given, said):
    with pytest.raises(InvalidNameError, match=said):
        moments(*given)


CODES = {"all good": ([0, 0], 0), "one kind": ([0, 5, 5], 5), "two kinds": ([3, 5], 1)}


@pytest.mark.parametrize(("codes", "code"), CODES.values(), ids=CODES)
def test_a_command_ends_with_the_code_that_failures_share(codes, code):
    assert exit_code([Outcome(DAYS[0], "any", exit_code=each) for each in codes]) == code
