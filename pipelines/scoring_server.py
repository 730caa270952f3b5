"""The process of `crossfold serve`: MLflow's scoring server, on loopback, with one version.

`python -m pipelines.scoring_server NAME VERSION PORT`. It imports nothing of `crossfold`: a version
brings the code that it was registered with, and MLflow puts that first on the path.
"""

import os
import signal
import socket
import sys
import tempfile
from types import FrameType

# A model of Crossfold has no pickle. Where someone has put one in its place, it is not loaded.
os.environ["MLFLOW_ALLOW_PICKLE_DESERIALIZATION"] = "false"
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

import mlflow.pyfunc
import uvicorn
from mlflow.artifacts import download_artifacts
from mlflow.pyfunc import scoring_server

_HOST = "127.0.0.1"
# Seconds that requests have to end after a signal.
_PATIENCE = 5


class _Server(uvicorn.Server):
    """Says when it answers."""

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            address = f"http://{_HOST}:{self.config.port}"
            print(f"ready: {address}/invocations (Ctrl-C ends it)", flush=True)


def main(name: str, version: str, port: int) -> None:
    """Serve a version until a signal comes."""
    signal.signal(signal.SIGTERM, _end)
    signal.signal(signal.SIGHUP, _end)
    print(f"{name} version {version} is loaded …", flush=True)
    with tempfile.TemporaryDirectory(prefix="crossfold-serve-") as folder:
        try:
            store = os.environ["MLFLOW_TRACKING_URI"]
            source = f"models:/{name}/{version}"
            path = download_artifacts(
                source, dst_path=folder, tracking_uri=store, registry_uri=store
            )
            app = scoring_server.init(mlflow.pyfunc.load_model(path))
        except Exception as error:  # what stands in a version's files is not ours to foresee
            sys.exit(f"error: {name} version {version} cannot be served: {error}")
        config = uvicorn.Config(
            app, _HOST, port, log_level="warning", timeout_graceful_shutdown=_PATIENCE
        )
        _Server(config).run()


def _end(signum: int, _: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
    except KeyboardInterrupt:
        print("ended")
