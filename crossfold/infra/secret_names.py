"""The names of the Secrets that steps read on Kubernetes, and of their keys.

`crossfold cluster up` creates the Secrets; the graph mounts them.
"""

MLFLOW_SECRET = "crossfold-mlflow"
REMOTE_SECRET = "crossfold-dvc-remote"

# Each Secret's keys, and the environment variables that pass their values to a step.
VARIABLES = {
    # Kubeflow's MLflow plugin sets MLflow's own variables, and Kubernetes rejects a pod in which
    # one of them is set both ways.
    MLFLOW_SECRET: {
        "MLFLOW_EXPERIMENT_NAME": "MLFLOW_EXPERIMENT_NAME",
        "MLFLOW_TRACKING_URI": "CROSSFOLD_MLFLOW_TRACKING_URI",
        "MLFLOW_TRACKING_USERNAME": "CROSSFOLD_MLFLOW_TRACKING_USERNAME",
        "MLFLOW_TRACKING_PASSWORD": "CROSSFOLD_MLFLOW_TRACKING_PASSWORD",
        "MLFLOW_PAGES": "CROSSFOLD_MLFLOW_PAGES",
    },
    REMOTE_SECRET: {
        name: name
        for name in (
            "CROSSFOLD_DVC_REMOTE",
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_ACCESS_KEY",
            "GDRIVE_CREDENTIALS_DATA",
        )
    },
}
