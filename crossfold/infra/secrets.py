"""The Secrets that steps read on Kubernetes: `cluster up` writes them, the graph names them."""

MLFLOW_SECRET = "crossfold-mlflow"
# The Secret's keys, and the variables: Kubeflow's MLflow plugin sets MLflow's own, and Kubernetes
# takes no pod in which one of them is set both ways.
MLFLOW_VARIABLES = {
    "MLFLOW_EXPERIMENT_NAME": "MLFLOW_EXPERIMENT_NAME",
    "MLFLOW_TRACKING_URI": "CROSSFOLD_MLFLOW_TRACKING_URI",
    "MLFLOW_TRACKING_USERNAME": "CROSSFOLD_MLFLOW_TRACKING_USERNAME",
    "MLFLOW_TRACKING_PASSWORD": "CROSSFOLD_MLFLOW_TRACKING_PASSWORD",
    "MLFLOW_PAGES": "CROSSFOLD_MLFLOW_PAGES",
}
REMOTE_SECRET = "crossfold-dvc-remote"
REMOTE_VARIABLES = {
    name: name
    for name in (
        "CROSSFOLD_DVC_REMOTE",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "GDRIVE_CREDENTIALS_DATA",
    )
}
