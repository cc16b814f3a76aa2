"""Change detection on real repositories, by the step of pr.yml that runs it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.workflows import GITHUB, ROOT, output, run, run_step, script

WHO = {
    **{f"GIT_{who}_{what}": value for who in ("AUTHOR", "COMMITTER")
       for what, value in [("NAME", "Ada"), ("EMAIL", "ada@example.com"), ("DATE", "2026-01-31T12:00:00Z")]},
}  # fmt: skip


class Repository:
    """A small checkout with a copy of the workflows' scripts, on branch main."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @classmethod
    def new(cls, folder: Path) -> "Repository":
        self = cls(folder)
        folder.mkdir()
        self.git("init", "--quiet", "--initial-branch=main")
        shutil.copytree(
            GITHUB / "scripts", folder / ".github" / "scripts", ignore=shutil.ignore_patterns("__pycache__")
        )
        for path in ("mlsys/model.py", "scripts/predict.py", "docs/page.md", "infra/main.tf", "Dockerfile", "uv.lock"):
            self.write(path)
        self.write("pyproject.toml", '[project]\nname = "mlsys"\nversion = "0.1.0"\n')
        self.write(".gitignore", "/bin/\n/output\n__pycache__/\n")
        self.commit()
        self.git("switch", "--quiet", "--create", "branch")
        return self

    def git(self, *arguments: str) -> str:
        done = run(["git", *arguments], self.folder, **WHO)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    def write(self, path: str, text: str = "one\ntwo\nthree\n") -> None:
        file = self.folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)

    def commit(self, *paths: str) -> str:
        """Change files and commit all there is; return the commit."""
        for path in paths:
            self.write(path, f"changed: {path!r}\n")
        self.git("add", "--all")
        self.git("commit", "--quiet", "--allow-empty", "--message", "Change")
        return self.git("rev-parse", "HEAD")

    def decide(self, base: str = "main", head: str = "HEAD") -> tuple[str, str]:
        """Run the workflow's step; return its decision and what it printed."""
        done = run_step("pr", "changes", "changes.py", self.folder, BASE=base, HEAD=head)
        assert done.returncode == 0, done.stderr
        return output(self.folder)["build"], done.stdout


@pytest.fixture(scope="module")
def _first(tmp_path_factory) -> Repository:
    return Repository.new(tmp_path_factory.mktemp("git") / "first")


@pytest.fixture
def repository(_first, tmp_path) -> Repository:
    """A repository of this test's own, on a branch that changed nothing yet."""
    return Repository(shutil.copytree(_first.folder, tmp_path / "repository", symlinks=True))


@pytest.mark.parametrize(
    "path",
    ["src/new.py", "mlsys/model.py", "mlsys/registry/sql/new.sql", "scripts/serve.py", "pyproject.toml", "uv.lock",
     "Dockerfile", ".dockerignore", 'mlsys/näme "quoted" and\n.py', "mlsys/ space", "mlsys/*"],
)  # fmt: skip
def test_what_is_in_the_image_is_built(repository, path):
    repository.commit(path, "docs/page.md")
    assert repository.decide()[0] == "true"


@pytest.mark.parametrize(
    "path",
    ["README.md", "infra/main.tf", "tests/test_names.py", "dags/titanic_survival_dag.py", ".github/workflows/pr.yml",
     "notebooks/scripts/a.py", "docs/mlsys/model.py", "docs/uv.lock", "mlsys.md", "scripts2/a.py", "Dockerfile.md",
     'docs/ü "mlsys"\n.md', "--mlsys", "docs/:(glob)mlsys"],
)  # fmt: skip
def test_anything_else_is_not(repository, path):
    repository.commit(path)
    assert repository.decide() == ("false", "no file of the image changes\nbuild=false\n")


def test_nothing_changed_is_not_built(repository):
    repository.commit()
    assert repository.decide()[0] == "false"


def test_a_change_that_was_taken_back_is_not_built(repository):
    repository.commit("mlsys/model.py")
    repository.write("mlsys/model.py")
    repository.commit()
    assert repository.decide()[0] == "false"


