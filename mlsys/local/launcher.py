"""Start the twin of a data folder, or join the one that runs.

One process serves one folder. It lives as long as somebody holds a lease on it: an open connection to
``/_mlsys/lease``, which the operating system closes however a client ends, ``kill -9`` included. So nobody has to
stop it, and nothing is left behind.
"""

import http.client
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mlsys.errors import TwinError

STATE_FILE = "twin.json"
LOG_FILE = "twin.log"
_START_TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Addresses:
    """Where a running twin listens, on loopback."""

    http: str  # BigQuery REST and Cloud Storage JSON: http://127.0.0.1:PORT
    grpc: str  # the BigQuery Storage Read API: 127.0.0.1:PORT
    pid: int


class Lease:
    """An open connection that keeps a twin alive, and shows whether it still is.

    Raises
    ------
    ConnectionError
        No twin of this folder answers at that address.
    """

    def __init__(self, folder: Path, addresses: Addresses) -> None:
        # The twin's own children (the registry function) must not keep it alive.
        path = "/_mlsys/lease" + ("?child=1" if os.getppid() == addresses.pid else "")
        self._connection = http.client.HTTPConnection(addresses.http.removeprefix("http://"), timeout=10)
        try:
            self._connection.request("GET", path)
            self._reply = self._connection.getresponse()
            said = json.loads(self._reply.readline())
            holder = said.pop("folder")
            self.addresses = Addresses(**said)  # not those given: a new twin may have taken the port of an old one
        except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError) as exc:
            self.release()
            raise ConnectionError(f"no twin at {addresses.http}") from exc
        if holder != str(folder):  # the port went to another program, or to another folder's twin
            self.release()
            raise ConnectionError(f"{addresses.http} serves {holder}")

    def alive(self) -> bool:
        """Tell whether the twin still holds its end of the connection."""
        sock = self._connection.sock
        if sock is None:
            return False
        try:
            sock.setblocking(False)
            while sock.recv(64):  # what is left of the handshake; after it the twin sends nothing, so b"" is its end
                pass
        except BlockingIOError:
            return True
        except OSError:
            pass
        return False

    def release(self) -> None:
        """Give the lease back."""
        self._connection.close()


_leases: dict[Path, Lease] = {}
_provisioned: set[tuple[Lease, str]] = set()
_lock = threading.Lock()


def attach(folder: Path, *, project: str, buckets: Mapping[str, str]) -> Addresses:
    """Return the addresses of the twin that serves ``folder``, starting it when none runs.

    Parameters
    ----------
    folder
        The data folder; it is made when it is not there.
    project, buckets
        What must exist in it: the project's registry dataset and the model bucket of each environment, as Terraform
        makes in the cloud. A folder belongs to those that it is first used with: the registry function works for them.

    Raises
    ------
    TwinError
        The folder cannot be written or belongs to another project, or the twin did not start; the message quotes the
        last line of its log.
    """
    folder = folder.absolute()
    with _lock:
        lease = _leases.get(folder)
        if lease is None or not lease.alive():
            lease = _leases[folder] = _join_or_start(folder)
        seed = json.dumps({"project": project, "buckets": dict(buckets)})
        if (lease, seed) not in _provisioned:
            _provision(lease.addresses, seed)
            _provisioned.add((lease, seed))
        return lease.addresses


def join(folder: Path) -> Lease | None:
    """Return a lease on the twin that serves ``folder``, or None when none runs."""
    try:
        state = json.loads((folder / STATE_FILE).read_text())
        return Lease(folder, Addresses(**state))
    except (OSError, ValueError, TypeError):  # ConnectionError is an OSError: a state file of a twin that has ended
        return None


def _join_or_start(folder: Path) -> Lease:
    if lease := join(folder):
        return lease
    from filelock import FileLock, Timeout

    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "start.lock", timeout=_START_TIMEOUT_S):  # of several who find none, one starts it
            return join(folder) or _start(folder)
    except Timeout as exc:
        raise TwinError(f"another process has been starting the twin of {folder} for {_START_TIMEOUT_S:.0f} s") from exc
    except OSError as exc:
        raise TwinError(
            f"cannot use {folder} as the data folder ({exc}): set MLSYS_DATA_DIR to one that can be written"
        ) from exc


def _start(folder: Path) -> Lease:
    log = folder / LOG_FILE
    with log.open("ab") as output:
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-m", "mlsys.local", str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            start_new_session=True,  # Ctrl-C in the first client's terminal must not end it for the others
        )
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        if lease := join(folder):
            return lease
        if process.poll() is not None:
            raise TwinError(f"the offline twin did not start: {_last_line(log)} (log: {log})")
        time.sleep(0.02)
    process.kill()
    raise TwinError(f"the offline twin did not answer within {_START_TIMEOUT_S:.0f} s (log: {log})")


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "it wrote no log")


def _provision(addresses: Addresses, seed: str) -> None:
    connection = http.client.HTTPConnection(addresses.http.removeprefix("http://"), timeout=60)
    try:
        connection.request("POST", "/_mlsys/provision", seed)
        reply = connection.getresponse()
        body = reply.read()
        if reply.status != 200:
            raise TwinError(json.loads(body)["error"]["message"])
    except (OSError, http.client.HTTPException, ValueError, KeyError) as exc:
        raise TwinError(f"the offline twin at {addresses.http} did not answer ({exc}): try again") from exc
    finally:
        connection.close()
