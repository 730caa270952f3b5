"""Succeeds when the server can do its work: the login and the answer both come from PostgreSQL.

MLflow's own /health answers as long as the process lives, whatever became of the database.
"""

import base64
import os
import sys
import urllib.request

PORT = os.environ.get("MLFLOW_PORT", "5000")
login = f"{os.environ['MLFLOW_TRACKING_USERNAME']}:{os.environ['MLFLOW_TRACKING_PASSWORD']}"
request = urllib.request.Request(
    f"http://127.0.0.1:{PORT}/api/2.0/mlflow/experiments/get?experiment_id=0",
    headers={"Authorization": f"Basic {base64.b64encode(login.encode()).decode()}"},
)
try:
    urllib.request.urlopen(request, timeout=5).close()
except OSError as error:
    sys.exit(f"not healthy: {error}")
