from pathlib import Path

import pytest

from crossfold.errors import UserError
from crossfold.infra.cluster.image_delivery import load_image

from .machines import write_program


def test_loading_an_image_says_its_size(machine: Path) -> None:
    write_program(machine, "docker", "echo 12345678")
    write_program(machine, "kind", "[ $1 = load ]")
    lines: list[str] = []
    load_image("crossfold", "crossfold-train:1", lines.append)
    assert lines[0] == "loading crossfold-train:1, 0.0 GB"
    assert len(lines) == 2


def test_an_image_that_the_disk_cannot_hold_is_not_loaded(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_program(machine, "docker", "echo 1000000000000000000")
    write_program(machine, "kind", "exit 1")
    monkeypatch.setenv("TMPDIR", str(machine))
    with pytest.raises(UserError) as refused:
        load_image("crossfold", "crossfold-train:1", print)
    assert "1000000000.0 GB" in str(refused.value)
    assert str(machine) in str(refused.value)
    assert "TMPDIR" in str(refused.value)
