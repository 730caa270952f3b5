"""Crossfold's domain: labelled images in, a cross-validated, registered classifier out."""

import sys

# Where this package is installed, OpenVINO reports every import of it to its makers.
sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
