"""``%load_ext mlsys``: the cell magic ``%%bq``, and Google's errors in one line like those of mlsys."""

from types import TracebackType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell


def load_ipython_extension(shell: "InteractiveShell") -> None:
    """Add ``%%bq`` to a notebook or IPython, and let errors of Google's clients be one line there."""
    from google.api_core.exceptions import GoogleAPIError
    from google.auth.exceptions import GoogleAuthError

    from mlsys.jupyter.magic import BigQueryMagics

    shell.register_magics(BigQueryMagics)
    shell.set_custom_exc((GoogleAPIError, GoogleAuthError), _show)


def unload_ipython_extension(shell: "InteractiveShell") -> None:
    """Take both away again."""
    shell.magics_manager.magics["cell"].pop("bq", None)
    shell.set_custom_exc((), None)


def _show(
    shell: "InteractiveShell",
    kind: type[Exception],
    error: Exception,
    _traceback: TracebackType | None,
    tb_offset: int | None = None,  # noqa: ARG001 - IPython passes it by name
) -> list[str]:
    from mlsys.errors import in_a_notebook

    lines = in_a_notebook(error)
    shell._showtraceback(kind, error, lines)
    return lines
