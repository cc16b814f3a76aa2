"""Streams shared out over processes: one for each core, each with its own clients and its own copy of the model."""

import logging
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from mlsys import logs
from mlsys.errors import InterruptedRunError
from mlsys.predict.parts import Report, Score, Work, score_stream
from mlsys.predict.plan import Counts

logger = logging.getLogger(__name__)

_STARTS = "forkserver"  # a fork of this process would share its threads' locks, gRPC's and OpenMP's among them
# What scoring takes, imported once, before processes are made of the server.
_IMPORTS = ["google.cloud.bigquery", "mlsys.predict.parts", "pandas", "pyarrow.parquet", "sklearn.pipeline"]


def score_streams(work: Work, streams: Sequence[int], score_part: Score, report: Report, processes: int) -> Counts:
    """Score streams in so many processes (with one: in this one), and return what they came to.

    Raises
    ------
    InterruptedRunError
        A process was lost. What it had loaded stays loaded.
    """
    if processes <= 1:
        return _score_in_turn(work, streams, score_part, report)
    total, logging_here = Counts(), logs.current()
    with _started([(work, streams[i::processes], score_part, logging_here) for i in range(processes)]) as running:
        while running:
            for connection in wait(list(running)):
                match _receive(connection, running):
                    case int(rows):
                        report(rows)
                    case Counts() as counts:
                        total += counts
                        del running[connection]
                    case BaseException() as exc:
                        raise exc
    return total


def warm_up() -> None:
    """Start the server that processes are made of, so that it imports what they need while this process goes on."""
    from multiprocessing.forkserver import ensure_running

    multiprocessing.get_context(_STARTS).set_forkserver_preload(_IMPORTS)
    ensure_running()


def _score_in_turn(work: Work, streams: Sequence[int], score_part: Score, report: Report) -> Counts:
    total = Counts()
    for stream in streams:
        total += score_stream(work, stream, score_part, report, work.plan.max_rejects - total.rejected)
    return total


@contextmanager
def _started(arguments: Sequence[tuple]) -> Iterator[dict[Connection, BaseProcess]]:
    warm_up()
    context = multiprocessing.get_context(_STARTS)
    running: dict[Connection, BaseProcess] = {}
    processes = []
    try:
        for given in arguments:
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_main, args=(theirs, *given), daemon=True)
            process.start()
            theirs.close()  # so that its end is noticed here when the process dies
            processes.append(process)
            running[ours] = process
        yield running
    finally:
        for process in processes:
            process.terminate()
        for process in processes:
            process.join()


def _receive(connection: Connection, running: dict[Connection, BaseProcess]) -> int | Counts | BaseException:
    try:
        return connection.recv()
    except EOFError:
        process = running[connection]
        process.join()
        raise InterruptedRunError(
            f"a process that scored rows ended without a word (exit code {process.exitcode}; -9 is often a lack of"
            " memory): try again, and the run goes on where it was"
        ) from None


def _main(connection: Connection, work: Work, streams: Sequence[int], score_part: Score, log: Callable) -> None:
    """Run in a process of its own."""
    from threadpoolctl import threadpool_limits

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process: the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    log()
    try:
        with threadpool_limits(1):  # the cores are taken: threads of NumPy would only fight for them
            result = _score_in_turn(work, streams, score_part, connection.send)
    except BaseException as exc:  # noqa: BLE001 - it is the parent that tells
        result = _sendable(exc)
    connection.send(result)


def _end_with_parent() -> None:
    # A parent that was killed cannot end its children, which would go on, and then wait for ever.
    wait([multiprocessing.parent_process().sentinel])
    os._exit(1)


def _sendable(exc: BaseException) -> BaseException:
    try:
        return pickle.loads(pickle.dumps(exc))  # noqa: S301 - our own bytes
    except Exception:
        logger.exception("a process that scores rows failed")
        return RuntimeError(f"{type(exc).__name__}: {exc}")
