"""Streams shared out over processes: one for each core, each with its own clients and its own copy of the model."""

import logging
import multiprocessing
import os
import pickle
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any, Final, cast

from mlsys import logs
from mlsys.errors import InterruptedRunError
from mlsys.predict.parts import Report, Score, Work, score_stream
from mlsys.predict.plan import Counts

logger = logging.getLogger(__name__)

_STARTS: Final = "forkserver"  # a fork of this process would share its threads' locks, gRPC's and OpenMP's among them
# What scoring takes, imported once, before processes are made of the server.
_IMPORTS = ["google.cloud.bigquery", "mlsys.predict.parts", "pandas", "pyarrow.parquet", "sklearn.pipeline"]


def score_streams(work: Work, streams: Sequence[int], score_part: Score, report: Report, processes: int) -> Counts:
    """Score streams in so many processes, this one among them, and return what they came to.

    Raises
    ------
    InterruptedRunError
        A process was lost. What it had loaded stays loaded.
    """
    if processes <= 1:
        return _score_in_turn(work, streams, score_part, report)
    with _started([(work, streams[i::processes], score_part, logs.current()) for i in range(1, processes)]) as others:
        with _one_thread():
            ours = _score_in_turn(work, streams[::processes], score_part, lambda rows: report(rows + others.news()))
        while others.are_running():
            report(others.news(wait_s=None))
        return ours + others.counts


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
def _started(arguments: Sequence[tuple]) -> Iterator["_Others"]:
    warm_up()
    others = _Others()
    # The server answers once it has imported everything: until then, this process is scoring already.
    starting = others.start(arguments)
    try:
        yield others
    finally:
        starting.join()
        others.end()


class _Others:
    """The other processes of this task, and what they have to say."""

    def __init__(self) -> None:
        self.running: dict[Connection, BaseProcess] = {}
        self.counts = Counts()
        self._processes: list[BaseProcess] = []
        self._failure: BaseException | None = None

    def start(self, arguments: Sequence[tuple]) -> threading.Thread:
        """Start a process for each of ``arguments``, from a thread that is returned."""

        def start_all() -> None:
            try:
                for given in arguments:
                    self._start(*given)
            except BaseException as exc:  # noqa: BLE001 - told by `are_running`, in the main thread
                self._failure = exc

        self._starting = threading.Thread(target=start_all, daemon=True)
        self._starting.start()
        return self._starting

    def are_running(self) -> bool:
        """Say whether one of them is still at work; raise what kept them from starting."""
        self._starting.join()
        if self._failure is not None:
            raise self._failure
        return bool(self.running)

    def _start(self, *arguments: Any) -> None:
        context = multiprocessing.get_context(_STARTS)
        ours, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_main, args=(theirs, *arguments), daemon=True)
        process.start()
        theirs.close()  # so that its end is noticed here when the process dies
        self._processes.append(process)
        self.running[ours] = process

    def news(self, wait_s: float | None = 0) -> int:
        """Return how many rows they have scored since the last call; raise what one of them failed of."""
        rows = 0
        for connection in cast("list[Connection]", wait(list(self.running), wait_s)):
            match self._receive(connection):
                case int(more):
                    rows += more
                case Counts() as counts:
                    self.counts += counts
                    del self.running[connection]
                case BaseException() as exc:
                    raise exc
        return rows

    def _receive(self, connection: Connection) -> int | Counts | BaseException:
        try:
            return connection.recv()
        except EOFError:
            process = self.running[connection]
            process.join()
            raise InterruptedRunError(
                f"a process that scored rows ended without a word (exit code {process.exitcode}; -9 is often a lack of"
                " memory): try again, and the run goes on where it was"
            ) from None

    def end(self) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join()


def _main(connection: Connection, work: Work, streams: Sequence[int], score_part: Score, log: Callable) -> None:
    """Run in a process of its own."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process: the parent decides
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    log()
    result: Counts | BaseException
    try:
        with _one_thread():
            result = _score_in_turn(work, streams, score_part, connection.send)
    except BaseException as exc:  # noqa: BLE001 - it is the parent that tells
        result = _sendable(exc)
    connection.send(result)


def _one_thread() -> AbstractContextManager:
    """Keep NumPy and OpenMP to one thread: there is a process for each core, and more would only fight for them."""
    from threadpoolctl import threadpool_limits

    return threadpool_limits(1)


def _end_with_parent() -> None:
    # A parent that was killed cannot end its children, which would go on, and then wait for ever.
    if parent := multiprocessing.parent_process():
        wait([parent.sentinel])
        os._exit(1)


def _sendable(exc: BaseException) -> BaseException:
    try:
        return pickle.loads(pickle.dumps(exc))  # noqa: S301 - our own bytes
    except Exception:
        logger.exception("a process that scores rows failed")
        return RuntimeError(f"{type(exc).__name__}: {exc}")
