"""Fuzz one target with atheris: `python -m tests.fuzz TARGET CORPUS… [libFuzzer's options]`.

libFuzzer's options: https://llvm.org/docs/LibFuzzer.html#options. New inputs go to the first
folder, and an input that fails to the working directory. Runs on Linux only.
"""

import sys

import atheris

# Count the branches of our code and of the decoders' Python parts, not those of all libraries.
with atheris.instrument_imports(include=["crossfold", "PIL", "yaml"]):
    from . import targets

if __name__ == "__main__":
    name = sys.argv.pop(1)
    atheris.Setup(sys.argv, targets.TARGETS[name])
    atheris.Fuzz()
