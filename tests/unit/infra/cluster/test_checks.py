import re
import shutil
import socket
from pathlib import Path

import pytest

from crossfold.errors import UserError
from crossfold.infra.cluster import checks

from .machines import write_program


def test_a_kubectl_that_is_too_old(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_program(tmp_path, "kubectl", """echo '{"clientVersion": {"gitVersion": "v1.24.17"}}'""")
    write_program(tmp_path, "git", "exit 0")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"v1\.24\.17.* 1\.27"):
        checks.check_kubectl()


def test_a_machine_on_which_nothing_is_wrong(machine: Path) -> None:
    checks.check_machine()


def test_all_that_is_wrong_is_said_at_once(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = f"case $3 in *NCPU*) echo 1;; *MemTotal*) echo 4000000000;; *) echo {machine};; esac"
    write_program(machine, "docker", script)
    (machine / "max_user_instances").write_text("128")
    monkeypatch.setattr(checks, "DISK", shutil.disk_usage(machine).total * 2)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        monkeypatch.setattr(checks, "PORTS", {port: "MLflow"})
        with pytest.raises(UserError) as refused:
            checks.check_machine()
    message = str(refused.value)
    assert re.search("1 CPU cores.* 2 ", message)
    assert re.search(r"4\.0 GB of memory.* 8 GB", message)
    assert re.search(rf"{machine} has [\d.]+ GB free", message)
    assert "sudo sysctl fs.inotify.max_user_instances=512\n" in message
    assert re.search(f"port {port}.*MLflow", message)
