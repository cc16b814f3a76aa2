"""HTTP predictions: a real server on loopback, the twin behind it, and the batch job's answers beside its own.

``MLSYS_MALFORMED`` is the number of malformed bodies, ``MLSYS_TYPE_CASES`` that of examples of types.
"""

import base64
import http.client
import json
import os
import random
import re
import signal
import socket
import string
import subprocess
import sys
import time
import uuid
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path

import functions_framework
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from sklearn.base import BaseEstimator
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder
from werkzeug.test import EnvironBuilder

import scripts.serve
from mlsys.bq import bq_get, bq_put
from mlsys.errors import SchemaError, SettingsError
from mlsys.manifest import InputField
from mlsys.models import load_model, save_model
from mlsys.predict import PredictionJob, score
from mlsys.predict.metadata import METADATA
from mlsys.serve import Resident, read_instances, to_batch
from mlsys.serve.instances import MAX_INSTANCES, WANTED
from mlsys.serve.server import get_service, read_variables
from mlsys.serve.service import MAX_BODY_BYTES, Service, predict_instances
from mlsys.settings import get_settings
from scripts.predict import pull_predict_push
from tests.test_predict_types import VALUES, cases, model_of, pipelines, served

MALFORMED = int(os.environ.get("MLSYS_MALFORMED", "1000"))
CASES = int(os.environ.get("MLSYS_TYPE_CASES", "150"))
VERTEX_PATH = "/v1/projects/p/locations/us-central1/endpoints/1:predict"
JSON = {"Content-Type": "application/json"}

PASSENGERS = pd.DataFrame(
    {
        "passenger_id": range(8),
        "age": [22.0, 38.0, None, 35.0, 54.5, 2.0, 27.0, None],
        "sex": pd.Categorical(["male", "female", "female", "male", "male", "female", "male", "female"]),
        "pclass": [3, 1, 3, 1, 1, 3, 2, 2],
        "alone": [False, False, True, False, True, False, True, False],
    }
)
FEATURES = ["age", "sex", "pclass", "alone"]
GOOD = {"age": 22.0, "sex": "male", "pclass": 3, "alone": False}


def classifier(seed: int = 0):
    encode = make_column_transformer((OneHotEncoder(), ["sex"]), remainder="passthrough")
    labels = np.random.default_rng(seed).permutation([0, 1, 1, 1, 0, 1, 0, 0])
    return make_pipeline(encode, FillWithZero(), LogisticRegression()).fit(PASSENGERS[FEATURES], labels)


class FillWithZero(BaseEstimator):
    """A step for missing values."""

    def fit(self, features, labels=None):
        """Do nothing."""
        return self

    def transform(self, features):
        """Return numbers, 0 for what is missing."""
        return np.nan_to_num(np.asarray(features, dtype=float))


class Fickle(BaseEstimator):
    """A model that does not always give the same."""

    gives = 0.0

    def predict(self, frame):
        """Give what it gives today."""
        return np.full(len(frame), self.gives)


@dataclass
class Answer:
    """What came back over HTTP."""

    status: int
    headers: http.client.HTTPMessage
    text: str

    @property
    def json(self) -> dict:
        """The body as JSON, which every answer of the service is."""
        return json.loads(self.text)

    @property
    def message(self) -> str:
        """What is wrong, in one line."""
        return self.json["error"]["message"]


@dataclass
class Server:
    """A running ``python -m scripts.serve``, and what it said while the registry had no such model."""

    model_name: str
    port: int
    process: subprocess.Popen
    log: Path
    before: dict[str, Answer] = field(default_factory=dict)

    def ask(self, method: str, path: str, body: bytes | str | None = None, headers: dict | None = None) -> Answer:
        """Send one request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, headers or {})
            reply = connection.getresponse()
            return Answer(reply.status, reply.headers, reply.read().decode())
        finally:
            connection.close()

    def predict(self, *instances: dict, **headers: str) -> Answer:
        """Ask for predictions."""
        return self.ask("POST", "/predict", json.dumps({"instances": instances}), JSON | headers)

    def wait(self, path: str, version: str = "", seconds: float = 60) -> Answer:
        """Ask until the answer is 200 and of that version."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            try:
                answer = self.ask("GET", path)
            except (ConnectionError, http.client.HTTPException):
                assert self.process.poll() is None, self.log.read_text()
            else:
                if answer.status == 200 and answer.json.get("model_version", "") == version:
                    return answer
            time.sleep(0.05)
        raise AssertionError(self.log.read_text())

    def wait_for_line(self, text: str, seconds: float = 60) -> None:
        """Return when the log has a line with this text."""
        deadline = time.monotonic() + seconds
        while text not in self.log.read_text():
            assert time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


