"""Workflows hold to the plan, to names.py, to infra/ and to each other, and their steps' shell does what it says.

What actionlint, shellcheck and zizmor check is not checked again here. Tools that need the cloud (gcloud, terraform,
gh) are stand-ins that remember how they were called.
"""

import ast
import json
import re
import shutil
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

import tests.test_campaigns
from mlsys.names import ci_job, dag_id
from mlsys.settings import Environment, Settings
from tests.test_infra_names import blocks, code
from tests.workflows import (
    FILES,
    GITHUB,
    LOGIN,
    ROOT,
    WORKFLOWS,
    called,
    jobs,
    load,
    output,
    run,
    run_step,
    script,
    stand_in,
    steps,
)

ENVIRONMENTS = [str(env) for env in Environment if env is not Environment.LOCAL]
IMAGE = f"us-central1-docker.pkg.dev/shoufianesys/mlsys-dev/mlsys@sha256:{'1' * 64}"
OTHER_IMAGE = IMAGE.replace("1" * 64, "2" * 64)

# A tool that writes down how it was called, and what else the test wants of it.
REMEMBER = """
import json, pathlib, sys
with pathlib.Path(__file__).with_name("calls").open("a") as calls:
    calls.write(json.dumps(sys.argv[1:]) + "\\n")
"""


def calls(folder) -> list[list[str]]:
    path = folder / "bin" / "calls"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


# --- form -----------------------------------------------------------------------------------------


def test_the_plans_workflows_are_there():
    planned = {"pr", "staging", "prod", "deploy-dag", "terraform-workflow", "docker-build"}
    assert planned <= set(WORKFLOWS)
    assert {called(job) for _, _, job in jobs() if called(job)} <= set(WORKFLOWS)


def test_nothing_is_permitted_that_a_job_does_not_ask_for_with_a_reason():
    for path in FILES:
        assert re.search(r"(?m)^permissions: \{\}$", path.read_text()), path.name
        for line in re.findall(r"(?m)^ +[a-z-]+: (?:read|write)\b.*$", path.read_text()):
            assert re.search(r" # \w+", line), f"{path.name}: {line}"
    for workflow, name, job in jobs():
        assert "permissions" in job, f"{workflow}: {name}"


def test_only_jobs_that_log_in_may_ask_for_an_identity():
    for workflow, name, job in jobs():
        logs_in = any("google-login" in step.get("uses", "") for step in job.get("steps", []))
        may = job["permissions"] and job["permissions"].get("id-token") == "write"
        assert bool(may) == (logs_in or called(job) is not None), f"{workflow}: {name}"


def test_actions_are_pinned_by_commit_with_the_version_beside_it():
    for path in [*FILES, LOGIN]:
        for line in re.findall(r"(?m)^.*\buses: .*$", path.read_text()):
            assert re.search(r"uses: (\$/\.github/[\w./-]+$|[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+$)", line), line


def test_one_action_has_one_version():
    pins = re.findall(r"uses: ([\w/-]+)@(\w+)", "".join(path.read_text() for path in [*FILES, LOGIN]))
    assert len(set(pins)) == len({action for action, _ in pins})


def test_no_expression_is_pasted_into_a_shell():
    for workflow, name, step in steps():
        assert "${{" not in step.get("run", ""), f"{workflow}: {name}: {step['run']}"


def test_a_step_that_fails_in_a_pipe_fails():
    for workflow, name, job in jobs(with_steps=True):
        if any("run" in step for step in job["steps"]):
            default = {**WORKFLOWS[workflow].get("defaults", {}), **job.get("defaults", {})}
            assert default["run"]["shell"] == "bash", f"{workflow}: {name}"


def test_longer_shell_is_a_script():
    for workflow, name, step in steps():
        assert len(step.get("run", "").splitlines()) <= 10, f"{workflow}: {name}"


