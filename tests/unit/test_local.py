from pathlib import Path

from crossfold.settings import load_settings
from pipelines.lineage import lineage
from pipelines.local import LOCAL, _fingerprint
from pipelines.pipeline import arguments

PROJECT = Path(__file__).parents[2]


def fingerprint(*overrides: str) -> str:
    settings = load_settings(PROJECT / "params.yaml", overrides)
    return _fingerprint(arguments(settings, PROJECT, lineage(PROJECT, settings, LOCAL)), LOCAL)


def test_a_run_is_continued_with_the_same_settings_only() -> None:
    """MLflow refuses another value of a setting in the run that a continued one goes on with."""
    assert fingerprint() == fingerprint()
    for override in ("extraction.shards=2", "training.seed=1", "gate.margin=0.1"):
        assert fingerprint(override) != fingerprint()
