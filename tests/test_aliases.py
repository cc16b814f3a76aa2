"""Aliases move by events, one winner at a time, and their past can be asked for."""

import json
import os
import random
import re
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial

import pandas as pd
import pytest
import requests
from google.cloud import bigquery
from sklearn.linear_model import LinearRegression

from mlsys import clients, registry
from mlsys.bq import bq_get, bq_put
from mlsys.errors import ConflictError, InvalidNameError, ModelRefError, NotFoundError
from mlsys.local import attach
from mlsys.local.faults import Fault
from mlsys.models import load_model, save_model
from mlsys.names import MANIFEST_FILE, ModelRef, as_version, check_alias, registry_table
from mlsys.registry import UploadEvent, files, find_version, history, resolve_alias, rollback, set_alias

START = datetime(2026, 1, 1, tzinfo=UTC)


def add_versions(model_name, count, project="shoufianesys"):
    """Register versions without saving models."""
    names = [f"v{n}" for n in range(1, count + 1)]
    same = {
        "environment": "local", "model_name": model_name, "upload_timestamp": START, "file_size": 1,
        "manifest_generation": 1, "manifest_sha256": "0" * 64, "created_timestamp": START, "creator": "a",
        "task": "binary", "training_rows": 1, "python_version": "3.12.1",
    }  # fmt: skip
    rows = [{**same, "model_version": name, "gcs_uri": f"gs://b/{model_name}/{name}/"} for name in names]
    bq_put(pd.DataFrame(rows), registry_table(project, "models"))
    return names


@pytest.fixture
def model(model_name, settings):
    """A model with the versions v1 to v5."""
    add_versions(model_name, 5)
    return model_name


def moves(model_name, alias="champion"):
    return history(model_name, alias=alias)


def do(model_name, *steps):
    """Carry out moves: a version sets, ``<`` rolls back, ``-`` removes."""
    for step in steps:
        if step == "<":
            move = rollback(model_name, reason="r")
        elif step == "-":
            move = registry.remove_alias(model_name, "champion", reason="r")
        else:
            move = set_alias(model_name, "champion", step, reason="r")
    return move.model_version


def test_alias_points_to_a_version_since_when_by_whom_and_why(model):
    """What was set is what the view says, and the event is complete."""
    move = set_alias(model, "champion", "v2", reason="better", actor="anna")
    set_alias(model, "challenger", "3", reason="trial")
    assert resolve_alias(model) == ModelRef(model, "v2")
    listed = registry.list_aliases(model)
    assert list(listed["alias"]) == ["challenger", "champion"]
    assert listed.iloc[1][["model_version", "actor", "reason"]].to_list() == ["v2", "anna", "better"]
    assert listed["valid_from"][1] == move.event_timestamp
    (event,) = moves(model).to_dict("records")
    assert (event["event_type"], event["sequence"], event["event_id"]) == ("alias_set", 1, move.event_id)
    assert abs(datetime.now(UTC) - move.event_timestamp) < timedelta(minutes=1)


@pytest.mark.parametrize(("text", "version"), [("v2", "v2"), ("2", "v2"), ("latest", "v5"), ("champion", "v4")])
def test_version_is_found_by_number_and_by_alias(model, text, version):
    """However a person names it."""
    set_alias(model, "champion", "v4", reason="r")
    assert find_version(model, text).ref == ModelRef(model, version)


def test_model_is_loaded_by_its_alias(model_name):
    """The alias leads to verified bytes as a version does."""
    frame = pd.DataFrame({"x": [0.0, 1.0]})
    for _ in range(2):
        save_model(LinearRegression().fit(frame, [0, 1]), model_name, frame)
    set_alias(model_name, "champion", "v1", reason="r")
    assert load_model(model_name, "champion").ref == ModelRef(model_name, "v1")