def test_a_checkout_leaves_no_credentials_and_takes_the_commit_that_was_asked_for():
    for workflow, name, step in steps():
        if step.get("uses", "").startswith("actions/checkout@"):
            assert step["with"]["persist-credentials"] == "false", f"{workflow}: {name}"
            wanted = {"pr": "${{ github.event.pull_request.head.sha }}"}
            if "workflow_call" in WORKFLOWS[workflow]["on"]:
                wanted[workflow] = "${{ inputs.commit }}"
            assert step["with"].get("ref") == wanted.get(workflow), f"{workflow}: {name}"


def test_every_job_ends():
    for workflow, name, job in jobs(with_steps=True):
        assert 0 < int(job["timeout-minutes"]) <= 120, f"{workflow}: {name}"
        assert job["runs-on"] == "ubuntu-24.04", f"{workflow}: {name}"


def test_inputs_outputs_and_secrets_are_described():
    for path in [*FILES, LOGIN]:
        content = load(path)
        on = content.get("on", {}) or {}
        kinds = [content.get(kind, {}) for kind in ("inputs", "outputs")]
        kinds += [(on.get(event) or {}).get(kind, {}) for event in ("workflow_call", "workflow_dispatch")
                  for kind in ("inputs", "outputs", "secrets")]  # fmt: skip
        for kind in kinds:
            assert all(len(it["description"]) > 10 for it in kind.values()), path


# --- the three tiers ------------------------------------------------------------------------------


def leads_to(workflow: str, wanted: str) -> bool:
    """Say whether a workflow calls another, or one that does."""
    return workflow == wanted or any(leads_to(called(job), wanted) for job in WORKFLOWS[workflow]["jobs"].values()
                                     if called(job))  # fmt: skip


def test_pull_requests_staging_and_prod_are_deployed_the_same_way():
    for workflow, env in [("pr", "dev"), ("staging", "staging"), ("prod", "prod")]:
        (job,) = [job for job in WORKFLOWS[workflow]["jobs"].values() if called(job)]
        assert called(job) == "deploy"
        assert job["with"]["environment"] == env
        commit = "${{ github.event.pull_request.head.sha }}" if env == "dev" else "${{ github.sha }}"
        assert job["with"]["commit"] == commit
    assert leads_to("prod", "terraform-workflow")
    assert leads_to("prod", "docker-build")


def test_dev_is_what_passed_the_checks_and_is_built_when_the_image_changes():
    dev = WORKFLOWS["pr"]["jobs"]["dev"]
    assert dev["needs"] == ["checks", "changes"]
    assert dev["with"]["build"] == "${{ needs.changes.outputs.build == 'true' }}"
    assert WORKFLOWS["pr"]["jobs"]["checks"]["steps"][-1]["run"] == "bash .ci/run"


def test_terraform_comes_first_then_the_image_and_then_what_runs_it():
    deploy = WORKFLOWS["deploy"]["jobs"]
    assert list(deploy) == ["terraform", "image", "rollout", "model"]
    assert [deploy[job].get("needs") for job in deploy] == [None, "terraform", "image", ["image", "rollout"]]
    assert "image" not in deploy["terraform"]["with"]
    assert deploy["rollout"]["with"]["image"] == "${{ needs.image.outputs.image }}"
    assert deploy["image"]["if"] == "inputs.build"


def test_an_apply_is_never_cancelled_and_never_beside_another():
    for workflow, content in WORKFLOWS.items():
        if not leads_to(workflow, "terraform-workflow"):
            continue
        settings = [content.get("concurrency")]
        settings += [job.get("concurrency") for job in content["jobs"].values() if called(job) or workflow != "pr"]
        assert {it["cancel-in-progress"] for it in settings if it} <= {"false"}, workflow
    assert WORKFLOWS["deploy"]["concurrency"] == {
        "group": "deploy-${{ inputs.environment }}",
        "cancel-in-progress": "false",
    }
    assert all(
        workflow == "deploy" for workflow, _, job in jobs() if called(job) in {"terraform-workflow", "docker-build"}
    )
    assert WORKFLOWS["prod"]["concurrency"] == {"group": "prod", "cancel-in-progress": "false"}


