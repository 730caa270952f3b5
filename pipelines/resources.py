"""What a step gets on Kubernetes besides its image and its limits: identity, timeout, secrets.

The runners on one machine ignore all of this; they give their steps the same by other means.
"""

from kfp import kubernetes
from kfp.dsl.pipeline_task import PipelineTask

from crossfold.infra.secrets import MLFLOW_SECRET, MLFLOW_VARIABLES, REMOTE_SECRET, REMOTE_VARIABLES
from crossfold.step.runtime import ON_KUBERNETES

# Of the images, which name no user that Kubernetes would have to look up.
USER = 65532
# Only to end what hangs: seconds.
TIMEOUT = 24 * 60 * 60


def configure(task: PipelineTask) -> None:
    """Give a step its identity, its timeout, the run's id and MLflow's login."""
    kubernetes.set_security_context(task, run_as_user=USER, run_as_group=USER, run_as_non_root=True)
    kubernetes.set_image_pull_policy(task, "IfNotPresent")
    kubernetes.set_timeout(task, TIMEOUT)
    kubernetes.add_pod_label(task, "app.kubernetes.io/part-of", "crossfold")
    # Not a parameter: it would be part of the cache's key, and no step would be reused.
    kubernetes.use_field_path_as_env(task, "CROSSFOLD_RUN_ID", "metadata.labels['pipeline/runid']")
    kubernetes.use_field_path_as_env(task, ON_KUBERNETES, "metadata.name")
    _use_secret(task, MLFLOW_SECRET, MLFLOW_VARIABLES)


def give_remote(task: PipelineTask) -> None:
    """Give a step the DVC remote's configuration and keys."""
    _use_secret(task, REMOTE_SECRET, REMOTE_VARIABLES)


def _use_secret(task: PipelineTask, name: str, variables: dict[str, str]) -> None:
    # Optional: a step says better than a pod that does not start what it lacks.
    kubernetes.use_secret_as_env(task, name, variables, optional=True)