@pytest.fixture(scope="module")
def server(_session_twin, tmp_path_factory) -> Iterator[Server]:
    """A service that was started before its model was saved."""
    name, port = f"model-{uuid.uuid4().hex[:12]}", free_port()
    log = tmp_path_factory.mktemp("serve") / "log"
    variables = {"MODEL_NAME": name, "PORT": str(port), "AIP_PREDICT_ROUTE": VERTEX_PATH, "K_SERVICE": "test"}
    with log.open("wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "scripts.serve"], env=os.environ | variables, stdout=output, stderr=output
        )
    server = Server(name, port, process, log)
    try:
        server.wait("/health/live")
        server.wait_for_line("no model to serve")  # it tries before anybody asks
        server.before = {"/predict": server.predict(GOOD), "/health": server.ask("GET", "/health")}
        save_model(classifier(), name, PASSENGERS[FEATURES], metrics={"accuracy": 0.75}, training_query="SELECT 1")
        server.wait("/health", "v1")
        yield server
    finally:
        process.terminate()
        try:
            process.wait(20)
        finally:
            process.kill()


def test_the_service_listens_before_its_model_is_registered(server):
    """It lives and says what is missing, tells callers when to come again, and is ready when the model is."""
    for answer in server.before.values():
        assert answer.status == 503
        assert f"no model {server.model_name!r} in the registry of local" in answer.message
        assert answer.headers["Retry-After"] == "5"
    assert server.ask("GET", "/health").json == {
        "status": "ready",
        "model_name": server.model_name,
        "model_version": "v1",
    }


def test_service_and_job_give_the_same_predictions_and_metadata(server, dataset):
    """The same rows over HTTP and by a run; the request's id stands for the run's."""
    bq_put(PASSENGERS.astype({"sex": "str"}), f"{dataset}.passengers")
    output = f"{dataset}.predictions"
    pull_predict_push(PredictionJob(server.model_name, f"{dataset}.passengers", output, ("passenger_id",)))
    published = bq_get(f"SELECT * FROM `{output}` ORDER BY passenger_id")
    answer = server.predict(*json.loads(PASSENGERS[FEATURES].to_json(orient="records"))).json
    for name in ("prediction", "prediction_probability", "model_name", "model_version"):
        assert [row[name] for row in answer["predictions"]] == published[name].tolist(), name
    ours = {"request_id"} | {*METADATA.names} - {"run_id", "as_of"}
    assert all(row.keys() == {"prediction", "prediction_probability"} | ours for row in answer["predictions"])
    moment = datetime.fromisoformat(answer["predictions"][0]["prediction_timestamp"])
    assert 0 <= (datetime.now(UTC) - moment).total_seconds() < 60
    assert answer["deployedModelId"] == f"{server.model_name}/v1"
    assert (answer["model"], answer["modelVersionId"]) == (server.model_name, "v1")


def test_google_s_own_client_for_vertex_ai_is_understood_and_understands(server):
    """The path that AIP_PREDICT_ROUTE names is the one that a Vertex AI endpoint has."""
    from google.auth.credentials import AnonymousCredentials
    from google.cloud.aiplatform_v1.services.prediction_service import PredictionServiceClient
    from google.cloud.aiplatform_v1.services.prediction_service.transports.rest import PredictionServiceRestTransport

    transport = PredictionServiceRestTransport(
        host=f"127.0.0.1:{server.port}", credentials=AnonymousCredentials(), url_scheme="http"
    )
    client = PredictionServiceClient(transport=transport)
    endpoint = VERTEX_PATH.removeprefix("/v1/").removesuffix(":predict")
    answer = client.predict(endpoint=endpoint, instances=[GOOD, GOOD | {"age": None}])
    assert [row["prediction"] for row in answer.predictions] == [
        row["prediction"] for row in server.predict(GOOD, GOOD | {"age": None}).json["predictions"]
    ]
    assert (answer.deployed_model_id, answer.model_version_id) == (f"{server.model_name}/v1", "v1")