def test_checks_of_a_commit_that_was_replaced_are_cancelled():
    for name in ("checks", "changes"):
        concurrency = WORKFLOWS["pr"]["jobs"][name]["concurrency"]
        assert concurrency["cancel-in-progress"] == "true"
        assert concurrency["group"] == name + "-${{ github.event.pull_request.number }}"


@pytest.mark.parametrize(
    ("from_here", "author", "deployed"),
    [(True, "ada", True), (False, "ada", False), (True, "dependabot[bot]", False)],
    ids=["own branch", "fork", "Dependabot"],
)
def test_forks_and_dependabot_meet_no_credentials(from_here, author, deployed):
    condition = WORKFLOWS["pr"]["jobs"]["dev"]["if"]
    for name, value in {
        "github.event.pull_request.head.repo.full_name": "example/mlsys" if from_here else "mallory/mlsys",
        "github.event.pull_request.user.login": author,
        "github.repository": "example/mlsys",
    }.items():
        condition = condition.replace(name, repr(value))
    tree = ast.parse(condition.replace("&&", "and").strip(), mode="eval")
    assert eval(compile(tree, "if", "eval"), {"__builtins__": {}}) is deployed


def test_what_forks_may_run_has_nothing_to_steal():
    assert set(WORKFLOWS["pr"]["on"]) == {"pull_request"}  # pull_request_target would hand them our secrets
    for name in ("checks", "changes"):
        job = WORKFLOWS["pr"]["jobs"][name]
        assert job["permissions"] == {"contents": "read"}
        assert "secrets" not in json.dumps(job)
        assert "environment" not in job
        assert "if" not in job


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_a_models_job_is_named_as_the_plan_says(env):
    job = WORKFLOWS["deploy"]["jobs"]["model"]
    values = {"matrix.model": "titanic-survival", "inputs.environment": env}
    filled = {text: re.sub(r"\$\{\{ ([\w.]+) \}\}", lambda found: values[found[1]], text)
              for text in (job["name"], job["steps"][-1]["env"]["NAME"])}  # fmt: skip
    assert filled[job["name"]] == ci_job("titanic-survival", env)
    assert filled[job["steps"][-1]["env"]["NAME"]] == dag_id("titanic-survival", env)
    assert job["strategy"]["matrix"]["model"] == "${{ fromJSON(needs.rollout.outputs.models) }}"


def test_models_and_the_image_come_from_terraforms_outputs():
    text = (GITHUB / "workflows" / "terraform-workflow.yml").read_text()
    asked = set(re.findall(r"terraform output (?:-raw|-json) (\w+)", text)) | {"image"}
    assert asked == {"job_names", "image"}
    assert asked <= set(blocks("output", code()))


def test_workflows_log_in_as_the_accounts_that_terraform_makes():
    login = LOGIN.read_text()
    pool = blocks("resource", code())["google_iam_workload_identity_pool.github"]
    provider = blocks("resource", code())["google_iam_workload_identity_pool_provider.github"]
    assert 'workload_identity_pool_id = "github-${var.environment}"' in pool
    assert 'workload_identity_pool_provider_id = "github"' in provider
    assert "locations/global/workloadIdentityPools/github-{1}/providers/github'" in login
    assert "'mlsys-{0}-{1}@{2}.iam.gserviceaccount.com'" in login
    for account in ("build", "deploy"):
        body = blocks("resource", code())[f"google_service_account.{account}"]
        assert f'"mlsys-{account}-${{var.environment}}"' in body


def test_images_are_pushed_by_the_build_account_and_the_rest_is_done_by_the_deploy_account():
    accounts = {
        (workflow, name): step["with"]["account"]
        for workflow, name, step in steps()
        if "google-login" in step.get("uses", "")
    }
    assert accounts.pop(("docker-build", "image")) == "build"
    assert set(accounts.values()) == {"deploy"}


