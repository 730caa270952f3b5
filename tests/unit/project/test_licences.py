"""The licences of the locked packages, against the allow-list and the packages' metadata."""

import re
import tomllib
from importlib.metadata import distributions
from pathlib import Path

import pytest
from license_expression import LicenseExpression, Licensing
from packaging.licenses import canonicalize_license_expression
from packaging.utils import canonicalize_name

REQUIREMENTS = Path(__file__).parents[3] / "requirements"
LICENCES = tomllib.loads((REQUIREMENTS / "licences.toml").read_text())
PACKAGES: dict[str, str] = LICENCES["packages"]
EXCEPTIONS: dict[str, str] = {
    package: entry["reason"] for entry in LICENCES["exceptions"] for package in entry["packages"]
}
SPDX = Licensing()

# Classifiers, where a package has no SPDX expression: what the expression must contain.
CLASSIFIERS = {
    "Apache Software License": "Apache-2.0",
    "BSD License": "BSD-",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "The Unlicense (Unlicense)": "Unlicense",
    "Zope Public License": "ZPL-",
}
# The classifier of requests-oauthlib is wrong: its licence file is the ISC licence.
WRONG = {"requests-oauthlib"}


def is_allowed(expression: LicenseExpression, allowed: set[str]) -> bool:
    if isinstance(expression, SPDX.OR):
        return any(is_allowed(part, allowed) for part in expression.args)
    if isinstance(expression, SPDX.AND):
        return all(is_allowed(part, allowed) for part in expression.args)
    return expression.render() in allowed


def test_each_locked_package_has_a_licence_and_no_other() -> None:
    locked = {
        canonicalize_name(name)
        for path in REQUIREMENTS.glob("*.txt")
        for name in re.findall(r"^([A-Za-z0-9._-]+)==", path.read_text(), re.MULTILINE)
    }
    assert len(locked) > 300
    assert PACKAGES.keys() == locked, "add or remove them in requirements/licences.toml"


@pytest.mark.parametrize("expression", sorted(set(PACKAGES.values())))
def test_a_licence_is_allowed_or_all_its_packages_are_exceptions(expression: str) -> None:
    assert canonicalize_license_expression(expression) == expression
    packages = {name for name, licence in PACKAGES.items() if licence == expression}
    if is_allowed(SPDX.parse(expression), set(LICENCES["allowed"])):
        assert not packages & EXCEPTIONS.keys()
    else:
        assert packages <= EXCEPTIONS.keys()


@pytest.mark.parametrize(
    ("expression", "expected"),
    [
        ("MIT AND Zlib", True),
        ("MIT AND GPL-3.0-only", False),
        ("GPL-3.0-only OR MIT", True),
        ("MPL-2.0 AND (Apache-2.0 OR MIT)", False),
        ("Apache-2.0 WITH LLVM-exception", True),
    ],
)
def test_an_expression_is_weighed_as_a_whole(expression: str, expected: bool) -> None:
    allowed = {"MIT", "Zlib", "Apache-2.0", "Apache-2.0 WITH LLVM-exception"}
    assert is_allowed(SPDX.parse(expression), allowed) is expected


def test_each_exception_is_for_a_locked_package_and_has_a_reason() -> None:
    assert PACKAGES.keys() >= EXCEPTIONS.keys()
    assert all(EXCEPTIONS.values())


def test_the_list_says_what_the_installed_packages_say() -> None:
    compared = 0
    for package in distributions():
        name = canonicalize_name(package.metadata["Name"])
        if name not in PACKAGES or name in WRONG:
            continue
        if "License-Expression" in package.metadata:
            assert PACKAGES[name] == package.metadata["License-Expression"], name
            compared += 1
            continue
        for classifier in package.metadata.get_all("Classifier") or []:
            expected = CLASSIFIERS.get(classifier.rpartition(" :: ")[2])
            if classifier.startswith("License") and expected:
                assert expected in PACKAGES[name], name
                compared += 1
    assert compared > 200
