"""A backup's folder, written by a stand-in for Compose; tests/docker has the real services."""

from pathlib import Path

import pytest

from crossfold.errors import UserError
from crossfold.infra.backups.backup_folder import MANIFEST, read_backup, save_backup
from crossfold.infra.services.compose_project import ComposeProject


@pytest.fixture
def project(tmp_path: Path) -> ComposeProject:
    """Services that have no bucket `lost`, and whose connection ends early for `cut`."""
    script = tmp_path / "compose"
    script.write_text("""case "$*" in
  *lost) echo "no such bucket" >&2; exit 1;;
  *cut) head -c 10000 /dev/zero;;
  *"save dvc") head -c 10240 /dev/zero;;
  *pg_dump*) echo "-- PostgreSQL database dump complete";;
  *) echo "$*";;
esac""")
    return ComposeProject(tmp_path, ("sh", str(script)), {})


def test_a_backup_is_read_as_it_was_written(project: ComposeProject, tmp_path: Path) -> None:
    manifest = save_backup(project, tmp_path / "kept" / "a", ("dvc",), print)
    assert read_backup(tmp_path / "kept" / "a") == manifest
    assert [file.name for file in manifest.files] == ["bucket-dvc.tar", "mlflow.sql"]
    assert (tmp_path / "kept" / "a").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("bucket", "named"), [("lost", "no such bucket"), ("cut", "bucket-cut.tar")]
)
def test_a_backup_that_fails_leaves_nothing(
    project: ComposeProject, tmp_path: Path, bucket: str, named: str
) -> None:
    with pytest.raises(UserError, match=named):
        save_backup(project, tmp_path / "kept" / "a", ("dvc", bucket), print)
    assert list((tmp_path / "kept").iterdir()) == []


def test_an_existing_folder_is_no_place_for_a_backup(
    project: ComposeProject, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=f"{tmp_path} exists"):
        save_backup(project, tmp_path, (), print)


@pytest.mark.parametrize("damaged", ["mlflow.sql", "bucket-dvc.tar", MANIFEST])
@pytest.mark.parametrize("gone", [True, False])
def test_a_damaged_file_is_named(
    project: ComposeProject, tmp_path: Path, damaged: str, gone: bool
) -> None:
    folder = tmp_path / "a"
    save_backup(project, folder, ("dvc",), print)
    path = folder / damaged
    path.unlink() if gone else path.write_bytes(path.read_bytes()[:-2])
    named = "a is not a backup" if damaged == MANIFEST else damaged
    with pytest.raises(UserError, match=named):
        read_backup(folder)
