"""Without a GPU: the tests of the Triton kernels, interpreted on the CPU in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .kernel_checks import GPU, INTERPRETED

HERE = Path(__file__).parent
SCANS = [HERE / f"test_gpu_{name}.py" for name in ("linear_scan", "selective_scan", "ssd")]
PARTS = {"scans": SCANS, "others": sorted(set(HERE.glob("test_gpu_*.py")) - set(SCANS))}  # each takes half of the time


@pytest.mark.skipif(GPU or INTERPRETED, reason="the kernels run in this process")
@pytest.mark.parametrize("part", PARTS)
def test_kernels_in_the_interpreter(part):
    pytest.importorskip("triton", reason="triton is not installed here")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *PARTS[part]]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