def test_unknown_version_or_alias_says_what_there_is(model):
    """The way out is in the message."""
    set_alias(model, "champion", "v4", reason="r")
    with pytest.raises(NotFoundError, match=r"/v9 is not in the .*; it has v1, v2, v3, v4, v5, champion \(v4\)"):
        set_alias(model, "champion", "v9", reason="r")
    with pytest.raises(NotFoundError, match=r"/shadow is not in the registry of local; it has v1"):
        find_version(model, "shadow")
    with pytest.raises(NotFoundError, match=r"no alias 'shadow' in local; it has champion \(v4\)"):
        resolve_alias(model, "shadow")
    with pytest.raises(
        NotFoundError, match=r"no alias 'champion' in local at 2020-01-01T00:00:00\+00:00; it has no al"
    ):
        resolve_alias(model, at=datetime(2020, 1, 1, tzinfo=UTC))
    with pytest.raises(NotFoundError, match="no model 'no-such-model'"):
        history("no-such-model")
    with pytest.raises(InvalidNameError, match="must have a time zone, got 2020"):
        resolve_alias(model, at=datetime(2020, 1, 1))
    assert len(moves(model)) == 1


def test_many_versions_make_a_short_message(model_name, settings):
    """Nobody reads thousands of them."""
    add_versions(model_name, 100)
    with pytest.raises(NotFoundError, match=r"it has … \(80 more\), v81, .*, v100$"):
        find_version(model_name, "v101")


@pytest.mark.parametrize("alias", ["", "v3", "v03", "latest", "Champion", "3", "a_b", "-a", "a-", "a\n", "x" * 51])
def test_malformed_aliases_are_refused(alias):
    """Nobody could tell them from versions, or put them into a job's id."""
    with pytest.raises(ModelRefError, match="an alias must be"):
        check_alias(alias)


@pytest.mark.parametrize("text", ["", "v0", "03", "1.0", "V3", "٣", "v3 "])
def test_malformed_versions_are_refused_before_the_network(text):
    """The message shows every form."""
    with pytest.raises(ModelRefError, match="model_version must be 'v3', '3', 'latest' or an alias"):
        as_version(text)


def test_same_version_again_is_no_event(model):
    """A command that is repeated leaves one event."""
    first = set_alias(model, "champion", "v1", reason="r")
    assert set_alias(model, "champion", "v1", reason="again") == first
    assert len(moves(model)) == 1


@pytest.mark.parametrize(
    ("steps", "version"),
    [
        ("v1 v2 <", "v1"),
        ("v1 v2 v3 < <", "v1"),
        ("v1 v2 < v3 <", "v1"),
        ("v1 v2 v1 <", "v2"),
        ("v1 v2 v1 < <", "v1"),
        ("v1 -", None),
        ("v1 - <", "v1"),
        ("v1 v2 - < <", "v1"),
        ("v1 - v2 <", "v1"),
        ("v1 v2 < - <", "v1"),
    ],
)
def test_rollback_goes_to_what_was_before(model, steps, version):
    """What was rolled back counts as if it had never been; a removal is no version."""
    assert do(model, *steps.split()) == version
    if version:
        assert resolve_alias(model).version == version
    else:
        assert registry.list_aliases(model).empty
    frame = moves(model)
    assert list(frame["sequence"]) == list(range(1, len(frame) + 1))
    assert list(frame["previous_version"][1:].fillna("")) == list(frame["model_version"][:-1].fillna(""))


@pytest.mark.parametrize("steps", ["v1 <", "v1 v2 < <", "v1 - v1 <"])
def test_rollback_without_an_earlier_version_is_refused(model, steps):
    """And changes nothing."""
    *before, last = steps.split()
    do(model, *before)
    with pytest.raises(NotFoundError, match=r"champion of .* in local has no version before v1 to go back to"):
        do(model, last)
    assert len(moves(model)) == len(before)


def test_alias_that_was_never_set_cannot_go(model):
    """Neither back nor away."""
    for act in (rollback, registry.remove_alias):
        with pytest.raises(NotFoundError, match="no alias 'challenger' in local; it has no alias"):
            act(model, "challenger", reason="r")


def test_expected_version_is_compared(model):
    """Whoever saw another state is told what it is now."""
    set_alias(model, "champion", "v1", reason="first", expected="none")
    set_alias(model, "champion", "v2", reason="better", actor="anna", expected="1")
    told = (
        r"champion of .* in local was moved to v2 by anna at .* UTC \(better\): nothing was changed; see `mlsys history"
    )
    for expected in ("v1", "none"):
        with pytest.raises(ConflictError, match=told):
            set_alias(model, "champion", "v3", reason="r", expected=expected)
    rollback(model, reason="bad", actor="ben", expected="v2")
    with pytest.raises(ConflictError, match=r"was moved to v1 by ben at .* \(bad\)"):
        rollback(model, reason="bad too", expected="v2")
    with pytest.raises(ConflictError, match="points to no version"):
        set_alias(model, "shadow", "v3", reason="r", expected="v1")


