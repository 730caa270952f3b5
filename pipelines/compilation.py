"""The graph as the YAML that every runner takes."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml
from kfp import compiler

from crossfold.infra.images import DATA, TRAIN, image_name

from .classification import pipeline
from .resources import SMALL_CPU_REQUEST


def compile_pipeline(
    path: Path,
    defaults: dict[str, Any],
    *,
    num_shards: int = 1,
    image: Callable[[str], str] = image_name,
    caching: bool = True,
    retries: bool = True,
    small: bool = False,
) -> None:
    """Write the pipeline as YAML that every runner takes, with defaults for its parameters.

    Equal calls write equal bytes: the comment in which kfp repeats the defaults, some of them in
    an order that differs from process to process, does not survive the reading.

    Args:
        path: The file to write.
        defaults: The pipeline's arguments.
        num_shards: How many steps share the images when features are extracted.
        image: Names the image of a role, as the runner finds it. The name is part of the key under
            which a step's outputs are cached.
        caching: Whether any step may be answered from the cache. Kubeflow takes a word on that
            with a run too, but does not hold to it inside of loops.
        retries: Whether a failed step is repeated. Kubeflow's local runner would wait 15 s before
            it gave up.
        small: Whether a step requests no more than fits a cluster of two cores.
    """
    images = {role: image(role) for role in (DATA, TRAIN)}
    compiler.Compiler().compile(pipeline(num_shards), str(path), pipeline_parameters=defaults)
    spec, platforms = yaml.safe_load_all(path.read_text())
    for executor in spec["deploymentSpec"]["executors"].values():
        container = executor["container"]
        container["image"] = images[container["image"]]
        if small:
            container["resources"] |= {
                "cpuRequest": SMALL_CPU_REQUEST,
                "resourceCpuRequest": str(SMALL_CPU_REQUEST),
            }
    for component in (spec["root"], *spec["components"].values()):
        for task in component.get("dag", {}).get("tasks", {}).values():
            if not caching:
                task["cachingOptions"] = {}
            if not retries:
                task.pop("retryPolicy", None)
    path.write_text(yaml.safe_dump_all([spec, platforms], allow_unicode=True))
