"""Requests a second and latencies of the service, beside bare functions that do the same `predict` on a DataFrame.

    uv run python -m tests.benchmarks.bench_serve --seconds 5 --callers 8

All servers run at once with the same settings of gunicorn; they are asked in turn, on loopback, for a few seconds each
and several times over, each caller sending its next request when it has the answer to the one before.
"""

import argparse
import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.benchmarks.scoring import passengers, prepare

BARE = Path(__file__).with_name("bare_function.py")
WAYS = {
    "mlsys serve": ["python", "-m", "scripts.serve"],
    "bare, label and probability": ["functions-framework", "--source", BARE, "--target", "both", "--host", "127.0.0.1"],
    "bare, label alone": ["functions-framework", "--source", BARE, "--target", "label", "--host", "127.0.0.1"],
}


@contextmanager
def served(command: list[str], model: str) -> Iterator[str]:
    """Start a server and give the address for predictions; end it."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    command = [Path(sys.executable).with_name(command[0]), *command[1:]]
    process = subprocess.Popen(
        command, env=os.environ | {"MODEL_NAME": model, "PORT": str(port)}, stderr=subprocess.DEVNULL
    )
    try:
        yield f"http://127.0.0.1:{port}/predict"
    finally:
        process.terminate()
        process.wait(20)


def body(instances: int) -> bytes:
    """Return a request with so many passengers."""
    rows = next(passengers(instances)).drop_columns("passenger_id").to_pylist()
    return json.dumps({"instances": rows}).encode()


async def load(url: str, sent: bytes, callers: int, seconds: float) -> list[float]:
    """Ask for so long, and return the seconds that each answer took."""
    import aiohttp

    took, end = [], time.perf_counter() + seconds
    headers = {"Content-Type": "application/json"}
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=callers)) as session:

        async def call() -> None:
            while (started := time.perf_counter()) < end:
                async with session.post(url, data=sent, headers=headers) as reply:
                    answer = await reply.json()
                    assert reply.status == 200, answer
                took.append(time.perf_counter() - started)

        await asyncio.gather(*(call() for _ in range(callers)))
    return took


async def wait(url: str, sent: bytes) -> None:
    """Return when the server has answered once, with its model loaded."""
    for _ in range(600):
        try:
            await load(url, sent, 1, 0.001)
        except (OSError, AssertionError):
            await asyncio.sleep(0.1)
        else:
            return
    raise TimeoutError(url)


def measure(model: str, instances: int, callers: int, seconds: float, rounds: int) -> None:
    """Print one table: each way's requests a second and latencies, and how they compare with the service's."""
    sent, took = body(instances), {way: [] for way in WAYS}
    with ExitStack() as stack:
        urls = {way: stack.enter_context(served(command, model)) for way, command in WAYS.items()}
        for url in urls.values():
            asyncio.run(wait(url, sent))
        for _ in range(rounds):
            for way, url in urls.items():
                took[way] += asyncio.run(load(url, sent, callers, seconds))
    print(f"\n{model}, {instances} instance(s) a request, {callers} callers, {rounds} x {seconds:g} s each")
    ours = len(took["mlsys serve"])
    for way, all_ in took.items():
        all_.sort()
        middle, p99 = (1e3 * all_[int(len(all_) * share)] for share in (0.5, 0.99))
        print(
            f"  {way:28} {len(all_) / rounds / seconds:7.0f} requests/s  p50 {middle:6.1f} ms  p99 {p99:6.1f} ms"
            f"  ours/this {ours / len(all_):5.2f}"
        )


def main() -> None:
    """Measure two models with small and larger requests."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="logistic,boosting")
    parser.add_argument("--instances", default="1,100")
    parser.add_argument("--callers", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MLSYS_DATA_DIR"] = folder
        models = args.models.split(",")
        prepare([], models)
        for model in models:
            for instances in args.instances.split(","):
                measure(f"bench-{model}", int(instances), args.callers, args.seconds, args.rounds)


if __name__ == "__main__":
    main()
