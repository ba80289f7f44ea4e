"""Tensor functions, each with the plain torch reference that defines it. They know nothing of audio."""

from audiossm.kernels.cauchy import cauchy, cauchy_reference, dplr_kernel, dplr_kernel_reference
from audiossm.kernels.causal_conv1d import causal_conv1d, causal_conv1d_reference
from audiossm.kernels.channelwise import channelwise
from audiossm.kernels.draw import Readout, draw, draw_reference
from audiossm.kernels.fft_conv import fft_conv, fft_conv_reference
from audiossm.kernels.layers_step import Layers, layers_step, layers_step_reference
from audiossm.kernels.linear_scan import linear_scan, linear_scan_reference
from audiossm.kernels.rowwise import (
    add_bias,
    add_bias_reference,
    add_norm,
    add_norm_reference,
    bias_gelu,
    bias_gelu_reference,
    bias_glu,
    bias_glu_reference,
    norm,
    norm_reference,
)
from audiossm.kernels.scan import decay_scan, decay_scan_reference
from audiossm.kernels.selective_scan import selective_scan, selective_scan_reference
from audiossm.kernels.ssd import ssd, ssd_reference
from audiossm.kernels.ssm import ssm_conv, ssm_conv_reference
from audiossm.kernels.vandermonde import vandermonde, vandermonde_reference

__all__ = [
    "Layers",
    "Readout",
    "add_bias",
    "add_bias_reference",
    "add_norm",
    "add_norm_reference",
    "bias_gelu",
    "bias_gelu_reference",
    "bias_glu",
    "bias_glu_reference",
    "cauchy",
    "cauchy_reference",
    "causal_conv1d",
    "causal_conv1d_reference",
    "channelwise",
    "decay_scan",
    "decay_scan_reference",
    "dplr_kernel",
    "dplr_kernel_reference",
    "draw",
    "draw_reference",
    "fft_conv",
    "fft_conv_reference",
    "layers_step",
    "layers_step_reference",
    "linear_scan",
    "linear_scan_reference",
    "norm",
    "norm_reference",
    "selective_scan",
    "selective_scan_reference",
    "ssd",
    "ssd_reference",
    "ssm_conv",
    "ssm_conv_reference",
    "vandermonde",
    "vandermonde_reference",
]
