from pathlib import Path

import pytest

from crossfold.errors import UserError
from crossfold.infra.cluster.kind import start_kind_cluster

from .machines import write_program


def test_the_node_image_is_that_of_a_mirror(machine: Path) -> None:
    called = machine / "called"
    script = f"case $1 in version) echo kind v0.33.0;; create) echo $@ > {called}; exit 1;; esac"
    write_program(machine, "kind", script)
    with pytest.raises(UserError, match="kind create cluster"):
        start_kind_cluster(print, "mirror/node:v1")
    assert "--image=mirror/node:v1" in called.read_text().split()
