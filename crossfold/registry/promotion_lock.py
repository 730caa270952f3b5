"""A lock for changes of the champion, since MLflow's registry has no lock or compare-and-swap.

docs/decisions/022-gate.md explains its assumptions and its limits.
"""

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow.tracking import MlflowClient

# Prefix of a tag that each process sets on the registered model; the value is its expiry time.
_TAG = "promotion_turn."
# Seconds after which a turn's process counts as killed. A turn takes only a few requests.
_LEASE = 60.0
_PAUSE = 0.2


@contextmanager
def promotion_turn(client: MlflowClient, name: str) -> Iterator[None]:
    """Let the block move the aliases of a registered model while no other process does.

    Each process announces itself with a tag and then looks for others, so at least one of two
    processes sees the other. The process whose random tag name sorts later withdraws; the other
    waits until it has finished or withdrawn. L. Lamport, "The mutual exclusion problem, part II",
    Journal of the ACM 33 (1986), pages 327-348, needs as little: one bit per process.
    """
    mine = _TAG + secrets.token_hex(8)
    try:
        while True:
            client.set_registered_model_tag(name, mine, str(time.time() + _LEASE))
            others = _others(client, name, mine)
            if not others:
                break
            if min(others) < mine:
                client.delete_registered_model_tag(name, mine)
                while _others(client, name, mine):
                    time.sleep(_PAUSE)
            else:
                time.sleep(_PAUSE)
        yield
    finally:
        client.delete_registered_model_tag(name, mine)


def _others(client: MlflowClient, name: str, mine: str) -> list[str]:
    """List the tags of other processes that may still be alive, and delete the expired tags."""
    tags = client.get_registered_model(name).tags
    turns = {tag: float(end) for tag, end in tags.items() if tag.startswith(_TAG) and tag != mine}
    for tag, end in turns.items():
        if end < time.time():
            client.delete_registered_model_tag(name, tag)
    return [tag for tag, end in turns.items() if end >= time.time()]
