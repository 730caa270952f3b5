"""Delete the parts of installed packages that no step uses; the Dockerfiles run this."""

import sysconfig
from pathlib import Path
from shutil import rmtree

PACKAGES = Path(sysconfig.get_path("purelib"))

UNUSED = (
    "**/tests",
    "**/include",  # for compiling against a package, like archives, types and sources
    "**/*.a",
    "**/*.pyi",
    "databricks/sdk",  # MLflow only checks whether there is a package `databricks.agents`
    "numpy/_core/_simd*",
    "openvino_telemetry",
    "openvino/libs/*_[gn]pu_plugin*",
    "openvino/libs/cache.json",  # for graphics cards
    "openvino/libs/*_auto_*",  # chooses among devices
    "openvino/libs/*_hetero_*",
    "openvino/libs/*_gguf_*",  # like the next, a format other than torch's
    "openvino/libs/*_jax_*",
    "openvino/libs/*_onnx_*",
    "openvino/libs/*_paddle_*",
    "openvino/libs/*_tensorflow_*",
    "openvino/libs/libopenvino_c.so*",
    "numpy/distutils",
    "**/*.pxd",
    "pyarrow/src",
    "pyarrow/includes",
    "pyarrow/*.p[xy][dix]",
    "pyarrow/*cpp_tests*",
    "pyarrow/*flight*",
    "pyarrow/libarrow_python*.so",  # the second and third copy of libarrow_python.so.2500
    "pyarrow/libarrow_python*.so.*.*",
    "torch/bin/protoc*",
    "torch/share",
)
USED = {
    # Of the descriptions of Google's and AWS's services, those that a DVC remote calls.
    "googleapiclient/discovery_cache/documents": ("drive.v2.json",),
    "botocore/data": ("*.json", "s3", "sts", "sso", "sso-oidc", "signin"),
    # Glyph names; matplotlib needs the rest for PDF and PostScript only.
    "fontTools": ("__init__.py", "agl.py", "misc"),
}


def main() -> None:
    """Delete everything that is unused."""
    for pattern in UNUSED:
        for path in list(PACKAGES.glob(pattern)):
            _delete(path)
    for folder, patterns in USED.items():
        used = {path for pattern in patterns for path in (PACKAGES / folder).glob(pattern)}
        for path in set((PACKAGES / folder).glob("*")) - used:
            _delete(path)


def _delete(path: Path) -> None:
    if path.is_dir():
        rmtree(path)
    else:
        path.unlink(missing_ok=True)


if __name__ == "__main__":
    main()
