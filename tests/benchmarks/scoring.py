"""A prediction run from table to table, beside the naive script, bare prediction in memory, and reading and writing.

    uv run python -m tests.benchmarks.scoring --rows 10_000_000 --models logistic,boosting
    uv run python -m tests.benchmarks.scoring --rows 100_000,1_000_000,10_000_000 --repeat 3 --plot scoring.png

Everything is measured in one run, each way in a process of its own, on a twin whose process is not counted.
It takes the same cores, though, which BigQuery does not: there are CPU seconds, too, of the way alone, with its start.
Memory is the peak of the sum of PSS (shared pages counted once) over the whole process tree, with the image's malloc.
A run over few rows takes one process; with MLSYS_WORKERS=2 their number is the same for any number of rows.
"""

import argparse
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

PROJECT = "shoufianesys"
DATASET = f"{PROJECT}.bench"
CHUNK = 131_072
WAYS = ("ours", "naive", "bare", "copy")


def passengers(rows: int) -> Iterator:
    """Yield record batches of passengers: the columns and the gaps of the Titanic's, at random."""
    import numpy as np
    import pyarrow as pa

    rng = np.random.default_rng(0)
    for start in range(0, rows, CHUNK):
        n = min(CHUNK, rows - start)
        yield pa.record_batch(
            {
                "passenger_id": pa.array(np.arange(start, start + n)),
                "pclass": pa.array(rng.integers(1, 4, n)),
                "sex": pa.array(np.array(["female", "male"])[rng.integers(0, 2, n)]),
                "age": pa.array(rng.gamma(4, 8, n), mask=rng.random(n) < 0.2),
                "sibsp": pa.array(rng.poisson(0.5, n)),
                "parch": pa.array(rng.poisson(0.4, n)),
                "embarked": pa.array(np.array(["C", "Q", "S"])[rng.integers(0, 3, n)], mask=rng.random(n) < 0.01),
            }
        )


def pipelines() -> dict:
    """Return the unfitted models."""
    from sklearn.compose import make_column_transformer
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

    categories, numbers = ["pclass", "sex", "embarked"], ["age", "sibsp", "parch"]
    return {
        "logistic": make_pipeline(
            make_column_transformer(
                (OneHotEncoder(handle_unknown="ignore"), categories),
                (make_pipeline(SimpleImputer(strategy="median"), StandardScaler()), numbers),
            ),
            LogisticRegression(max_iter=1000),
        ),
        "boosting": make_pipeline(
            make_column_transformer(
                (OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1), categories),
                ("passthrough", numbers),
            ),
            HistGradientBoostingClassifier(max_iter=100, random_state=0),
        ),
    }


def prepare(rows: list[int], models: list[str]) -> None:
    """Fill the tables and save the models, trained on what `bq_get` gives."""
    import pyarrow as pa

    from mlsys import clients
    from mlsys.bq import bq_put_batches, to_frame
    from mlsys.models import save_model

    clients.bigquery_client().create_dataset(DATASET, exists_ok=True)
    for n in rows:
        bq_put_batches(passengers(n), f"{DATASET}.passengers_{n}", "WRITE_TRUNCATE")
    frame = to_frame(pa.Table.from_batches(passengers(20_000)))
    features = frame.drop(columns="passenger_id")
    survived = (features["sex"] == "female") ^ (features["age"].fillna(30) < 12)
    for name in models:
        save_model(pipelines()[name].fit(features, survived.astype("int64")), f"bench-{name}", features)


def run_ours(rows: int, model: str) -> float:
    """Make a run as a user does."""
    from mlsys.names import TableId
    from mlsys.predict import PredictionJob
    from scripts.predict import pull_predict_push

    output = TableId.parse(f"{DATASET}.predictions_{rows}_{model}")
    job = PredictionJob(f"bench-{model}", f"{DATASET}.passengers_{rows}", output, ("passenger_id",))
    started = time.perf_counter()
    assert pull_predict_push(job).rows == rows
    return time.perf_counter() - started


def run_naive(rows: int, model: str) -> float:
    """Read all, predict, write all."""
    from mlsys.bq import bq_get, bq_put
    from mlsys.models import load_model

    started = time.perf_counter()
    estimator = load_model(f"bench-{model}").estimator
    frame = bq_get(f"{DATASET}.passengers_{rows}", progress=False)
    features = frame.drop(columns="passenger_id")
    out = frame[["passenger_id"]].copy()
    out["prediction"] = estimator.predict(features)
    out["prediction_probability"] = estimator.predict_proba(features)[:, 1]
    out["model_name"], out["model_version"], out["run_id"] = f"bench-{model}", "v1", "naive"
    out["prediction_timestamp"] = out["as_of"] = datetime.now(UTC)
    bq_put(out, f"{DATASET}.naive_{rows}_{model}", "WRITE_TRUNCATE")
    return time.perf_counter() - started


