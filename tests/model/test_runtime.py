"""Freed memory stays with the process."""

import platform
import resource

import pytest
import torch

from model import runtime

SIZE = 2**24  # floats, far above what glibc keeps by default


def _fresh_pages() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(SIZE)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
def test_a_freed_tensor_is_used_again():
    assert runtime.prepare()
    assert min(_fresh_pages() for _ in range(6)) < SIZE * 4 // resource.getpagesize() // 2


def test_other_libraries_are_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert runtime.prepare() is False