def at_once(act, arguments):
    with ThreadPoolExecutor(len(arguments)) as pool:
        return list(pool.map(act, arguments))


def check_complete(model_name, count):
    frame = moves(model_name)
    assert list(frame["sequence"]) == list(range(1, count + 1))
    assert list(frame["previous_version"][1:]) == list(frame["model_version"][:-1])
    assert frame["event_timestamp"].is_monotonic_increasing
    assert frame["event_timestamp"].is_unique
    assert resolve_alias(model_name).version == frame["model_version"].iloc[-1]
    return frame


def test_of_20_who_saw_the_same_one_wins(model_name, settings):
    """The others are told who it was."""
    versions = add_versions(model_name, 20)

    def move(version):
        try:
            return set_alias(model_name, "champion", version, reason="r", actor=version, expected="none").model_version
        except ConflictError as exc:
            return str(exc)

    told = at_once(move, versions)
    (winner,) = set(told) & set(versions)
    assert {re.search(r"was moved to (\S+) by (\S+) at", text).groups() for text in set(told) - {winner}} == {
        (winner, winner)
    }
    check_complete(model_name, 1)


@pytest.mark.parametrize("lost", [0.0, 0.3], ids=["calm", "replies lost"])
def test_20_concurrent_moves_leave_a_complete_history(model_name, twin, lost):
    """Each tries until it has won: 20 events without a gap, each from where the one before it led to."""
    versions = add_versions(model_name, 20)
    twin.faults.add(Fault("bigquery.jobs.insert", "reset_after", times=None, chance=lost), seed=1)

    def move(version):
        for conflicts in range(100):
            try:
                set_alias(model_name, "champion", version, reason="r")
            except ConflictError:
                continue
            return conflicts
        return None

    conflicts = at_once(move, versions)
    twin.faults.clear()
    assert sum(conflicts) > 0
    assert set(check_complete(model_name, 20)["model_version"]) == set(versions)


@pytest.mark.parametrize(
    "fault",
    [
        Fault("bigquery.jobs.insert", "reset_after"),
        Fault("bigquery.jobs.insert", "error_after", status=503),
        Fault("bigquery.jobs.insert", "reset"),
        Fault("bigquery.jobs.run", "job_error"),
    ],
    ids=lambda fault: f"{fault.operation}-{fault.kind}",
)
@pytest.mark.parametrize("skip", [0, 1, 2, 3])
def test_lost_reply_or_failed_job_is_one_event(model, twin, fault, skip):
    """Of the statements that a move needs, whichever suffers it."""
    set_alias(model, "champion", "v1", reason="r")
    twin.faults.add(Fault(**vars(fault) | {"skip": skip}))
    assert set_alias(model, "champion", "v2", reason="r").sequence == 2
    assert sum(twin.faults.hits().values()) == 1
    check_complete(model, 2)


def replay(steps):
    """Return after each step the version that the champion is, by the plainest means."""
    states, stack, current = [], [], None
    for step in steps:
        if step == "<":
            if current is not None:
                stack.pop()
            current = stack[-1]
        elif step == "-":
            current = None
        else:
            stack += [step] if stack[-1:] != [step] else []
            current = step
        states.append((current, list(stack)))
    return states


def random_steps(rng, count):
    steps = []
    while len(steps) < count:
        current, stack = replay(steps)[-1] if steps else (None, [])
        back = ["<"] * (len(stack) > (current is not None))
        removal = ["-"] * (current is not None)
        step = rng.choice([*(f"v{n}" for n in range(1, 6)), *back * 3, *removal])
        if step != current:
            steps.append(step)
    return steps


