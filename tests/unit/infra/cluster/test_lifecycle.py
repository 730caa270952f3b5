"""`crossfold cluster` on a machine without a cluster."""

from pathlib import Path

import pytest

from .machines import crossfold_cluster, write_program


@pytest.mark.parametrize("name", ["up", "status"])
def test_without_kubectl_it_says_where_to_get_it(name: str, tmp_path: Path) -> None:
    done = crossfold_cluster(name, path=tmp_path)
    assert done.returncode == 2
    assert "https://kubernetes.io" in done.stderr
    assert "Traceback" not in done.stderr


def test_without_docker_there_is_no_kind_cluster(tmp_path: Path) -> None:
    done = crossfold_cluster("down", path=tmp_path)
    assert done.returncode == 2
    assert "docs.docker.com" in done.stderr


def test_an_engine_that_does_not_answer(tmp_path: Path) -> None:
    write_program(tmp_path, "docker", "echo 'Cannot connect to the Docker daemon' >&2; exit 1")
    done = crossfold_cluster("down", path=tmp_path)
    assert done.returncode == 2
    assert "Cannot connect to the Docker daemon" in done.stderr


def test_without_kind_it_says_where_to_get_it(tmp_path: Path) -> None:
    write_program(tmp_path, "docker", "exit 0")
    assert "https://kind" in (crossfold_cluster("down", path=tmp_path).stderr)


def test_a_kind_that_is_too_old_for_the_node_image(tmp_path: Path) -> None:
    write_program(tmp_path, "docker", "exit 0")
    write_program(tmp_path, "kind", "echo kind v0.29.0 go1.24.2 linux/amd64")
    done = crossfold_cluster("down", path=tmp_path)
    assert done.returncode == 2
    assert "kind v0.33" in done.stderr


def test_before_the_first_up_there_is_nothing_to_stop(tmp_path: Path) -> None:
    write_program(tmp_path, "docker", "exit 0")
    write_program(tmp_path, "kind", "[ $1 = get ] || echo kind v0.33.0 go1.26.0 linux/amd64")
    done = crossfold_cluster("down", path=tmp_path)
    assert done.returncode == 2
    assert "`crossfold cluster up`" in done.stderr


def test_a_cluster_of_somebody_else_is_never_stopped(tmp_path: Path) -> None:
    done = crossfold_cluster("down", "--context", "production", path=tmp_path)
    assert done.returncode == 2
    assert "kubectl --context production delete" in done.stderr
