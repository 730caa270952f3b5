"""What a scanner looks for in the images: packages, rights of files, secrets."""

import io
import json
import re
import secrets
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import docker
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from crossfold.infra.image_tags import MLFLOW, ROLES, TRAIN, Torch, build_arguments

from ..pipeline.projects import SOURCE
from .test_images import run, shell

REQUIREMENTS = SOURCE / "requirements"
SBOM = "/opt/sbom.cdx.json"
# Everything but the base's and the packages' files. Their keys would be no secret of ours.
OURS = ("/app", "/etc", "/home", "/root")
OPEN_TO_ALL = {"/tmp", "/var/tmp", "/run/lock"}  # sticky: nobody can replace another's file

# In one container: programs that change the user, files that anybody may write, files without an
# owner, and the wheels' own SBOMs, which list what is compiled into them.
FILES = """
find / -xdev -type f -perm /6000 -printf 'setuid %p\\n'
find / -xdev ! -type l -perm -0002 -printf 'writable %p\\n'
find / -xdev \\( -nouser -o -nogroup \\) -printf 'unowned %p\\n'
find /opt/venv -path '*.dist-info/sboms/*' -printf 'sbom %p\\n'
"""


@pytest.fixture(scope="module")
def exported(
    images: dict[str, str], engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Each image's SBOM, own files and configuration, in a folder named like its role."""
    root = tmp_path_factory.mktemp("exported")
    for role in ROLES:
        folder = root / role
        container = engine.containers.create(images[role])
        try:
            for path in (SBOM, *OURS):
                stream, _ = container.get_archive(path)
                with tarfile.open(fileobj=io.BytesIO(b"".join(stream))) as archive:
                    archive.extractall(folder, filter=_readable)
        finally:
            container.remove()
        image = engine.images.get(images[role])
        configuration = {"config": image.attrs["Config"], "layers": image.history()}
        (folder / "image.json").write_text(json.dumps(configuration, indent=1))
    return root


def _readable(member: tarfile.TarInfo, _: str) -> tarfile.TarInfo | None:
    return member if member.isfile() or member.isdir() else None


def locked(lock: str, environment: dict[str, str]) -> dict[str, Version]:
    """Return a lock's packages for an environment, by the names that the index normalizes."""
    text = (REQUIREMENTS / lock).read_text()
    lines = re.findall(r"^([A-Za-z0-9._-]+==[^\\\n]+)", text, re.MULTILINE)
    return {
        canonicalize_name(requirement.name): Version(str(requirement.specifier)[2:])
        for requirement in map(Requirement, lines)
        if requirement.marker is None or requirement.marker.evaluate(environment)
    }


def expected_packages(role: str, environment: dict[str, str]) -> dict[str, Version]:
    packages = locked(f"{role}.txt", environment)
    if role == TRAIN:
        arguments = build_arguments()
        assert arguments
        everything = locked("torch.txt", environment)
        left_out = (REQUIREMENTS / "train.without").read_text().splitlines()
        own = {"torch", "torchvision", "timm"}  # all that the CPU-only build has of them
        packages |= {
            name: version
            for name, version in everything.items()
            if name in own or (arguments.torch is Torch.DEFAULT and name not in left_out)
        }
    return packages


@pytest.mark.parametrize("role", ROLES)
def test_the_sbom_names_the_locked_packages_and_no_other(
    images: dict[str, str], engine: docker.DockerClient, exported: Path, role: str
) -> None:
    text = (exported / role / Path(SBOM).name).read_text()
    sbom: dict[str, Any] = json.loads(text)
    assert "serialNumber" not in sbom and "timestamp" not in sbom["metadata"]  # reproducible
    code = "import platform; print(platform.python_version(), platform.machine())"
    python, machine = run(engine, images[role], code).split()
    environment = {
        "python_full_version": python,
        "python_version": python.rpartition(".")[0],
        "platform_machine": machine,
        "sys_platform": "linux",
    }
    listed = {
        canonicalize_name(entry["name"]): Version(Version(entry["version"]).public)
        for entry in sbom["components"]
    }
    assert listed == expected_packages(role, environment)


def test_the_sbom_follows_its_schema(exported: Path) -> None:
    """One of the three, which the same program writes: the schema's library is slow."""
    text = (exported / MLFLOW / Path(SBOM).name).read_text()
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(text) is None


@pytest.mark.parametrize("role", ROLES)
def test_no_file_gives_rights_away_and_the_wheels_sboms_are_kept(
    images: dict[str, str], engine: docker.DockerClient, role: str
) -> None:
    found = [line.split(" ", 1) for line in shell(engine, images[role], FILES).splitlines()]
    assert {kind for kind, _ in found} == {"writable", "sbom"}
    assert {path for kind, path in found if kind == "writable"} == OPEN_TO_ALL
    assert any("pydantic_core" in path for kind, path in found if kind == "sbom")


def find_secrets(folder: Path) -> subprocess.CompletedProcess[str]:
    command = ["make", "--silent", "lint-secrets", f"FOLDER={folder}"]
    return subprocess.run(command, cwd=SOURCE, capture_output=True, text=True, check=False)


def test_no_secret_is_in_an_image(exported: Path, tmp_path: Path) -> None:
    done = find_secrets(exported)
    assert done.returncode == 0, done.stdout
    planted = tmp_path / "settings.py"
    planted.write_text(f'TOKEN = "ghp_{secrets.token_hex(18)}"\n')
    done = find_secrets(tmp_path)
    assert done.returncode != 0
    assert "github-pat" in done.stdout
