"""Delete MLflow's runs permanently from a cluster."""

from collections.abc import Sequence

from crossfold.infra.run_deletion import server_script

from .kubectl import Cluster

# Unlimited: each run's objects are deleted one by one.
_SERVER = ("--request-timeout=0", "--namespace=mlflow", "--stdin", "deployment/mlflow")


def delete_from_cluster(cluster: Cluster, runs: Sequence[str], models: Sequence[str]) -> None:
    """Delete runs and logged models in one of MLflow's pods.

    Raises:
        UserError: it failed; the message has MLflow's.
    """
    script = server_script(runs, models)
    cluster.kubectl("exec", *_SERVER, "--", "python3", "-", given=script)
