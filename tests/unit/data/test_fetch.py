import errno
import io
import json
import logging
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from crossfold.data import fetch as module
from crossfold.data.examination.findings import PairCounts
from crossfold.data.examples import TEST, Examples
from crossfold.data.fetch import FetchedData, fetch_data, fetch_weights
from crossfold.data.grouping.rule import FileGroups
from crossfold.data.layouts.corrections import CorrectionFiles
from crossfold.data.splits import SplitSettings
from crossfold.errors import UserError
from crossfold.imaging.preprocessing import SquareGeometry
from crossfold.versioning import dvc, remotes
from crossfold.versioning.dvc import changed_since_add, ensure_pushed, pointer_hash
from crossfold.versioning.remote_files import RemoteFiles

PROJECT = Path(__file__).parents[3]
NUM_IMAGES = 8  # of each class
CLASSES = ("cat", "dog", "emu")
OUTPUTS = ("examples", "data_page")
WEIGHTS = b"weights" * 100


def picture(seed: int, file_format: str = "PNG") -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 7, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, file_format)
    return file.getvalue()


def write_images(folder: Path) -> None:
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for index in range(NUM_IMAGES):
            (folder / name / f"{index}.png").write_bytes(picture(100 * label + index))


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small project whose images and weights are added to DVC; to be copied, not changed."""
    root = tmp_path_factory.mktemp("template") / "project"
    (root / ".dvc").mkdir(parents=True)
    for name in (".dvc/config", ".dvcignore"):
        shutil.copy(PROJECT / name, root / name)
    write_images(root / "data")
    (root / "models").mkdir()
    (root / "models" / "small.safetensors").write_bytes(WEIGHTS)
    add(root)
    return root


@pytest.fixture
def project(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the small project, in the working directory."""
    root = Path(shutil.copytree(template, tmp_path / "project"))
    for variable in ("DVC_SITE_CACHE_DIR", "DVC_GLOBAL_CONFIG_DIR", "DVC_SYSTEM_CONFIG_DIR"):
        monkeypatch.setenv(variable, str(tmp_path / variable))
    for variable in ("GDRIVE_CREDENTIALS_DATA", remotes.REMOTE):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.chdir(root)
    return root


def add(root: Path) -> None:
    dvc.add(root / "data")
    dvc.add(root / "models")


@pytest.fixture
def pushed(project: Path) -> Path:
    ensure_pushed(project, "sample")
    return project


SPLITS = SplitSettings(num_folds=3, test_fraction=0.2)


def fetch(root: Path, **changes: Any) -> FetchedData:
    arguments: dict[str, Any] = {
        "data_pointer": (root / "data.dvc").read_text(),
        "remote": "sample",
        "settings": SPLITS,
        "geometries": [SquareGeometry(32)],
        "examples": root.parent / "examples",
        "data_page": root.parent / "data_page",
    }
    return fetch_data(**arguments | changes)


def refused(root: Path, **changes: Any) -> str:
    """The message with which `fetch_data` refuses; it must have written nothing."""
    with pytest.raises(UserError) as caught:
        fetch(root, **changes)
    assert not [path for name in OUTPUTS for path in root.parent.glob(f"{name}*")]
    return str(caught.value)


def fetch_file(root: Path, pointer: str, weights: str = "small.safetensors") -> bytes:
    """What `fetch_weights` writes."""
    path = root.parent / "weights"
    fetch_weights(pointer=pointer, weights=weights, remote="sample", weights_file=path)
    return path.read_bytes()


def own_pointer(root: Path) -> str:
    files = dvc.known_files(root, "models", "sample")
    assert files is not None
    return dvc.file_pointer("small.safetensors", files["small.safetensors"])


def refused_file(root: Path, pointer: str, weights: str = "small.safetensors") -> str:
    """The message with which `fetch_weights` refuses; it must have written nothing."""
    with pytest.raises(UserError) as caught:
        fetch_file(root, pointer, weights)
    assert not [*root.parent.glob("weights*")]
    return str(caught.value)


def stored(root: Path, content: bytes | None = None, md5: str | None = None) -> Path:
    """The remote's object with that content, or that hash; made writable."""
    for path in (root / "dvc-remote" / "files" / "md5").rglob("*"):
        if path.is_file() and (path.read_bytes() == content or path.parent.name + path.name == md5):
            path.chmod(0o644)
            return path
    raise AssertionError("not in the remote")


