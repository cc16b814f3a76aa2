"""A bar where a person watches, and silence in pipes, logs and CI."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO

_SHOW_AFTER = 1.0  # seconds: what is done before needs no bar


def a_person_watches() -> bool:
    """Say whether standard error is a terminal, or the output of a notebook."""
    shell = sys.modules.get("IPython")
    kernel = shell is not None and hasattr(shell.get_ipython(), "kernel")
    return kernel or (sys.stderr is not None and sys.stderr.isatty())


@contextmanager
def rows_bar(
    label: str, wanted: bool | None, unit: str = " rows"
) -> Iterator[Callable[[int | None], Callable[[int], object]]]:
    """Give a function that starts a bar for a number of rows and returns what advances it.

    ``wanted`` forces the bar on or off; None shows it to a person, once the work has taken a second.
    """
    if not (a_person_watches() if wanted is None else wanted):
        yield lambda _total: lambda _rows: None
        return
    from tqdm.auto import tqdm

    bar = tqdm(desc=label, unit=unit, unit_scale=True, delay=_SHOW_AFTER if wanted is None else 0)

    def start(total: int | None) -> Callable[[int], object]:
        bar.total = total
        return bar.update

    with bar:
        yield start


@contextmanager
def bytes_bar(file: IO[bytes], method: str, label: str, size: int, wanted: bool | None) -> Iterator[IO[bytes]]:
    """Give ``file`` back with a bar on its ``method`` (``read`` or ``write``) for ``size`` bytes; see `rows_bar`."""
    if not (a_person_watches() if wanted is None else wanted):
        yield file
        return
    from tqdm.auto import tqdm

    options = {"unit": "B", "unit_scale": True, "unit_divisor": 1024, "delay": _SHOW_AFTER if wanted is None else 0}
    with tqdm.wrapattr(file, method, total=size, desc=label, **options) as wrapped:
        yield wrapped
