"""The Triton kernels: a file an operation, each registered with torch as `audiossm::NAME` with its backward.

Modules here import triton: ask `on_gpu` of `audiossm.kernels.dispatch` first.
"""