def run_bare(rows: int, model: str) -> float:
    """Predict frames that are in memory already, chunk by chunk, on all cores; nothing is read or written."""
    cores = len(os.sched_getaffinity(0))
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(cores + 1)
    workers = [context.Process(target=_bare, args=(barrier, rows // CHUNK // cores or 1, model)) for _ in range(cores)]
    for worker in workers:
        worker.start()
    barrier.wait()
    started = time.perf_counter()
    barrier.wait()
    seconds = time.perf_counter() - started
    for worker in workers:
        worker.join()
    return seconds * rows / ((rows // CHUNK // cores or 1) * cores * CHUNK)


def _bare(barrier: object, chunks: int, model: str) -> None:
    import pyarrow as pa
    from threadpoolctl import threadpool_limits

    from mlsys.bq import to_frame
    from mlsys.models import load_model

    estimator = load_model(f"bench-{model}").estimator
    frames = [to_frame(pa.Table.from_batches([batch])) for batch in passengers(4 * CHUNK)]
    features = [frame.drop(columns="passenger_id") for frame in frames]
    with threadpool_limits(1):
        estimator.predict(features[0])
        barrier.wait()
        for i in range(chunks):
            estimator.predict(features[i % 4])
            estimator.predict_proba(features[i % 4])
        barrier.wait()


def run_copy(rows: int, model: str) -> float:
    """Read every row and write as many columns as a prediction has, without a model."""
    from mlsys.bq import bq_get_batches, bq_put_batches

    started = time.perf_counter()
    batches = bq_get_batches(f"{DATASET}.passengers_{rows}", batch_rows=CHUNK)
    bq_put_batches(batches, f"{DATASET}.copy_{rows}_{model}", "WRITE_TRUNCATE")
    return time.perf_counter() - started


def measured(way: str, rows: int, model: str) -> dict[str, float]:
    """Run one way in a process of its own; return its seconds, those with start-up and of CPU, and its peak MiB."""
    command = [sys.executable, "-m", "tests.benchmarks.scoring", "--run", way, "--rows", str(rows), "--models", model]
    started = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    peak, cpu, stop = [0.0], {}, threading.Event()
    watcher = threading.Thread(target=_watch, args=(process.pid, peak, cpu, stop))
    watcher.start()
    out, _ = process.communicate(timeout=1800)
    stop.set()
    watcher.join()
    if process.returncode:
        raise SystemExit(f"{way} with {model} and {rows} rows failed")
    seconds, wall = json.loads(out.splitlines()[-1]), time.perf_counter() - started
    return {"seconds": seconds, "wall": wall, "cpu": sum(cpu.values()), "mib": peak[0]}


def best(ways: list[str], rows: int, model: str, repeat: int) -> dict[str, dict[str, float]]:
    """Measure the ways in turn, ``repeat`` times; return the shortest times of each, and its highest memory."""
    rounds = [{way: measured(way, rows, model) for way in ways} for _ in range(repeat)]
    pick = {"seconds": min, "wall": min, "cpu": min, "mib": max}
    return {way: {key: of(got[way][key] for got in rounds) for key, of in pick.items()} for way in ways}


def _watch(pid: int, peak: list[float], cpu: dict[int, float], stop: threading.Event) -> None:
    import psutil

    root = psutil.Process(pid)
    while not stop.wait(0.1):
        total = 0
        try:
            for process in [root, *root.children(recursive=True)]:
                with_shared = process.memory_full_info()
                total += with_shared.pss
                cpu[process.pid] = sum(process.cpu_times()[:2])  # of itself, its children have their own
        except psutil.Error:
            continue
        peak[0] = max(peak[0], total / 2**20)


def report(results: dict) -> None:
    """Print a table with the ratios that count."""
    print(f"{'rows':>11} {'model':<9} {'way':<6} {'seconds':>8} {'with start':>10} {'CPU':>6} {'peak MiB':>9}  ratio")
    for (rows, model), ways in results.items():
        for way, got in ways.items():
            ratio = {"naive": "{:.2f} x the time of ours", "bare": "ours reaches {:.2f} of its speed"}.get(way, "")
            value = got["seconds"] / ways["ours"]["seconds"]
            print(f"{rows:>11,} {model:<9} {way:<6} {got['seconds']:>8.2f} {got['wall']:>10.2f} {got['cpu']:>6.1f}"
                  f" {got['mib']:>9.0f}  {ratio.format(value)}")  # fmt: skip


def plot(results: dict, path: Path) -> None:
    """Draw time and memory over rows."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    for axes, key, label in zip(
        figure.subplots(1, 2), ("seconds", "mib"), ("Seconds", "Peak memory, MiB"), strict=True
    ):
        for model in dict.fromkeys(model for _, model in results):
            for way, style in (("ours", "o-"), ("naive", "s--")):
                points = [(rows, ways[way][key]) for (rows, name), ways in results.items() if name == model]
                axes.plot(*zip(*points, strict=True), style, label=f"{way}, {model}")
        axes.set(xscale="log", xlabel="Rows", ylabel=label, ylim=(0, None))
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(path, dpi=120)


def main() -> None:
    """Measure, or with ``--run`` do one way and print its seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", default="1_000_000", help="numbers of rows, by commas")
    parser.add_argument("--models", default="logistic,boosting", help="logistic, boosting")
    parser.add_argument("--ways", default=",".join(WAYS), help="of " + ", ".join(WAYS))
    parser.add_argument("--repeat", type=int, default=1, help="take the fastest of so many, where times are noisy")
    parser.add_argument("--plot", type=Path, help="draw time and memory to this PNG")
    parser.add_argument("--run", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    rows, models = [int(n) for n in options.rows.split(",")], options.models.split(",")
    if options.run:
        runs: dict[str, Callable[[int, str], float]] = {"ours": run_ours, "naive": run_naive, "bare": run_bare,
                                                        "copy": run_copy}  # fmt: skip
        print(runs[options.run](rows[0], models[0]))
        return
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"MLSYS_DATA_DIR": folder, "MALLOC_ARENA_MAX": "2"}
        prepare(rows, models)
        ways = options.ways.split(",")
        results = {(n, m): best(ways, n, m, options.repeat) for n in rows for m in models}
        report(results)
        if options.plot:
            plot(results, options.plot)


if __name__ == "__main__":
    main()
