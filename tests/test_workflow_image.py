"""Which image an environment gets, by the step of docker-build.yml, on a real repository and a registry on loopback.

The registry speaks the part of the OCI protocol that is asked for. docker is a stand-in, since it takes a daemon: it
keeps what a push or a copy would leave in the registry, and remembers how it was called.
"""

import json
import re
import shutil
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.test_infra_names import blocks, code
from tests.test_workflow_changes import Repository, _first
from tests.workflows import GITHUB, ROOT, WORKFLOWS, output, run_step, script, stand_in

HOST = "us-central1-docker.pkg.dev"
TOKEN = "ya29.a-token"
TESTED, OTHER = (f"sha256:{digit * 64}" for digit in "12")

__all__ = ["_first"]  # a fixture

DOCKER = """
import json, pathlib, sys, urllib.request
arguments, calls = sys.argv[1:], pathlib.Path("bin/calls")
calls.write_text(calls.read_text() + json.dumps(arguments) + "\\n" if calls.exists() else json.dumps(arguments) + "\\n")
registry = pathlib.Path("bin/registry").read_text()
def push(reference, digest):
    name, _, tag = reference.removeprefix("us-central1-docker.pkg.dev/").rpartition(":")
    urllib.request.urlopen(urllib.request.Request(f"{registry}/{name}/{tag}", digest.encode(), method="PUT"))
tags = [value for flag, value in zip(arguments, arguments[1:]) if flag == "--tag"]
if arguments[0] == "login":
    assert sys.stdin.read() == "ya29.a-token"
elif arguments[:3] == ["buildx", "imagetools", "create"]:
    digest = pathlib.Path("bin/misbehaves").read_text() if pathlib.Path("bin/misbehaves").exists() else None
    for tag in tags:
        push(tag, digest or arguments[-1].partition("@")[2])
elif arguments[:2] == ["buildx", "build"]:
    digest = "sha256:" + "1" * 64
    for tag in tags:
        push(tag, digest)
    metadata = pathlib.Path(arguments[arguments.index("--metadata-file") + 1])
    metadata.write_text(json.dumps({"containerimage.digest": digest}))
"""


@dataclass
class Registry:
    """Tags of a registry, and how often it was asked."""

    url: str = ""
    tags: dict[str, str] = field(default_factory=dict)
    status: int = 404
    headers: list[dict[str, str]] = field(default_factory=list)

    def add(self, environment: str, tag: str, digest: str) -> None:
        self.tags[f"shoufianesys/mlsys-{environment}/mlsys/{tag}"] = digest

    def digest(self, environment: str, tag: str) -> str | None:
        return self.tags.get(f"shoufianesys/mlsys-{environment}/mlsys/{tag}")


@pytest.fixture
def registry() -> Iterator[Registry]:
    """A registry that is empty; an answer of 404 for what it does not have."""
    it = Registry()

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            it.headers.append(dict(self.headers))
            digest = it.tags.get(self.path.removeprefix("/v2/").replace("/manifests/", "/"))
            self.send_response(200 if digest else it.status)
            if digest:
                self.send_header("Docker-Content-Digest", digest)
            self.end_headers()

        def do_PUT(self) -> None:
            name, digest = self.path[1:], self.rfile.read(int(self.headers["Content-Length"])).decode()
            clash = it.tags.get(name, digest) != digest  # tags are immutable
            if not clash:
                it.tags[name] = digest
            self.send_response(409 if clash else 201)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    it.url = f"http://127.0.0.1:{server.server_port}"
    yield it
    server.shutdown()
    thread.join()
    server.server_close()


@dataclass
class Scene:
    """A checkout, a registry, and the step between them."""

    repository: Repository
    registry: Registry

    def run(self, environment: str, commit: str | None = None) -> tuple[str | None, str]:
        """Run the step; return the image, or None when it failed, and what was said."""
        folder = self.repository.folder
        for left in (folder / "output", folder / "bin" / "calls"):
            left.unlink(missing_ok=True)
        done = run_step(
            *("docker-build", "image", "image.py", folder), REGISTRY=self.registry.url, ENVIRONMENT=environment,
            COMMIT=commit or self.commit, PROJECT="shoufianesys", REGION="us-central1", TOKEN=TOKEN,
        )  # fmt: skip
        assert "Traceback" not in done.stderr
        assert (done.returncode == 0) == ("image" in output(folder))
        return output(folder).get("image"), done.stdout + done.stderr

    @property
    def commit(self) -> str:
        return self.repository.git("rev-parse", "HEAD")

    @property
    def key(self) -> str:
        """The tag for the content of the image's files, as the script computes it."""
        with pytest.MonkeyPatch.context() as patch:
            patch.chdir(self.repository.folder)
            return script("changes").image_key("HEAD")

    def calls(self) -> list[list[str]]:
        """Return how docker was called, without logging in."""
        path = self.repository.folder / "bin" / "calls"
        calls = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [call for call in calls if call[0] != "login"]

    def built(self) -> bool:
        return any(call[:2] == ["buildx", "build"] for call in self.calls())


@pytest.fixture
def scene(_first, registry, tmp_path) -> Scene:
    repository = Repository(shutil.copytree(_first.folder, tmp_path / "repository", symlinks=True))
    stand_in(repository.folder, "docker", DOCKER)
    (repository.folder / "bin" / "registry").write_text(registry.url)
    return Scene(repository, registry)


def image(environment: str, digest: str) -> str:
    return f"{HOST}/shoufianesys/mlsys-{environment}/mlsys@{digest}"


