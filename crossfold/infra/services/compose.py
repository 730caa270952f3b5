"""Run MLflow, PostgreSQL and an object store in Docker, without a cluster (compose.yaml)."""

import re
import secrets
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from dotenv import dotenv_values
from tenacity import RetryError, Retrying, retry_if_result, stop_after_delay, wait_fixed

from crossfold.errors import UserError
from crossfold.infra import shell
from crossfold.infra.image_build import build_image
from crossfold.infra.image_tags import MLFLOW
from crossfold.infra.messages import Say
from crossfold.infra.object_store import ObjectStore, compose_files
from crossfold.infra.ports import is_free
from crossfold.step.files import replaced_whole

from .compose_project import ComposeProject, compose_command
from .mlflow_upgrade import upgrade_database

ENVIRONMENT = "services.env"
START_TIMEOUT = 180  # seconds

# `source` exports only the marked lines: steps must not get the servers' own passwords.
_TEMPLATE = """\
# Addresses and passwords of the services, written by `crossfold services up`; docs/services.md.
# `source services.env` exports what a run and DVC need; the rest is between the services.
export MLFLOW_TRACKING_URI=http://127.0.0.1:{mlflow_port}
export MLFLOW_TRACKING_USERNAME=pipeline
export MLFLOW_TRACKING_PASSWORD={password}
export AWS_ACCESS_KEY_ID=dvc
export AWS_SECRET_ACCESS_KEY={password}
MINIO_ROOT_USER=crossfold
MINIO_ROOT_PASSWORD={password}
S3_PASSWORD_MLFLOW={password}
MLFLOW_AUTH_ADMIN_USERNAME=admin
MLFLOW_AUTH_ADMIN_PASSWORD={password}
MLFLOW_FLASK_SERVER_SECRET_KEY={password}
POSTGRES_PASSWORD={password}
COMPOSE_PROJECT_NAME={project}
CROSSFOLD_MLFLOW_PORT={mlflow_port}
CROSSFOLD_S3_PORT={s3_port}
"""


def up(root: Path, say: Say, object_store: ObjectStore | None = None) -> None:
    """Start the services of `root`, wait until they work, and print how to use them.

    Safe to repeat: running services keep running. An older database of MLflow is upgraded, see
    `mlflow_upgrade.upgrade_database`. Without `object_store`, services.env says which one it is.

    Raises:
        UserError: a precondition fails, or a service does not start.
    """
    project = prepare(root, say, object_store)
    upgrade_database(project, say)
    start(project)
    say(_summary(project.environment))


def prepare(root: Path, say: Say, object_store: ObjectStore | None = None) -> ComposeProject:
    """Do all that must precede the start: passwords, free ports, MLflow's image.

    Raises:
        UserError: a precondition fails.
    """
    compose_command()
    path = root / ENVIRONMENT
    if not path.exists():
        _refuse_data_without_passwords()
        write_environment(path)
    _separate_keys(path, say)
    _check_ports(read_environment(path))
    build_image(MLFLOW, say)
    if object_store is not None:
        choose_store(path, object_store, say)
    return ComposeProject.find(root, read_environment(path))


def start(project: ComposeProject) -> None:
    """Start what does not run, and wait until MLflow works.

    Raises:
        UserError: a service does not start.
    """
    project.call("up", "--detach")
    _wait_for_mlflow(project.container("mlflow"))


def read_services(root: Path, say: Say) -> ComposeProject:
    """Find services that were started before in `root`.

    Raises:
        UserError: services.env is missing, or MLflow's image cannot be built.
    """
    environment = read_environment(root / ENVIRONMENT)
    build_image(MLFLOW, say)
    return ComposeProject.find(root, environment)


def down(root: Path) -> None:
    """Stop the services of `root` and remove their containers; the data stays.

    Raises:
        UserError: services.env is missing, or Docker is not available.
    """
    ComposeProject.find(root, read_environment(root / ENVIRONMENT)).call("down")


def write_environment(
    path: Path, *, project: str = "crossfold", mlflow_port: int = 5001, s3_port: int = 9000
) -> None:
    """Write a services.env with new passwords to `path`, readable only by its owner."""
    lines = [
        line.format(
            password=secrets.token_hex(16),
            project=project,
            mlflow_port=mlflow_port,
            s3_port=s3_port,
        )
        for line in _TEMPLATE.splitlines(keepends=True)
    ]
    _replace(path, "".join(lines))


def _replace(path: Path, text: str) -> None:
    with replaced_whole(path) as part:
        part.unlink(missing_ok=True)  # what a killed command left may have another mode
        part.touch(mode=0o600)  # before the first byte of a password
        part.write_text(text)


