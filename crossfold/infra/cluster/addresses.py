"""Namespaces, in-cluster addresses and local ports of the services."""

KUBEFLOW = "kubeflow"
SERVICES = ("minio", "postgres", "mlflow")  # namespaces
MLFLOW_URI = "http://mlflow.mlflow.svc.cluster.local:5000"
MINIO_URI = "http://minio.minio.svc.cluster.local:9000"

# Ports on this machine; kind-cluster.yaml maps them to the services.
PORTS = {8080: "Kubeflow's pages", 5001: "MLflow", 9000: "MinIO"}
KUBEFLOW_PORT, MLFLOW_PORT, S3_PORT = PORTS
KUBEFLOW_PAGE = f"http://localhost:{KUBEFLOW_PORT}"
MLFLOW_PAGE = f"http://localhost:{MLFLOW_PORT}"
