import os
import subprocess
import sys
from pathlib import Path


def test_imagenet_weights_that_cannot_be_fetched_say_why(tmp_path: Path) -> None:
    """In a process of its own, whose proxy is a port where nothing listens."""
    program = (
        "from pathlib import Path\n"
        "from crossfold.network.published_weights import fetch_imagenet_weights\n"
        "from crossfold.errors import UserError\n"
        "try: fetch_imagenet_weights(Path('models'))\n"
        "except UserError as error: print(error)"
    )
    nowhere = dict.fromkeys(("https_proxy", "HTTPS_PROXY"), "http://127.0.0.1:9")
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={**os.environ, **nowhere, "TORCH_HOME": str(tmp_path / "torch"), "no_proxy": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "https://download.pytorch.org/" in done.stdout and "model.weights" in done.stdout
    assert not (tmp_path / "models").exists()