def test_an_instance_that_the_job_would_reject_has_the_job_s_reason(server):
    """The others are predicted; each answer stands where its instance stood."""
    answer = server.predict(GOOD, GOOD | {"sex": "other"}, GOOD | {"pclass": None}, GOOD)
    first, level, missing, last = answer.json["predictions"]
    assert answer.status == 200
    assert first == last
    assert "reason" not in first
    assert (level["reason"], level["model_version"]) == ("sex is 'other', a level that training had not", "v1")
    assert missing["reason"] == "pclass is NULL or NaN, training saw none"
    assert "prediction" not in level | missing


def test_a_request_keeps_its_id_or_gets_one(server):
    """The id is in the header, in every prediction and in the log; one that could forge a log line is not taken."""
    kept = server.predict(GOOD, **{"X-Request-Id": "order-7"})
    assert (kept.headers["X-Request-Id"], kept.json["predictions"][0]["request_id"]) == ("order-7", "order-7")
    made = server.predict(GOOD, **{"X-Request-Id": 'x", "severity": "ERROR'})
    assert re.fullmatch("[0-9a-f]{32}", made.headers["X-Request-Id"])


def test_the_log_is_json_with_the_request_and_its_trace(server):
    """Cloud Logging shows the line beside the request that Cloud Run logs."""
    trace = uuid.uuid4().hex
    server.predict(
        *(GOOD, GOOD | {"sex": "other"}, GOOD),
        **{"X-Request-Id": trace[:8], "traceparent": f"00-{trace}-{'1' * 16}-01"},
    )
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    line = next(line for line in lines if line.get("request_id") == trace[:8])
    assert (line["severity"], line["instances"], line["rejected"]) == ("INFO", 3, 1)
    assert line["logging.googleapis.com/trace"] == f"projects/{get_settings().gcp_project_id}/traces/{trace}"
    assert line["model_name"] == server.model_name


def test_the_card_says_what_the_model_takes_and_shows_no_training_rows(server):
    """A caller can write a request from it."""
    card = server.ask("GET", "/model").json
    manifest = load_model(server.model_name, "v1").manifest
    assert card["metrics"] == {"accuracy": 0.75}
    assert card["training_query"] == "SELECT 1"
    assert card["artifacts"] == [artifact.model_dump() for artifact in manifest.artifacts]
    assert [(f["name"], f["type"], f["nullable"]) for f in card["inputs"]] == [
        ("age", "FLOAT64", True),
        ("sex", "STRING", False),
        ("pclass", "INT64", False),
        ("alone", "BOOL", False),
    ]
    assert card["inputs"][1]["categories"] == ["female", "male"]
    assert manifest.creator not in json.dumps(card)
    assert not {"golden_rows", "profile", "creator"} & card.keys()


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "message"),
    [
        ("GET", "/predict", {}, 405, "use POST for this path"),
        ("PUT", "/predict", JSON, 405, "use POST for this path"),
        ("POST", "/model", JSON, 405, "use GET for this path"),
        ("DELETE", "/health", {}, 405, "use GET for this path"),
        ("GET", "/nothing", {}, 404, "there is nothing at this path"),
        ("GET", "/favicon.ico", {}, 404, "Not Found"),
        ("POST", "/predict", {}, 415, "send Content-Type: application/json"),
        ("POST", "/predict", {"Content-Type": "text/csv"}, 415, "send Content-Type: application/json"),
        ("POST", "/predict", {"Content-Type": "application/json; charset=latin-1"}, 415, "in UTF-8"),
        ("POST", "/predict", JSON | {"Content-Encoding": "gzip"}, 415, "without Content-Encoding"),
    ],
)
def test_wrong_requests_get_their_status_and_one_line(server, method, path, headers, status, message):
    """The status that HTTP has for it, the reason as JSON; 405 names the methods."""
    answer = server.ask(method, path, json.dumps({"instances": [GOOD]}), headers)
    assert (answer.status, answer.json["error"]["code"]) == (status, status)
    assert message in answer.message
    assert "\n" not in answer.message
    assert ("Allow" in answer.headers) == (status == 405)


