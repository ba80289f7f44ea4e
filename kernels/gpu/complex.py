"""Complex arithmetic inside kernels, which know no complex numbers: real and imaginary parts are two values."""

import triton
import triton.language as tl  # noqa: F401  the interpreter wants it beside a kernel's functions


@triton.jit
def times(a_re, a_im, x_re, x_im):
    """Return a · x."""
    return a_re * x_re - a_im * x_im, a_im * x_re + a_re * x_im
