from pathlib import Path

from crossfold.infra.cluster.image_delivery import load_image

from .machines import write_program


def test_loading_an_image_says_its_size(machine: Path) -> None:
    write_program(machine, "docker", "echo 5512345678")
    write_program(machine, "kind", "[ $1 = load ]")
    lines: list[str] = []
    load_image("crossfold", "crossfold-train:1", lines.append)
    assert lines[0] == "loading crossfold-train:1, 5.5 GB"
    assert len(lines) == 2
