"""Stand-ins for docker, kind and kubectl, and `crossfold cluster` beside them."""

import os
import subprocess
import sys
from pathlib import Path

PROJECT = Path(__file__).parents[4]


def crossfold_cluster(*arguments: str, path: Path) -> "subprocess.CompletedProcess[str]":
    """Run `crossfold cluster` with no other programs than those of a folder."""
    code = f"import sys; sys.argv[1:] = {['cluster', *arguments]}; "
    code += "from crossfold.cli.main import main; main()"
    environment = {**os.environ, "PATH": str(path)}
    call = [sys.executable, "-c", code]
    return subprocess.run(call, env=environment, capture_output=True, text=True, cwd=PROJECT)


def write_program(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
