"""MLflow's own check of a login, with the answer that an outage of PostgreSQL deserves.

By default MLflow answers an upload or download with 401 when it cannot ask PostgreSQL who the user
is. A client takes that for a wrong password and gives up. What a function named in auth.ini raises
becomes 503 instead, which clients repeat.
"""

from typing import Any

from flask import Response, g, has_request_context, request
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import RESOURCE_DOES_NOT_EXIST, ErrorCode
from mlflow.server.auth import authenticate_request_basic_auth, store
from werkzeug.datastructures import Authorization

_ask = store.get_user


def _get_user(name: str) -> Any:
    """Return the user from what was asked at the request's start.

    MLflow asks again further on, where it takes a failure to ask for a wrong login.
    """
    if has_request_context() and name in g.get("users", {}):
        return g.users[name]
    return _ask(name)


store.get_user = _get_user


def authenticate() -> Authorization | Response:
    """Return the request's login if it is right, else the answer 401.

    Raises:
        MlflowException: PostgreSQL does not answer; also for a password found in the cache.
    """
    if request.authorization and request.authorization.username:
        name = request.authorization.username
        try:
            g.users = {name: _ask(name)}
        except MlflowException as error:
            if error.error_code != ErrorCode.Name(RESOURCE_DOES_NOT_EXIST):
                raise
    return authenticate_request_basic_auth()
