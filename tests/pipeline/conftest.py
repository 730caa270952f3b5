"""The project that the tests copy."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from .projects import Project, write_project


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A project that has not run; to be copied, not changed."""
    return write_project(tmp_path_factory.mktemp("template") / "project")


@pytest.fixture(scope="session")
def new_project(
    template: Project, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[], Project]:
    """Give a new copy of the template with each call."""

    def copy() -> Project:
        root = tmp_path_factory.mktemp("copy") / "project"
        return Project(Path(shutil.copytree(template.root, root)))

    return copy
