"""Executions under way: tasks as processes, started again while they fail and may, and ended when they must."""

import asyncio
import contextlib
import os
import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from google.protobuf.message import Message

from mlsys.local.faults import Faults
from mlsys.local.run import resources
from mlsys.local.run.resources import Reason, State
from mlsys.local.run.store import Running, RunStore, finish

_GRACE_S = 10.0  # between SIGTERM and SIGKILL, as Cloud Run does it
_ATTEMPT = "run.tasks.attempt"  # what a fault rule selects
# A container starts with nothing of its host's; a process needs these to find Python and its packages.
_INHERITED = ("HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "PYTHONPATH", "TMPDIR")


@dataclass(frozen=True)
class Ended:
    """How an attempt at a task ended: by its exit code, or by a signal; in time or not."""

    exit_code: int
    timed_out: bool = False

    @property
    def ok(self) -> bool:
        """Whether it did what it should."""
        return self.exit_code == 0 and not self.timed_out

    @property
    def message(self) -> str:
        """What Cloud Run would say of it."""
        if self.timed_out:
            return "The configured timeout was reached."
        if self.exit_code < 0:
            return f"The container was terminated by signal {-self.exit_code}."
        return "The container exited with an error."


class Runner:
    """Runs executions of ``program``, and ends them when it is closed.

    Parameters
    ----------
    env
        Variables that every task gets, on top of the job's: they make it talk to this twin.
    """

    def __init__(self, store: RunStore, program: Path, env: Mapping[str, str], faults: Faults) -> None:
        self._store, self._program, self._env, self._faults = store, program, env, faults
        self._running: dict[str, asyncio.Task] = {}

    @property
    def busy(self) -> bool:
        """Whether an execution is under way."""
        return bool(self._running)

    def start(self, running: Running) -> None:
        """Let an execution begin."""
        name = running.execution.name
        (self._store.logs / name.rpartition("/")[2]).mkdir(parents=True, exist_ok=True)
        self._store.save(running)
        self._running[name] = asyncio.create_task(self._run(running))
        self._running[name].add_done_callback(lambda _: self._running.pop(name, None))

    def cancel(self, name: str) -> None:
        """Ask an execution to end; it has ended when its condition says so."""
        task = self._running.get(name)
        if task and not task.cancelling():  # a second time would cut its ten seconds short
            task.cancel()

    async def wait(self, name: str, timeout: float) -> None:
        """Wait until an execution has ended, or for so many seconds."""
        if task := self._running.get(name):
            await asyncio.wait([task], timeout=timeout)

    async def close(self) -> None:
        """End what is under way."""
        tasks = list(self._running.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run(self, running: Running) -> None:
        execution = running.execution
        execution.start_time.GetCurrentTime()
        slots = asyncio.Semaphore(min(execution.parallelism or execution.task_count, max(2, os.cpu_count() or 1)))
        cancelled = False
        try:
            async with asyncio.TaskGroup() as group:
                for task in running.tasks:
                    group.create_task(self._run_task(running, task, slots))
        except asyncio.CancelledError:
            cancelled = True
        except Exception as exc:  # the twin cannot start processes: no task may stay unfinished
            finish(execution, State.CONDITION_FAILED, f"the twin failed: {exc}")
            self._store.save(running)
            raise
        self._end(running, cancelled=cancelled)

    def _end(self, running: Running, *, cancelled: bool) -> None:
        execution = running.execution
        for task in running.tasks:
            if not resources.is_done(task):
                finish(task, State.CONDITION_FAILED, "The execution was cancelled.", Reason.CANCELLED)
                execution.cancelled_count += 1
        execution.running_count = 0
        failed = next((t for t in running.tasks if resources.completed(t).state == State.CONDITION_FAILED), None)
        if cancelled and execution.cancelled_count:
            finish(execution, State.CONDITION_FAILED, "The execution was cancelled.", Reason.CANCELLED)
        elif failed is not None:
            text = resources.completed(failed).message
            short = failed.name.rpartition("/")[2]
            finish(execution, State.CONDITION_FAILED, f"Task {short} failed with message: {text}",
                   Reason.NON_ZERO_EXIT_CODE)  # fmt: skip
        else:
            finish(execution, State.CONDITION_SUCCEEDED, "Execution completed successfully.")
        self._store.save(running)

    async def _run_task(self, running: Running, task: Message, slots: asyncio.Semaphore) -> None:
        execution = running.execution
        async with slots:
            task.start_time.GetCurrentTime()
            execution.running_count += 1
            self._store.save(running)
            try:
                while True:
                    ended = await self._attempt(running, task)
                    self._note(task, ended)
                    if ended.ok or task.retried >= task.max_retries:
                        break
                    task.retried += 1
                    execution.retried_count += 1
                    self._store.save(running)
            finally:
                execution.running_count -= 1
            if ended.ok:
                execution.succeeded_count += 1
                finish(task, State.CONDITION_SUCCEEDED, "")
            else:
                execution.failed_count += 1
                finish(task, State.CONDITION_FAILED, ended.message, Reason.NON_ZERO_EXIT_CODE)
            self._store.save(running)

    def _note(self, task: Message, ended: Ended) -> None:
        result = task.last_attempt_result
        result.Clear()
        if ended.exit_code < 0:
            result.term_signal = -ended.exit_code
        else:
            result.exit_code = ended.exit_code
        if not ended.ok:
            result.status.code, result.status.message = 2, ended.message  # UNKNOWN

    async def _attempt(self, running: Running, task: Message) -> Ended:
        short = running.execution.name.rpartition("/")[2]
        log = self._store.logs / short / f"task{task.index}-attempt{task.retried}.log"
        task.log_uri = f"{running.execution.log_uri}/{log.name}"
        command = [sys.executable, "-m", "mlsys.local.run.task", str(self._program), *task.containers[0].args]
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *command, stdin=asyncio.subprocess.PIPE, stdout=output, stderr=output, cwd=self._program.parents[1],
                env=self._environment(running, task), start_new_session=True,
            )  # fmt: skip
        fault = self._faults.take(_ATTEMPT)
        killer = asyncio.create_task(_kill_later(process, fault.delay_s)) if fault and fault.kind == "kill" else None
        try:
            code = await asyncio.wait_for(process.wait(), task.timeout.ToTimedelta().total_seconds())
            return Ended(code)
        except TimeoutError:
            await _end(process)
            return Ended(process.returncode, timed_out=True)
        except asyncio.CancelledError:
            await _end(process)
            raise
        finally:
            if killer:
                killer.cancel()
            _kill_group(process)  # a container ends with its first process

    def _environment(self, running: Running, task: Message) -> dict[str, str]:
        execution = running.execution
        own = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        given = {variable.name: variable.value for variable in task.containers[0].env}
        return own | given | dict(self._env) | {
            "CLOUD_RUN_JOB": execution.job,
            "CLOUD_RUN_EXECUTION": task.execution,
            "CLOUD_RUN_TASK_INDEX": str(task.index),
            "CLOUD_RUN_TASK_COUNT": str(execution.task_count),
            "CLOUD_RUN_TASK_ATTEMPT": str(task.retried),
        }  # fmt: skip


async def _end(process: asyncio.subprocess.Process) -> None:
    """End a process as Cloud Run does: SIGTERM, ten seconds, SIGKILL."""
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
    try:
        await asyncio.wait_for(process.wait(), _GRACE_S)
    except TimeoutError:
        _kill_group(process)
        await process.wait()


async def _kill_later(process: asyncio.subprocess.Process, delay_s: float) -> None:
    await asyncio.sleep(delay_s)
    _kill_group(process)


def _kill_group(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(process.pid, signal.SIGKILL)
