"""One twin per folder: started by whoever comes first, shared, gone when nobody needs it, and nothing lost."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pytest
import requests

from mlsys.errors import TwinError
from mlsys.local.launcher import Lease, attach, join

CLIENT = """
import sys
from mlsys import clients
client = clients.bigquery_client()
print(list(client.query_and_wait("SELECT 1 AS x"))[0].x, flush=True)
sys.stdin.read()
"""


def start_client(folder):
    """Start a process that uses the twin of ``folder`` until its input closes."""
    process = subprocess.Popen(
        [sys.executable, "-c", CLIENT],
        env=os.environ | {"MLSYS_DATA_DIR": str(folder)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "1\n"
    return process


@pytest.fixture
def folder(tmp_path):
    """A data folder whose twin is ended with the test."""
    yield tmp_path / "data"
    if lease := join(tmp_path / "data"):
        kill(lease.addresses.pid)


def state(folder):
    return json.loads((folder / "twin.json").read_text())


def is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def kill(pid):
    """End a twin by ``kill -9`` and wait until it is really gone, its sockets closed."""
    os.kill(pid, signal.SIGKILL)
    try:
        os.waitpid(pid, 0)
    except ChildProcessError:
        while is_running(pid):
            time.sleep(0.01)


def client_of(addresses):
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import bigquery

    return bigquery.Client("shoufianesys", AnonymousCredentials(), client_options={"api_endpoint": addresses.http})


def test_processes_share_one_twin_and_it_outlives_the_first(folder):
    """A notebook beside the command line; the one that started it may go first, even by kill -9."""
    first, second = start_client(folder), None
    try:
        pid = state(folder)["pid"]
        second = start_client(folder)
        assert state(folder)["pid"] == pid
        first.kill()
        first.wait()
        time.sleep(1)
        lease = join(folder)
        assert lease is not None
        assert lease.addresses.pid == pid
        lease.release()
    finally:
        for process in (first, second):
            if process:
                process.kill()
                process.wait()


def test_many_starters_start_one(folder):
    """Four processes at once find or make the same twin."""
    with ThreadPoolExecutor(4) as pool:
        processes = list(pool.map(lambda _: start_client(folder), range(4)))
    log = (folder / "twin.log").read_text()
    for process in processes:
        process.kill()
        process.wait()
    assert log.count("serving") == 1


def test_data_survives_kill_and_old_clients_go_on(folder):
    """After kill -9 the next attach serves the same data at the same address."""
    addresses = attach(folder, project="shoufianesys", buckets={"local": "ml-models-local"})
    client = client_of(addresses)
    client.create_dataset("kept")
    client.load_table_from_dataframe(pd.DataFrame({"x": [1, 2]}), "kept.t").result(timeout=30)
    kill(addresses.pid)
    again = attach(folder, project="shoufianesys", buckets={"local": "ml-models-local"})
    assert again.pid != addresses.pid
    assert again.http == addresses.http
    assert [row.x for row in client.query_and_wait("SELECT x FROM kept.t ORDER BY x")] == [1, 2]


def test_idle_twin_ends_by_itself(folder, monkeypatch):
    """Nobody has to stop it."""
    code = (
        "import sys; from pathlib import Path; from mlsys.local import server;"
        "server.LINGER_S = 0.5; server.run(Path(sys.argv[1]))"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(folder)])
    deadline = time.monotonic() + 30
    while not (lease := join(folder)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(2)
    assert process.poll() is None  # held by our lease
    lease.release()
    assert process.wait(30) == 0


def test_state_of_a_dead_twin_is_no_twin(folder):
    """Another program may have the port by now."""
    folder.mkdir()
    (folder / "twin.json").write_text(json.dumps({"http": "http://127.0.0.1:9", "grpc": "127.0.0.1:9", "pid": 1}))
    assert join(folder) is None
    (folder / "twin.json").write_text("half")
    assert join(folder) is None


def test_lease_is_refused_by_another_folders_twin(twin, tmp_path):
    """The port went to another twin: its data is not ours."""
    from mlsys.local import Addresses

    with pytest.raises(ConnectionError, match="serves"):
        Lease(tmp_path, Addresses(twin.http, twin.grpc, twin.pid))


def test_folder_that_cannot_be_written(tmp_path):
    """One line, with the way out."""
    (tmp_path / "file").write_text("")
    with pytest.raises(TwinError, match="set MLSYS_DATA_DIR"):
        attach(tmp_path / "file" / "data", project="shoufianesys", buckets={"local": "b-1"})


def test_damaged_database_is_named(folder):
    """The log's last line is in the message."""
    (folder / "bigquery").mkdir(parents=True)
    (folder / "bigquery" / "bigquery.duckdb").write_bytes(b"not a database" * 1000)
    with pytest.raises(TwinError, match=r"did not start: .*bigquery\.duckdb"):
        attach(folder, project="shoufianesys", buckets={"local": "ml-models-local"})


@pytest.mark.parametrize("headers", [{"Host": "evil.example"}, {"Origin": "http://evil.example"}])
def test_web_pages_are_kept_out(twin, headers):
    """A page in this user's browser can reach loopback: by its own name, or with an Origin."""
    reply = requests.get(f"{twin.http}/bigquery/v2/projects/shoufianesys/datasets", headers=headers, timeout=10)
    assert reply.status_code == 403


def test_unknown_routes_say_so(twin):
    """Refused by name, never an empty answer."""
    reply = requests.get(f"{twin.http}/bigquery/v2/projects/p/datasets/d/routines", timeout=10)
    assert reply.status_code == 501
    assert "not supported locally" in reply.json()["error"]["message"]


def test_killed_in_the_middle_of_loads(folder, tmp_path):
    """The database opens, and a load is there whole or not at all. ``MLSYS_KILLS=20`` makes it a campaign."""
    rows = 200_000
    pd.DataFrame({"x": range(rows), "s": "text"}).to_parquet(tmp_path / "rows.parquet")
    source = random.Random(7)
    attach(folder, project="shoufianesys", buckets={"local": "ml-models-local"})
    for attempt in range(int(os.environ.get("MLSYS_KILLS", "4"))):
        addresses = attach(folder, project="shoufianesys", buckets={"local": "ml-models-local"})
        client = client_of(addresses)
        client.create_dataset("killed", exists_ok=True)
        job_id, table = f"load_{attempt}", f"shoufianesys.killed.t{attempt}"
        with ThreadPoolExecutor(1) as pool, (tmp_path / "rows.parquet").open("rb") as file:
            from google.cloud.bigquery import LoadJobConfig

            config = LoadJobConfig(source_format="PARQUET")
            options = {"job_id": job_id, "job_config": config, "num_retries": 0}
            load = pool.submit(client.load_table_from_file, file, table, **options)
            time.sleep(source.uniform(0.0, 0.6))
            kill(addresses.pid)
            load.exception(60)
        addresses = attach(folder, project="shoufianesys", buckets={"local": "ml-models-local"})
        client = client_of(addresses)
        tables = {t.table_id for t in client.list_tables("killed")}
        jobs = {job.job_id: job.state for job in client.list_jobs()}
        if f"t{attempt}" in tables:
            assert next(iter(client.query_and_wait(f"SELECT COUNT(*) AS n FROM `{table}`"))).n == rows
            assert jobs.get(job_id) == "DONE"
        else:
            assert job_id not in jobs
