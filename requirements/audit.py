"""Look for known vulnerabilities in every locked package: `make audit`.

pip-audit asks PyPI about each package, so this needs the network. It fails if PyPI can't answer.
"""

import datetime
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

FOLDER = Path(__file__).resolve().parent
EXCEPTIONS = FOLDER / "audit_exceptions.toml"


class Waiver(BaseModel):
    """A known vulnerability that is accepted until a date."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str = Field(pattern=r"^(CVE|GHSA|PYSEC)-")
    package: str = Field(min_length=1)
    reason: str = Field(min_length=1)
    look_again_by: datetime.date


def read_waivers(path: Path = EXCEPTIONS) -> list[Waiver]:
    """Read the accepted vulnerabilities.

    Raises:
        pydantic.ValidationError: one lacks its package, its reason or its date.
    """
    entries = tomllib.loads(path.read_text(encoding="utf-8"))["exceptions"]
    return [Waiver.model_validate(entry) for entry in entries]


def audit_options(waivers: list[Waiver], today: datetime.date) -> Iterator[str]:
    """Yield pip-audit's options: the locks, and the vulnerabilities accepted today."""
    yield from ("--disable-pip", "--require-hashes", "--strict", "--progress-spinner=off")
    for lock in sorted(FOLDER.glob("*.txt")):
        yield f"--requirement={lock}"
    for waiver in waivers:
        if today <= waiver.look_again_by:
            yield f"--ignore-vuln={waiver.id}"


def main() -> int:
    """Run pip-audit and return its exit status."""
    options = audit_options(read_waivers(), datetime.datetime.now(datetime.UTC).date())
    return subprocess.run([sys.executable, "-m", "pip_audit", *options], check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
