"""Start the kind cluster on this machine, create it if missing, and look up its names."""

from crossfold.errors import UserError
from crossfold.infra import shell
from crossfold.infra.image_tags import ROOT
from crossfold.infra.messages import Say

from .checks import check_kind, check_machine
from .kubectl import Cluster

KIND_CLUSTER = "crossfold"  # the name in kind-cluster.yaml
KIND_CONTEXT = f"kind-{KIND_CLUSTER}"


def start_kind_cluster(say: Say, node_image: str | None = None) -> Cluster:
    """Start the kind cluster, or create it from kind-cluster.yaml if it does not exist.

    Raises:
        UserError: a program is missing, or the machine cannot hold the cluster.
    """
    check_kind()
    cluster = Cluster(KIND_CONTEXT)
    if KIND_CLUSTER not in kind_clusters():
        check_machine()
        say("creating the kind cluster: the first time takes some minutes")
        image = [f"--image={node_image}"] if node_image else []
        config = f"--config={ROOT / 'kind-cluster.yaml'}"
        shell.run_visibly("kind", "create", "cluster", config, "--wait=5m", *image)
    else:
        shell.run_visibly("docker", "start", *kind_nodes())
        shell.run_visibly("kind", "export", "kubeconfig", f"--name={KIND_CLUSTER}")
    cluster.check_answers(seconds=120)
    return cluster


def kind_name(cluster: Cluster) -> str | None:
    """Look up the cluster's name in kind; None if it is not a kind cluster on this machine."""
    name = cluster.context.removeprefix("kind-")
    if name == cluster.context:
        return None
    check_kind()
    return name if name in kind_clusters() else None


def kind_clusters() -> list[str]:
    """List the kind clusters on this machine."""
    return shell.output("kind", "get", "clusters").split()


def kind_nodes() -> list[str]:
    """List the node containers of `KIND_CLUSTER`."""
    return shell.output("kind", "get", "nodes", f"--name={KIND_CLUSTER}").split()


def require_kind_cluster() -> None:
    """Raise UserError if `KIND_CLUSTER` does not exist."""
    if KIND_CLUSTER not in kind_clusters():
        raise UserError("there is no kind cluster yet: create it with `crossfold cluster up`")
