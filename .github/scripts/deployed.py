"""See a model's deployment through: its job and its service run the image, and only who should can call the service.

python3 .github/scripts/deployed.py --name titanic-survival-dev --access public --image …@sha256:… \
        --project p --region r
"""

import argparse
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request

_FORBIDDEN = {401, 403}
_PATIENCE_S = 300  # a new role takes Google a few minutes


class DeploymentError(Exception):
    """What runs is not what was deployed."""


def describe(kind: str, name: str, project: str, region: str) -> dict:
    """Return what Cloud Run says about a job or a service."""
    command = ["gcloud", "run", kind, "describe", name, f"--project={project}", f"--region={region}", "--format=json"]
    return json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


def check_image(what: str, template: dict, image: str) -> None:
    """Refuse a container that runs another image."""
    (container,) = template["spec"]["containers"]
    if container["image"] != image:
        raise DeploymentError(f"{what} runs {container['image']}, not {image}")


def check_service(service: dict, image: str) -> str:
    """Refuse a service whose newest revision does not serve; return its address."""
    check_image("the service", service["spec"]["template"], image)
    status = service["status"]
    ready = next(condition for condition in status["conditions"] if condition["type"] == "Ready")
    if ready["status"] != "True" or status["latestReadyRevisionName"] != status["latestCreatedRevisionName"]:
        raise DeploymentError(f"the service is not ready: {ready.get('message', 'its newest revision does not serve')}")
    return status["url"]


def answer_to_anybody(url: str) -> int:
    """Return the HTTP status that somebody without a token gets."""
    try:
        with urllib.request.urlopen(url, timeout=60) as answer:  # noqa: S310 (Cloud Run's own address)
            return answer.status
    except urllib.error.HTTPError as error:
        return error.code


def check_access(url: str, access: str, patience: float = _PATIENCE_S) -> None:
    """Refuse a public service that asks for a token, and a private one that does not."""
    end = time.monotonic() + patience
    while ((status := answer_to_anybody(url)) in _FORBIDDEN) != (access == "private"):
        if time.monotonic() >= end:
            raise DeploymentError(f"the service should be {access}, but answers anybody with HTTP {status}")
        time.sleep(min(10, patience))


def main() -> int:
    """Check the deployment that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--name", required=True, help="of the job and the service, as titanic-survival-dev")
    parser.add_argument("--access", required=True, choices=["public", "private"])
    parser.add_argument("--image", required=True)
    parser.add_argument("--project", required=True)
    parser.add_argument("--region", required=True)
    parser.add_argument("--patience", type=float, default=_PATIENCE_S, help="seconds that a new role may take")
    it = parser.parse_args()
    try:
        job = describe("jobs", it.name, it.project, it.region)
        check_image("the job", job["spec"]["template"]["spec"]["template"], it.image)
        url = check_service(describe("services", it.name, it.project, it.region), it.image)
        check_access(url, it.access, it.patience)
    except (DeploymentError, urllib.error.URLError) as error:
        sys.stderr.write(f"::error::{it.name}: {error}\n")
        return 1
    except subprocess.CalledProcessError as error:
        sys.stderr.write(f"::error::{it.name}: {error.stderr.strip()}\n")
        return 1
    sys.stdout.write(f"{it.name} runs {it.image} and is {it.access}: {url}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