def test_credentials_come_from_the_environment_gcp_and_are_only_the_plans():
    text = "".join(path.read_text() for path in FILES)
    assert set(re.findall(r"\bsecrets\.(\w+)", text)) == {"SA"}
    for workflow, name, job in jobs(with_steps=True):
        reads = "vars." in json.dumps(job) or "secrets." in json.dumps(job)
        assert job.get("environment") == ("gcp" if reads else None), f"{workflow}: {name}"


def test_variables_are_settings_or_terraforms_and_all_are_in_the_page():
    used = {name for path in FILES for name in re.findall(r"\bvars\.(\w+)", path.read_text())}
    settings = {name.upper() for name in Settings.model_fields}
    example = set(re.findall(r"(?m)^([A-Z_]+)=", (ROOT / ".env.example").read_text()))
    ours = {"ALERT_EMAILS", "GCP_PROJECT_NUMBER", "SERVICE_INVOKERS"}
    accounts = {f"COMPOSER_SERVICE_ACCOUNT_{env.upper()}" for env in ENVIRONMENTS}
    assert used <= settings | example | ours | accounts
    assert {"GCP_PROJECT_ID", "GCP_REGION"} | ours | accounts <= used
    page = (ROOT / "infra" / "README.md").read_text()
    documented = set(re.findall(r"(?m)^\| `([A-Z_, `…]+)` \|", page))
    documented = {_of_any(name) for names in documented for name in re.findall(r"\b[A-Z][A-Z_]+", names)}
    assert {_of_any(name) for name in used} == documented


def _of_any(variable: str) -> str:
    return re.sub("_(DEV|STAGING|PROD)$", "", variable)


def test_variables_go_through_under_their_own_names():
    for workflow, name, step in steps():
        for key, value in step.get("env", {}).items():
            if (found := re.fullmatch(r"\$\{\{ vars\.(\w+) \}\}", value)) and key not in {"PROJECT", "REGION"}:
                assert found[1] == key, f"{workflow}: {name}"


def test_the_check_that_branch_protection_asks_for_is_there():
    rules = {
        rule["type"]: rule.get("parameters")
        for rule in json.loads((GITHUB / "rulesets/main.json").read_text())["rules"]
    }
    (check,) = rules["required_status_checks"]["required_status_checks"]
    assert check["context"] == WORKFLOWS["pr"]["jobs"]["checks"]["name"]
    assert rules["required_status_checks"]["strict_required_status_checks_policy"] is True
    assert rules["pull_request"]["allowed_merge_methods"] == ["rebase"]
    assert rules["pull_request"]["required_approving_review_count"] == 1
    assert rules["pull_request"]["require_code_owner_review"] is True
    assert {"required_linear_history", "non_fast_forward", "deletion"} <= set(rules)


def test_code_owners_are_the_plans():
    owned = [line.split()[0] for line in (GITHUB / "CODEOWNERS").read_text().splitlines() if line]
    assert owned[:3] == ["*", "/infra/", "/.github/"]


def test_updates_are_watched_wherever_something_is_pinned():
    updates = {it["package-ecosystem"]: it for it in load(GITHUB / "dependabot.yml")["updates"]}
    assert set(updates) == {"docker", "github-actions", "terraform", "uv"}
    assert all(int(it["cooldown"]["default-days"]) >= 7 for it in updates.values())
    assert {f"/{LOGIN.parent.relative_to(ROOT)}", "/"} <= set(updates["github-actions"]["directories"])


def test_the_weekly_campaigns_are_those_that_their_page_names():
    wanted = re.findall(
        r"(MLSYS_\w+)=(\d+) uv run pytest tests/test_campaigns.py -s -k (\w+)", tests.test_campaigns.__doc__
    )
    matrix = WORKFLOWS["weekly"]["jobs"]["campaign"]["strategy"]["matrix"]["include"]
    assert [(it["variable"], it["size"], it["campaign"]) for it in matrix] == wanted


# --- the shell of the steps -----------------------------------------------------------------------

MAIN, BRANCH = "refs/heads/main", "refs/heads/feature"


