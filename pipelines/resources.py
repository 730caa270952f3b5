"""Configure each step's image, cores, memory and secrets from one table."""

from dataclasses import dataclass

from kfp import kubernetes
from kfp.dsl.pipeline_task import PipelineTask

from crossfold.infra.image_tags import DATA, TRAIN
from crossfold.infra.secret_names import MLFLOW_SECRET, REMOTE_SECRET, VARIABLES
from crossfold.step.runtime import ON_KUBERNETES

# The images' user; a number saves Kubernetes the lookup of a name.
USER = 65532
# Seconds; it only ends steps that hang.
TIMEOUT = 24 * 60 * 60
# A step's requested cores on a small cluster: Kubernetes and manifests/small leave 0.9 of two.
SMALL_CPU_REQUEST = 0.5


@dataclass(frozen=True)
class Resources:
    """A step's display name, its image's role, its pod's resources, and its secrets.

    `cores` and `memory` are a request and a limit.
    """

    name: str
    role: str
    cores: tuple[float, float]
    memory: tuple[str, str]
    secrets: tuple[str, ...] = (MLFLOW_SECRET,)


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
    "train_final": Resources("Train final model", TRAIN, (1, 2), ("2Gi", "4Gi")),
    "evaluate_test": Resources("Evaluate on test split", TRAIN, (1, 4), ("2Gi", "4Gi")),
    "register_model": Resources("Register model", TRAIN, (1, 4), ("2Gi", "4Gi")),
}


def configure(task: PipelineTask, step: str) -> None:
    """Configure a step's task from its row of the table, with retries and Kubernetes' settings.

    The image is only the role here; `compile_pipeline` inserts its name.
    """
    resources = RESOURCES[step]
    task.set_display_name(resources.name)
    task.set_container_image(resources.role)
    task.set_cpu_request(str(resources.cores[0]))
    task.set_cpu_limit(str(resources.cores[1]))
    task.set_memory_request(resources.memory[0])
    task.set_memory_limit(resources.memory[1])
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
