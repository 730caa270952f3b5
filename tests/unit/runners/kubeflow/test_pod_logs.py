import io
import subprocess
from pathlib import Path

from rich.console import Console

from crossfold.infra.cluster.kubectl import Cluster
from crossfold.runners.display import Display
from crossfold.runners.kubeflow.pod_logs import Follower


def test_of_a_mistake_the_files_are_shown_at_once(tmp_path: Path) -> None:
    message = "looking\nerror: 1 of 9 images cannot be used:\n  a.png: truncated\nMend it\n"
    (tmp_path / "log").write_text(message)
    shown = io.StringIO()
    console = Console(file=shown)
    follower = Follower(Cluster("team"), "kubeflow", Display(console, verbose=False))
    with subprocess.Popen(["cat", tmp_path / "log"], stdout=subprocess.PIPE, text=True) as log:
        follower._read("fetch_data", log)
    assert shown.getvalue().splitlines() == [
        "  fetch_data: error: 1 of 9 images cannot be used:",
        "  fetch_data:   a.png: truncated",
    ]