def test_the_index_and_head_answer(server):
    """Whoever opens the address learns where to go; monitors ask by HEAD."""
    assert "POST /predict" in server.ask("GET", "/").json
    head = server.ask("HEAD", "/health")
    assert (head.status, head.text) == (200, "")


def wrong(**fields) -> str:
    second = {name: value for name, value in (GOOD | fields).items() if value is not ...}
    return json.dumps({"instances": [GOOD, second]})


A_FLOAT = 'instances[1].age must be a number that FLOAT64 holds, or "NaN", "Infinity" or "-Infinity", got'
AN_OBJECT = 'the body must be an object like {"instances": [{…}, …]}'
WRONG_BODIES = {
    "nothing": (b"", "the body is not JSON: Expecting value: line 1 column 1 (char 0)"),
    "cut off": (b'{"instances": [', "the body is not JSON: Expecting value: line 1 column 16 (char 15)"),
    "not UTF-8": (b'{"instances": ["\xff"]}', "the body is not UTF-8 at byte 16"),
    "nested": (b"[" * 100_000, "the body is nested too deeply"),
    "many digits": (b'{"instances": [1' + b"0" * 5000 + b"]}", "the body has a number with too many digits"),
    "NaN": (b'{"instances": [NaN]}', 'NaN is no number there, write null or, for a FLOAT64, "NaN"'),
    "field twice": (b'{"instances": [{"age": 1, "age": 2}]}', 'an object has the field "age" twice'),
    "instances twice": (b'{"instances": [], "instances": [1]}', 'an object has the field "instances" twice'),
    "an array": (b"[]", AN_OBJECT),
    "no instances": (b'{"rows": []}', AN_OBJECT),
    "instances no array": (b'{"instances": {}}', AN_OBJECT),
    "none": (b'{"instances": []}', "instances must be 1 to 1,000, got 0"),
    "parameters": (b'{"instances": [{}], "parameters": {"k": 1}}', "the body has parameters: the model takes none"),
    "something else": (b'{"instances": [{}], "x": 1}', 'the body has a field "x": only instances are known'),
    "rows as arrays": (b'{"instances": [[1]]}', "instances[0] must be an object with the model's fields, got an array"),
    "rows as text": (b'{"instances": ["a"]}', 'instances[0] must be an object with the model\'s fields, got "a"'),
    "field missing": (wrong(age=...), 'instances[1] has no field "age": send null for a missing value'),
    "field in capitals": (
        wrong(age=..., Age=1),
        'instances[1] has no field "age", but "Age", which the model does not',
    ),
    "field too many": (
        wrong(fare=1),
        'instances[1] has a field "fare" that the model does not know; it takes age, sex,',
    ),
    "integer as text": (wrong(pclass="3"), 'instances[1].pclass must be an integer of 64 bits, got "3"'),
    "fraction": (wrong(pclass=1.5), "instances[1].pclass must be an integer of 64 bits, got 1.5"),
    "boolean as integer": (wrong(pclass=True), "instances[1].pclass must be an integer of 64 bits, got true"),
    "65 bits": (wrong(pclass=2**63), "instances[1].pclass must be an integer of 64 bits, got 9223372036854775808"),
    "float as text": (wrong(age="old"), f'{A_FLOAT} "old"'),
    "float as array": (wrong(age=[1]), f"{A_FLOAT} an array"),
    "text as number": (wrong(sex=1), "instances[1].sex must be text, got 1"),
    "integer as boolean": (wrong(alone=0), "instances[1].alone must be true or false, got 0"),
    "half a character": (wrong(sex="\ud800"), "instances[1].sex must be text, got"),
}


