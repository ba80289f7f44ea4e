"""Without a GPU: the tests of the Triton kernels, interpreted on the CPU in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from .kernel_checks import GPU, INTERPRETED

HERE = Path(__file__).parent
LONG = ["ssd", "ssm_conv", "selective_scan", "linear_scan", "causal_conv1d"]
PARTS = {name: [HERE / f"test_gpu_{name}.py"] for name in LONG}
PARTS["others"] = sorted(set(HERE.glob("test_gpu_*.py")) - {path for [path] in PARTS.values()})


@pytest.mark.skipif(GPU or INTERPRETED, reason="the kernels run in this process")
@pytest.mark.parametrize("part", PARTS)
def test_kernels_in_the_interpreter(part):
    pytest.importorskip("triton", reason="triton is not installed here")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *PARTS[part]]
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
