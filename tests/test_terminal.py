"""Tables as they come to a terminal of some width, and to a pipe."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import pytest

SHOW = """
import pandas as pd
from mlsys.terminal import print_rows
frame = pd.DataFrame({
    "run_id": ["first-run-of-the-titanic-survival", "other-run-of-the-titanic-survival"],
    "started (UTC)": pd.to_datetime(["2026-01-31T06:00:00Z", None]),
    "rows": [1309, -1],
    "reason": [None, "rows are missing: " + "run it again " * 20],
})
"""
RUNS = SHOW + "print_rows(frame)"


def shown(width: int, program: str = RUNS) -> list[str]:
    """Return the lines that a terminal of ``width`` columns gets, without colours and trailing blanks."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    kept = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = subprocess.Popen([sys.executable, "-c", program], stdout=theirs, env=kept | {"TERM": "xterm"})
    os.close(theirs)
    text = b""
    while True:
        try:
            text += (more := os.read(ours, 65536))
        except OSError:  # what Linux says when the other end is closed
            break
        if not more:
            break
    os.close(ours)
    assert process.wait(timeout=60) == 0
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text.decode())
    assert all(len(line) <= width for line in plain.splitlines())
    return [line.rstrip() for line in plain.splitlines()]


def test_a_wide_terminal_gets_a_table_in_which_text_wraps_and_nothing_else():
    lines = shown(120)
    assert re.fullmatch(r" run_id +started \(UTC\) +rows +reason", lines[1])
    assert re.fullmatch(r" first-run-of-the-titanic-survival +2026-01-31 06:00:00 UTC +1309 +NULL", lines[3])
    assert sum("run it again" in line for line in lines) > 1


@pytest.mark.parametrize("width", [60, 72])
def test_a_narrow_one_gets_the_rows_one_by_one(width):
    lines = shown(width)
    assert " run_id          first-run-of-the-titanic-survival" in lines
    assert " started (UTC)   2026-01-31 06:00:00 UTC" in lines
    assert " rows            -1" in lines
    assert " ".join(" ".join(lines).split()).count("run it again") == 20


def test_no_rows_still_have_columns():
    assert " ".join(shown(24, SHOW + "print_rows(frame.head(0))")).split()[:1] == ["run_id"]


def test_long_names_leave_room_for_values():
    lines = shown(60, SHOW + "print_rows(frame[['run_id']].rename(columns={'run_id': '#' * 70}))")
    assert " ".join(lines).count("#") == 2 * 70
    assert "".join("".join(lines).replace("#", " ").split()).startswith("first-run-of-the-titanic-survival")


def test_a_pipe_gets_whole_lines():
    done = subprocess.run([sys.executable, "-c", RUNS], capture_output=True, text=True, timeout=60, check=True)
    assert re.search(r"other-run-of-the-titanic-survival +NULL +-1 +rows are missing: (run it again ){20}", done.stdout)