@pytest.mark.parametrize(
    ("word", "ref", "said"),
    [("production", MAIN, ""), ("prod", MAIN, "got 'prod'"), ("", MAIN, "got ''"), ("Production", MAIN, "the word"),
     ("production; true", MAIN, "the word"), ("$(touch x)", MAIN, "the word"), ("production", BRANCH, "got refs/")],
)  # fmt: skip
def test_prod_takes_the_word_and_main(tmp_path, word, ref, said):
    done = run_step("prod", "confirm", "production", tmp_path, WORD=word, REF=ref)
    assert (done.returncode == 0) == (not said)
    assert said in done.stdout
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize(
    ("workflow", "job", "env", "passes"),
    [
        ("staging", "main", {"REF": MAIN}, True),
        ("staging", "main", {"REF": BRANCH}, False),
        ("deploy-dag", "parse", {"REF": BRANCH, "ENVIRONMENT": "dev"}, True),
        ("deploy-dag", "parse", {"REF": BRANCH, "ENVIRONMENT": "prod"}, False),
        ("deploy-dag", "parse", {"REF": MAIN, "ENVIRONMENT": "prod"}, True),
        ("promote-model", "promote", {"REF": BRANCH, "TO": "staging"}, True),
        ("promote-model", "promote", {"REF": BRANCH, "TO": "prod"}, False),
        ("promote-model", "promote", {"REF": MAIN, "TO": "prod"}, True),
    ],
)
def test_what_goes_beyond_dev_is_on_main(tmp_path, workflow, job, env, passes):
    done = run_step(workflow, job, "merge first", tmp_path, **env)
    assert (done.returncode == 0) == passes
    assert ("got refs/heads/feature: merge first" in done.stdout) != passes


BUCKETS = {f"COMPOSER_BUCKET_{env.upper()}": f"composer-{env}" for env in ENVIRONMENTS}


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_dags_go_to_their_environments_composer(tmp_path, env):
    stand_in(tmp_path, "gcloud", REMEMBER)
    (tmp_path / "dags").mkdir()
    for name in ("a_dag.py", "b_dag.py", "README.md"):
        (tmp_path / "dags" / name).touch()
    done = run_step("deploy-dag", "sync", "gcloud", tmp_path, ENVIRONMENT=env, **BUCKETS)
    assert done.returncode == 0, done.stderr
    assert calls(tmp_path) == [["storage", "cp", "dags/a_dag.py", "dags/b_dag.py", f"gs://composer-{env}/dags/"]]


def test_dags_go_nowhere_when_their_composer_is_not_known(tmp_path):
    stand_in(tmp_path, "gcloud", REMEMBER)
    done = run_step(
        "deploy-dag", "sync", "gcloud", tmp_path, ENVIRONMENT="prod", **BUCKETS | {"COMPOSER_BUCKET_PROD": ""}
    )
    assert done.returncode != 0
    assert "set this variable in the GitHub environment gcp" in done.stderr
    assert calls(tmp_path) == []


