"""What `docker inspect` says of the steps' containers, which exist only while they work."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import docker


@contextmanager
def watched(engine: docker.DockerClient) -> Iterator[dict[str, Any]]:
    """Inspect every step's container that starts during the block; yield the answers by title."""
    seen: dict[str, Any] = {}
    filters = {"type": "container", "event": "start", "label": "crossfold.step"}
    events = engine.events(decode=True, filters=filters)

    def inspect() -> None:
        for event in events:
            attributes = engine.containers.get(event["id"]).attrs
            seen[attributes["Config"]["Labels"]["crossfold.step"]] = attributes

    thread = threading.Thread(target=inspect)
    thread.start()
    try:
        yield seen
    finally:
        events.close()
        thread.join()
