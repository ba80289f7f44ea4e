"""Without a GPU: the tests of the Triton kernels, interpreted on the CPU, in a process of their own beside this one."""

import pytest

from .kernel_checks import GPU, INTERPRETED


@pytest.mark.skipif(GPU or INTERPRETED, reason="the kernels run in this process")
def test_kernels_in_the_interpreter(interpreted_kernels):
    pytest.importorskip("triton", reason="triton is not installed here")
    code, said = interpreted_kernels()
    assert code == 0, said
