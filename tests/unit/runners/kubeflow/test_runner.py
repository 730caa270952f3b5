from pathlib import Path

import pytest
from rich.console import Console

from crossfold.errors import UserError
from crossfold.runners.display import Display
from crossfold.runners.kubeflow.runner import KubeflowRunner
from crossfold.settings import load_settings

PROJECT = Path(__file__).parents[4]


def test_without_kubectl_it_says_where_to_get_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    settings = load_settings(PROJECT / "params.yaml")
    display = Display(Console(quiet=True), verbose=False)
    with pytest.raises(UserError, match=r"kubectl.*https://kubernetes\.io"):
        KubeflowRunner().run(tmp_path, settings, display, caching=True, record=False)
    assert list(tmp_path.iterdir()) == []
