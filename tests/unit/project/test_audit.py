"""The audit of the locked packages, up to the request to PyPI, which needs the network."""

import datetime
import runpy
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import ValidationError

REQUIREMENTS = Path(__file__).parents[3] / "requirements"
AUDIT = runpy.run_path(str(REQUIREMENTS / "audit.py"))
WAIVERS = AUDIT["read_waivers"]()


def test_each_accepted_vulnerability_is_one_of_a_locked_package() -> None:
    locks = "".join(f"\n{path.read_text()}" for path in REQUIREMENTS.glob("*.txt"))
    assert WAIVERS
    for waiver in WAIVERS:
        assert f"\n{waiver.package}==" in locks


def test_an_exception_ends_with_its_date() -> None:
    waiver = WAIVERS[0]
    options = AUDIT["audit_options"]
    accepted = f"--ignore-vuln={waiver.id}"
    assert accepted in options(WAIVERS, waiver.look_again_by)
    assert accepted not in options(WAIVERS, waiver.look_again_by + datetime.timedelta(days=1))


@pytest.mark.parametrize("missing", ["package", "reason", "look_again_by"])
def test_an_exception_has_all_its_fields(tmp_path: Path, missing: str) -> None:
    text = (REQUIREMENTS / "audit_exceptions.toml").read_text()
    path = tmp_path / "exceptions.toml"
    path.write_text("\n".join(x for x in text.splitlines() if not x.startswith(f"{missing} =")))
    with pytest.raises(ValidationError, match=missing):
        AUDIT["read_waivers"](path)


def test_pip_audit_reads_every_lock() -> None:
    options = [*AUDIT["audit_options"](WAIVERS, datetime.date.min), "--dry-run"]
    locks = {option for option in options if option.startswith("--requirement")}
    assert len(locks) == len(list(REQUIREMENTS.glob("*.in")))
    done = subprocess.run(
        [sys.executable, "-m", "pip_audit", *options], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stderr.splitlines() if "would have audited" in line]
    assert int(line.split("audited ")[1].split()[0]) > 250
