"""Tensor functions, each with the plain torch reference that defines it. They know nothing of audio."""

from audiossm.kernels.channelwise import channelwise
from audiossm.kernels.linear_scan import linear_scan, linear_scan_reference
from audiossm.kernels.scan import decay_scan, decay_scan_reference
from audiossm.kernels.selective_scan import selective_scan, selective_scan_reference
from audiossm.kernels.ssm import ssm_conv, ssm_conv_reference

__all__ = [
    "channelwise",
    "decay_scan",
    "decay_scan_reference",
    "linear_scan",
    "linear_scan_reference",
    "selective_scan",
    "selective_scan_reference",
    "ssm_conv",
    "ssm_conv_reference",
]
