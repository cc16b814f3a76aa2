"""Run the built image against a twin outside of it, and report what it does: ``build.sh`` ends with this.

The container has no network of its own under chroot isolation, so that it reaches the twin on loopback; what it gets is
the twin's folder, at the same path. Each line that is printed was checked; the first that is not so ends it.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SOURCE, OUTPUT = "shoufianesys.titanic.passengers", "shoufianesys.titanic.{}"
NOT_INSIDE = ["aiohttp", "airflow", "duckdb", "IPython", "jupyterlab", "matplotlib", "plotly", "pytest", "ruff",
              "seaborn", "sqlglot", "tests"]  # fmt: skip
TOOLS = ["uv", "uvx", "ruff", "pytest", "jupyter", "gcc", "git"]
PASSENGER = {"pclass": 1, "sex": "female", "age": 29, "sibsp": 0, "parch": 0}
LOOK_INSIDE = f"""
import importlib.util, json, os, shutil, sys
print(json.dumps({{
    "uid": os.getuid(),
    "python": list(sys.version_info[:2]),
    "packages": [name for name in {NOT_INSIDE} if importlib.util.find_spec(name)],
    "tools": [name for name in {TOOLS} if shutil.which(name)],
    "writable": [path for path in sys.path if path and os.access(path, os.W_OK)],
    "compiled": os.path.exists(importlib.util.find_spec("mlsys.predict.run").cached),
    "commit": os.environ["MLSYS_GIT_COMMIT"],
}}))
"""


class Image:
    """The image as buildah has it.

    Parameters
    ----------
    command
        ``buildah`` with its options.
    data
        The twin's folder.
    """

    def __init__(self, command: list[str], name: str, data: Path) -> None:
        self.command, self.name, self.data = command, name, data
        self.container = self.buildah("from", "--pull-never", name).strip()

    def buildah(self, *arguments: str) -> str:
        """Run buildah and return what it prints."""
        return subprocess.run([*self.command, *arguments], check=True, capture_output=True, text=True).stdout

    def start(self, *arguments: str, **environment: str) -> subprocess.Popen:
        """Start a command in a container."""
        variables = environment | {"MLSYS_ENV": "local", "MLSYS_DATA_DIR": str(self.data)}
        given = [f"--env={name}={value}" for name, value in variables.items()]
        run = [*self.command, "run", "--isolation=chroot", f"--volume={self.data}:{self.data}:ro", *given]
        return subprocess.Popen(
            [*run, self.container, "--", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )

    def run(self, *arguments: str, **environment: str) -> str:
        """Run a command in a container and return what it prints; again when buildah lost it, as it does under load."""
        for _ in range(3):
            process = self.start(*arguments, **environment)
            output, errors = process.communicate(timeout=300)
            if process.returncode:
                sys.exit(f"{arguments} ended with {process.returncode}:\n{output}\n{errors}")
            if output:
                return output
        sys.exit(f"{arguments} printed nothing, three times")


def check(fact: str, holds: bool) -> None:
    """Print a fact that holds; end with one that does not."""
    if not holds:
        sys.exit(f"NOT SO: {fact}")
    print(f"✓ {fact}", flush=True)


def look(image: Image) -> None:
    """Check what the image is made of."""
    described = json.loads(image.buildah("inspect", "--type=image", image.name))
    config = described["OCIv1"]["config"]
    inside = json.loads(image.run("python", "-c", LOOK_INSIDE))
    size = next(
        i["size"] for i in json.loads(image.buildah("images", "--json")) if f"{image.name}:latest" in (i["names"] or ())
    )
    layers = len(described["OCIv1"]["rootfs"]["diff_ids"])
    packages, code = (image.run("du", "-sm", path).split()[0] for path in ("/app/.venv", "/app/lib"))
    check(f"it has {size} in {layers} layers, of which packages {packages} MB and code {code} MB", True)
    check(f"it runs as {config['User']}, and the process as {inside['uid']}", inside["uid"] == 10001)
    check(f"its entry point is {' '.join(config['Entrypoint'])}", config["Entrypoint"][-1] == "scripts.predict")
    labels = config["Labels"]
    check(
        f"it is {labels['org.opencontainers.image.version']} of {labels['org.opencontainers.image.revision'][:12]}",
        labels["org.opencontainers.image.revision"] == inside["commit"],
    )
    check(f"Python {inside['python']}, bytecode compiled", inside["python"] == [3, 12] and inside["compiled"])
    check(f"no {', '.join(NOT_INSIDE)} in it", inside["packages"] == [])
    check(f"no {', '.join(TOOLS)} in it", inside["tools"] == [])
    check("its user cannot change its code", inside["writable"] == [])


def predict(image: Image, mlsys: str) -> None:
    """Make the same run inside and outside, and compare the tables."""
    started = time.perf_counter()
    helped = image.run(*image_entry(image), "--help")
    check(f"predict --help answers in {time.perf_counter() - started:.1f} s", "MODEL_NAME" in helped)
    job = {"MODEL_NAME": "titanic-survival", "MODEL_VERSION": "v1", "SOURCE": SOURCE, "ID_COLUMNS": "passenger_id"}
    started = time.perf_counter()
    said = image.run(*image_entry(image), "--json", **job, OUTPUT_TABLE=OUTPUT.format("inside"))
    record = json.loads(said)
    check(
        f"a run in the container: {record['rows']:,} rows in {time.perf_counter() - started:.1f} s",
        record["rows"] == 1309 and record["published"],
    )
    subprocess.run(
        [mlsys, "predict"], env=os.environ | job | {"OUTPUT_TABLE": OUTPUT.format("outside")}, check=True,
        capture_output=True,
    )  # fmt: skip
    sql = (
        f"SELECT COUNT(*) AS n FROM `{OUTPUT.format('inside')}` AS a JOIN `{OUTPUT.format('outside')}` AS b"
        " ON a.passenger_id = b.passenger_id AND a.prediction = b.prediction"
        " AND a.prediction_probability = b.prediction_probability AND a.model_version = b.model_version"
    )
    same = json.loads(subprocess.check_output([mlsys, "query", "--format", "json", sql], text=True))
    check("its predictions are those of a run outside, to the last bit", same == [{"n": 1309}])
    ledger = "SELECT git_commit FROM `shoufianesys.ml_registry.runs` WHERE output_table LIKE '%.inside'"
    commits = {row["git_commit"] for row in json.loads(
        subprocess.check_output([mlsys, "query", "--format", "json", ledger], text=True))}  # fmt: skip
    check(f"the ledger knows its commit: {', '.join(map(str, commits))}", len(commits) == 1 and None not in commits)


def image_entry(image: Image) -> list[str]:
    """Return the entry point, which ``buildah run`` leaves out."""
    return json.loads(image.buildah("inspect", "--type=image", image.name))["OCIv1"]["config"]["Entrypoint"]


@contextmanager
def serving(image: Image, port: int) -> Iterator[subprocess.Popen]:
    """Start the service in a container and end it as Cloud Run does."""
    process = image.start("python", "-m", "scripts.serve", MODEL_NAME="titanic-survival", PORT=str(port))
    try:
        yield process
    finally:
        gone = end(port)
        process.communicate(timeout=30)
    check("SIGTERM ends the service", gone)


def end(port: int) -> bool:
    """Send SIGTERM to gunicorn's master, which is no child of ours but runs on this machine."""
    inodes = {line.split()[9] for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
              if line.split()[1].endswith(f":{port:04X}") and line.split()[3] == "0A"}  # fmt: skip
    holders = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            files = {str(file.readlink()) for file in (process / "fd").iterdir()}
        except OSError:
            continue
        if files & {f"socket:[{inode}]" for inode in inodes}:
            holders.append(int(process.name))
    if holders:
        os.kill(min(holders), signal.SIGTERM)  # the master came first
    return bool(holders)


