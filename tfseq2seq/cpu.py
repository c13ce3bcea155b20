"""What TensorFlow should be told before it computes on CPUs.

What is freed should stay in the process. TensorFlow asks the C library for the memory of every array, and of every
matrix product for the blocks that it packs. The library hands large pieces back to the system as soon as they are
freed, which must clear and map them again at the next step: half of a training step's time with both, a tenth with the
packed blocks alone.

And oneDNN should multiply the matrices. TensorFlow leaves them to Eigen on processors without AVX-512, where with
oneDNN a step of training takes 7 % less, and one of decoding 10 to 14 %.
"""

import ctypes
import os

# Of glibc's malloc.h: parameter of mallopt -> (the user's own way to set it, what we set).
_MALLOC = {
    -1: ("MALLOC_TRIM_THRESHOLD_", 2**31 - 1),  # bytes free at the end of an arena before they are handed back
    -2: ("MALLOC_TOP_PAD_", 2**26),  # bytes that an arena grows by, and keeps: it holds the blocks of one product
    -3: ("MALLOC_MMAP_THRESHOLD_", 2**25),  # bytes from which an array has a mapping of its own; no more is allowed
}


def prepare() -> None:
    """Says so, but for what the environment sets; call it before TensorFlow is imported.

    A C library without `mallopt` (musl, macOS) is left as it is.
    """
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "1")
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    for parameter, (variable, value) in _MALLOC.items():
        if mallopt is not None and variable not in os.environ:
            mallopt(parameter, value)
