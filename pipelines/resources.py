"""Configure each step's image, cores, memory, disk and secrets from one table and the settings."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

from kfp import kubernetes
from kfp.dsl.pipeline_task import PipelineTask

from crossfold.infra.image_tags import DATA, TRAIN
from crossfold.infra.secret_names import MLFLOW_SECRET, REMOTE_SECRET, VARIABLES
from crossfold.resource_settings import ResourceSettings, num_bytes
from crossfold.step.runtime import ON_KUBERNETES

# The images' user; a number saves Kubernetes the lookup of a name.
USER = 65532
# Seconds; it only ends steps that hang.
TIMEOUT = 24 * 60 * 60
# A step's requested cores on a small cluster: Kubernetes and manifests/small leave 0.9 of two.
SMALL_CPU_REQUEST = 0.5
# Kubernetes' name of the disk that a container fills with its files, logs and emptyDir volumes.
_DISK = "ephemeral-storage"


@dataclass(frozen=True)
class Resources:
    """A step's display name, its image's role, its pod's resources, and its secrets.

    `cores` and `memory` are a request and a limit, `storage` is both, in bytes; None for any size.
    """

    name: str
    role: str
    cores: tuple[float, float]
    memory: tuple[str, str]
    secrets: tuple[str, ...] = (MLFLOW_SECRET,)
    storage: int | None = None


RESOURCES = {
    "fetch_data": Resources(
        "Fetch data", DATA, (1, 2), ("1Gi", "2Gi"), (MLFLOW_SECRET, REMOTE_SECRET)
    ),
    "fetch_weights": Resources(
        "Fetch weights", DATA, (0.5, 1), ("512Mi", "1Gi"), (MLFLOW_SECRET, REMOTE_SECRET)
    ),
    "extract_features": Resources("Extract features", TRAIN, (1, 4), ("2Gi", "4Gi")),
    "join_features": Resources("Join features", TRAIN, (0.5, 1), ("1Gi", "2Gi")),
    "train_fold": Resources("Train fold", TRAIN, (1, 2), ("2Gi", "4Gi")),
    "aggregate_cv": Resources("Aggregate cross-validation", TRAIN, (0.5, 1), ("1Gi", "2Gi")),
    "diagnose_data": Resources("Diagnose data", TRAIN, (1, 2), ("1Gi", "4Gi")),
    "train_final": Resources("Train final model", TRAIN, (1, 2), ("2Gi", "4Gi")),
    "evaluate_test": Resources("Evaluate on test split", TRAIN, (1, 4), ("2Gi", "4Gi")),
    "register_model": Resources("Register model", TRAIN, (1, 4), ("2Gi", "4Gi")),
}


def resources_of_steps(
    settings: ResourceSettings, storage: Mapping[str, int], *, small: bool
) -> dict[str, Resources]:
    """Apply to the table a small cluster's limit, some steps' estimated bytes and the settings."""
    most = SMALL_CPU_REQUEST if small else math.inf
    return {
        step: _changed(
            replace(
                resources,
                cores=(min(resources.cores[0], most), resources.cores[1]),
                storage=storage.get(step),
            ),
            settings,
            step,
        )
        for step, resources in RESOURCES.items()
    }


def _changed(resources: Resources, settings: ResourceSettings, step: str) -> Resources:
    given = settings.of(step)
    return replace(
        resources,
        cores=resources.cores if given.cpu is None else (given.cpu, given.cpu),
        memory=resources.memory if given.memory is None else (given.memory, given.memory),
        storage=resources.storage if given.storage is None else num_bytes(given.storage),
    )


def configure(task: PipelineTask, resources: Resources) -> None:
    """Configure a step's task, with retries and Kubernetes' settings.

    The image is only the role here; `compile_pipeline` inserts its name.
    """
    task.set_display_name(resources.name)
    task.set_container_image(resources.role)
    task.set_cpu_request(f"{resources.cores[0]:g}")
    task.set_cpu_limit(f"{resources.cores[1]:g}")
    task.set_memory_request(resources.memory[0])
    task.set_memory_limit(resources.memory[1])
    if resources.storage is not None:
        # Kubeflow 2.17 has no setting for the disk (kubeflow/pipelines#11137), but one for any
        # resource by its name in Kubernetes, which takes such a limit for the request, too.
        task.set_accelerator_type(_DISK)
        task.set_accelerator_limit(resources.storage)
    # Every step may be repeated: its outputs are overwritten, its MLflow run is found again.
    task.set_retry(num_retries=2, backoff_duration="5s", backoff_factor=2)
    _configure_pod(task, resources.secrets)


def _configure_pod(task: PipelineTask, secrets: tuple[str, ...]) -> None:
    """Give a pod its identity, its timeout, the run's id and its secrets.

    The runners on this machine ignore all of this; they provide the same by other means.
    """
    kubernetes.set_security_context(task, run_as_user=USER, run_as_group=USER, run_as_non_root=True)
    kubernetes.set_image_pull_policy(task, "IfNotPresent")
    kubernetes.set_timeout(task, TIMEOUT)
    kubernetes.add_pod_label(task, "app.kubernetes.io/part-of", "crossfold")
    # Not a parameter: it would be part of the cache's key, and no step would be reused.
    kubernetes.use_field_path_as_env(task, "CROSSFOLD_RUN_ID", "metadata.labels['pipeline/runid']")
    kubernetes.use_field_path_as_env(task, ON_KUBERNETES, "metadata.name")
    for secret in secrets:
        # Optional: a step reports a missing Secret more clearly than a pod that cannot start.
        kubernetes.use_secret_as_env(task, secret, VARIABLES[secret], optional=True)
