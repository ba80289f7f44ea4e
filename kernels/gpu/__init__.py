"""The Triton kernels: a file an operation, each registered with torch as `audiossm::NAME` with its backward.

Modules here import triton: ask `runs_here` of `audiossm.kernels.dispatch` first.
"""
