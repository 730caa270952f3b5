"""Old runs in a cluster's MLflow: deleted with their objects."""

from .services import Services
from .test_command import crossfold

RUNS = """
import mlflow, os
os.chdir("/tmp")
client = mlflow.MlflowClient()
name = os.environ["MLFLOW_EXPERIMENT_NAME"]
known = client.get_experiment_by_name(name)
experiment = known.experiment_id if known else client.create_experiment(name)
for _ in range(2):
    run = client.create_run(experiment, tags={"crossfold.kind": "pipeline"}).info.run_id
    client.log_text(run, "a text", "a.txt")
    client.update_run(run, status="FINISHED")  # set_terminated prints
    print(run)
"""


def test_old_runs_are_deleted_with_their_objects(services: Services) -> None:
    old, last = services.python(RUNS).split()
    context = ("--context", services.cluster.context)
    assert "1 pipeline run can be" in crossfold("clean", "--keep", "1", *context, status=0)
    said = crossfold("clean", "--keep", "1", "--delete", *context, status=0)
    assert f"1 pipeline run deleted in {services.cluster.context}" in said
    keys = "".join(services.objects_of("mlflow"))
    assert old not in keys
    assert last in keys
