import os

import pytest

from crossfold.step.environment import for_other_programs


def test_no_program_gets_a_login_that_is_not_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:secret@mlflow")
    monkeypatch.setenv("CROSSFOLD_DVC_REMOTE", "secret")
    monkeypatch.setenv("KUBECONFIG", "mine")
    found = for_other_programs()
    assert "secret" not in str(found)
    assert (found["KUBECONFIG"], found["PATH"]) == ("mine", os.environ["PATH"])
