"""What an import costs, with compiled bytecode, beside what it stands on.

``uv run python -m tests.benchmarks.bench_imports [--repeat 7]``
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time

_CODES = {
    "bare Python": "pass",
    "import mlsys": "import mlsys",
    "import google.cloud.bigquery": "import google.cloud.bigquery",
    "import mlsys.bq": "import mlsys.bq",
    "import google.cloud.storage": "import google.cloud.storage",
    "import mlsys.gcs": "import mlsys.gcs",
}
_RATIOS = [
    ("import mlsys.bq", "import google.cloud.bigquery"),
    ("import mlsys.gcs", "import google.cloud.storage"),
]


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=7)
    repeat = parser.parse_args(argv).repeat
    with tempfile.TemporaryDirectory() as cache:
        env = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"} | {"PYTHONPYCACHEPREFIX": cache}
        for code in _CODES.values():
            seconds(code, env)  # compiles
        # In turns, so that a busy moment of the machine hits all alike.
        times = {name: [] for name in _CODES}
        for _ in range(repeat):
            for name, code in _CODES.items():
                times[name].append(seconds(code, env))
    best = {name: min(values) for name, values in times.items()}
    bare = best["bare Python"]
    print(f"best of {repeat}, with compiled bytecode")
    for name, value in best.items():
        print(f"{name:30} {value * 1000:7.0f} ms  {(value - bare) * 1000:+7.0f} ms above bare Python")
    for ours, theirs in _RATIOS:
        print(f"{ours} / {theirs}: {(best[ours] - bare) / (best[theirs] - bare):.2f} (start of Python taken off)")


def seconds(code: str, env: dict[str, str]) -> float:
    """Return how long a fresh Python takes to run ``code``."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], env=env, check=True)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
