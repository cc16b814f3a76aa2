"""Say whether the image must be built: whether a commit changes what is in it. When unsure, it must.

Standard library and git only, so that a workflow runs it with the runner's own python3::

    python3 .github/scripts/changes.py --base origin/main --head HEAD

Prints ``build=true`` or ``build=false`` with the reason, and hands it to the workflow through ``GITHUB_OUTPUT``.
"""

import argparse
import hashlib
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

# What is in the image, as git's own glob pathspecs: the plan's list, and what is left out of the build. A test holds
# them to what the Dockerfile copies. README.md is not among them: as the package's description, it changes nothing.
IMAGE_PATHS = (
    "src/**",
    "mlsys/**",
    "scripts/**",
    "pyproject.toml",
    "uv.lock",
    "Dockerfile",
    ".dockerignore",
)

_EMPTY_TREE = "4b825dc642cb6eb9a060e54bf8d69288fbee4904"  # pragma: allowlist secret  # known to git everywhere
_ZEROS = "0" * 40  # what GitHub gives as the commit before a branch's first push


@dataclass(frozen=True)
class Decision:
    """Whether to build the image, and why."""

    build: bool
    reason: str


class GitError(Exception):
    """Git could not answer."""


def git(*arguments: str) -> bytes:
    """Run git in the current folder and return what it prints."""
    done = subprocess.run(["git", *arguments], capture_output=True, check=False)
    if done.returncode:
        raise GitError(done.stderr.decode(errors="replace").strip() or f"git {arguments[0]} failed")
    return done.stdout


def image_changes(before: str, after: str) -> list[bytes]:
    """Return raw lines, NUL-separated by git, of the image's files that differ between two trees.

    diff-tree takes no configuration of the user's, and without rename detection a file that moves out of the list is
    one that was deleted from it.
    """
    globs = [f":(top,glob){path}" for path in IMAGE_PATHS]
    out = git("diff-tree", "-r", "-z", "--no-renames", before, after, "--", *globs)
    fields = out.split(b"\0")[:-1]
    return [meta + b" " + path for meta, path in zip(fields[::2], fields[1::2], strict=True)]


def image_key(commit: str) -> str:
    """Return a tag for the content of the image's files: commits with the same files share an image."""
    lines = image_changes(_EMPTY_TREE, f"{commit}^{{tree}}")
    return f"content-{hashlib.sha256(b'\0'.join(lines)).hexdigest()[:40]}"


def decide(base: str, head: str) -> Decision:
    """Compare a commit with where it left the base; see `IMAGE_PATHS`."""
    if base in ("", _ZEROS):
        return Decision(True, "there is no commit to compare with")
    try:
        if git("rev-parse", "--is-shallow-repository").strip() == b"true":
            return Decision(True, "the clone is shallow: what came before is not known")
        base, head = (git("rev-parse", "--verify", "--end-of-options", f"{name}^{{commit}}").decode().strip()
                      for name in (base, head))  # fmt: skip
        if git("rev-list", "--merges", f"{base}..{head}"):
            return Decision(True, "a merge brings changes from elsewhere")
        changes = image_changes(git("merge-base", base, head).decode().strip(), head)  # without merges, there is one
    except GitError as error:
        return Decision(True, f"git cannot compare: {error}")
    if changes:
        first = changes[0].split(b" ", 5)[5].decode(errors="backslashreplace")
        return Decision(True, f"{len(changes)} files of the image change, first {first!r}")
    return Decision(False, "no file of the image changes")


def write_output(**values: str) -> None:
    """Hand values to the workflow's next steps, and print them."""
    lines = "".join(f"{name}={value}\n" for name, value in values.items())
    sys.stdout.write(lines)
    if path := os.environ.get("GITHUB_OUTPUT"):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(lines)


def main() -> None:
    """Decide for two commits given on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--base", required=True, help="commit that is deployed or will be merged into; empty: none")
    parser.add_argument("--head", required=True, help="commit to decide for")
    arguments = parser.parse_args()
    decision = decide(arguments.base, arguments.head)
    sys.stdout.write(f"{decision.reason}\n")
    write_output(build=str(decision.build).lower())


if __name__ == "__main__":
    main()
