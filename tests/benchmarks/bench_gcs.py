"""What a large object costs up and down: memory above the start, and megabytes per second.

``uv run python -m tests.benchmarks.bench_gcs [--mib 1024]``
"""

import argparse
import os
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path

import psutil

_BLOCK = 4 << 20


class PeakMemory:
    """Watch this process's resident memory while a block runs; ``above_start`` is in MiB."""

    def __enter__(self) -> "PeakMemory":
        self._process, self._stop = psutil.Process(), threading.Event()
        self._start = self._peak = self._process.memory_info().rss
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            self._peak = max(self._peak, self._process.memory_info().rss)

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def above_start(self) -> float:
        """The most memory used, in MiB above what was used at the start."""
        return (self._peak - self._start) / 2**20


def report(name: str, mib: int, action: Callable[[], object]) -> None:
    """Run ``action`` once and print its speed and its memory."""
    started = time.perf_counter()
    with PeakMemory() as memory:
        action()
    seconds = time.perf_counter() - started
    print(f"{name:28} {mib / seconds:7.0f} MiB/s  {seconds:6.2f} s  peak {memory.above_start:6.1f} MiB above start")


def main(argv: list[str] | None = None) -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=1024)
    mib = parser.parse_args(argv).mib
    with tempfile.TemporaryDirectory() as folder:
        os.environ |= {"MLSYS_ENV": "local", "MLSYS_DATA_DIR": str(Path(folder) / "twin")}
        measure(mib, Path(folder))


def measure(mib: int, folder: Path) -> None:
    """Print what a file of ``mib`` MiB takes up and down, and an array of that size as an object."""
    import numpy as np

    from mlsys.clients import storage_client
    from mlsys.gcs import gcs_get, gcs_get_file, gcs_put

    bucket = "bench-bucket"
    storage_client().create_bucket(bucket)
    source, target = folder / "source", folder / "target"
    with source.open("wb") as file:
        for _ in range((mib << 20) // _BLOCK):
            file.write(os.urandom(_BLOCK))
    gcs_put(b"warm", bucket, "warm")
    report("gcs_put(Path)", mib, lambda: gcs_put(source, bucket, "file"))
    report("gcs_get_file", mib, lambda: gcs_get_file(bucket, "file", target))
    source.unlink()
    target.unlink()
    put_array(np.random.default_rng(0).random((mib << 20) // 8), mib, bucket)
    report("gcs_get(array), itself incl.", mib, lambda: gcs_get(bucket, "object"))


def put_array(array: object, mib: int, bucket: str) -> None:
    """Print what an object in memory takes on its way up, beside itself."""
    from mlsys.gcs import gcs_put

    report("gcs_put(array)", mib, lambda: gcs_put(array, bucket, "object"))


if __name__ == "__main__":
    main()
