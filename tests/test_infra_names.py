"""infra/ holds to the package: names, environment variables, registry files, roles; and its pages hold to infra/.

Terraform's own expressions are evaluated by Terraform where it is installed (that takes no provider); the rest is read
from the text, which `terraform fmt` keeps regular. Plans are tested in infra/tests.
"""

import importlib.util
import json
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st

from mlsys.cli import app
from mlsys.names import (
    REGISTRY_DATASET,
    check_model_name,
    dag_id,
    labels,
    registry_table,
    run_prefix,
    service_account_email,
    service_account_id,
)
from mlsys.registry import files
from mlsys.settings import Environment, Settings

ROOT = Path(__file__).parents[1]
INFRA = ROOT / "infra"
MODULE = INFRA / "modules" / "model_service_account"
ENVIRONMENTS = [str(env) for env in Environment if env is not Environment.LOCAL]
PROJECT = "shoufianesys"

_PLANNED = [
    ".terraform-version", "README.md", "backend.tf", "gcs_buckets.tf", "main.tf", "outputs.tf", "provider.tf",
    "service_accounts.tf", "terraform.tfvars.example", "variables.tf", "modules/model_service_account/main.tf",
    "modules/model_service_account/outputs.tf", "modules/model_service_account/variables.tf",
]  # fmt: skip

MODEL_NAMES = [
    "a",
    "titanic-survival",  # with -dag-sa-staging 31 characters
    "customer-lifetime-value",
    "churn-2",
    "a-name-with-a-cut-----in-hyphens",  # the cut falls on hyphens, which go
    *("x" * length for length in (12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 40, 41, 50)),
    *("ab-" * n + "c" for n in range(1, 16)),
]


def read(path: str) -> str:
    return (INFRA / path).read_text()


def code(folder: Path = INFRA) -> str:
    """Return what all .tf files of a folder say, without their comments."""
    text = "\n".join(path.read_text() for path in sorted(folder.glob("*.tf")))
    return re.sub(r"(?m)^\s*#.*\n", "", text)


def blocks(kind: str, text: str) -> dict[str, str]:
    """Return the top-level blocks of a kind by their labels, as ``google_storage_bucket.models``."""
    found = re.findall(rf'(?ms)^{kind} ((?:"[^"]+" ?)+)\{{\n(.*?)^\}}', text)
    return {".".join(re.findall(r'"([^"]+)"', names)): body for names, body in found}


def argument(body: str, name: str) -> str:
    """Return an argument at a block's first level, as it is written."""
    (value,) = re.findall(rf"(?m)^  {name} += (.*?)(?: +#.*)?$", body)
    return value


def filled(template: str, env: str, **names: str) -> str:
    """Return a quoted template with its references filled in."""
    values = {"var.environment": env, "var.project_id": PROJECT} | names
    return re.sub(r"\$\{([^}]+)\}", lambda found: values[found[1]], template.strip('"'))


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", _PLANNED)
def test_the_files_that_the_plan_names_are_there(path):
    assert (INFRA / path).is_file()


@pytest.mark.parametrize("env", ENVIRONMENTS)
@pytest.mark.parametrize("kind", ["google_cloud_run_v2_job.predict", "google_cloud_run_v2_service.predict"])
def test_job_and_service_are_named_like_the_dag(kind, env):
    name = argument(blocks("resource", code())[kind], "name")
    assert filled(name, env, **{"each.key": "titanic-survival"}) == dag_id("titanic-survival", env)


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_the_state_of_an_environment_is_in_its_own_bucket(env):
    assert f'bucket = "sfn-terraform-state-{env}"\n' in read(f"backends/{env}.gcs.tfbackend")


@pytest.mark.parametrize(
    ("variable", "setting"), [("project_id", "gcp_project_id"), ("region", "gcp_region")], ids=lambda value: value
)
def test_defaults_are_those_of_the_settings(variable, setting):
    default = argument(blocks("variable", code())[variable], "default")
    assert default == f'"{Settings.model_fields[setting].default}"'


def test_model_buckets_are_those_of_the_settings():
    default = blocks("variable", code())["model_buckets"].partition("default = {")[2].partition("}")[0]
    assert dict(re.findall(r'(\w+) += "([^"]+)"', default)) == {
        env: Settings.model_fields[f"gcs_bucket_models_{env}"].default for env in ENVIRONMENTS
    }


def test_labels_are_those_of_the_jobs_in_bigquery():
    block = read("provider.tf").partition("default_labels = {")[2].partition("}")[0]
    said = {key: value.strip() for key, _, value in (line.partition("=") for line in block.split("\n") if "=" in line)}
    said = {key.strip(): filled(value, "dev").replace("var.environment", "dev") for key, value in said.items()}
    assert said == labels(env="dev")


