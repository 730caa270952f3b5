"""Talk to a Kubernetes cluster through kubectl, which logs in wherever the user can."""

import base64
import json
import re
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from crossfold.errors import UserError
from crossfold.infra import shell
from crossfold.step.environment import for_other_programs

MANAGER = "crossfold"
_ADDRESS = re.compile(r"127\.0\.0\.1:\d+")

Object = dict[str, Any]


@dataclass(frozen=True)
class Cluster:
    """A Kubernetes cluster, identified by its kubectl context."""

    context: str

    def kubectl(self, *arguments: str, given: str = "") -> str:
        """Run kubectl in this context, with `given` as its input, and return its output.

        Raises:
            UserError: kubectl failed; the message is its own.
        """
        command = ["kubectl", f"--context={self.context}", "--request-timeout=60s", *arguments]
        done = shell.run(*command, given=given)
        if done.returncode != 0:
            said = "\n".join(dict.fromkeys(done.stderr.strip().splitlines()))  # without repetitions
            raise UserError(f"`kubectl {arguments[0]}` failed in context {self.context}: {said}")
        return done.stdout

    def check_answers(self, seconds: float = 0) -> None:
        """Wait up to `seconds` for the cluster to respond.

        Raises:
            UserError: kubectl has no such context, or the cluster does not respond.
        """
        known = _contexts()
        if self.context not in known:
            raise UserError(
                f"kubectl has no context {self.context}; it has: {', '.join(known) or 'none'}. "
                "Choose one with --context, or run `crossfold cluster up` to create a kind cluster"
            )
        retrying = Retrying(
            retry=retry_if_exception_type(UserError),
            stop=stop_after_delay(seconds),
            wait=wait_fixed(2),
            reraise=True,
        )
        try:
            retrying(self.kubectl, "get", "--raw=/readyz", "--request-timeout=10s")
        except UserError as error:
            raise UserError(
                f"{error}. If the cluster is stopped, start it. `crossfold cluster up` starts the "
                "kind cluster"
            ) from None

    def get(self, *arguments: str) -> Object:
        """Fetch an object or a list of objects; empty if no object has that name."""
        said = self.kubectl("get", *arguments, "--output=json", "--ignore-not-found")
        return json.loads(said) if said else {}

    def items(self, *arguments: str) -> list[Object]:
        """List objects; the list may be empty."""
        found: list[Object] = self.get(*arguments).get("items", [])
        return found

    def apply(self, objects: Sequence[Object], *options: str) -> None:
        """Create or update objects; with --dry-run=server, only validate them.

        Raises:
            UserError: an object is invalid, or kubectl failed.
        """
        always = ("--server-side", "--force-conflicts", f"--field-manager={MANAGER}")
        given = json.dumps({"apiVersion": "v1", "kind": "List", "items": list(objects)})
        self.kubectl("apply", *always, *options, "--filename=-", given=given)

    def secret(self, namespace: str, name: str) -> dict[str, str] | None:
        """Read the decoded values of a Secret; None if it does not exist."""
        found = self.get("secret", name, f"--namespace={namespace}")
        if not found:
            return None
        return {key: base64.b64decode(value).decode() for key, value in found["data"].items()}

    @contextmanager
    def forwarded(self, namespace: str, service: str, port: int) -> Iterator[str]:
        """Forward a Service to this machine's loopback for the block, and yield its URL.

        Raises:
            UserError: the Service cannot be reached.
        """
        command = ["kubectl", f"--context={self.context}", f"--namespace={namespace}"]
        forward = subprocess.Popen(
            [
                *command,
                "port-forward",
                "--pod-running-timeout=15s",
                f"service/{service}",
                f":{port}",
            ],
            env=for_other_programs(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert forward.stdout is not None
        try:
            said = forward.stdout.readline()
            address = _ADDRESS.search(said)
            if address is None:
                raise UserError(f"{namespace}/{service} cannot be reached: {said.strip()}")
            # kubectl prints a line for each connection, and would block if nobody read them.
            threading.Thread(target=forward.stdout.read, daemon=True).start()
            yield f"http://{address[0]}"
        finally:
            forward.terminate()
            forward.wait()


def namespace_of(found: Object) -> str:
    """Get an object's namespace; empty if it has none."""
    return str(found["metadata"].get("namespace", ""))


def trouble(pod: Object) -> str:
    """Explain in Kubernetes' words why a pod's containers do not run; empty if they do."""
    state = pod["status"]
    if state.get("phase") == "Succeeded":
        return ""
    for container in (*state.get("initContainerStatuses", []), *state.get("containerStatuses", [])):
        waiting = container["state"].get("waiting")
        if waiting and waiting.get("reason") != "PodInitializing":
            return f"{waiting.get('reason')}: {waiting.get('message', '')}".rstrip(": ")
    for condition in state.get("conditions", []):
        if condition["type"] in ("PodScheduled", "Ready") and condition["status"] == "False":
            return f"{condition.get('reason')}: {condition.get('message', '')}".rstrip(": ")
    return "" if state.get("phase") == "Running" else str(state.get("phase"))


def _contexts() -> list[str]:
    return shell.run("kubectl", "config", "get-contexts", "--output=name").stdout.split()