@pytest.mark.parametrize(("body", "message"), WRONG_BODIES.values(), ids=WRONG_BODIES)
def test_what_is_wrong_with_a_body_is_said_in_one_line_with_the_place(server, body, message):
    """The instance, the field, what it must be and what it was."""
    answer = server.ask("POST", "/predict", body, JSON)
    assert answer.status == 400
    assert message in answer.message
    assert "\n" not in answer.message
    assert len(answer.message) < 700


def test_bodies_and_batches_are_bounded(server):
    """By bytes, said beforehand or not, and by instances; a caller over the limit does not end the service."""
    most = {"instances": [GOOD] * MAX_INSTANCES}
    assert len(server.predict(*most["instances"]).json["predictions"]) == MAX_INSTANCES
    assert "instances must be 1 to 1,000, got 1,001" in server.predict(*most["instances"], GOOD).message
    piece = b"x" * 65_536
    for size in (MAX_BODY_BYTES // len(piece) + 1, 160, 500):
        for body in (piece * size, (piece for _ in range(size))):
            answer = server.ask("POST", "/predict", body, JSON)
            assert (answer.status, answer.message.partition(":")[0]) == (413, "a body has 1,500,000 bytes at most")
    assert server.predict(GOOD).status == 200


def malformed(rng: random.Random) -> bytes:
    """Return a body that no request can be."""
    good = json.dumps({"instances": [GOOD] * rng.randint(1, 3)}).encode()
    name, no_text = rng.choice(FEATURES), rng.choice(["age", "pclass", "alone"])
    noise = bytes(rng.randrange(256) for _ in range(rng.randint(1, 200)))
    depth = rng.randint(900, 50_000)
    text = "".join(rng.choices(string.printable, k=rng.randint(1, 60)))
    worst = rng.choice([[], {}, [GOOD], {"a": {}}, 1e308 * 10, 10**400, "\ud800", -(2**63) - 1, text + "?"])
    return rng.choice(
        [
            good[: rng.randrange(len(good) - 1)],
            good + rng.choice([b"}", b"x", b"\0", good]),
            noise + b"\xff" + good,
            good.replace(b'"instances"', rng.choice([b'"instance"', b"instances", b'"instances\0"', b'"\\u0000"'])),
            good.replace(
                b"22.0", rng.choice([b"NaN", b"Infinity", b"-Infinity", b"1e", b"01", b"+1", b"0x1", b".5", b"1e999"])
            ),
            good.replace(b"22.0", b"9" * rng.randint(400, 20_000)),
            good.replace(b"{", b'{"age": 1, ', rng.randint(2, 3)),
            b'{"instances": ' + rng.choice([b"[", b'{"a":']) * depth,
            b'{"instances": ' + b"[" * depth + b"]" * depth + b"}",
            json.dumps({"instances": [GOOD | {no_text: worst}]}).encode(),
            json.dumps({"instances": [GOOD, {k: v for k, v in GOOD.items() if k != name}]}).encode(),
            json.dumps({"instances": [GOOD | {text + "?": 1}]}).encode(),
            json.dumps({"instances": rng.choice([None, 1, "x", {}, [], [None], [[]], [1], [GOOD, "x"]])}).encode(),
            json.dumps(rng.choice([None, True, 3, "instances", [], [GOOD], {}])).encode(),
            json.dumps({"instances": [GOOD]}).encode(rng.choice(["utf-16", "utf-32", "utf-8-sig"])),
        ]
    )


def test_malformed_bodies_are_the_callers_fault(server):
    """Each is answered 4xx in one line; the service says nothing of its inside, and goes on."""
    seed = random.randrange(2**32)
    rng = random.Random(seed)
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    for number in range(MALFORMED):
        body = malformed(rng)
        connection.request("POST", "/predict", body, JSON)
        reply = connection.getresponse()
        text = reply.read().decode()
        told = (seed, number, body[:300], text)
        assert 400 <= reply.status < 500, told
        message = json.loads(text)["error"]["message"]
        assert "\n" not in message, told
        assert len(message) < 1000, told
        assert not re.search(r"Traceback|Error\(|<class|object at 0x|\bNone\b|datetime\.", text), told
    connection.close()
    assert server.predict(GOOD).status == 200


def test_many_callers_at_once_get_their_own_answers(server):
    """Threads share one model."""
    ages = [float(age) for age in range(64)]
    alone = [server.predict(GOOD | {"age": age}).json["predictions"][0]["prediction_probability"] for age in ages]
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda age: server.predict(GOOD | {"age": age}), ages))
    assert [a.json["predictions"][0]["prediction_probability"] for a in answers] == alone