def test_champion_at_any_moment_of_a_random_history(model, settings):
    """200 moves, rollbacks and removals; asked at each moment of change, just before it, and in between."""
    rng = random.Random(7)
    steps = random_steps(rng, 200)
    states = [version for version, _ in replay(steps)]
    times = sorted(START + timedelta(microseconds=rng.randrange(10**13)) for _ in steps)
    kinds = {"<": "rolled_back", "-": "alias_removed"}
    events = pd.DataFrame(
        {
            "event_id": [f"{model}-{n}" for n in range(200)],
            "event_timestamp": times,
            "event_type": [kinds.get(step, "alias_set") for step in steps],
            "environment": "local",
            "model_name": model,
            "model_version": states,
            "alias": "champion",
            "previous_version": [None, *states[:-1]],
            "actor": "anna",
            "reason": "r",
            "sequence": range(1, 201),
        }
    )
    bq_put(events.sample(frac=1, random_state=7), registry_table(settings.gcp_project_id, "events"))
    microsecond = timedelta(microseconds=1)
    moments = [START - microsecond, *times, *(t - microsecond for t in times), times[-1] + timedelta(days=1)]
    moments += [START + timedelta(microseconds=rng.randrange(10**13)) for _ in range(100)]
    wanted = [next((s for t, s in zip(times[::-1], states[::-1], strict=True) if t <= m), None) for m in moments]
    view = registry_table(settings.gcp_project_id, "alias_history").sql
    sql = (
        f"SELECT moment, (SELECT model_version FROM {view} WHERE model_name = '{model}' AND alias = 'champion'"
        " AND valid_from <= moment AND (valid_to > moment OR valid_to IS NULL)) AS champion"
        " FROM UNNEST(@moments) AS moment"
    )
    answers = bq_get(sql, parameters={"moments": moments})
    champions = dict(zip(answers["moment"], answers["champion"].astype(object), strict=True))
    assert [None if pd.isna(champions[m]) else champions[m] for m in moments] == wanted
    for moment, version in rng.sample(list(zip(moments, wanted, strict=True)), 10):
        listed = registry.list_aliases(model, at=moment)
        assert list(listed["model_version"]) == ([version] if version else [])
    current, stack = replay(steps)[-1]
    assert rollback(model, reason="r").model_version == (stack[-1] if current is None else stack[-2])


class _Plain:
    """What should become of a champion and of retirements, by the plainest means."""

    def __init__(self):
        self.stack, self.current, self.retired = [], None, set()

    def set(self, version):
        if version in self.retired:
            raise ConflictError
        self.stack += [version] if self.stack[-1:] != [version] else []
        self.current = version

    def rollback(self):
        earlier = self.stack[: len(self.stack) - (self.current is not None)]
        while earlier and (earlier[-1] in self.retired or earlier[-1] == self.current):
            earlier.pop()
        if not earlier:
            raise NotFoundError
        self.stack, self.current = earlier, earlier[-1]

    def remove(self):
        if not self.stack:
            raise NotFoundError
        self.current = None

    def retire(self, version):
        if version == self.current:
            raise ConflictError
        self.retired.add(version)

    def reinstate(self, version):
        self.retired.discard(version)


def test_champion_at_any_moment_with_retirements(model):
    """Steps of people, some of them refused: the same ones as by a plain replay, and the same champion ever since.

    ``MLSYS_ALIAS_STEPS=200`` takes more of them.
    """
    rng, plain, known = random.Random(5), _Plain(), []
    for number in range(int(os.environ.get("MLSYS_ALIAS_STEPS", "25"))):
        verb = rng.choice(["set", "set", "set", "rollback", "rollback", "remove", "retire", "retire", "reinstate"])
        of = [f"v{rng.randint(1, 5)}"] if verb in ("set", "retire", "reinstate") else []
        moves = {"set": partial(set_alias, model, "champion"), "rollback": partial(rollback, model),
                 "remove": partial(registry.remove_alias, model, "champion")}  # fmt: skip
        real = moves.get(verb) or partial(getattr(registry, verb), model)
        try:
            getattr(plain, verb)(*of)
        except (ConflictError, NotFoundError) as exc:
            with pytest.raises(type(exc)):
                real(*of, reason=f"step {number}")
            continue
        move = real(*of, reason=f"step {number}")
        if verb in moves and (not known or known[-1][0] != move.event_timestamp):
            known.append((move.event_timestamp, plain.current))
    assert len(known) > 5
    for (moment, version), (later, _) in zip(known, [*known[1:], (datetime.now(UTC), None)], strict=True):
        for at in (moment, later - timedelta(microseconds=1)):
            assert list(registry.list_aliases(model, at=at)["model_version"]) == ([version] if version else [])
    retired = registry.list_versions(model).query("retired_timestamp.notna()")["model_version"]
    assert set(retired) == plain.retired
    standing = [f"v{n}" for n in range(1, 6) if f"v{n}" not in plain.retired]
    assert find_version(model).ref.version == standing[-1]