def test_the_registry_is_the_one_dataset_of_its_name():
    names = set(re.findall(r'dataset_id += "([^"]+)"', code()))
    assert names == {REGISTRY_DATASET}
    assert argument(blocks("variable", code(MODULE))["registry_dataset"], "default") == f'"{REGISTRY_DATASET}"'


def test_what_tasks_agree_on_has_the_prefix_that_roles_and_lifecycle_name():
    prefix = run_prefix("run", "execution").partition("/")[0] + "/"
    assert f'matches_prefix = ["{prefix}"]' in read("gcs_buckets.tf")
    assert set(re.findall(r'prefix = "([^$"]+)"', code(MODULE))) == {prefix}


def test_a_model_name_that_terraform_takes_python_takes_and_cloud_run_too():
    pattern = re.compile(
        re.search(r'for name in keys\(var\.models\) : can\(regex\("(.+?)", name', read("variables.tf"))[1]
    )
    longest = "m" * 41
    assert pattern.match(longest)
    assert not pattern.match(longest + "m")
    assert len(dag_id(longest, "staging")) <= 49  # what Cloud Run allows a service

    @given(st.from_regex(pattern, fullmatch=True))
    def agree(name):
        assert check_model_name(name.rstrip("\n")) in name

    agree()


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_every_account_id_is_one_that_google_takes(env):
    written = [argument(body, "account_id") for name, body in blocks("resource", code()).items()
               if name.startswith("google_service_account.")]  # fmt: skip
    assert len(written) == 4
    for account_id in written:
        assert re.fullmatch(r"[a-z][a-z0-9-]{4,28}[a-z0-9]", filled(account_id, env))


def test_the_registry_functions_page_and_terraform_name_the_same_things():
    page = (ROOT / "scripts" / "model_registry" / "README.md").read_text()
    text = code()
    for written, shell in [("model-registry-${var.environment}", "model-registry-$ENV"),
                           ("model-registry-sa-${var.environment}", "model-registry-sa-$ENV"),
                           ("google.cloud.storage.object.v1.finalized",) * 2]:  # fmt: skip
        assert f'"{written}"' in text
        assert shell in page


# --- what Terraform computes ----------------------------------------------------------------------


ASKING = """
module "account" {
  source   = "./account"
  for_each = jsondecode(file("wanted.json"))

  environment  = each.value.environment
  model_bucket = "any"
  model_name   = each.value.model_name
  project_id   = "any"
  purpose      = each.value.purpose
}

module "registry" {
  source = "./registry"

  project_id   = "%(project)s"
  registry_dir = "%(registry)s"
}

output "ids" {
  value = { for key, account in module.account : key => account.id }
}

output "registry" {
  value = module.registry
}
"""
ANSWERING = """
variable "project_id" {}
variable "registry_dir" {}

output "schemas" {
  value = local.registry_schemas
}

output "views" {
  value = local.registry_views
}

output "view_descriptions" {
  value = local.registry_view_descriptions
}
"""


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    """Terraform's own answers: account ids, and the registry's files as the tables and views that it makes."""
    if not shutil.which("terraform"):
        pytest.skip("terraform is not installed: its expressions were not compared with Python's")
    root = tmp_path_factory.mktemp("terraform")
    account, registry = root / "account", root / "registry"
    account.mkdir()
    registry.mkdir()
    for file in (MODULE / "account_id.tf", MODULE / "variables.tf"):
        shutil.copy(file, account)
    (account / "outputs.tf").write_text('output "id" {\n  value = local.account_id\n}\n')
    shutil.copy(INFRA / "registry_files.tf", registry)
    (registry / "outputs.tf").write_text(ANSWERING)
    wanted = {
        f"{purpose} {env} {name}": {"purpose": purpose, "environment": env, "model_name": name}
        for purpose in ("dag", "api")
        for env in ENVIRONMENTS
        for name in MODEL_NAMES
    }
    (root / "wanted.json").write_text(json.dumps(wanted))
    (root / "main.tf").write_text(ASKING % {"project": PROJECT, "registry": ROOT / "mlsys" / "registry"})
    terraform(root, "init", "-backend=false", "-input=false", "-no-color")
    terraform(root, "apply", "-auto-approve", "-input=false", "-no-color")
    return {name: output["value"] for name, output in json.loads(terraform(root, "output", "-json")).items()}


