"""What a command or a step must not import: its start-up is imports for the most part."""

import subprocess
import sys

import pytest

PREDICT = """
import torch
from crossfold.network import backbone, cutting, determinism

determinism.prepare(1)
network = backbone.build_network("resnet18", 10, seed=0)
prefix = cutting.prefix(cutting.trace(network), ["layer4"])
with torch.inference_mode():
    prefix(torch.zeros(1, 3, 32, 32))
"""


def run(program: str) -> None:
    """Run a program in a Python of its own."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_help_imports_no_settings_no_runner_and_no_numpy() -> None:
    run(
        "import sys, crossfold.cli.main\n"
        "slow = {'pydantic', 'yaml', 'numpy', 'torch', 'mlflow', 'kfp', 'docker', 'kubernetes'}\n"
        "assert not sys.modules.keys() & slow"
    )


def test_a_remembered_version_is_predicted_without_mlflow() -> None:
    run(
        "import sys, crossfold.cli.prediction.predict, crossfold.predict.model\n"
        "import crossfold.predict.local_version, crossfold.network.openvino_engine\n"
        "import crossfold.runners.local.mlflow_store\n"
        "assert not sys.modules.keys() & {'mlflow', 'torch'}"
    )


def test_a_run_imports_mlflow_matplotlib_and_torch_in_other_processes_only() -> None:
    """And kfp only once it is chosen what the server of steps imports."""
    run(
        "import sys, crossfold.runners.local.runner\n"
        "assert not sys.modules.keys() & {'mlflow', 'kfp', 'torch', 'matplotlib'}\n"
        "import crossfold.runners.local.run_lifecycle, crossfold.cli.summary\n"
        "import crossfold.runners.local.backends.processes\n"
        "assert not sys.modules.keys() & {'mlflow', 'matplotlib', 'torch', 'sklearn'}"
    )


def test_the_server_imports_nothing_for_networks_if_nothing_changed() -> None:
    run(
        "import importlib, sys, crossfold.runners.local.backends.fork_server as server\n"
        "[importlib.import_module(name) for name in server.FOR_REGISTERED]\n"
        "slow = {'torch', 'openvino', 'sklearn', 'timm', 'matplotlib.figure'}\n"
        "assert not sys.modules.keys() & slow"
    )


def test_a_step_without_a_network_does_not_import_torch() -> None:
    """Of fetch_data, aggregate_cv and register_model."""
    run(
        "import sys, crossfold.step.runtime, crossfold.tracking.run_tree\n"
        "import crossfold.data.fetch; assert 'torch' not in sys.modules\n"
        "import crossfold.evaluation.cross_validation; assert 'torch' not in sys.modules\n"
        "import crossfold.registry.register, crossfold.report.page\n"
        "assert 'torch' not in sys.modules"
    )


def test_a_network_does_not_import_torchs_compiler() -> None:
    run(f"{PREDICT}\nimport sys; assert 'torch._dynamo' not in sys.modules")


@pytest.mark.slow
def test_torchs_compiler_is_there_for_who_asks_for_it() -> None:
    run(
        "import crossfold.network.backbone, torch._dynamo.utils as u; u.is_compile_supported('cpu')"
    )


@pytest.mark.slow
def test_torchvision_uses_the_compiler_that_is_there_already() -> None:
    run(
        "import torch._dynamo.utils as u, crossfold.network.backbone, torchvision.ops.roi_align\n"
        "import sys; align = sys.modules['torchvision.ops.roi_align']\n"
        "assert align.is_compile_supported is u.is_compile_supported"
    )
