"""How fast rows come and go, beside what DuckDB alone takes for the same rows in the same run.

``uv run python -m tests.benchmarks.bench_bq [--rows 1000000] [--repeat 5]``
"""

import argparse
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa


def passengers(rows: int) -> pd.DataFrame:
    """Return ``rows`` rows of six columns, of the kinds that a model reads, one in twenty NULL."""
    random = np.random.default_rng(0)
    gap = random.random(rows) < 0.05
    frame = pd.DataFrame(
        {
            "passenger_id": np.arange(rows),
            "age": np.where(gap, np.nan, random.uniform(0, 80, rows)),
            "name": [f"passenger {i % 100_000}" for i in range(rows)],
            "survived": random.random(rows) < 0.4,
            "boarded": pd.Timestamp("1912-04-10", tz="UTC") + pd.to_timedelta(random.integers(0, 86400, rows), "s"),
            "siblings": pd.array(random.integers(0, 9, rows), "Int64"),
        }
    )
    frame["boarded"] = frame["boarded"].astype("datetime64[us, UTC]")
    frame.loc[gap, ["siblings", "name"]] = None
    return frame


def best(action: Callable[[], object], repeat: int) -> float:
    """Return the seconds of the fastest of ``repeat`` runs."""
    times = []
    for _ in range(repeat):
        started = time.perf_counter()
        action()
        times.append(time.perf_counter() - started)
    return min(times)


def duckdb_fetch(frame: pd.DataFrame, folder: Path) -> Callable[[], object]:
    """Return what fetches the rows of ``frame`` from a DuckDB file into a DataFrame, as DuckDB and Arrow do it."""
    import duckdb

    con = duckdb.connect(str(folder / "plain.duckdb"))
    con.execute("SET TimeZone='UTC'")
    arrow = pa.Table.from_pandas(frame)
    con.execute("CREATE TABLE passengers AS SELECT * FROM arrow")
    assert arrow.num_rows == len(frame)
    return lambda: con.sql("SELECT * FROM passengers").to_arrow_table().to_pandas()


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--repeat", type=int, default=5)
    options = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"MLSYS_ENV": "local", "MLSYS_DATA_DIR": folder}
        measure(options.rows, options.repeat, Path(folder))


def measure(rows: int, repeat: int, folder: Path) -> None:
    """Print the seconds of each way, and their ratio to DuckDB's own."""
    from mlsys.bq import bq_get, bq_get_batches, bq_put
    from mlsys.clients import bigquery_client

    client = bigquery_client()
    client.create_dataset("bench")
    table = f"{client.project}.bench.passengers"
    frame = passengers(rows)
    put = best(lambda: bq_put(frame, table, "WRITE_TRUNCATE"), min(repeat, 3))
    plain = best(duckdb_fetch(frame, folder), repeat)
    ways = {
        "DuckDB: to_arrow_table() + to_pandas()": plain,
        "bq_get(table)": best(lambda: bq_get(table), repeat),
        "bq_get(SELECT * FROM table)": best(lambda: bq_get(f"SELECT * FROM `{table}`"), repeat),
        "bq_get_batches(table)": best(lambda: sum(b.num_rows for b in bq_get_batches(table)), repeat),
        "bq_put(frame)": put,
    }
    print(f"{rows:,} rows x {frame.shape[1]} columns, best of {repeat}")
    for name, seconds in ways.items():
        print(f"{name:40} {seconds:7.3f} s  {seconds / plain:5.2f} x DuckDB  {rows / seconds / 1e6:6.2f} M rows/s")


if __name__ == "__main__":
    main()
