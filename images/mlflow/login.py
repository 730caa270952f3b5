"""MLflow's own check of a login, with the answer that an outage of PostgreSQL deserves.

By default MLflow answers an upload or download with 401 when it cannot ask PostgreSQL who the user
is. A client takes that for a wrong password and gives up. What a function named in auth.ini raises
becomes 503 instead, which clients repeat.
"""

from flask import Response
from mlflow.server.auth import authenticate_request_basic_auth, store
from werkzeug.datastructures import Authorization


def authenticate() -> Authorization | Response:
    """Return the request's login if it is right, else the answer 401."""
    login = authenticate_request_basic_auth()
    if isinstance(login, Authorization) and login.username:
        store.get_user(login.username)  # a password found in the cache has not asked PostgreSQL
    return login
