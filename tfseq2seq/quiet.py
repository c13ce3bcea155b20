"""TensorFlow imported without what its libraries say on every start where there is no GPU."""

import glob
import importlib
import os
import re
import sys
import tempfile
from typing import Any

# On a machine without a GPU: which instructions and libraries are used, and that CUDA is not there.
_USUAL = re.compile(
    rb"\s*$|WARNING: All log messages before absl::InitializeLog"
    rb"|To enable the following instructions"
    rb"|[IWE]\d{4} \S+\s+\d+ (port|cudart_stub|cuda_platform|cpu_feature_guard|cuda_diagnostics)\.cc")


def import_tensorflow() -> None:
    """Imports it and looks for devices; what else is said meanwhile comes after.

    All is said as it comes where there is a GPU, or TF_CPP_MIN_LOG_LEVEL asks for less than errors.
    """
    if "tensorflow" in sys.modules or glob.glob("/dev/nvidia*") or os.environ.get("TF_CPP_MIN_LOG_LEVEL") != "3":
        return
    sys.stderr.flush()
    screen = os.dup(2)  # the libraries write there, past sys.stderr
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            import tensorflow as tf

            tf.config.list_physical_devices("GPU")
        finally:
            os.dup2(screen, 2)
            os.close(screen)
            said.seek(0)
            for line in said:
                if not _USUAL.match(line):
                    os.write(2, line)


def call(module: str, function: str, *arguments: Any) -> Any:
    """What a new process calls first: the function, by its name, in a module that imports TensorFlow."""
    import_tensorflow()
    return getattr(importlib.import_module(module), function)(*arguments)
