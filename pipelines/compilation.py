"""Compile the graph to YAML for every runner."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml
from kfp import compiler

from crossfold.infra.image_tags import DATA, TRAIN, image_name
from crossfold.resource_settings import NO_RESOURCES, ResourceSettings

from .classification import pipeline
from .resources import resources_of_steps

NO_STORAGE: Mapping[str, int] = {}


def compile_pipeline(
    path: Path,
    defaults: dict[str, Any],
    *,
    image: Callable[[str], str] = image_name,
    caching: bool = True,
    retries: bool = True,
    small: bool = False,
    resources: ResourceSettings = NO_RESOURCES,
    storage: Mapping[str, int] = NO_STORAGE,
) -> None:
    """Write the pipeline as YAML for every runner, with defaults for its parameters.

    Equal calls write equal bytes: kfp repeats the defaults in a comment, some of them in an order
    that differs from process to process, and reading the YAML drops the comment.

    Args:
        path: The file to write.
        defaults: The pipeline's arguments.
        image: Names a role's image for the runner. The name is part of the key under which a step's
            outputs are cached.
        caching: Whether any step may come from the cache. Kubeflow also accepts this setting with a
            run, but ignores it inside loops.
        retries: Whether a failed step is repeated. Kubeflow's local runner would wait 15 s before
            it gave up.
        small: Whether a step requests so little CPU that it fits on a cluster of two cores.
        resources: The settings of the steps' cores, memory and disk.
        storage: Bytes of disk of the steps that have no setting for it, see `estimate_storage`.
    """
    images = {role: image(role) for role in (DATA, TRAIN)}
    graph = pipeline(
        several_parts=bool(defaults.get("parts")),
        resources=resources_of_steps(resources, storage, small=small),
    )
    compiler.Compiler().compile(graph, str(path), pipeline_parameters=defaults)
    # libyaml's classes do the same in a tenth of the time.
    spec, platforms = yaml.load_all(path.read_text(), yaml.CSafeLoader)
    for executor in spec["deploymentSpec"]["executors"].values():
        container = executor["container"]
        container["image"] = images[container["image"]]
    for component in (spec["root"], *spec["components"].values()):
        for task in component.get("dag", {}).get("tasks", {}).values():
            if not caching:
                task["cachingOptions"] = {}
            if not retries:
                task.pop("retryPolicy", None)
    path.write_text(yaml.dump_all([spec, platforms], Dumper=yaml.CSafeDumper, allow_unicode=True))
