"""Settings of the process that make its work faster and change no result; every entry point calls `prepare` once."""

from __future__ import annotations

import ctypes
import platform

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # parameters of glibc's mallopt
LARGEST, CAUTIOUS = 2**31 - 1, 32 * 2**20  # bytes; older releases refuse more than the second


def prepare() -> bool:
    """Let freed memory stay with the process: whether it took.

    By default glibc hands every large tensor back to the system as soon as it is freed, and the next operation pays
    for fresh pages again, which costs more than many of a small model's operations. Other C libraries are left alone.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    kept = any(mallopt(MMAP_THRESHOLD, size) for size in (LARGEST, CAUTIOUS))
    return bool(kept and mallopt(TRIM_THRESHOLD, LARGEST))
