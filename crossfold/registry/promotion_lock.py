"""A lock for changes of the champion, since MLflow's registry has no lock or compare-and-swap.

docs/decisions/022-gate.md explains its assumptions and its limits.
"""

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow.tracking import MlflowClient

# Prefix of a tag that each process sets on the registered model. The value changes with each look
# of a waiting process at the others. It is the time that an earlier release takes for the expiry.
_TAG = "promotion_turn."
# Seconds for which another process sees an unchanged tag until the tag's process counts as killed.
# A turn takes only a few requests.
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
    others = _Others(client, name, mine)
    try:
        while True:
            client.set_registered_model_tag(name, mine, str(time.time() + _LEASE))
            alive = others.alive()
            if not alive:
                break
            if min(alive) < mine:
                client.delete_registered_model_tag(name, mine)
                while others.alive():
                    time.sleep(_PAUSE)
            else:
                time.sleep(_PAUSE)
        yield
    finally:
        client.delete_registered_model_tag(name, mine)


class _Others:
    """The tags of other processes, and since when this process has seen them unchanged.

    Each process measures with its own clock, which nobody can set: the clocks of two machines may
    differ, and the time of day may be set back.
    """

    def __init__(self, client: MlflowClient, name: str, mine: str) -> None:
        self._client, self._name, self._mine = client, name, mine
        self._since: dict[tuple[str, str], float] = {}

    def alive(self) -> list[str]:
        """List the tags of processes that may still be alive, and delete those of killed ones."""
        now = time.monotonic()
        tags = self._client.get_registered_model(self._name).tags
        seen = [
            (tag, value)
            for tag, value in tags.items()
            if tag.startswith(_TAG) and tag != self._mine
        ]
        self._since = {turn: self._since.get(turn, now) for turn in seen}
        expired = {tag for (tag, _), since in self._since.items() if now - since > _LEASE}
        for tag in expired:
            self._client.delete_registered_model_tag(self._name, tag)
        return [tag for tag, _ in seen if tag not in expired]