def test_the_version_stays_until_sighup(server):
    """A newer version does not change what a running service answers; SIGHUP loads what ``latest`` is then."""
    save_model(classifier(1), server.model_name, PASSENGERS[FEATURES])
    assert server.predict(GOOD).json["modelVersionId"] == "v1"
    server.process.send_signal(signal.SIGHUP)
    server.wait("/health", "v2")
    assert server.predict(GOOD).json["modelVersionId"] == "v2"


def test_sigterm_ends_it_in_order(server):
    """Cloud Run sends it ten seconds before the end. The last of the tests with this server."""
    server.process.terminate()
    assert server.process.wait(10) == 0
    lines = [json.loads(line) for line in server.log.read_text().splitlines()]
    assert {line["severity"] for line in lines} <= {"INFO", "ERROR"}
    assert {"gunicorn.error", "mlsys.serve.resident"} <= {line["logger"] for line in lines}


@pytest.fixture
def service(monkeypatch, twin):
    """The functions-framework target, in this process, for a model that is registered or not."""
    get_service.cache_clear()

    def make(model_name: str):
        monkeypatch.setenv("MODEL_NAME", model_name)
        return functions_framework.create_app("predict", scripts.serve.__file__).test_client()

    yield make
    get_service.cache_clear()


def test_functions_framework_alone_serves_the_target(service, model_name):
    """Without our server, too: the first request loads the model and waits for it."""
    save_model(classifier(), model_name, PASSENGERS[FEATURES])
    reply = service(model_name).post("/predict", json={"instances": [GOOD]})
    assert (reply.status_code, reply.json["modelVersionId"]) == (200, "v1")


def test_what_fails_inside_is_logged_and_not_told(caplog):
    """No memory is left, say: 500, one line, the rest in the log."""

    class Hungry(BaseEstimator):
        def predict(self, frame):
            raise MemoryError("secret")

    model = model_of(Hungry(), pd.DataFrame({"x": [1.0]}))
    request = EnvironBuilder("/predict", method="POST", json={"instances": [{"x": 1}]}).get_request()
    reply = Service(Resident(lambda: model)).answer(request)
    assert reply.status_code == 500
    assert reply.json["error"]["message"] == "the service failed, its log has more"
    assert "MemoryError: secret" in caplog.text


def test_a_version_that_does_not_verify_is_not_served(service, model_name, storage_client, settings):
    """Its bytes are not those that were registered: the reason is told, and nothing of it was unpickled."""
    ref = save_model(classifier(), model_name, PASSENGERS[FEATURES]).ref
    storage_client.bucket(settings.model_bucket()).blob(ref.blob_path("model.joblib")).upload_from_string(b"other")
    reply = service(model_name).post("/predict", json={"instances": [GOOD]})
    assert reply.status_code == 503
    assert f"model.joblib of {ref} is not what was saved" in reply.json["error"]["message"]


def test_a_version_that_does_not_reproduce_its_golden_rows_is_not_served(service, model_name, monkeypatch):
    """As in the job's preflight: other libraries, or a model that is not a function of its input."""
    save_model(Fickle(), model_name, pd.DataFrame({"x": [1.0]}))
    monkeypatch.setattr(Fickle, "gives", 1.0)
    reply = service(model_name).get("/model")
    assert reply.status_code == 503
    assert "prediction expected 0.0, found 1.0" in reply.json["error"]["message"]


