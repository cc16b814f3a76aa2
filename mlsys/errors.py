"""What mlsys raises on purpose. Each class is also the built-in that a caller would expect to catch."""

import linecache
from typing import ClassVar


class MlsysError(Exception):
    """Base of every error that mlsys raises on purpose: one line, the value received, the way out.

    ``exit_code`` is what the command line ends with.
    """

    exit_code: ClassVar[int] = 1

    def _render_traceback_(self) -> list[str]:
        return in_a_notebook(self)  # IPython asks for it: sixty lines of ours would hide the one that matters


def in_a_notebook(error: BaseException) -> list[str]:
    """Return what a notebook shows for an error: the line of the cell that failed, and what it says."""
    place, step = [], error.__traceback__
    while step is not None:
        if step.tb_frame.f_globals.get("__name__") == "__main__":
            code = linecache.getline(step.tb_frame.f_code.co_filename, step.tb_lineno).strip()
            place = [f"line {step.tb_lineno}: {code}"] if code and not code.startswith("get_ipython()") else []
        step = step.tb_next
    text = " ".join(str(error).split())
    return [*place, f"\x1b[31m{type(error).__name__}\x1b[0m: {text}", *getattr(error, "__notes__", ())]


class SettingsError(MlsysError, ValueError):
    """A setting has a value that cannot be used."""

    exit_code = 2


class InvalidNameError(MlsysError, ValueError):
    """A name does not have the form that mlsys and Google Cloud need."""

    exit_code = 2


class TableIdError(InvalidNameError):
    """A table path is not ``project.dataset.table``."""


class ModelRefError(InvalidNameError):
    """A model name or version is malformed."""


class NotFoundError(MlsysError, LookupError):
    """A table, an object, a model or a version is not there."""

    exit_code = 3


class AccessError(MlsysError, PermissionError):
    """Google Cloud refused the caller."""

    exit_code = 4


class SchemaError(MlsysError, ValueError):
    """Columns or types do not fit what a table or a model needs."""

    exit_code = 5


class QueryError(MlsysError, ValueError):
    """BigQuery refused a query, or it would cost more than allowed."""

    exit_code = 6


class VerificationError(MlsysError, ValueError):
    """Bytes are not those that were saved or registered. Nothing was unpickled."""

    exit_code = 7


class UntrustedError(VerificationError):
    """A pickle needs code that no model may use. It was not run."""


class AlreadyExistsError(MlsysError, FileExistsError):
    """An object or table that must be new is there already."""

    exit_code = 8


class PlotError(MlsysError, ValueError):
    """Data or options that cannot be drawn or evaluated."""


class TwinError(MlsysError, RuntimeError):
    """The offline twin could not be started or reached."""

    exit_code = 9


class MissingPackageError(MlsysError, ImportError):
    """Something needs a package that is not installed here."""


class ConflictError(MlsysError, RuntimeError):
    """Somebody else changed the same thing first."""

    exit_code = 10


class EnvironmentMismatchError(MlsysError, RuntimeError):
    """A model was trained with other packages than those that are installed."""

    exit_code = 11


class RejectedRowsError(MlsysError, ValueError):
    """A model cannot score more rows than a run tolerates."""

    exit_code = 12


class GateError(MlsysError, ValueError):
    """A version does not pass what its model must pass before it goes to the next environment."""

    exit_code = 13


class MissingRowsError(MlsysError, RuntimeError):
    """Rows of a run's input did not arrive, or were not loaded. Nothing was published: a new execution is needed."""

    exit_code = 14


class InterruptedRunError(MlsysError, RuntimeError):
    """A run was stopped, or lost a worker. Nothing of it is half published: try again, and it goes on."""

    exit_code = 75  # EX_TEMPFAIL of sysexits.h: a temporary failure