# fetch_data


def test_fetched_images_are_the_added_ones(pushed: Path) -> None:
    fetched = fetch(pushed)
    table = Examples(pushed.parent / "examples")
    expected = {f"{c}/{i}.png" for c in CLASSES for i in range(NUM_IMAGES)}
    assert sorted(table.column("path", None)) == sorted(expected)
    for paths, images, labels in table.batches(None, 5):  # the files: these images are small
        for path, image, label in zip(paths, images, labels, strict=True):
            assert image == (pushed / "data" / path).read_bytes()
            assert CLASSES[label] == path.partition("/")[0]
    data_hash = pointer_hash((pushed / "data.dvc").read_text())
    assert (table.classes, table.data_hash) == (CLASSES, data_hash)
    assert fetched == FetchedData(
        num_images=24,
        num_test=table.count(TEST),
        classes=CLASSES,
        counts=dict.fromkeys(CLASSES, NUM_IMAGES),
        skipped=(),
        near_duplicates=PairCounts(),
        groups=None,
        data_hash=data_hash,
    )


def test_every_fold_and_the_holdout_have_every_class(pushed: Path) -> None:
    fetch(pushed)
    table = Examples(pushed.parent / "examples")
    places = set(
        zip(table.column("label", None).tolist(), table.column("fold", None).tolist(), strict=True)
    )
    assert places == {(label, fold) for label in range(3) for fold in (-1, 0, 1, 2)}


def test_the_table_is_the_same_each_time(pushed: Path) -> None:
    fetch(pushed)
    first = (pushed.parent / "examples").read_bytes()
    fetch(pushed)
    assert (pushed.parent / "examples").read_bytes() == first
    fetch(pushed, settings=replace(SPLITS, seed=1))
    assert (pushed.parent / "examples").read_bytes() != first


def test_neither_the_data_folder_nor_the_cache_is_read(pushed: Path) -> None:
    for folder in ("data", "models", ".dvc/cache"):
        shutil.rmtree(pushed / folder)
    assert fetch(pushed).num_images == 24
    assert not [name for name in ("data", "models", ".dvc/cache") if (pushed / name).exists()]