def test_dev_builds_what_is_nowhere(scene):
    assert scene.run("dev")[0] == image("dev", TESTED)
    assert scene.registry.digest("dev", scene.commit) == scene.registry.digest("dev", scene.key) == TESTED
    (call,) = [call for call in scene.calls() if call[:2] == ["buildx", "build"]]
    assert {"VERSION=0.1.0", f"GIT_COMMIT={scene.commit}", "--push", "mode=max"} <= set(call)


def test_the_dockerfile_takes_what_it_is_told():
    told = set(re.findall(r'"--build-arg", f"(\w+)=', (GITHUB / "scripts" / "image.py").read_text()))
    assert told == {"VERSION", "GIT_COMMIT"}
    if (ROOT / "Dockerfile").exists():
        assert told <= set(re.findall(r"(?m)^ARG (\w+)", (ROOT / "Dockerfile").read_text()))


def test_a_second_attempt_takes_what_the_first_built(scene):
    scene.run("dev")
    assert scene.run("dev")[0] == image("dev", TESTED)
    assert scene.calls() == []


def test_another_commit_with_the_same_files_is_the_same_image(scene):
    scene.run("dev")
    scene.repository.commit("docs/page.md")
    assert scene.run("dev")[0] == image("dev", TESTED)
    assert not scene.built()
    assert scene.registry.digest("dev", scene.commit) == TESTED


def test_other_files_are_another_image(scene):
    before = scene.key
    scene.repository.commit("mlsys/model.py")
    assert scene.key != before


def test_staging_gets_the_image_that_dev_tested_although_a_rebase_renamed_the_commit(scene):
    scene.run("dev")
    tested = scene.commit
    scene.repository.git("commit", "--quiet", "--amend", "--message", "Rebased")
    assert scene.commit != tested
    assert scene.run("staging")[0] == image("staging", TESTED)
    assert not scene.built()
    assert all(call[-1] == image("dev", TESTED) and "--prefer-index=false" in call for call in scene.calls())
    assert scene.registry.digest("staging", "v0.1.0") == TESTED


def test_staging_builds_what_dev_never_had(scene):
    assert scene.run("staging")[0] == image("staging", TESTED)
    assert scene.built()
    assert scene.registry.digest("staging", "v0.1.0") == TESTED


def test_prod_gets_stagings_image_under_the_same_tag(scene):
    scene.run("staging")
    assert scene.run("prod")[0] == image("prod", TESTED)
    assert not scene.built()
    assert scene.registry.digest("prod", "v0.1.0") == TESTED


def test_deploying_a_version_again_changes_nothing(scene):
    for environment in ("staging", "prod"):
        scene.run(environment)
        before = dict(scene.registry.tags)
        assert scene.run(environment)[0] == image(environment, TESTED)
        assert scene.calls() == []
        assert scene.registry.tags == before


def test_prod_builds_nothing(scene):
    scene.run("dev")
    got, said = scene.run("prod")
    assert got is None
    assert "run the workflow staging on it first" in said
    assert not scene.built()


@pytest.mark.parametrize("environment", ["staging", "prod"])
def test_a_version_is_given_once(scene, environment):
    scene.registry.add(environment, "v0.1.0", OTHER)
    before = dict(scene.registry.tags)
    got, said = scene.run(environment)
    assert got is None
    assert "raise the version in pyproject.toml" in said
    assert scene.registry.tags == before
    assert scene.calls() == []


def test_a_version_that_was_raised_is_another_tag(scene):
    scene.registry.add("staging", "v0.1.0", OTHER)
    scene.repository.write("pyproject.toml", '[project]\nname = "mlsys"\nversion = "0.2.0"\n')
    scene.repository.commit()
    assert scene.run("staging")[0] == image("staging", TESTED)
    assert scene.registry.digest("staging", "v0.2.0") == TESTED


@pytest.mark.parametrize("status", [401, 403, 500])
def test_a_registry_that_does_not_answer_has_not_said_that_there_is_no_image(scene, status):
    scene.registry.status = status
    got, said = scene.run("dev")
    assert got is None
    assert f"HTTP {status}" in said
    assert scene.calls() == []


def test_a_copy_that_is_not_the_same_is_refused(scene):
    scene.run("dev")
    (scene.repository.folder / "bin" / "misbehaves").write_text(OTHER)
    got, said = scene.run("staging")
    assert got is None
    assert f"should be {TESTED}, the registry says {OTHER}" in said


@pytest.mark.parametrize("commit", ["HEAD", "abc123", "-" * 40])
def test_a_tag_is_a_whole_commit(scene, commit):
    got, said = scene.run("dev", commit)
    assert got is None
    assert "40 hexadecimal digits" in said or "expected one argument" in said


def test_the_registry_is_asked_with_the_accounts_token(scene):
    scene.run("dev")
    assert {headers["Authorization"] for headers in scene.registry.headers} == {f"Bearer {TOKEN}"}
    assert all("application/vnd.oci.image.index.v1+json" in headers["Accept"] for headers in scene.registry.headers)


def test_terraform_takes_the_image_and_names_its_repository_the_same():
    here = script("image").Repository("shoufianesys", "us-central1", "prod")
    pattern = re.findall(r'can\(regex\("([^"]+)", var.image\)\)', blocks("variable", code())["image"])
    assert all(
        re.search(each, f"{here.image}@{TESTED}") and re.search(each, f"{here.image}:v0.1.0") for each in pattern
    )
    repository = blocks("resource", code())["google_artifact_registry_repository.images"]
    assert 'repository_id = "mlsys-${var.environment}"' in repository
    assert script("image").BEFORE == {"dev": None, "staging": "dev", "prod": "staging"}
    assert 'promoted_from = lookup({ staging = "dev", prod = "staging" }' in code()
    assert WORKFLOWS["docker-build"]["jobs"]["image"]["steps"][-1]["env"]["COMMIT"] == "${{ inputs.commit }}"