def _separate_keys(path: Path, say: Say) -> None:
    """Replace the object store's root key where an earlier version exported it to runs."""
    text = path.read_text()
    if "MINIO_ROOT_PASSWORD=" in text:
        return
    keys = {
        "AWS_ACCESS_KEY_ID": "MINIO_ROOT_USER",
        "AWS_SECRET_ACCESS_KEY": "MINIO_ROOT_PASSWORD",
    }
    for key, root in keys.items():
        text = re.sub(f"(?m)^(export )?{key}=", f"{root}=", text)
    text += (
        f"export AWS_ACCESS_KEY_ID=dvc\nexport AWS_SECRET_ACCESS_KEY={secrets.token_hex(16)}\n"
        f"S3_PASSWORD_MLFLOW={secrets.token_hex(16)}\n"
    )
    _replace(path, text)
    say(f"{path.name} has a new key for the remote minio: source it again")


def choose_store(path: Path, store: ObjectStore, say: Say) -> None:
    """Write the object store to services.env, as the files that Compose reads."""
    has_override = path.with_name("compose.override.yaml").exists()
    default = "compose.yaml:compose.override.yaml" if has_override else "compose.yaml"
    present = dotenv_values(path, interpolate=False).get("COMPOSE_FILE") or default
    files = compose_files(present, store)
    if files == present:
        return
    text = re.sub(r"(?m)^COMPOSE_FILE=.*\n?", "", path.read_text())
    _replace(path, f"{text.rstrip()}\nCOMPOSE_FILE={files}\n")
    say(
        f"the object store is {store} from now on. Data in another one stay in its volume: "
        "docs/object-store.md describes how to move them"
    )


def read_environment(path: Path) -> dict[str, str]:
    """Read all variables from `path`.

    Raises:
        UserError: the file is missing, or lacks a variable.
    """
    if not path.exists():
        raise UserError(f"{path.name} is not in this folder. `crossfold services up` creates it")
    variables = dotenv_values(path, interpolate=False)
    values = {name: value for name, value in variables.items() if value}
    needed = [line.removeprefix("export ").split("=")[0] for line in _TEMPLATE.splitlines()[2:]]
    missing = [name for name in needed if name not in values]
    if missing:
        raise UserError(
            f"{path.name} does not set {', '.join(missing)}: restore the old values, because "
            "existing data may need the old passwords (docs/services.md)"
        )
    return values


def _refuse_data_without_passwords() -> None:
    ours = "label=com.docker.compose.project=crossfold"
    volumes = shell.output("docker", "volume", "ls", "--quiet", "--filter", ours).split()
    if volumes:
        raise UserError(
            f"{ENVIRONMENT} is not in this folder, but the services have data. Copy the file from "
            "the folder where you first started them, or delete the data: "
            f"docker volume rm {' '.join(volumes)}"
        )


def _check_ports(environment: Mapping[str, str]) -> None:
    label = f"label=com.docker.compose.project={environment['COMPOSE_PROJECT_NAME']}"
    ours = shell.output("docker", "ps", "--filter", label, "--format", "{{.Ports}}")
    for variable in ("CROSSFOLD_MLFLOW_PORT", "CROSSFOLD_S3_PORT"):
        port = environment[variable]
        if not port.isdecimal() or not 0 < int(port) < 65536:
            raise UserError(f"{ENVIRONMENT} {variable}: {port} is not a port")
        if f"127.0.0.1:{port}->" not in ours and not is_free(int(port)):
            raise UserError(
                f"port {port} is in use by another program: stop it, or change {variable} in "
                f"{ENVIRONMENT} (docs/services.md)"
            )


def _wait_for_mlflow(container: str) -> None:
    """Wait until MLflow's container is healthy.

    Raises:
        UserError: it restarts, or is not healthy in time.
    """
    layout = "--format={{.RestartCount}} {{.State.Health.Status}}"
    inspect = ("docker", "inspect", layout, container)
    restarts = shell.output(*inspect).split()[0]
    healthy = f"{restarts} healthy"
    retrying = Retrying(
        retry=retry_if_result(lambda state: state.split()[0] == restarts and state != healthy),
        stop=stop_after_delay(START_TIMEOUT),
        wait=wait_fixed(1),
    )
    with suppress(RetryError):
        if retrying(shell.output, *inspect) == healthy:
            return
    logs = shell.run("docker", "logs", "--tail", "20", container)
    raise UserError(f"MLflow did not start. The end of its log:\n{logs.stdout}{logs.stderr}")


def _summary(environment: Mapping[str, str]) -> str:
    return f"""\
MLflow: {environment["MLFLOW_TRACKING_URI"]}, user {environment["MLFLOW_TRACKING_USERNAME"]}
S3: http://localhost:{environment["CROSSFOLD_S3_PORT"]}, buckets dvc and mlflow
The passwords are in {ENVIRONMENT}. To log a run there, with data from the remote minio:
  source {ENVIRONMENT}
  dvc push --remote minio
  crossfold run --set data.remote=minio"""
