"""A mixer or stack as an ONNX file, run frame by frame: `run_as_file(module, u, state, frame)`."""

import numpy as np
import onnxruntime
import torch
from torch import nn

from audiossm.export.graph import to_onnx

FORBIDDEN = {"Loop", "Scan", "If", "IsNaN"}


class Frame(nn.Module):
    """A module on one packed state: (u (B, T, H), state (B, S)) to (y, state)."""

    def __init__(self, module):
        super().__init__()
        self.module, self.zero = module, module.initial_state(1)

    def pack(self, state):
        return torch.cat([part.flatten(1) for part in state.values()], dim=1)

    def unpack(self, packed):
        parts = packed.split([part.numel() for part in self.zero.values()], dim=1)
        return {name: x.unflatten(1, self.zero[name].shape[1:]) for name, x in zip(self.zero, parts, strict=True)}

    def forward(self, u, state):
        y, state = self.module(u, self.unpack(state))
        return y, self.pack(state)


def run_as_file(module, u, state, frame):
    """Export a frame of T steps, hear u (B, L, H) with it from a state; return y and the last state."""
    wrapped = Frame(module.eval())
    packed = wrapped.pack(state)
    proto = to_onnx(wrapped, (u[:, :frame].contiguous(), packed), ["u", "state"], ["y", "state_out"])
    assert {node.domain for node in proto.graph.node} <= {""}
    assert not FORBIDDEN & {node.op_type for node in proto.graph.node}
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    packed, got = packed.numpy(), []
    for piece in u.split(frame, dim=1):
        y, packed = session.run(None, {"u": piece.numpy(), "state": packed})
        got.append(y)
    return torch.from_numpy(np.concatenate(got, axis=1)), wrapped.unpack(torch.from_numpy(packed))
