"""Takes out of installed packages what no step uses; the Dockerfiles run it as they install."""

import struct
import sysconfig
from pathlib import Path
from shutil import rmtree

PACKAGES = Path(sysconfig.get_path("purelib"))

UNUSED = (
    "**/tests",
    "**/include",  # what is for compiling against a package: headers, archives, types, sources
    "**/*.a",
    "**/*.pyi",
    "databricks/sdk",  # MLflow looks whether there is a package `databricks.agents`, no more
    "numpy/_core/_simd*",
    "openvino_telemetry",
    "openvino/libs/*_[gn]pu_plugin*",
    "openvino/libs/cache.json",  # for graphics cards
    "openvino/libs/*_auto_*",  # which of several devices
    "openvino/libs/*_hetero_*",
    "openvino/libs/*_gguf_*",  # formats of others than torch
    "openvino/libs/*_jax_*",
    "openvino/libs/*_onnx_*",
    "openvino/libs/*_paddle_*",
    "openvino/libs/*_tensorflow_*",
    "openvino/libs/libopenvino_c.so*",
    "numpy/distutils",
    "**/*.pxd",
    "*.dist-info/sboms",
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
    # Of a description for each service of Google's and AWS's, those that a DVC remote calls.
    "googleapiclient/discovery_cache/documents": ("drive.v2.json",),
    "botocore/data": ("*.json", "s3", "sts", "sso", "sso-oidc", "signin"),
    # The names of glyphs; the rest is for matplotlib's PDF and PostScript.
    "fontTools": ("__init__.py", "agl.py", "misc"),
}


def main() -> None:
    """Delete what is unused, and cut the libraries to what is loaded."""
    for pattern in UNUSED:
        for path in list(PACKAGES.glob(pattern)):
            _delete(path)
    for folder, patterns in USED.items():
        used = {path for pattern in patterns for path in (PACKAGES / folder).glob(pattern)}
        for path in set((PACKAGES / folder).glob("*")) - used:
            _delete(path)
    for path in PACKAGES.rglob("*.so*"):
        _strip(path)


def _delete(path: Path) -> None:
    if path.is_dir():
        rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _strip(library: Path) -> None:
    """Cut off what lies behind the last segment: symbols for debuggers, a quarter of pyarrow.

    A loader reads the program header and the segments that it lists, and none of the sections (man
    5 elf). The usual tool, strip, is in Debian's packages, and an image needs Python's alone.
    """
    with library.open("rb") as file:
        start = file.read(64)
        if not start.startswith(b"\x7fELF\x02\x01"):  # 64 bits, little-endian
            return
        (table,) = struct.unpack_from("<Q", start, 32)
        size, number = struct.unpack_from("<HH", start, 54)
        file.seek(table)
        headers = [file.read(size) for _ in range(number)]
    segments = [struct.unpack_from("<Q16xQ", header, 8) for header in headers]
    end = max(table + size * number, *(offset + length for offset, length in segments))
    if library.stat().st_size == end:
        return  # not even opened to write: a layer would get a copy of the file
    with library.open("r+b") as file:
        file.truncate(end)
        for position, length in ((40, 8), (60, 4)):  # where sections are, and how many
            file.seek(position)
            file.write(bytes(length))


if __name__ == "__main__":
    main()