def test_the_address_can_come_from_the_environment(
    pushed: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    container = tmp_path / "container"
    container.mkdir()
    monkeypatch.chdir(container)
    with pytest.raises(UserError, match="no remote 'sample'; it has none"):
        fetch(pushed)
    monkeypatch.setenv(remotes.REMOTE, json.dumps({"url": str(pushed / "dvc-remote")}))
    assert fetch(pushed).num_images == 24
    for name in OUTPUTS:
        (tmp_path / name).unlink()
    stored(pushed, picture(0)).write_bytes(picture(1))
    assert "data/cat/0.png is truncated" in refused(pushed)


@pytest.mark.parametrize("text", ["s3://bucket", "[]", "{}", '{"url": 1}'])
def test_a_malformed_remote_of_the_environment_is_refused(
    pushed: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    monkeypatch.setenv(remotes.REMOTE, text)
    assert "CROSSFOLD_DVC_REMOTE is not a remote's configuration as JSON" in refused(pushed)


def test_a_folder_remote_is_described_by_its_whole_path(project: Path) -> None:
    environment = remotes.remote_environment(project, "sample")
    assert list(environment) == [remotes.REMOTE]
    assert remotes.remote_folders(environment) == [project / "dvc-remote"]


def test_an_s3_remote_is_described_with_the_keys_that_boto_finds(
    project: Path, no_aws: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shared = tmp_path / "keys"
    shared.write_text("[team]\naws_access_key_id = THE-ID\naws_secret_access_key = THE-SECRET\n")
    no_aws.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9000")
    config = project / ".dvc/config.local"
    config.write_text(f"['remote \"minio\"']\n  profile = team\n  credentialpath = {shared}\n")
    environment = remotes.remote_environment(project, "minio")
    remote = json.loads(environment.pop(remotes.REMOTE))
    assert environment == {
        "AWS_ACCESS_KEY_ID": "THE-ID",
        "AWS_SECRET_ACCESS_KEY": "THE-SECRET",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9000",
    }
    assert (remote["url"], remote["endpointurl"]) == ("s3://dvc", "http://localhost:9000")
    assert not {"profile", "credentialpath"} & remote.keys()
    assert remotes.remote_folders({remotes.REMOTE: json.dumps(remote)}) == []
    config.write_text("['remote \"minio\"']\n  profile = nobody\n")
    with pytest.raises(UserError, match=r"the keys of s3://dvc: .*nobody"):
        remotes.remote_environment(project, "minio")


def test_an_s3_remote_without_keys_is_described_without(
    project: Path, no_aws: pytest.MonkeyPatch
) -> None:
    assert list(remotes.remote_environment(project, "minio")) == [remotes.REMOTE]


def test_the_key_of_a_service_account_goes_along_as_text(project: Path, tmp_path: Path) -> None:
    key = tmp_path / "key.json"
    config = project / ".dvc/config.local"
    config.write_text(f"['remote \"gdrive\"']\n  gdrive_service_account_json_file_path = {key}\n")
    with pytest.raises(UserError, match=r"key.json cannot be read: No such file"):
        remotes.remote_environment(project, "gdrive")
    key.write_text("THE KEY")
    environment = remotes.remote_environment(project, "gdrive")
    assert environment["GDRIVE_CREDENTIALS_DATA"] == "THE KEY"
    assert str(tmp_path) not in environment[remotes.REMOTE]


def test_neither_torch_nor_sklearn_is_imported() -> None:
    heavy = "{'torch', 'sklearn', 'pandas', 'mlflow', 'matplotlib', 'kfp'} & set(sys.modules)"
    program = (
        f"import sys, crossfold.data.fetch, crossfold.data.samples.sample; print({heavy} or '')"
    )
    command = [sys.executable, "-c", program]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "\n"


# What a remote can lack


def test_an_altered_object_is_refused(pushed: Path) -> None:
    stored(pushed, picture(0)).write_bytes(picture(1))
    message = refused(pushed)
    assert "'sample'" in message
    assert "data/cat/0.png is truncated" in message
    assert "dog" not in message


def test_a_truncated_object_is_refused(pushed: Path) -> None:
    path = stored(pushed, picture(0))
    path.write_bytes(path.read_bytes()[:-1])
    assert "data/cat/0.png is truncated" in refused(pushed)


def test_a_missing_object_is_refused(pushed: Path) -> None:
    stored(pushed, picture(0)).unlink()
    assert "data/cat/0.png is missing" in refused(pushed)


@pytest.mark.parametrize("damage", ["truncated", "altered"])
def test_a_damaged_list_of_files_is_refused(pushed: Path, damage: str) -> None:
    path = stored(pushed, md5=pointer_hash((pushed / "data.dvc").read_text()))
    text = path.read_text()
    path.write_text(text[:-9] if damage == "truncated" else text.replace("0.png", "9.png"))
    assert "data.dvc's list of files is truncated" in refused(pushed)


@pytest.mark.parametrize("step", ["split_folder", "write_page"])
def test_an_image_that_vanishes_after_it_was_examined_is_named(
    pushed: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    function = getattr(module, step)

    def after_loss(*arguments: Any) -> Any:
        stored(pushed, picture(0)).unlink()
        return function(*arguments)

    monkeypatch.setattr(module, step, after_loss)
    with pytest.raises(UserError, match=r"data/cat/0\.png is missing"):
        fetch(pushed)


def test_the_remedy_for_a_damaged_object_works(pushed: Path) -> None:
    path = stored(pushed, picture(0))
    path.write_bytes(b"?")
    assert "Delete these objects there, and the list" in refused(pushed)
    path.unlink()
    stored(pushed, md5=pointer_hash((pushed / "data.dvc").read_text())).unlink()
    subprocess.run(["git", "init", "--quiet"], check=True)
    subprocess.run([sys.executable, "-m", "dvc", "push", "--quiet", "-r", "sample"], check=True)
    assert fetch(pushed).num_images == 24


def test_data_that_were_not_pushed_are_refused(project: Path) -> None:
    message = refused(project)
    assert "'sample'" in message
    assert "dvc push -r sample data.dvc" in message


@pytest.mark.parametrize("text", ["", "outs: [", "hello", "outs:\n- path: data\n", "outs: []\n"])
def test_a_malformed_pointer_is_refused(project: Path, text: str) -> None:
    for name, message in (
        ("data", refused(project, data_pointer=text)),
        ("models", refused_file(project, text)),
    ):
        assert message.startswith(f"{name}.dvc ")
        assert "dvc add" in message


def test_a_pointer_to_one_file_is_refused(project: Path) -> None:
    file_pointer = "outs:\n- md5: 5d41402abc4b2a76b9719d911017c592\n  hash: md5\n  path: data\n"
    assert "pointer to one folder" in refused(project, data_pointer=file_pointer)


# fetch_weights


def test_weights_are_fetched_by_their_own_pointer_or_that_of_the_folder(pushed: Path) -> None:
    folders_pointer, own = (pushed / "models.dvc").read_text(), own_pointer(pushed)
    assert fetch_file(pushed, folders_pointer) == fetch_file(pushed, own) == WEIGHTS


def test_another_file_changes_nothing_in_a_files_own_pointer(pushed: Path) -> None:
    before = own_pointer(pushed)
    (pushed / "models" / "other.safetensors").write_bytes(b"other")
    dvc.add(pushed / "models")
    assert own_pointer(pushed) == before
    # The file's object is in the remote, whichever list it was pushed with.
    assert fetch_file(pushed, before) == WEIGHTS


def test_weights_that_a_remote_lacks_or_has_damaged_are_refused(pushed: Path) -> None:
    folders_pointer, own = (pushed / "models.dvc").read_text(), own_pointer(pushed)
    path = stored(pushed, WEIGHTS)
    path.write_bytes(b"weightz" * 100)
    assert "models/small.safetensors is truncated" in refused_file(pushed, folders_pointer)
    message = refused_file(pushed, own)
    assert "models/small.safetensors is truncated" in message
    assert "the list that models.dvc names" in message
    path.unlink()
    assert "models/small.safetensors is missing" in refused_file(pushed, folders_pointer)
    stored(pushed, md5=pointer_hash(folders_pointer)).unlink()
    for pointer in (folders_pointer, own):
        assert "dvc push -r sample models.dvc" in refused_file(pushed, pointer)


def test_weights_that_are_not_there_are_refused(pushed: Path) -> None:
    message = refused_file(pushed, (pushed / "models.dvc").read_text(), "resnet18.pth")
    assert "model.weights" in message
    assert "'resnet18.pth'" in message
    assert "there is small.safetensors" in message


# Remotes that cannot be used


def test_an_unknown_remote_is_refused(pushed: Path) -> None:
    message = refused(pushed, remote="attic")
    assert "data.remote" in message
    assert "'attic'" in message
    assert "gdrive, minio, sample" in message


@pytest.fixture
def no_aws(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """Nowhere for botocore to find credentials, and no patience."""
    for variable in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(variable, raising=False)
    for variable in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(variable, str(tmp_path / "none"))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    return monkeypatch


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def use_endpoint(root: Path, url: str) -> None:
    config = root / ".dvc" / "config"
    config.write_text(config.read_text().replace("http://localhost:9000", url))


def test_s3_without_credentials_is_refused(pushed: Path, no_aws: pytest.MonkeyPatch) -> None:
    use_endpoint(pushed, f"http://127.0.0.1:{closed_port()}")
    message = refused(pushed, remote="minio")
    assert "'minio' (s3://dvc)" in message
    assert "Unable to locate credentials" in message
    assert "AWS_ACCESS_KEY_ID" in message
    assert ".dvc/config.local" in message


def test_an_unreachable_endpoint_is_refused(pushed: Path, no_aws: pytest.MonkeyPatch) -> None:
    port = closed_port()
    use_endpoint(pushed, f"http://127.0.0.1:{port}")
    no_aws.setenv("AWS_ACCESS_KEY_ID", "someone")
    no_aws.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    message = refused(pushed, remote="minio")
    assert "'minio'" in message
    assert f"127.0.0.1:{port}" in message
    assert "secret" not in message.replace("secret_access_key", "")


def test_an_option_that_dvc_does_not_know_is_refused(pushed: Path) -> None:
    config = pushed / ".dvc" / "config"
    config.write_text(config.read_text().replace("endpointurl", "endpoint"))
    message = refused(pushed)
    assert "config file error" in message
    assert "endpoint" in message


def test_gdrive_without_credentials_is_refused(pushed: Path) -> None:
    message = refused(pushed, remote="gdrive")
    assert "'gdrive'" in message
    assert "GDRIVE_CREDENTIALS_DATA" in message
    assert "gdrive_service_account_json_file_path" in message


KEY = {
    "type": "service_account",
    "client_email": "robot@example.org",
    "private_key": "-----BEGIN PRIVATE KEY-----\nTOPSECRET",
}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "TOPSECRET",
        '{"private_key": "TOPSECRET',
        '["TOPSECRET"]',
        json.dumps(KEY | {"type": "authorized_user"}),
        json.dumps(KEY | {"private_key": "TOPSECRET"}),
        json.dumps(KEY | {"private_key": None}),
    ],
)
def test_malformed_gdrive_credentials_are_refused_and_not_shown(
    pushed: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    text: str,
) -> None:
    monkeypatch.setenv("GDRIVE_CREDENTIALS_DATA", text)
    with caplog.at_level(logging.DEBUG):
        message = refused(pushed, remote="gdrive")
    assert "GDRIVE_CREDENTIALS_DATA is not a service account's key" in message
    assert "TOPSECRET" not in message + caplog.text


def test_a_password_in_the_address_is_not_shown(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"http://me:TOPSECRET@127.0.0.1:{closed_port()}/data"
    monkeypatch.setenv(remotes.REMOTE, json.dumps({"url": url}))
    message = refused(project)
    assert "(http://127.0.0.1:" in message
    assert "TOPSECRET" not in message


# No space left


def test_a_full_disk_is_an_error_of_the_disk(pushed: Path) -> None:
    (pushed.parent / "examples.part").symlink_to("/dev/full")
    with pytest.raises(OSError) as caught:
        fetch(pushed)
    assert caught.value.errno == errno.ENOSPC
    assert not [*pushed.parent.glob("examples*")]


def test_a_version_that_is_too_large_is_refused_before_the_remote_is_asked(project: Path) -> None:
    pointer = json.dumps(
        {
            "outs": [
                {
                    **yaml.safe_load((project / "data.dvc").read_text())["outs"][0],
                    "size": 10**18,
                    "nfiles": 10**9,
                }
            ]
        }
    )
    message = refused(project, data_pointer=pointer)  # nothing was pushed
    assert "1000000000 images of data.dvc need" in message
    assert f"{project.parent} has" in message


@pytest.mark.parametrize("numbers", [{}, {"size": None}, {"size": "12", "nfiles": [3]}])
def test_a_pointer_without_numbers_is_no_obstacle(pushed: Path, numbers: dict[str, Any]) -> None:
    (out,) = yaml.safe_load((pushed / "data.dvc").read_text())["outs"]
    kept = {name: out[name] for name in ("md5", "hash", "path")}
    assert fetch(pushed, data_pointer=json.dumps({"outs": [kept | numbers]})).num_images == 24


def test_files_that_are_read_again_are_read_ahead(
    pushed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All are smaller than their squares: a distant remote answers slowly for each."""
    alone: list[str] = []
    read = RemoteFiles.read

    def note(self: RemoteFiles, path: str, *arguments: int) -> bytes:
        if threading.current_thread() is threading.main_thread():
            alone.append(path)
        return read(self, path, *arguments)

    monkeypatch.setattr(RemoteFiles, "read", note)
    fetch(pushed)
    assert len(alone) == 1  # the first, for which there is nothing to do meanwhile


def test_no_image_is_copied_to_the_disk(pushed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A pull, or a cache, would hold all of them for as long as they are examined."""
    scratch = pushed.parent / "scratch"
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    before = {path for path in pushed.rglob("*") if path.is_file()}
    seen: set[Path] = set()
    examining, done = threading.Event(), threading.Event()

    def watch() -> None:
        while not done.is_set():
            seen.update(scratch.rglob("*"))
            examining.set()

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        examining.wait()
        fetch(pushed)
    finally:
        done.set()
        watcher.join()
    assert seen == set()
    assert {path for path in pushed.rglob("*") if path.is_file()} == before


def test_a_failed_write_of_weights_is_not_blamed_on_the_remote(project: Path) -> None:
    (project / "models" / "small.safetensors").write_bytes(bytes(4 * 2**20))
    add(project)
    ensure_pushed(project, "sample")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**20, hard))
    try:
        with pytest.raises(OSError) as caught:
            fetch_file(project, (project / "models.dvc").read_text())
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert caught.value.errno == errno.EFBIG


# What there is to say of the images


def test_fetch_data_skips_and_says_so(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    (project / "data" / "cat" / "empty.png").write_bytes(b"")
    add(project)
    ensure_pushed(project, "sample")
    assert "data/cat/empty.png: the file is empty" in refused(project)
    fetched = fetch(project, settings=replace(SPLITS, max_skipped_fraction=0.04))
    assert fetched.skipped == ("data/cat/empty.png: the file is empty",)
    assert fetched.num_images == 24
    assert "skipped data/cat/empty.png" in caplog.text
    assert Examples(project.parent / "examples").count(None) == 24


def test_fetch_data_says_what_there_is_to_know_of_the_images(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Image.open(project / "data/dog/0.png").convert("L").save(project / "data/dog/grey.png")
    add(project)
    ensure_pushed(project, "sample")
    fetch(project)
    assert "greyscale: 1 of 25 images" in caplog.text
    page = (project.parent / "data_page").read_text()
    assert "25 images of 3 classes" in page
    assert "dog/grey.png" in page


def test_fetch_data_keeps_groups_copies_and_near_duplicates_together(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    data = project / "data"
    shutil.copy(data / "cat/0.png", data / "cat/copy.png")
    add_photographs(data)
    names = sorted(path.relative_to(data).as_posix() for path in data.rglob("*.*"))
    # A copy ties the group of cat/0.png to that of cat/1.png; both near duplicates are alone.
    group_of = {name: name for name in names} | {"cat/copy.png": "x", "cat/1.png": "x"}
    rows = [f"{name},{group}" for name, group in group_of.items()]
    (data / "groups.csv").write_text("\n".join(["path,group", *rows]))
    add(project)
    ensure_pushed(project, "sample")
    other = replace(SPLITS, groups=FileGroups(file="no.csv"))
    assert "data/ has no no.csv" in refused(project, settings=other)
    settings = replace(SPLITS, groups=FileGroups(file="groups.csv"), tie_near_duplicates=True)
    fetched = fetch(project, settings=settings)
    table = Examples(project.parent / "examples")
    place = dict(zip(table.column("path", None), table.column("fold", None), strict=True))
    group = dict(zip(table.column("path", None), table.column("group", None), strict=True))
    for together in (("cat/0.png", "cat/copy.png", "cat/1.png"), ("dog/a.png", "emu/b.png")):
        assert len({place[name] for name in together}) == 1
        assert len({group[name] for name in together}) == 1
    facts = table.facts.groups
    assert facts == fetched.groups and facts is not None
    assert (facts.named, facts.number, facts.largest_size, facts.tied) == (26, 24, 3, True)
    assert "groups by groups.csv, kept together in every split: 24 (26 before" in caplog.text
    assert set(place) == set(names)


def in_folders(data: Path) -> str | None:
    """Leave a folder per class; return data.labels."""
    return None


def in_split_folders(data: Path) -> str | None:
    for path in sorted(data.rglob("*.png")):
        split = "test" if path.stem in "67" else "train"
        (data / split / path.parent.name).mkdir(parents=True, exist_ok=True)
        path.rename(data / split / path.parent.name / path.name)
    for name in CLASSES:
        (data / name).rmdir()
    return None


def in_a_csv_file(data: Path) -> str | None:
    paths = [path.relative_to(data) for path in sorted(data.rglob("*.png"))]
    lines = [f"images/{path},{path.parent}" for path in paths]
    (data / "images").mkdir()
    for name in CLASSES:
        (data / name).rename(data / "images" / name)
    (data / "labels.csv").write_text("\n".join(["path,label", *lines]))
    return "labels.csv"


@pytest.mark.parametrize("arrange", [in_folders, in_split_folders, in_a_csv_file])
def test_fetch_data_applies_the_corrections_in_every_layout(
    project: Path, arrange: Callable[[Path], str | None], caplog: pytest.LogCaptureFixture
) -> None:
    data = project / "data"
    labels = arrange(data)
    paths = [path.relative_to(data).as_posix() for path in sorted(data.rglob("*.png"))]
    cat, dog = (next(p for p in paths if p.endswith(f"{end}.png")) for end in ("cat/7", "dog/0"))
    (data / "exclude.csv").write_text(f"path\n{cat}\n")
    (data / "relabel.csv").write_text(f"path,label\n{dog},emu\n")
    add(project)
    ensure_pushed(project, "sample")
    wrong = CorrectionFiles("relabel.csv", "exclude.csv")
    assert "no column label" in refused(project, labels=labels, corrections=wrong)
    right = CorrectionFiles("exclude.csv", "relabel.csv")
    fetched = fetch(project, labels=labels, corrections=right)
    table = Examples(project.parent / "examples")
    label_of = dict(zip(table.column("path", None), table.column("label", None), strict=True))
    assert label_of.keys() == set(paths) - {cat}
    assert CLASSES[label_of[dog]] == "emu"
    assert fetched.counts == {"cat": 7, "dog": 7, "emu": 9}
    assert "images excluded by data/exclude.csv: 1" in table.facts.lines()
    assert "images relabelled by data/relabel.csv: 1" in caplog.text


def add_photographs(data: Path) -> None:
    """Write near duplicates of two classes."""
    coarse = Image.fromarray(np.random.default_rng(5).integers(0, 256, (6, 6, 3), np.uint8))
    photograph = coarse.resize((60, 60), Image.Resampling.BICUBIC)
    photograph.save(data / "dog/a.png")
    photograph.resize((50, 50)).save(data / "emu/b.png")


def test_the_page_is_the_same_each_time(pushed: Path) -> None:
    fetch(pushed)
    first = (pushed.parent / "data_page").read_bytes()
    fetch(pushed)
    assert (pushed.parent / "data_page").read_bytes() == first


# The pointers, the folders and the remote


def test_changed_folders_are_noticed(project: Path) -> None:
    assert changed_since_add(project) == []
    (project / "data" / "cat" / "new.png").write_bytes(picture(5))
    assert changed_since_add(project) == ["data"]
    (project / "models" / "small.safetensors").write_bytes(b"other")
    assert changed_since_add(project) == ["data", "models"]
    shutil.rmtree(project / ".dvc" / "cache")
    assert changed_since_add(project) == ["data", "models"]
    shutil.rmtree(project / "data")
    assert changed_since_add(project) == ["models"]


def test_a_folder_is_pushed_to_once(project: Path) -> None:
    ensure_pushed(project, "sample")
    assert fetch(project).num_images == 24
    shutil.rmtree(project / ".dvc" / "cache")
    ensure_pushed(project, "sample")  # needs no cache: all is there


def test_a_remote_that_is_no_folder_is_left_alone(project: Path) -> None:
    ensure_pushed(project, "minio")
    assert not (project / "dvc-remote").exists()


def test_pushing_to_an_unknown_remote_is_refused(project: Path) -> None:
    with pytest.raises(UserError, match="no remote 'attic'"):
        ensure_pushed(project, "attic")


def test_what_is_nowhere_cannot_be_pushed(project: Path) -> None:
    shutil.rmtree(project / ".dvc" / "cache")
    with pytest.raises(UserError, match="`dvc add data`"):
        ensure_pushed(project, "sample")
    shutil.rmtree(project / "data")
    with pytest.raises(UserError, match="put your files under data/"):
        ensure_pushed(project, "sample")
    shutil.copy(PROJECT / "data.dvc", project)
    with pytest.raises(UserError, match="`crossfold sample`"):
        ensure_pushed(project, "sample")


def test_a_cache_with_a_hole_is_refused(project: Path) -> None:
    for path in (project / ".dvc" / "cache").rglob("*"):
        if path.is_file() and path.read_bytes() == picture(0):
            path.unlink()
    with pytest.raises(UserError, match="`dvc add data`"):
        ensure_pushed(project, "sample")


def test_pointer_hash_reads_what_dvc_wrote(project: Path) -> None:
    md5 = pointer_hash((project / "data.dvc").read_text())
    assert (project / ".dvc" / "cache" / "files" / "md5" / md5[:2] / md5[2:]).exists()
