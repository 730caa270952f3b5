"""Runs in the MLflow image: serves MLflow, and lets each of a request's queries fail in turn.

Prints a JSON list of [request, number of the failed query, status of the answer], with 0 for the
answer when no query failed.
"""

import base64
import json
import os
import threading
import time
import urllib.error
import urllib.request
from typing import Any

import uvicorn
from mlflow.server import auth
from sqlalchemy import event
from sqlalchemy.engine import Engine
from sqlalchemy.exc import OperationalError

PORT = 5999
LOGIN = f"{os.environ['MLFLOW_TRACKING_USERNAME']}:{os.environ['MLFLOW_TRACKING_PASSWORD']}"
failing = 0  # the number of the query that fails; 0: none
num_queries = 0


@event.listens_for(Engine, "before_cursor_execute")
def count(*_: Any) -> None:
    global num_queries
    num_queries += 1
    if num_queries == failing:
        raise OperationalError("", {}, ConnectionError("server closed the connection"))


def call(method: str, path: str, content: Any) -> tuple[int, Any]:
    body = None if content is None else json.dumps(content).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{PORT}{path}", body, method=method)
    request.add_header("Authorization", f"Basic {base64.b64encode(LOGIN.encode()).decode()}")
    request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.loads(answer.read() or b"null")
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def fail_each(method: str, path: str, content: Any) -> list[tuple[str, int, int]]:
    global failing, num_queries
    assert auth._USER_AUTH_CACHE is not None
    answers = []
    failing, num_queries = -1, 0
    while num_queries >= failing:
        failing, num_queries = failing + 1, 0
        auth._USER_AUTH_CACHE.clear()  # so that each of the answers begins with the password
        answers.append((f"{method} {path}", failing, call(method, path, content)[0]))
    failing = 0
    return answers[:-1]  # the last one had no such query


def main() -> None:
    config = uvicorn.Config(
        "mlflow.server.auth:create_app", factory=True, port=PORT, log_level="critical"
    )
    server = uvicorn.Server(config)
    threading.Thread(target=server.run, daemon=True).start()
    while not server.started:
        time.sleep(0.1)
    name = f"failing queries {time.time()}"
    api = "/api/2.0/mlflow"
    status, experiment = call("POST", f"{api}/experiments/create", {"name": name})
    assert status == 200, experiment
    experiment_id = experiment["experiment_id"]
    status, created = call("POST", f"{api}/runs/create", {"experiment_id": experiment_id})
    assert status == 200, created
    run_id = created["run"]["info"]["run_id"]
    file = f"/api/2.0/mlflow-artifacts/artifacts/{experiment_id}/{run_id}/artifacts/a.json"
    metric = {"run_id": run_id, "key": "loss", "value": 1, "timestamp": 1}
    answers = [
        *fail_each("PUT", file, {}),
        *fail_each("GET", file, None),
        *fail_each("GET", f"{api}/runs/get?run_id={run_id}", None),
        *fail_each("POST", f"{api}/runs/log-metric", metric),
    ]
    print(json.dumps(answers))


main()