@pytest.mark.parametrize("alias", ["champion", "none"])
@pytest.mark.parametrize("waive", [[], ["--waive-gates"]], ids=["gated", "gates waived"])
def test_a_model_is_promoted_for_a_reason_that_says_who_and_where(tmp_path, waive, alias):
    stand_in(tmp_path, "uv", REMEMBER)
    done = run_step(
        *("promote-model", "promote", "mlsys promote", tmp_path), ACTOR="ada", ALIAS=alias, GCP_PROJECT_ID="p",
        GCP_REGION="r",
        GCS_BUCKET_MODELS_DEV="", GCS_BUCKET_MODELS_STAGING="", GCS_BUCKET_MODELS_PROD="", MLSYS_ENV="staging",
        MLSYS_MODEL_PACKAGES="",
        MODEL="titanic-survival", REASON='better; $(touch x) "quoted"', RUN="https://example.com/1", TO="staging",
        VERSION="v3", WAIVE="".join(waive),
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    reason = 'better; $(touch x) "quoted" (ada, https://example.com/1)'
    command = ["run", "--no-sync", "mlsys", "promote", "titanic-survival", "v3", "--to", "staging"]
    moved = ["run", "--no-sync", "mlsys", "alias", "set", "titanic-survival", "champion", "v3", "--reason", reason]
    assert calls(tmp_path) == [[*command, "--reason", reason, "--yes", *waive], *([moved] if alias != "none" else [])]
    assert not (tmp_path / "x").exists()


TERRAFORM = """
if sys.argv[1:] == ["output", "-json"]:
    print(pathlib.Path("bin/state").read_text())
elif sys.argv[1] == "output":
    if pathlib.Path("bin/broken").exists():
        sys.exit("no outputs")
    print('{"titanic-survival": "titanic-survival-dev"}')
"""
VARIABLES = dict.fromkeys(next(step["env"] for _, _, step in steps() if "terraform_plan" in step.get("run", "")), "")


def planned(folder, **env: str) -> tuple[dict[str, str], str]:
    """Run the step that plans; return what it gives Terraform, and what it said."""
    infra = folder / "infra"
    infra.mkdir()
    (folder / ".github").symlink_to(GITHUB)
    stand_in(infra, "terraform", REMEMBER + TERRAFORM)
    (infra / "bin" / "state").write_text(json.dumps({"image": {"value": OTHER_IMAGE}} if "STATE" not in env else {}))
    done = run_step("terraform-workflow", "apply", "terraform_plan", infra, **VARIABLES | env)
    plans = [call for call in calls(infra) if call[0] == "plan"]
    assert (done.returncode == 0) == bool(plans)
    given = plans[0][plans[0].index("-var") :] if plans else []
    assert not plans or plans[0][:4] == [
        "plan",
        "-input=false",
        "-lock-timeout=10m",
        f"-out={env['ENVIRONMENT']}.tfplan",
    ]
    return dict(value.split("=", 1) for value in given[1::2]), done.stderr


def test_terraform_gets_what_is_set_and_no_more(tmp_path):
    given, _ = planned(tmp_path, ENVIRONMENT="dev", IMAGE=IMAGE, REPOSITORY="example/mlsys", **BUCKETS)
    assert given == {
        "composer_bucket": "composer-dev", "environment": "dev", "github_repository": "example/mlsys", "image": IMAGE,
    }  # fmt: skip


def test_terraform_gets_all_that_can_be_set_under_variables_that_there_are(tmp_path):
    given, _ = planned(
        tmp_path, ENVIRONMENT="prod", IMAGE=IMAGE, REPOSITORY="example/mlsys", GCP_PROJECT_ID="acme",
        GCP_REGION="europe-west1", ALERT_EMAILS="ada@example.com, bob@example.com",
        SERVICE_INVOKERS="group:apps@example.com",
        COMPOSER_SERVICE_ACCOUNT_PROD="composer@acme.iam.gserviceaccount.com",
        **BUCKETS, **{f"GCS_BUCKET_MODELS_{env.upper()}": f"acme-{env}" for env in ENVIRONMENTS},
    )  # fmt: skip
    assert set(given) == set(blocks("variable", code())) - {
        "function_archive",
        "models",
        "registry_dir",
        "registry_owner",
    }
    assert json.loads(given["alert_emails"]) == ["ada@example.com", "bob@example.com"]
    assert json.loads(given["model_buckets"]) == {env: f"acme-{env}" for env in ENVIRONMENTS}
    assert given["composer_bucket"] == "composer-prod"


def test_the_deployed_image_stays_when_no_other_is_given(tmp_path):
    assert planned(tmp_path, ENVIRONMENT="dev")[0]["image"] == OTHER_IMAGE


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"ENVIRONMENT": "dev", "STATE": "empty"}, "nothing is deployed here yet"),
        ({"ENVIRONMENT": "local", "IMAGE": IMAGE}, "got 'local'"),
        ({"ENVIRONMENT": "dev", "IMAGE": IMAGE, "GCS_BUCKET_MODELS_DEV": "acme"}, "set all of GCS_BUCKET_MODELS_DEV"),
    ],
    ids=["first deployment", "no environment", "half of the buckets"],
)
def test_what_cannot_be_planned_is_refused_in_a_line(tmp_path, env, said):
    given, printed = planned(tmp_path, **env)
    assert given == {}
    assert said in printed
    assert len(printed.splitlines()) == 1