@pytest.mark.parametrize(
    "change",
    [
        lambda it: it.git("rm", "--quiet", "mlsys/model.py"),
        lambda it: it.git("mv", "mlsys/model.py", "docs/model.py"),
        lambda it: it.git("mv", "docs/page.md", "mlsys/page.md"),
        lambda it: it.git("mv", "mlsys/model.py", "mlsys/other.py"),
        lambda it: (it.folder / "scripts" / "predict.py").chmod(0o755),
        lambda it: (it.git("rm", "--quiet", "uv.lock"), (it.folder / "uv.lock").symlink_to("docs/page.md")),
    ],
    ids=[
        "deleted",
        "renamed out of the list",
        "renamed into the list",
        "renamed within the list",
        "made executable",
        "made a link",
    ],
)
def test_a_change_that_is_no_edit_is_built(repository, change):
    change(repository)
    repository.commit()
    assert repository.decide()[0] == "true"


def test_a_rename_beside_the_list_is_not_built(repository):
    repository.git("mv", "docs/page.md", "docs/other.md")
    repository.commit()
    assert repository.decide()[0] == "false"


def test_what_main_did_meanwhile_is_not_the_branchs_change(repository):
    repository.commit("docs/page.md")
    repository.git("switch", "--quiet", "main")
    repository.commit("mlsys/model.py")
    assert repository.decide("main", "branch")[0] == "false"


def _merge_of_main(it: Repository) -> None:
    it.commit("docs/page.md")
    it.git("switch", "--quiet", "main")
    it.commit("mlsys/model.py")
    it.git("switch", "--quiet", "branch")
    it.git("merge", "--quiet", "--no-edit", "main")


def _unrelated(it: Repository) -> None:
    it.git("reset", "--quiet", "--soft", it.git("commit-tree", "HEAD^{tree}", "-m", "From nowhere"))


@pytest.mark.parametrize(
    ("prepare", "base", "reason"),
    [
        (_merge_of_main, "main", "a merge"),
        (_unrelated, "main", "git cannot compare"),
        (Repository.commit, "", "no commit to compare with"),
        (Repository.commit, "0" * 40, "no commit to compare with"),
        (Repository.commit, "1" * 40, "git cannot compare"),
        (Repository.commit, "nowhere", "git cannot compare"),
        (Repository.commit, "--output=x", "git cannot compare"),
    ],
    ids=["merge commit", "unrelated histories", "no base", "first push", "base was force-pushed away", "unknown base",
         "base like an option"],
)  # fmt: skip
def test_when_unsure_it_is_built(repository, prepare: Callable, base, reason):
    prepare(repository)
    build, printed = repository.decide(base)
    assert build == "true"
    assert reason in printed


def test_a_shallow_clone_is_built(repository, tmp_path):
    repository.commit("docs/page.md")
    main, branch = repository.git("rev-parse", "main"), repository.git("rev-parse", "HEAD")
    shallow = Repository(tmp_path / "shallow")
    origin = f"file://{repository.folder}"
    repository.git("clone", "--quiet", "--depth=1", "--branch=branch", origin, str(shallow.folder))
    assert shallow.decide(main, branch) == ("true", "the clone is shallow: what came before is not known\nbuild=true\n")


def test_a_branch_that_was_rewritten_is_compared_where_it_now_leaves_main(repository):
    repository.commit("mlsys/model.py")
    repository.git("reset", "--quiet", "--hard", "main")
    repository.commit("docs/page.md")  # force-pushed over the first
    assert repository.decide()[0] == "false"


def test_where_there_is_no_repository_it_is_built(tmp_path):
    shutil.copytree(GITHUB / "scripts", tmp_path / ".github" / "scripts")
    done = run_step("pr", "changes", "changes.py", tmp_path, BASE="main", HEAD="HEAD")
    assert done.returncode == 0
    assert output(tmp_path) == {"build": "true"}


def test_settings_of_the_user_change_nothing(repository):
    for setting in ("diff.renames", "diff.noprefix", "core.quotePath"):
        repository.git("config", setting, "true")
    repository.git("mv", "mlsys/model.py", "docs/model.py")
    repository.commit()
    assert repository.decide()[0] == "true"


def test_the_list_is_the_plans_and_what_the_dockerfile_copies():
    paths = script("changes").IMAGE_PATHS
    assert set(paths) >= {"src/**", "mlsys/**", "scripts/**", "pyproject.toml", "uv.lock", "Dockerfile"}
    folders = {path.removesuffix("/**") for path in paths}
    for line in (ROOT / "Dockerfile").read_text().splitlines() if (ROOT / "Dockerfile").exists() else []:
        words = line.split()
        if words[:1] == ["COPY"] and "--from=" not in line:
            copied = {word.removeprefix("./").split("/")[0] for word in words[1:-1] if not word.startswith("--")}
            assert copied - {"README.md", ".python-version"} <= folders, line  # metadata; held to Dockerfile by a test