def test_registration_is_one_event_however_often_it_is_delivered(model_name, storage_client, settings):
    """It is made from the table of models, which has one row for each version."""
    frame = pd.DataFrame({"x": [0.0, 1.0]})
    ref = save_model(LinearRegression().fit(frame, [0, 1]), model_name, frame, description="A line").ref
    blob = storage_client.bucket(settings.model_bucket()).get_blob(ref.blob_path(MANIFEST_FILE))
    for _ in range(3):
        registry.register(UploadEvent(settings.model_bucket(), blob.name, blob.generation))
    (event,) = history(model_name).to_dict("records")
    assert (event["event_type"], event["model_version"], event["reason"]) == ("registered", "v1", "A line")
    assert event["event_timestamp"] == blob.time_created
    assert event["actor"] == blob.metadata["uploader"]
    assert json.loads(event["details"])["gcs_uri"] == ref.uri(settings.model_bucket())


def test_event_about_a_version_is_written_once_under_its_jobs_name(model):
    """Promotions and refusals go the same way, and move no alias."""
    set_alias(model, "champion", "v1", reason="r")
    for _ in range(2):
        registry.record_event(
            "refused", model, "v2", reason="accuracy", details={"accuracy": 0.5}, job_id=f"mlsys_refused_{model}_v2"
        )
    (event,) = (row for row in history(model).to_dict("records") if row["event_type"] == "refused")
    assert (event["model_version"], json.loads(event["details"])) == ("v2", {"accuracy": 0.5})
    assert resolve_alias(model).version == "v1"


def test_move_whose_row_is_gone_is_named(model, bigquery_client):
    """Somebody edited the table: the job's id is used all the same."""
    set_alias(model, "champion", "v1", reason="r")
    events = registry_table(bigquery_client.project, "events").sql
    bigquery_client.query_and_wait(f"DELETE FROM {events} WHERE model_name = '{model}'")
    with pytest.raises(
        ConflictError, match=r"made move 1 of champion of .* lacks it: was the table edited or restored"
    ):
        set_alias(model, "champion", "v2", reason="r")


def test_event_sql_and_schema_have_the_same_columns():
    """Every column is written by name, and described; every view has a description."""
    sql = files.sql("record_event", "shoufianesys")
    names = [field["name"] for field in files.schema("events")]
    inserted, values = re.search(r"INSERT INTO \S+ \((.*?)\n\) VALUES \((.*)\)", sql, re.S).groups()
    assert re.findall(r"\w+", inserted) == names
    assert set(re.findall(r"@(\w+)", values)) == {*names, "after"} - {"event_timestamp"}
    assert all(field["description"] for field in files.schema("events"))
    assert all(view.startswith("-- ") for view in files.views("shoufianesys").values())


def test_views_are_made_described_and_replaced_when_their_sql_changes(settings, tmp_path):
    """A data folder of last month gets this month's views, and the columns that they need."""
    settings = settings.model_copy(update={"mlsys_data_dir": tmp_path})
    client, project = clients.bigquery_client(settings), settings.gcp_project_id
    wanted = files.views(project)
    assert {"alias_history", "aliases", "history", "lineage", "versions"} <= wanted.keys()
    client.query_and_wait(f"CREATE OR REPLACE VIEW {registry_table(project, 'aliases').sql} AS SELECT 1 AS old")
    models = client.get_table(str(registry_table(project, "models")))
    client.delete_table(models)
    client.create_table(bigquery.Table(models.reference, models.schema[:-1]))
    twin = attach(tmp_path, project=project, buckets={})
    body = {"project": project, "buckets": settings.model_buckets}
    requests.post(f"{twin.http}/_mlsys/provision", json=body, timeout=30).raise_for_status()
    assert client.get_table(models).schema == models.schema
    for name, sql in wanted.items():
        view = client.get_table(str(registry_table(project, name)))
        assert view.view_query == sql
        client.query_and_wait(f"SELECT * FROM {registry_table(project, name).sql} LIMIT 1")
        assert len(view.description) > 50
        assert "--" not in view.description


