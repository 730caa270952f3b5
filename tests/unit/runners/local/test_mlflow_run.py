"""How a run on this machine is written to MLflow."""

from pathlib import Path

import pytest

from crossfold.runners.local.mlflow_run import remember_champion


def test_a_champion_that_cannot_be_looked_up_does_not_end_a_finished_run_as_an_error(
    empty_store: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{empty_store}")
    remember_champion(tmp_path, "crossfold")
    assert "the champion could not be remembered" in caplog.text
