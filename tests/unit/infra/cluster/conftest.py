import socket
from pathlib import Path

import pytest

from crossfold.infra.cluster import checks

from .machines import write_program


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine on which nothing is wrong."""
    script = f"case $3 in *NCPU*) echo 4;; *MemTotal*) echo 16000000000;; *) echo {tmp_path};; esac"
    write_program(tmp_path, "docker", script)
    monkeypatch.setenv("PATH", str(tmp_path))
    for name in checks.INOTIFY:
        (tmp_path / name).write_text("1000000")
    monkeypatch.setattr(checks, "PROC", tmp_path)
    monkeypatch.setattr(checks, "DISK", 1)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        free = probe.getsockname()[1]
    monkeypatch.setattr(checks, "PORTS", {free: "MLflow"})
    return tmp_path