def test_commands_print_a_line_or_json(model, mlsys):
    """Set, list, roll back, remove, look back."""
    code, out, _ = mlsys("alias", "set", model, "champion", "v1", "--reason", "first")
    assert (code, out[: len(model) + 30]) == (0, f"champion of {model} points to v1 since "[: len(model) + 30])
    mlsys("alias", "set", model, "champion", "2", "--reason", "better", "--expect", "v1")
    assert json.loads(mlsys("alias", "list", model, "--json")[1])[0]["reason"] == "better"
    assert "better" in mlsys("alias", "list", model)[1]
    assert json.loads(mlsys("alias", "list", model, "--json", "--at", "2020-01-01")[1]) == []
    back = json.loads(mlsys("rollback", model, "--reason", "bad", "--json")[1])
    assert (back["model_version"], back["previous_version"], back["sequence"]) == ("v1", "v2", 3)
    assert "points to no version since" in mlsys("alias", "remove", model, "champion", "--reason", "over")[1]
    events = [row["event_type"] for row in json.loads(mlsys("history", model, "--json")[1])]
    assert events == ["registered"] * 5 + ["alias_set", "alias_set", "rolled_back", "alias_removed"]
    page = mlsys("history", model, "--alias", "champion")[1]
    assert "rolled_back" in page
    assert "registered" not in page


def test_a_versions_page_names_its_aliases(model_name, mlsys):
    """Beside what its manifest says."""
    frame = pd.DataFrame({"x": [0.0, 1.0]})
    save_model(LinearRegression().fit(frame, [0, 1]), model_name, frame)
    for alias in ("shadow", "champion"):
        set_alias(model_name, alias, "v1", reason="r")
    assert re.search(r"aliases +│ champion, shadow", mlsys("models", "show", model_name, "champion")[1])


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["alias", "set", "{}", "champion", "v2", "--reason", "r", "--expect", "v4"], 10, "was moved to v1 by"),
        (["alias", "set", "{}", "champion", "v9", "--reason", "r"], 3, "it has v1, v2, v3, v4, v5, champion (v1)"),
        (["alias", "set", "{}", "v3", "v2", "--reason", "r"], 2, "an alias must be"),
        (["alias", "set", "{}", "champion", "V2", "--reason", "r"], 2, "model_version must be"),
        (["rollback", "{}", "--reason", "r"], 3, "has no version before v1"),
        (["rollback", "{}", "--alias", "shadow", "--reason", "r"], 3, "no alias 'shadow'"),
        (["history", "no-such-model"], 3, "no model 'no-such-model'"),
    ],
)
def test_each_mistake_is_one_line_and_an_exit_code(model, mlsys, arguments, code, words):
    """The value received, and the way out."""
    set_alias(model, "champion", "v1", reason="r")
    got, out, error = mlsys(*(text.format(model) for text in arguments))
    assert (got, out, len(error.splitlines())) == (code, "", 1)
    assert words in error


@pytest.mark.parametrize(
    "command", [["alias"], ["alias", "set"], ["alias", "list"], ["alias", "remove"], ["rollback"], ["history"]],
    ids=" ".join,
)  # fmt: skip
def test_help_shows_an_example(command, mlsys, monkeypatch):
    """Every command says how it is used."""
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = mlsys(*command, "--help")
    assert code == 0
    assert f"mlsys {' '.join(command)}" in out.split("Example:")[1]


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("alias set {} ch", {"champion", "challenger"}),
        ("alias set {} sh", {"shadow"}),
        ("alias set {} champion v", {"v1", "v2", "v3", "v4", "v5"}),
        ("rollback {} --alias sh", {"shadow"}),
        ("history model-", None),
        ("alias set no-such-model champion v", set()),
    ],
)
def test_names_complete(model, mlsys, monkeypatch, words, offered):
    """Models, aliases and versions, as a shell asks for them."""
    set_alias(model, "shadow", "v1", reason="r")
    line = f"mlsys {words.format(model)}"
    monkeypatch.setenv("_MLSYS_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(len(line.split()) - 1))
    monkeypatch.setattr("sys.argv", ["mlsys"])
    got = set(mlsys()[1].split())
    assert got == offered if offered is not None else model in got


def test_long_history_is_cut_off_at_its_old_end(model, mlsys):
    """The latest events, and a word about the others."""
    do(model, "v1", "v2", "v3")
    assert list(history(model, last=2)["model_version"]) == ["v2", "v3"]
    _, out, error = mlsys("history", model, "--last", "2", "--json")
    assert [row["model_version"] for row in json.loads(out)] == ["v2", "v3"]
    assert "only the last 2 events are shown" in error
    assert mlsys("history", model, "--last", "8")[2] == ""