def test_loading_is_tried_again_but_not_all_the_time():
    """After a failure the next try waits; questions in between are answered from what is known."""
    tries = []

    def load():
        tries.append(1)
        if len(tries) == 1:
            raise SchemaError("not yet")
        if len(tries) == 2:
            raise OSError("secret path")
        return model

    model = model_of(pipelines()["probe"], pd.DataFrame({"x": [1.0]}))
    resident = Resident(load, retry_s=0.3)
    assert [resident.model(5) for _ in range(3)] == [None] * 3
    assert (len(tries), resident.reason) == (1, "not yet")
    time.sleep(0.3)
    assert resident.model(5) is None
    assert resident.reason == "loading the model failed (OSError), the service's log has more"
    time.sleep(0.3)
    assert [resident.model(5) for _ in range(3)] == [model] * 3
    assert len(tries) == 3


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({}, "MODEL_NAME is not set: name the model to serve"),
        ({"MODEL_NAME": "Titanic"}, "model_name must be lower-case"),
        ({"MODEL_NAME": "m", "MODEL_VERSION": "V 1"}, "model_version must be 'v3'"),
        ({"MODEL_NAME": "m", "PORT": "http"}, "PORT: Input should be a valid integer.*got 'http'"),
        ({"MODEL_NAME": "m", "AIP_PREDICT_ROUTE": "predict"}, "AIP_PREDICT_ROUTE: .*got 'predict'"),
    ],
)
def test_variables_that_cannot_be_used_are_named(monkeypatch, variables, message):
    """Before anything listens."""
    for name in ("MODEL_NAME", "MODEL_VERSION", "PORT"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises((SettingsError, ValueError), match=message):
        read_variables()


def test_a_wrong_variable_ends_the_command_with_one_line():
    """Cloud Run shows the line as the reason why the revision failed."""
    variables = os.environ | {"MODEL_NAME": "No", "K_SERVICE": "test"}
    command = [sys.executable, "-m", "scripts.serve"]
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=60)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert json.loads(done.stderr)["message"].startswith("model_name must be lower-case")


def as_json(value: object, kind: str) -> object:
    """Return what a caller writes for a value of a BigQuery type."""
    if value is None or kind in ("INT64", "BOOL", "STRING"):
        return value
    if kind == "FLOAT64":
        return value if np.isfinite(value) else {"inf": "Infinity", "-inf": "-Infinity", "nan": "NaN"}[str(value)]
    if kind == "BYTES":
        return base64.b64encode(value).decode()
    if kind in ("NUMERIC", "BIGNUMERIC"):
        return f"{value:f}"
    return value.isoformat()


@hypothesis_settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True)
@given(cases())
def test_what_is_served_is_what_the_job_predicts(case):
    """For every type and dtype: the same prediction, or the same reason, from JSON as from BigQuery's rows."""
    dtype, levels, seen, kind, serving = case
    frame = pd.DataFrame({"c": dtype.column(seen, levels)})
    with warnings.catch_warnings(action="ignore"):
        model = model_of(pipelines()["probe"], frame)
        wanted = model.manifest.signature.inputs[0].type
        body = json.dumps({"instances": [{"c": as_json(value, kind)} for value in serving]}).encode()
        if wanted not in (kind, "FLOAT64"):  # training saw nothing but None in a column of objects, which is text
            return
        between = [v for v in serving if wanted != kind and v is not None and float(v) != v]
        if between:  # integers of which no float is one, which JSON cannot tell from a wrong value
            with pytest.raises(SchemaError, match=r"c must be a number that FLOAT64 holds"):
                predict_instances(model, read_instances(body))
            return
        if wanted != kind:  # JSON's integers are numbers like others: a column of floats has them
            serving = [None if v is None else float(v) for v in serving]
        scored = score(model, served(serving, wanted, "plain"), ["id"])
        answers = predict_instances(model, read_instances(body))
    predictions = dict(
        zip(scored.predictions["id"].to_pylist(), scored.predictions["prediction"].to_pylist(), strict=True)
    )
    reasons = dict(zip(*scored.rejects.to_pydict().values(), strict=True))
    assert {i: a["prediction"] for i, a in enumerate(answers) if "prediction" in a} == predictions
    assert {i: a["reason"] for i, a in enumerate(answers) if "reason" in a} == reasons


