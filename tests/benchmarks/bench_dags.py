"""What DAG files cost to parse: 1 and 200 models beside an empty DAG file, on the same Airflow.

``uv run python -m tests.benchmarks.bench_dags`` prints seconds and ratios: for a process that starts afresh, as Airflow
forks one for each file, and for one that has imported everything.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[2]
EMPTY = '"""An empty Airflow DAG."""\nfrom airflow.sdk import DAG\ndag = DAG("empty", schedule=None)\n'
ONE = '"""An Airflow DAG of model {0}."""\nfrom mlsys_dags import prediction_dag\n'
CALL = 'dag_{0} = prediction_dag(model_name="model-{0}", source="p.d.t", output_table="p.d.o{0}", id_columns=["id"])\n'
PROGRAM = """
import json, os, sys, time, warnings
warnings.simplefilter("ignore")
out = os.fdopen(os.dup(1), "w"); os.dup2(2, 1)
import airflow
from airflow.dag_processing.dagbag import DagBag
sys.path.append(sys.argv[1])
seconds = []
for _ in range(int(sys.argv[2])):
    started = time.perf_counter(); bag = DagBag(sys.argv[1]); seconds.append(time.perf_counter() - started)
out.write(json.dumps({"dags": len(bag.dags), "errors": bag.import_errors, "seconds": seconds}))
out.flush()
os._exit(0)
"""


def parse(folder: Path, home: Path, times: int) -> dict:
    """Parse a folder several times in one new process."""
    env = os.environ | {"AIRFLOW_HOME": str(home), "AIRFLOW__CORE__LOAD_EXAMPLES": "False", "MLSYS_ENV": "dev",
                        "AIRFLOW__CORE__DAGS_FOLDER": str(folder)}  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder), str(times)], env=env, capture_output=True, text=True, check=True
    )
    parsed = json.loads(done.stdout)
    assert not parsed["errors"], parsed["errors"]
    return parsed


def folders(place: Path) -> dict[str, Path]:
    """Make the folders that are compared."""
    made = {name: place / name.replace(" ", "-") for name in ("empty", "1 model", "200 models", "200 files")}
    for folder in made.values():
        folder.mkdir()
        for file in ("mlsys_dags.py", ".airflowignore"):
            shutil.copy(ROOT / "dags" / file, folder)
    (made["empty"] / "a_dag.py").write_text(EMPTY)
    (made["1 model"] / "a_dag.py").write_text(ONE.format(0) + CALL.format(0))
    (made["200 models"] / "a_dag.py").write_text(ONE.format("all") + "".join(CALL.format(i) for i in range(200)))
    for i in range(200):
        (made["200 files"] / f"m{i}_dag.py").write_text(ONE.format(i) + CALL.format(i))
    return made


def main(rounds: int = 3) -> None:
    """Print what was measured, each by turns with the others."""
    with tempfile.TemporaryDirectory() as place:
        made = folders(Path(place))
        first: dict[str, list[float]] = {name: [] for name in made}
        again: dict[str, list[float]] = {name: [] for name in made}
        for _ in range(rounds):
            for name, folder in made.items():
                seconds = parse(folder, Path(place) / "home", 4)["seconds"]
                first[name].append(seconds[0])
                again[name].append(min(seconds[1:]))
        print(f"{'':12} {'afresh':>10} {'ratio':>7} {'again':>10} {'ratio':>7}")
        for name in made:
            one, two = median(first[name]), median(again[name])
            print(f"{name:12} {one:8.3f} s {one / median(first['empty']):7.1f} {1000 * two:7.1f} ms "
                  f"{two / median(again['empty']):7.1f}")  # fmt: skip


if __name__ == "__main__":
    main()
