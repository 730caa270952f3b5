"""Compile the pipeline for a run, or copy it from an earlier run that compiled the same."""

import hashlib
import json
import platform
import shutil
from collections.abc import Callable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from crossfold.infra.image_tags import DATA, ROOT, TRAIN
from crossfold.resource_settings import ResourceSettings
from pipelines.compilation import compile_pipeline

from .run_folders import Run, all_runs

_CODE = ("components", "crossfold", "pipelines")
_LIBRARIES = ("kfp", "kfp-kubernetes", "PyYAML")


def compiled_pipeline(
    run: Run, inputs: Mapping[str, Any], image: Callable[[str], str], resources: ResourceSettings
) -> Path:
    """Write the pipeline for a run with these inputs, and return its path.

    It has no defaults, because a run on this machine passes every argument.
    """
    package = run.folder / "pipeline.yaml"
    shape = {"parts": inputs["parts"]}
    key = _key(shape, image, resources)
    earlier = (
        one.folder / package.name for one in all_runs(run.folder.parent) if one.pipeline == key
    )
    same = next((path for path in earlier if path.exists() and path != package), None)
    run.compiled("")  # a continued run has a key, which is not that of a half-written file
    if same:
        shutil.copyfile(same, package)
    else:
        compile_pipeline(package, shape, retries=False, image=image, resources=resources)
    run.compiled(key)
    return package


def _key(shape: Mapping[str, Any], image: Callable[[str], str], resources: ResourceSettings) -> str:
    """Hash everything that the compiled pipeline depends on."""
    content = {
        **shape,
        "resources": resources.model_dump(),
        "images": [image(DATA), image(TRAIN)],
        "code": _code_hash(),
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in _LIBRARIES},
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _code_hash() -> str:
    digest = hashlib.sha256()
    for folder in _CODE:
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(f"{path.relative_to(ROOT).as_posix()}\0{path.stat().st_size}\0".encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()
