"""Give an environment the image of a commit: one that is there already, a promoted one, or, failing these, a new one.

Run in a checkout of the commit, with docker, and an access token of the environment's build account in ``TOKEN``::

    python3 .github/scripts/image.py --environment dev --commit "$(git rev-parse HEAD)" --project p --region r

Prints ``image=…/mlsys@sha256:…`` and hands it to the workflow. Images have two tags that never move: the plan's (the
commit in dev, ``v{version}`` in staging and prod) and a key of their content (`changes.image_key`). Rebasing a pull
request gives its commit another name; the content, and with it the image that dev tested, stays. Prod builds nothing.
"""

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import tomllib
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from changes import image_key, write_output

BEFORE = {"dev": None, "staging": "dev", "prod": "staging"}  # where an environment's images are promoted from
_MANIFESTS = ", ".join([
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
])  # fmt: skip


class ImageError(Exception):
    """The image cannot be had; the message says what to do."""


@dataclass(frozen=True)
class Repository:
    """The images of one environment, as infra/artifact_registry.tf names them."""

    project: str
    region: str
    environment: str

    @property
    def host(self) -> str:
        """The registry's host."""
        return f"{self.region}-docker.pkg.dev"

    @property
    def image(self) -> str:
        """The image's name, to be followed by ``:tag`` or ``@digest``."""
        return f"{self.host}/{self.project}/mlsys-{self.environment}/mlsys"

    def digest(self, tag: str) -> str | None:
        """Ask the registry which digest a tag names; None when there is no such tag."""
        # REGISTRY is for tests: Google's registry speaks the same protocol as any other.
        registry = os.environ.get("REGISTRY", f"https://{self.host}")
        path = self.image.partition("/")[2]
        request = urllib.request.Request(f"{registry}/v2/{path}/manifests/{tag}", method="HEAD")  # noqa: S310 (above)
        request.add_header("Accept", _MANIFESTS)
        request.add_header("Authorization", f"Bearer {os.environ['TOKEN']}")
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:  # noqa: S310
                return answer.headers["Docker-Content-Digest"]
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise ImageError(f"{self.image}:{tag} cannot be looked up: HTTP {error.code} {error.reason}") from error


def plan_tag(environment: str, commit: str) -> str:
    """Return the tag that the plan gives an image: the commit in dev, the version of pyproject.toml after it."""
    if environment == "dev":
        return commit
    version = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    return f"v{version}"


def docker(*arguments: str, stdin: str | None = None) -> None:
    """Run docker; its output is the job's."""
    subprocess.run(["docker", *arguments], input=stdin, text=True, check=True)


def copy(source: str, digest: str, target: str, tag: str) -> None:
    """Give a tag to an image that is in the registry, unchanged."""
    docker("buildx", "imagetools", "create", "--prefer-index=false", "--tag", f"{target}:{tag}", f"{source}@{digest}")


def build(image: str, tags: list[str], *, version: str, commit: str) -> str:
    """Build the image, push it with its provenance, and return its digest."""
    docker("buildx", "create", "--use")  # a builder that can record provenance
    with tempfile.TemporaryDirectory() as folder:
        metadata = Path(folder) / "metadata.json"
        docker(
            *("buildx", "build", "--push", "--platform", "linux/amd64", "--provenance", "mode=max"),
            *("--build-arg", f"VERSION={version}", "--build-arg", f"GIT_COMMIT={commit}"),
            *(part for tag in tags for part in ("--tag", f"{image}:{tag}")),
            *("--metadata-file", str(metadata), "."),
        )
        return json.loads(metadata.read_text(encoding="utf-8"))["containerimage.digest"]


def provide(here: Repository, commit: str) -> str:
    """Return the image by digest, after making sure that it is there under its two tags."""
    tag, key = plan_tag(here.environment, commit), image_key(commit)
    there, same = here.digest(tag), here.digest(key)
    if there and there != same:
        raise ImageError(
            f"{here.image}:{tag} is {there}, made from other files than commit {commit[:12]} has: "
            "a tag is given once, so raise the version in pyproject.toml"
        )
    before = BEFORE[here.environment]
    source = Repository(here.project, here.region, before) if before else None
    docker("login", "--username", "oauth2accesstoken", "--password-stdin", here.host, stdin=os.environ["TOKEN"])
    if same:
        digest, how, tags = same, "was there", [] if there else [tag]
        source = here
    elif source and (tested := source.digest(key)):
        digest, how, tags = tested, f"promoted from {before}", [key, tag]
    elif here.environment == "prod":
        raise ImageError(f"staging has no image of commit {commit[:12]}'s files: run the workflow staging on it first")
    else:
        version = plan_tag("staging", commit).removeprefix("v")
        digest, how, tags = build(here.image, [key, tag], version=version, commit=commit), "built", []
    for name in tags:
        copy(source.image if source else here.image, digest, here.image, name)
    for name in (key, tag):
        if (found := here.digest(name)) != digest:
            raise ImageError(f"{here.image}:{name} should be {digest}, the registry says {found}")
    sys.stdout.write(f"{here.image}:{tag} {how}\n")
    return f"{here.image}@{digest}"


def main() -> int:
    """Provide the image that the command line asks for; say in one line why it cannot be had."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--environment", required=True, choices=sorted(BEFORE))
    parser.add_argument("--commit", required=True, help="full name of the commit that is checked out")
    parser.add_argument("--project", required=True)
    parser.add_argument("--region", required=True)
    arguments = parser.parse_args()
    try:
        if not re.fullmatch("[0-9a-f]{40}", arguments.commit):
            raise ImageError(f"--commit must be a commit's 40 hexadecimal digits, got {arguments.commit!r}")
        here = Repository(arguments.project, arguments.region, arguments.environment)
        write_output(image=provide(here, arguments.commit))
    except (ImageError, subprocess.CalledProcessError, urllib.error.URLError) as error:
        sys.stderr.write(f"::error::{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