def ask(port: int, path: str, body: dict | None = None) -> dict:
    """Return the service's answer."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as reply:
        return json.load(reply)


def wait(port: int, path: str) -> None:
    """Return when that page answers 200."""
    deadline = time.monotonic() + 60
    while True:
        try:
            ask(port, path)
        except (urllib.error.URLError, ConnectionError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)
        else:
            return


def serve(image: Image) -> None:
    """Start the service, measure its start, and ask it."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    started = time.perf_counter()
    with serving(image, port):
        wait(port, "/health/live")
        live = time.perf_counter() - started
        wait(port, "/health")
        check(f"the service listens after {live:.1f} s and is ready after {time.perf_counter() - started:.1f} s", True)
        answer = ask(port, "/predict", {"instances": [PASSENGER]})["predictions"][0]
        check(
            f"it predicts {answer['prediction']} ({answer['prediction_probability']:.3f}) by {answer['model_version']}",
            answer["prediction"] == 1,
        )


def main() -> None:
    """Check the image named by the first argument; the others are buildah's command."""
    name, *command = sys.argv[1:]
    mlsys = str(Path(sys.executable).with_name("mlsys"))
    folder = Path(tempfile.mkdtemp(prefix="mlsys-image-"))
    folder.chmod(0o755)  # the container's user reads it
    os.environ["MLSYS_DATA_DIR"] = str(folder)
    keeper = subprocess.Popen([mlsys, "up"], stdout=subprocess.DEVNULL)
    try:
        subprocess.run([mlsys, "demo"], check=True, stdout=subprocess.DEVNULL)
        image = Image(command, name, folder)
        look(image)
        predict(image, mlsys)
        serve(image)
        image.buildah("rm", image.container)
    finally:
        keeper.send_signal(signal.SIGINT)
        keeper.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    main()