@pytest.mark.parametrize("broken", [False, True], ids=["", "terraform fails"])
def test_models_are_handed_on_as_a_list(tmp_path, broken):
    stand_in(tmp_path, "terraform", REMEMBER + TERRAFORM)
    stand_in(tmp_path, "jq", "import json, sys\nprint(json.dumps(list(json.load(sys.stdin))))")
    if broken:
        (tmp_path / "bin" / "broken").touch()
    done = run_step("terraform-workflow", "apply", "job_names", tmp_path)
    assert (done.returncode != 0) == broken
    assert output(tmp_path) == ({} if broken else {"models": '["titanic-survival"]'})


@pytest.mark.parametrize(("workflow", "job"), [("terraform-workflow", "apply"), ("pr", "checks")])
def test_terraforms_version_is_the_files(tmp_path, workflow, job):
    folder = tmp_path if workflow == "terraform-workflow" else tmp_path / "infra"
    folder.mkdir(exist_ok=True)
    assert run_step(workflow, job, ".terraform-version", tmp_path).returncode != 0
    (folder / ".terraform-version").write_text("1.11.4\n")
    assert run_step(workflow, job, ".terraform-version", tmp_path).returncode == 0
    assert output(tmp_path) == {"terraform": "1.11.4"}


# --- seeing a deployment through ------------------------------------------------------------------

GCLOUD = """
import json, pathlib, sys
state = json.loads(pathlib.Path(__file__).with_name("state").read_text())
kind, name = sys.argv[2], sys.argv[4]
assert name == "titanic-survival-dev" and sys.argv[5:] == ["--project=p", "--region=r", "--format=json"]
if state["image"] is None:
    sys.exit(f"ERROR: Cannot find {kind} {name}")
container = {"spec": {"containers": [{"image": state["image"]}]}}
if kind == "jobs":
    print(json.dumps({"spec": {"template": {"spec": {"template": container}}}}))
else:
    status = {"conditions": [{"type": "Ready", "status": state["ready"], "message": "it crashed"}], "url": state["url"],
              "latestReadyRevisionName": "r2", "latestCreatedRevisionName": "r2"}
    print(json.dumps({"spec": {"template": container}, "status": status}))
"""


@pytest.fixture
def service() -> Iterator[ThreadingHTTPServer]:
    """An HTTP service on loopback whose answer the test chooses."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(self.server.answer)
            self.end_headers()

        def log_message(self, *arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.mark.parametrize(
    ("access", "answer", "state", "said"),
    [
        ("public", 200, {}, ""),
        ("public", 404, {}, ""),  # it is the service that says so
        ("private", 403, {}, ""),
        ("public", 403, {}, "should be public, but answers anybody with HTTP 403"),
        ("private", 200, {}, "should be private, but answers anybody with HTTP 200"),
        ("public", 200, {"image": OTHER_IMAGE}, f"the job runs {OTHER_IMAGE}"),
        ("public", 200, {"ready": "False"}, "the service is not ready: it crashed"),
        ("public", 200, {"image": None}, "Cannot find jobs titanic-survival-dev"),
    ],
    ids=["public", "public, no page", "private", "not public", "not private", "other image", "not ready", "not there"],
)  # fmt: skip
def test_a_deployment_is_seen_through(tmp_path, service, access, answer, state, said):
    service.answer = answer
    stand_in(tmp_path, "gcloud", GCLOUD)
    url = f"http://127.0.0.1:{service.server_port}"
    (tmp_path / "bin" / "state").write_text(json.dumps({"image": IMAGE, "ready": "True", "url": url} | state))
    program = ["python3", str(GITHUB / "scripts" / "deployed.py"), "--name=titanic-survival-dev", f"--access={access}"]
    done = run([*program, f"--image={IMAGE}", "--project=p", "--region=r", "--patience=0"], tmp_path)
    assert (done.returncode == 0) == (not said), done.stderr
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_the_step_that_sees_a_deployment_through_fails_with_it(tmp_path):
    (tmp_path / ".github").symlink_to(GITHUB)
    stand_in(tmp_path, "gcloud", "import sys\nsys.exit('no such job')")
    env = {"ACCESS": "public", "IMAGE": IMAGE, "NAME": "titanic-survival-dev", "PROJECT": "p", "REGION": "r"}
    assert run_step("deploy", "model", "deployed.py", tmp_path, **env).returncode != 0


def test_prod_is_private_and_the_others_are_public():
    step = WORKFLOWS["deploy"]["jobs"]["model"]["steps"][-1]
    assert step["env"]["ACCESS"] == "${{ inputs.environment == 'prod' && 'private' || 'public' }}"
    assert re.search(r'is_public += var\.environment != "prod"', code())


# --- protecting main ------------------------------------------------------------------------------

GH = """
import sys
arguments = sys.argv[1:]
body = sys.stdin.read() if "--input" in arguments else None
with pathlib.Path(__file__).with_name("calls").open("a") as file:
    file.write(json.dumps([arguments, json.loads(body) if body else None]) + "\\n")
