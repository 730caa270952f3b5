import json
import shutil
from pathlib import Path

from .projects import SOURCE, Project


def test_the_sample_as_shipped_reaches_97_percent(tmp_path: Path) -> None:
    for name in (".dvc/config", ".dvcignore", "params.yaml", "data.dvc", "models.dvc"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(SOURCE / name, tmp_path / name)
    project = Project(tmp_path)
    project.call("crossfold", "sample")
    output = project.call("crossfold", "run")
    test = json.loads((tmp_path / "reports/metrics.json").read_text())["test"]
    assert test["accuracy"] >= 0.97
    assert test["macro_f1"] >= 0.97
    assert "crossfold version 1 (registered), aliases: challenger, champion" in output
