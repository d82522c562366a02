"""Memory that was freed is used again."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

AGAIN = """
import resource, torch
from models.memory import keep_freed_memory
if {keep}:
    keep_freed_memory()
for _ in range(16):  # an aligned tensor does not fit where its like just was, until glibc has joined a few of those
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.ones(34, 2**18)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(*, keep: bool) -> int:
    """Page faults of a tensor of 34 MB, 8,704 pages of 4 kB, after others like it were freed."""
    ran = subprocess.run([sys.executable, "-c", AGAIN.format(keep=keep)], capture_output=True, text=True, check=True)
    return int(ran.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told")
def test_a_tensor_as_large_as_those_freed_takes_no_new_pages() -> None:
    assert faults(keep=True) < 100
    assert faults(keep=False) > 100