def terraform(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["terraform", *arguments], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_service_accounts_are_shortened_as_in_python(computed):
    ids = computed["ids"]
    assert len(ids) == 2 * len(ENVIRONMENTS) * len(MODEL_NAMES)
    for key, account_id in ids.items():
        purpose, env, name = key.split(" ")
        assert account_id == service_account_id(name, env).replace("-dag-sa-", f"-{purpose}-sa-"), key
        assert len(account_id) <= 30


def test_the_view_sql_that_terraform_fills_is_that_of_python_to_the_letter(computed):
    assert computed["registry"]["views"] == files.views(PROJECT)


def test_tables_have_the_columns_that_python_writes(computed):
    schemas = {table: json.loads(schema) for table, schema in computed["registry"]["schemas"].items()}
    assert schemas == {table: files.schema(table) for table in ("events", "models", "runs")}


def test_a_view_is_described_by_the_comment_that_it_starts_with(computed):
    for view, description in computed["registry"]["view_descriptions"].items():
        comment = re.match(r"(?:-- .*\n)*", files.views(PROJECT)[view])[0]
        assert description == " ".join(re.sub(r"(?m)^-- ", "", comment).split())  # as mlsys.local.provision has it
        assert description


def test_terraform_reads_the_packages_own_files():
    default = argument(blocks("variable", code())["registry_dir"], "default").strip('"')
    assert (INFRA / default).samefile(ROOT / "mlsys" / "registry")


def test_the_registry_tables_that_accounts_reach_are_there():
    here = {
        table.stem for table in (ROOT / "mlsys" / "registry").glob("*/*") if table.parent.name in {"schemas", "views"}
    }
    named = set(re.findall(r"ml_registry\.(\w+)", read("tests/meant/main.tf")))
    assert named
    assert named <= here
    assert str(registry_table(PROJECT, "runs")).endswith(".ml_registry.runs")


# --- environment variables ------------------------------------------------------------------------


def settings_names() -> set[str]:
    return {name.upper() for name in Settings.model_fields}


def keys_of(local: str) -> set[str]:
    """Return the environment variables that a local of cloud_run.tf makes."""
    text = re.sub(r"(?m)^\s*#.*\n", "", read("cloud_run.tf"))
    body = re.search(rf"(?ms)^  {local} = \{{\n(.*?)^  \}}", text)[1]
    written = re.findall(r'"?([A-Z][A-Z_]+(?:\$\{upper\(var\.environment\)\})?)"? += ', body)
    return {name.replace("${upper(var.environment)}", env.upper()) for name in written for env in ENVIRONMENTS}


def test_the_job_gets_settings_that_there_are():
    assert keys_of("settings") >= {"MLSYS_ENV", "GCP_PROJECT_ID", "GCP_REGION", "MLSYS_IMAGE"}
    assert keys_of("settings") <= settings_names()


def test_the_job_gets_every_variable_that_mlsys_predict_reads_but_the_moment():
    options = {option.envvar for option in typer.main.get_command(app).commands["predict"].params}
    options = {name for name in options if name}
    assert keys_of("job_env") == options - {"AS_OF"}  # the DAG says for which moment a run is
    assert keys_of("service_env") <= options


def test_the_registry_function_gets_settings_that_there_are():
    block = read("registry_function.tf").partition("environment_variables = {")[2].partition("\n    }")[0]
    names = {name.replace("${upper(var.environment)}", env.upper())
             for name in re.findall(r'"([A-Z][^"]+)" += ', block) for env in ENVIRONMENTS}  # fmt: skip
    assert {"MLSYS_ENV", "GCP_PROJECT_ID", "GCS_BUCKET_MODELS_PROD"} <= names
    assert names <= settings_names()


def test_the_registry_function_is_deployed_as_it_is_written():
    source = (ROOT / "scripts" / "model_registry" / "main.py").read_text()
    body = blocks("resource", code())["google_cloudfunctions2_function.registry"]
    assert f"def {re.search(r'entry_point += "(.+)"', body)[1]}(" in source
    assert re.search(r'runtime += "python(\d)(\d+)"', body).groups() == tuple(
        (ROOT / ".python-version").read_text().strip().split(".")
    )
    assert 'format="%(levelname)s ' in source  # the alert looks for lines that start with ERROR
    assert r"textPayload=~\"^ERROR \"" in read("alerts.tf")


# --- roles ----------------------------------------------------------------------------------------


def test_roles_are_added_and_nobody_elses_taken_away():
    for folder in (INFRA, MODULE):
        assert not re.findall(r"_iam_(?:policy|binding)\b", code(folder))


def test_every_role_is_in_the_list_that_is_reviewed():
    for folder, list_ in ((INFRA, "grants.tf"), (MODULE, "outputs.tf")):
        granted = [name for name in blocks("resource", code(folder)) if "_iam_member." in name]
        assert granted
        assert [name for name in granted if not re.search(rf"\b{name}\b", (folder / list_).read_text())] == []


def test_the_deploy_account_may_hand_out_exactly_the_project_roles_that_infra_grants():
    meant = "\n".join(path.read_text() for path in [*INFRA.glob("tests/*.tftest.hcl"), INFRA / "tests/meant/main.tf"])
    granted = set(re.findall(r"roles/[\w.]+(?= on project )", meant))
    condition = read("README.md").partition("hasOnly([")[2].partition("])")[0]
    assert set(re.findall(r"roles/[\w.]+", condition)) == granted
    assert len(granted) == 7  # as the page says


def test_no_address_of_anybody_stands_in_the_code():
    for path in [*INFRA.glob("*.tf"), *INFRA.glob("*.tfvars"), *MODULE.glob("*.tf")]:
        addresses = re.findall(r"[\w.+-]+@[\w-]+\.[\w.]+", re.sub(r"(?m)^\s*#.*\n", "", path.read_text()))
        assert [address for address in addresses if not address.rstrip(".").endswith("@example.com")] == [], path
        assert "PRIVATE KEY" not in path.read_text()


# --- form -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", [INFRA, MODULE], ids=["infra", "module"])
def test_variables_stand_in_order_and_say_what_they_are(folder):
    variables = blocks("variable", (folder / "variables.tf").read_text())
    assert list(variables) == sorted(variables)
    for name, body in variables.items():
        assert "  description = " in body, name
        assert re.search(r"(?m)^  type += ", body), name
    outputs = blocks("output", (folder / "outputs.tf").read_text())
    assert list(outputs) == sorted(outputs)
    assert all("  description = " in body for body in outputs.values())


def test_the_modules_page_opens_with_the_call_that_is_planned():
    (page,) = re.findall(r"(?s)\A# model_service_account\n\n```hcl\n(.*?)```", (MODULE / "README.md").read_text())
    planned = (MODULE / "examples" / "titanic" / "main.tf").read_text()
    assert planned.startswith(page.replace('"./modules/model_service_account"', '"../.."'))
    assert 'source = "./modules/model_service_account/examples/titanic"' in read("tests/modules.tftest.hcl")


def test_examples_and_commands_name_variables_that_there_are():
    variables = set(blocks("variable", code()))
    written = set(re.findall(r"(?m)^(?:# )?(\w+) += ", read("terraform.tfvars.example")))
    passed = set(re.findall(r"-var '?(\w+)=", read("README.md")))
    assert {"environment", "image"} <= written & passed
    assert written | passed <= variables
    targets = set(re.findall(r"-target=([\w.]+)", read("README.md")))
    tests = read("tests/dev.tftest.hcl") + read("tests/prod.tftest.hcl")
    planned = set(re.findall(r"[\w.]+", " ".join(re.findall(r"target = \[(.*)\]", tests))))
    assert targets == planned <= set(blocks("resource", code()))
    without_default = {name for name, body in blocks("variable", code()).items() if "  default" not in body}
    assert without_default <= written | {"models"}


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_the_models_of_the_list_are_planned_for(env):
    listed = re.findall(r"(?m)^  ([a-z][a-z0-9-]*) = \{$", read("models.auto.tfvars"))
    assert listed
    assert f'"{listed[0]}-{env}"' in read(f"tests/{env}.tftest.hcl")
    email = service_account_email(listed[0], env, PROJECT)
    assert email.removesuffix(f"@{PROJECT}.iam.gserviceaccount.com") in read(f"tests/{env}.tftest.hcl")


def test_terraforms_version_is_one_that_the_code_takes():
    major, minor, _ = read(".terraform-version").strip().split(".")
    assert f'required_version = "~> {major}.{minor}"' in read("provider.tf")


# --- the registry function's archive --------------------------------------------------------------


@pytest.fixture(scope="module")
def package():
    spec = importlib.util.spec_from_file_location("package_function", INFRA / "package_function.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_same_source_makes_the_same_archive(package, tmp_path):
    first, second = (package.pack(tmp_path / name).read_bytes() for name in ("first.zip", "second.zip"))
    assert first == second


def test_the_archive_runs_by_itself(package, tmp_path):
    with zipfile.ZipFile(package.pack(tmp_path / "function.zip")) as archive:
        names = archive.namelist()
        archive.extractall(tmp_path / "function")
    assert "mlsys/registry/sql/register_model.sql" in names
    assert not [
        name for name in names if name.startswith(("mlsys/local/", "mlsys/demo/", "mlsys/vis/")) or "pycache" in name
    ]
    program = (
        "import sys; sys.path.insert(0, '.'); import main, mlsys; print(mlsys.__file__, main.register_model.__name__)"
    )
    ran = subprocess.run(
        [sys.executable, "-P", "-c", program], cwd=tmp_path / "function", capture_output=True, text=True
    )
    assert ran.returncode == 0, ran.stderr
    assert str(tmp_path) in ran.stdout or ran.stdout.startswith("./")
