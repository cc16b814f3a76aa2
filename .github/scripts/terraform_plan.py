"""Plan an environment with what the GitHub environment ``gcp`` says, given to Terraform on its command line.

Run in ``infra/`` after ``terraform init``. Reads ``ENVIRONMENT``, ``IMAGE`` (empty: the one that is deployed),
``REPOSITORY`` and the variables below; what is empty is left out, so that the defaults of variables.tf hold. The plan
is saved, to be applied as it was shown.
"""

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping

ENVIRONMENTS = ("dev", "staging", "prod")


class PlanError(Exception):
    """There is nothing to plan with; the message says what to do."""


def deployed_image() -> str:
    """Return the image that this environment's state says is deployed."""
    done = subprocess.run(["terraform", "output", "-json"], capture_output=True, text=True, check=True)
    image = json.loads(done.stdout).get("image", {}).get("value")
    if not image:
        raise PlanError("nothing is deployed here yet: do steps 5 to 7 of infra/README.md first")
    return image


def variables(settings: Mapping[str, str], image: str) -> dict[str, str]:
    """Return Terraform's variables, as they are written on its command line."""
    env = settings["ENVIRONMENT"]
    if env not in ENVIRONMENTS:
        raise PlanError(f"ENVIRONMENT must be dev, staging or prod, got {env!r}")
    buckets = {name: settings.get(f"GCS_BUCKET_MODELS_{name.upper()}", "") for name in ENVIRONMENTS}
    if any(buckets.values()) and not all(buckets.values()):
        raise PlanError(f"set all of GCS_BUCKET_MODELS_DEV, _STAGING and _PROD, or none of them, got {buckets}")
    values = {
        "alert_emails": _list(settings.get("ALERT_EMAILS", "")),
        "composer_bucket": settings.get(f"COMPOSER_BUCKET_{env.upper()}", ""),
        "composer_service_account": settings.get(f"COMPOSER_SERVICE_ACCOUNT_{env.upper()}", ""),
        "environment": env,
        "github_repository": settings.get("REPOSITORY", ""),
        "image": image,
        "model_buckets": json.dumps(buckets) if all(buckets.values()) else "",
        "project_id": settings.get("GCP_PROJECT_ID", ""),
        "region": settings.get("GCP_REGION", ""),
        "service_invokers": _list(settings.get("SERVICE_INVOKERS", "")),
    }
    return {name: value for name, value in values.items() if value}


def _list(text: str) -> str:
    items = [item for item in re.split(r"[,\s]+", text) if item]
    return json.dumps(items) if items else ""


def main() -> int:
    """Run ``terraform plan``; say in one line why it cannot be."""
    try:
        given = variables(os.environ, os.environ.get("IMAGE") or deployed_image())
    except PlanError as error:
        sys.stderr.write(f"::error::{error}\n")
        return 1
    arguments = [part for name, value in given.items() for part in ("-var", f"{name}={value}")]
    command = ["terraform", "plan", "-input=false", "-lock-timeout=10m", f"-out={given['environment']}.tfplan"]
    return subprocess.run([*command, *arguments], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