def field_of(kind: str) -> InputField:
    return InputField(name="c", type=kind, dtype="object", nullable=True)


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("INT64", 1.0, 1),
        ("INT64", -(2**63), -(2**63)),
        ("INT64", 2**63 - 1, 2**63 - 1),
        ("FLOAT64", 3, 3.0),
        ("FLOAT64", "Infinity", float("inf")),
        ("NUMERIC", 12, Decimal(12)),
        ("NUMERIC", "-0.000000001", Decimal("-0.000000001")),
        ("BIGNUMERIC", f"{'9' * 38}.{'9' * 38}", Decimal(f"{'9' * 38}.{'9' * 38}")),
        ("DATE", "2024-02-29", date(2024, 2, 29)),
        ("TIME", "06:30", datetime(1, 1, 1, 6, 30).time()),
        ("DATETIME", "2026-01-31 06:00:00.000001", datetime(2026, 1, 31, 6, 0, 0, 1)),
        ("TIMESTAMP", "2026-01-31T06:00:00+01:00", datetime(2026, 1, 31, 5, tzinfo=UTC)),
        ("BYTES", "/w==", b"\xff"),
        ("STRING", "🦆\0", "🦆\0"),
    ],
)
def test_a_value_is_exactly_what_was_written(kind, value, expected):
    """JSON has one kind of number; the signature says which it is."""
    assert to_batch([{"c": value}, {"c": None}], [field_of(kind)])["c"].to_pylist() == [expected, None]


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        ("INT64", [1.5, 2.0**53 + 2, "1", True, 2**63, -(2**63) - 1, {}, []]),
        ("FLOAT64", ["1", "nan", "inf", "", True, 2**53 + 1, 10**400, float("inf"), []]),
        ("BOOL", [0, 1, "true", 0.0]),
        ("STRING", [1, True, "\ud800", []]),
        ("BYTES", ["/w=", "/w==\n", "ä", "/w==x", 1]),
        ("NUMERIC", [1.5, "1.0000000001", "x", "", "NaN", "1_0", "9" * 30, True]),
        ("BIGNUMERIC", [0.1, "9" * 39, "Infinity"]),
        ("DATE", ["2023-02-29", "2024-1-1", "0000-01-01", "10000-01-01", "2024-01-01T00:00:00", "today", 19000]),
        ("TIME", ["24:00", "10", "10:00:00.1234567", "10:00+01:00", "T10:00", 10]),
        ("DATETIME", ["2024-01-01T00:00:00Z", "2024-01-01T00:00:00.0000001", "0000-01-01", 0]),
        ("TIMESTAMP", ["2024-01-01T00:00:00", "2024-01-01", "0001-01-01T00:00:00+01:00", "9999-12-31T23:59:59-01:00",
                       "2024-01-01T00:00:00 UTC", 1700000000]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)  # fmt: skip
def test_a_value_that_is_not_of_its_type_is_refused_beside_good_ones(kind, values):
    """Nothing is rounded, cut off, wrapped around or guessed."""
    good = as_json(VALUES.get(kind, [Decimal(1)])[0], kind)
    for value in values:
        with pytest.raises(SchemaError, match=re.escape(f"instances[1].c must be {WANTED[kind]}, got ")):
            to_batch([{"c": good}, {"c": value}, {"c": good}], [field_of(kind)])
    assert to_batch([{"c": good}], [field_of(kind)]).schema == pa.schema(
        [("c", to_batch([{"c": None}], [field_of(kind)])["c"].type)]
    )


def test_a_model_that_raises_on_an_instance_answers_the_others():
    """As the job does: the row stands alone with what the model said."""

    class Odd(BaseEstimator):
        def predict(self, frame):
            if (frame["x"] == 13).any():
                raise ValueError("unlucky")
            return frame["x"].to_numpy() * 2

    model = model_of(Odd(), pd.DataFrame({"x": [1.0]}))
    answers = predict_instances(model, [{"x": 1}, {"x": 13}, {"x": 2}])
    assert [a.get("prediction") for a in answers] == [2.0, None, 4.0]
    assert answers[1]["reason"] == "the model raises ValueError: unlucky"


def test_an_input_may_have_the_name_that_we_use_inside():
    """The column that says which instance a row is gets another name then."""
    model = model_of(pipelines()["probe"], pd.DataFrame({"position": [1.0], "position_": [2.0]}))
    assert "prediction" in predict_instances(model, [{"position": 1, "position_": 2}])[0]
