"""One at a time: MLflow's registry has neither a lock nor a compare-and-swap.

See docs/decisions/022-gate.md for what this rests on, and for what it cannot prevent.
"""

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow.tracking import MlflowClient

# A tag of the registered model for each process that wants to move the alias: when it expires.
_TAG = "promotion_turn."
# Seconds after which a turn is that of a process that was killed. It takes a few requests.
_LEASE = 60.0
_PAUSE = 0.2


@contextmanager
def promotion_turn(client: MlflowClient, name: str) -> Iterator[None]:
    """Let the block move the aliases of a registered model while no other process does.

    Each process announces itself and then looks for others, so of two at least one sees the other.
    The one that comes later in the order of the tags' random names withdraws; the other waits for
    it to finish or to withdraw. L. Lamport, "The mutual exclusion problem, part II", Journal of
    the ACM 33 (1986), pages 327-348, does it with as little: one bit a process.
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
    """Return the tags of the processes that have announced themselves and may still be alive."""
    tags = client.get_registered_model(name).tags
    turns = {tag: float(end) for tag, end in tags.items() if tag.startswith(_TAG) and tag != mine}
    for tag, end in turns.items():
        if end < time.time():
            client.delete_registered_model_tag(name, tag)
    return [tag for tag, end in turns.items() if end >= time.time()]