if "--jq" in arguments and pathlib.Path(__file__).with_name("protected").exists():
    print(42)
"""


def protect(folder, *, owners: str = "* @ada", protected: bool = False) -> tuple[int, dict[str, dict | None], str]:
    """Run the script in a copy; return its exit code, each request with its body, and what it said."""
    copy = folder / ".github"
    shutil.copytree(GITHUB, copy, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "CODEOWNERS").write_text(owners)
    stand_in(folder, "gh", "import json, pathlib\n" + GH)
    if protected:
        (folder / "bin" / "protected").touch()
    done = run(["bash", str(copy / "scripts" / "protect-main.sh"), "example/mlsys"], folder)
    requests = {f"{call[call.index('--method') + 1]} {next(a for a in call if a.startswith('repos/'))}": body
                for call, body in calls(folder) if "--method" in call}  # fmt: skip
    return done.returncode, requests, done.stdout + done.stderr


def test_main_is_protected_as_the_page_says(tmp_path):
    code_, requests, said = protect(tmp_path)
    assert code_ == 0, said
    merging = requests["PATCH repos/example/mlsys"]
    assert (merging["allow_rebase_merge"], merging["allow_merge_commit"], merging["allow_squash_merge"]) == (
        True,
        False,
        False,
    )
    assert merging["security_and_analysis"]["secret_scanning_push_protection"] == {"status": "enabled"}
    assert requests["POST repos/example/mlsys/rulesets"]["name"] == "main"
    assert requests["PUT repos/example/mlsys/actions/permissions"]["sha_pinning_required"] is True
    assert "PUT repos/example/mlsys/environments/gcp" in requests


def test_a_second_time_the_ruleset_is_replaced(tmp_path):
    code_, requests, said = protect(tmp_path, protected=True)
    assert code_ == 0, said
    assert "PUT repos/example/mlsys/rulesets/42" in requests
    assert "POST repos/example/mlsys/rulesets" not in requests


def test_nothing_is_protected_for_owners_that_are_nobody(tmp_path):
    code_, requests, said = protect(tmp_path, owners="* @your-github-username\n")
    assert code_ == 1
    assert requests == {}
    assert "CODEOWNERS names nobody yet" in said


def test_scripts_of_workflows_need_nothing_but_python():
    for path in GITHUB.glob("scripts/*.py"):
        imported = {name.split(".")[0] for node in ast.walk(ast.parse(path.read_text())) for name in _imports(node)}
        beside = {other.stem for other in GITHUB.glob("scripts/*.py")}
        assert imported <= set(sys.stdlib_module_names) | beside, path
        assert script(path.stem).__doc__


def _imports(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) else []
