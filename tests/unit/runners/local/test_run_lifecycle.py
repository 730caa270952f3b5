"""What a run on this machine does after its end."""

from pathlib import Path

import pytest

from crossfold.runners.local.run_lifecycle import _remember_champion
from crossfold.settings import load_settings

PROJECT = Path(__file__).parents[4]


def test_a_champion_that_cannot_be_looked_up_does_not_end_a_finished_run_as_an_error(
    empty_store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{empty_store}")
    _remember_champion(tmp_path, load_settings(PROJECT / "params.yaml"))
    assert "the champion could not be remembered" in caplog.text
