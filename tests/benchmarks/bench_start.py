"""What passes from the start of a prediction job to its first scored batch, step by step.

``uv run python -m tests.benchmarks.bench_start`` (unset ``PYTHONDONTWRITEBYTECODE``: it makes imports look slower)
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress

from tests.benchmarks.scoring import DATASET, prepare

ROWS = 65_536
MODEL = "logistic"


class _Scored(Exception):  # noqa: N818 - ends the run after its first batch
    """The first batch is there."""


def start() -> dict[str, float]:
    """Start a run in this process, and return the seconds of each step."""
    import psutil

    began = psutil.Process().create_time()
    from mlsys.names import TableId
    from mlsys.predict import Part, PredictionJob, open_run, score

    imported = time.time()
    output = TableId.parse(f"{DATASET}.start")
    job = PredictionJob(f"bench-{MODEL}", f"{DATASET}.passengers_{ROWS}", output, ("passenger_id",))
    moments = {}

    def first(part: Part) -> None:
        score(part.model, next(part.rows), part.id_columns)
        moments["scored"] = time.time()
        raise _Scored

    with suppress(_Scored), open_run(job) as run:
        opened = time.time()
        run.share_out(first)
    return {
        "Python, imports of mlsys and BigQuery": imported - began,
        "preflight (imports scikit-learn), ledger, plan": opened - imported,
        "first batch of 65,536 rows read and scored": moments["scored"] - opened,
    }


def main() -> None:
    """Measure five starts against a warm twin, and print the fastest of each step."""
    if "--start" in sys.argv:
        print(json.dumps(start()))
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MLSYS_DATA_DIR"] = folder
        prepare([ROWS], [MODEL])
        command = [sys.executable, "-m", "tests.benchmarks.bench_start", "--start"]
        runs = [json.loads(subprocess.check_output(command, timeout=120)) for _ in range(5)]
    for step in runs[0]:
        print(f"{min(run[step] for run in runs):6.2f} s  {step}")
    print(f"{min(sum(run.values()) for run in runs):6.2f} s  in all, the fastest start")


if __name__ == "__main__":
    main()
