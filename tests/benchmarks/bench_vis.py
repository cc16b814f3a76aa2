"""What a first look at a frame costs: `overview` at 10M rows, and beside ydata-profiling at 100k.

``uv run python -m tests.benchmarks.bench_vis [--rows 10_000_000] [--peer fg-data-profiling]``

Each measurement has a process of its own; the peer gets an environment of its own (``uv run --isolated``), so it needs
a package registry at the first run. Both write what they found as one HTML file. Memory is what the process holds at
most while it looks, in samples 5 ms apart, less what it held with the frame made: plotting libraries are in it.
On a busy machine compare seconds of CPU.
"""

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pandas as pd

TARGET = "survived"


def frame(n: int) -> pd.DataFrame:
    """Make twelve columns of numbers, categories, booleans and times, with NULLs, in dtypes that both peers take."""
    rng = np.random.default_rng(0)
    hole = rng.random(n) < 0.1
    table = {f"number {i}": rng.normal(size=n) for i in range(4)}
    table |= {f"count {i}": rng.integers(0, 10 ** (i + 1), n) for i in range(2)}
    table |= {
        f"kind {i}": np.array([f"kind {k}" for k in range(5 * (i + 1))])[rng.integers(0, 5 * (i + 1), n)]
        for i in range(3)
    }
    table["flag"] = rng.random(n) < 0.3
    table["time"] = pd.Timestamp("2026-01-01") + pd.to_timedelta(rng.integers(0, 90 * 86_400, n), unit="s")
    df = pd.DataFrame(table)
    df[TARGET] = (df["number 0"] + rng.normal(size=n) > 0).astype(int)
    df["number 1"] = df["number 1"].mask(hole)
    return df


def ours(df: pd.DataFrame, out: Path) -> None:
    """Write our overview."""
    from mlsys.vis import overview

    out.write_text(overview(df, target=TARGET)._repr_html_())


def theirs(df: pd.DataFrame, out: Path, *, minimal: bool) -> None:
    """Write the peer's report."""
    try:
        from data_profiling import ProfileReport
    except ImportError:
        from ydata_profiling import ProfileReport

    ProfileReport(df, minimal=minimal, progress_bar=False).to_file(out)


def measure(who: str, rows: int, out: Path) -> dict[str, float]:
    """Look at a frame, and return seconds, megabytes added at the peak, the frame's and the file's size."""
    df = frame(rows)
    size, held, peaks = df.memory_usage(deep=False).sum() / 1e6, _resident(), []
    done = threading.Event()
    watcher = threading.Thread(target=_watch, args=(done, peaks))
    watcher.start()
    started, used = time.perf_counter(), sum(os.times()[:4])
    if who == "mlsys":
        ours(df, out)
    else:
        theirs(df, out, minimal=who == "peer, minimal")
    seconds, used = time.perf_counter() - started, sum(os.times()[:4]) - used
    done.set()
    watcher.join()
    return {
        "seconds": seconds,
        "cpu": used,
        "added": max(peaks) - held,
        "frame": size,
        "file": out.stat().st_size / 1e6,
    }


def _watch(done: threading.Event, peaks: list[float]) -> None:
    while not done.wait(0.005):
        peaks.append(_resident())


def _resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6


def run(who: str, rows: int, peer: str) -> dict[str, float]:
    """Measure in a fresh process."""
    with tempfile.TemporaryDirectory() as folder:
        inside = [str(Path(__file__).resolve()), "--inside", who, "--rows", str(rows), "--out", f"{folder}/page.html"]
        if who == "mlsys":
            command = [sys.executable, *inside]
        else:
            uv = shutil.which("uv") or "uv"
            needs = ["--with", peer, "--with", "setuptools<81"]
            command = [uv, "run", "--isolated", "--no-project", "--python", "3.12", *needs, "python", *inside]
        environment = os.environ | {"MPLBACKEND": "Agg", "PYTHONPATH": os.getcwd() if who == "mlsys" else ""}  # noqa: PTH109
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{who}: {done.stderr[-2000:]}")
        return json.loads(done.stdout.splitlines()[-1])


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--peer", default="ydata-profiling", help="a package with ProfileReport; '' for none")
    parser.add_argument("--peer-rows", type=int, default=100_000)
    parser.add_argument("--inside", help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    if options.inside:
        print(json.dumps(measure(options.inside, options.rows, options.out)))
        return
    cases = [("mlsys", options.rows), ("mlsys", options.rows // 100)]
    cases += [(who, options.peer_rows) for who in ("mlsys", "peer", "peer, minimal") if options.peer]
    found = {}
    for who, rows in dict.fromkeys(cases):
        found[who, rows] = one = run(who, rows, options.peer)
        name = who.replace("peer", options.peer)
        print(
            f"{name:28} {rows:12,} rows ({one['frame']:7,.0f} MB) {one['seconds']:7.1f} s ({one['cpu']:.1f} s of CPU)"
            f" {one['added']:7,.0f} MB more, page {one['file']:.1f} MB",
            flush=True,
        )
    for who in ("peer", "peer, minimal") if options.peer else ():
        peer, us = found[who, options.peer_rows], found["mlsys", options.peer_rows]
        ratios = f"{peer['seconds'] / us['seconds']:.1f}, of CPU {peer['cpu'] / us['cpu']:.1f}"
        print(f"{who.replace('peer', options.peer)} / mlsys, seconds at {options.peer_rows:,} rows: {ratios}")


if __name__ == "__main__":
    main()
