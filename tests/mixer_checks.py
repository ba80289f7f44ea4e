"""What mixers are checked for beside the law: their file, and their gradients."""

import numpy as np
import onnx
import onnxruntime
import torch
from torch import nn

from audiossm.export.graph import to_onnx
from audiossm.export.verify import session_options

FRAMES = 2048  # that a file hears


class Frame(nn.Module):
    """A mixer whose state is one row of floats, as in a file."""

    def __init__(self, mixer, rate):
        super().__init__()
        self.mixer, self.rate = mixer, rate
        self.zero = mixer.initial_state(1)

    def forward(self, u, state):
        y, state = self.mixer(u, self.unpack(state), rate=self.rate)
        return y, self.pack(state)

    def pack(self, state):
        return torch.cat([part.flatten(1) for part in state.values()], dim=1)

    def unpack(self, row):
        rows = row.split([part.numel() for part in self.zero.values()], dim=1)
        shapes = [part.shape[1:] for part in self.zero.values()]
        return {name: x.unflatten(1, s) for name, x, s in zip(self.zero, rows, shapes, strict=True)}


def run_as_file(module, u, state, frame, rate=None):
    """Export a frame of T steps and hear u (B, L, H) with it from a state; return y, the last state and the graph."""
    framed = Frame(module.eval(), rate)
    sample = torch.randn(2, frame, u.shape[2]), framed.pack(module.initial_state(2))
    proto = to_onnx(framed, sample, ["u", "state"], ["y", "state_out"])
    onnx.checker.check_model(proto, full_check=True)
    assert [(entry.domain, entry.version) for entry in proto.opset_import] == [("", 18)]
    operators = {node.op_type for node in proto.graph.node}
    assert {node.domain for node in proto.graph.node} <= {""} and not {"Loop", "Scan", "If"} & operators
    real = {onnx.TensorProto.FLOAT, onnx.TensorProto.INT64, onnx.TensorProto.BOOL}
    assert {tensor.data_type for tensor in proto.graph.initializer} <= real
    constants = [(tensor.data_type, *tensor.dims, tensor.raw_data) for tensor in proto.graph.initializer]
    assert len(constants) == len(set(constants)), "a constant is stored twice"
    session = onnxruntime.InferenceSession(
        proto.SerializeToString(), session_options(), providers=["CPUExecutionProvider"]
    )
    row, rows = framed.pack(state).numpy(), []
    for piece in u.split(frame, dim=1):
        y, row = session.run(None, {"u": piece.numpy(), "state": row})
        rows.append(y)
    return torch.from_numpy(np.concatenate(rows, 1)), framed.unpack(torch.from_numpy(row)), proto.graph


def check_file(mixer, channels, length=4, rate=None, batch=3):
    """Run the file frame by frame from a state that is not zero: it is the parallel form. Return its operators."""
    steps = FRAMES * length
    generator = torch.Generator().manual_seed(1)
    u = torch.randn(batch, 100 + steps, channels, generator=generator)
    with torch.no_grad():
        _, state = mixer.eval()(u[:, :100], rate=rate)
        y, last = mixer(u[:, 100:], state, rate=rate)
    heard, found, graph = run_as_file(mixer, u[:, 100:], state, length, rate)
    assert relative(heard.numpy(), y.numpy()) < 1e-4
    for name, part in found.items():
        assert relative(part.numpy(), last[name].numpy()) < 1e-4, name
    return [node.op_type for node in graph.node]


def check_gradients(mixer, channels, length=70, rate=None):
    """The gradients of one call on the whole are those of the unrolled step, for parameters, input and first state."""
    mixer = mixer.double()
    generator = torch.Generator().manual_seed(2)
    u = torch.randn(2, length, channels, generator=generator, dtype=torch.float64)
    _, state = mixer(torch.randn(2, 20, channels, generator=generator, dtype=torch.float64), rate=rate)
    weight = torch.randn(2, length, channels, generator=generator, dtype=torch.float64)

    def gradients(pieces):
        ends = {name: part.detach().requires_grad_() for name, part in state.items()}
        heard, after, outputs = u.clone().requires_grad_(), ends, []
        for piece in heard.split(pieces, dim=1):
            y, after = mixer(piece, after, rate=rate)
            outputs.append(y)
        loss = (weight * torch.cat(outputs, 1)).sum() + sum(part.sin().sum() for part in after.values())
        wanted = {**dict(mixer.named_parameters()), **ends, "the input": heard}
        return dict(zip(wanted, torch.autograd.grad(loss, list(wanted.values())), strict=True))

    whole, steps = gradients(length), gradients(1)
    for name, gradient in whole.items():
        assert gradient.any(), f"no gradient reaches {name}"
        assert relative(gradient.numpy(), steps[name].numpy()) < 1e-9, name


def check_finer_rate_of_a_held_input(module, channels):
    """At twice and three times the native rate, each input said as often, outputs and states are the same exactly."""
    u = torch.randn(2, 50, channels, dtype=torch.float64)
    for finer in (2, 3):
        y, state = module(u.repeat_interleave(finer, dim=1), rate=finer * module.native_rate)
        native, last = module(u)
        assert relative(y[:, finer - 1 :: finer].detach(), native.detach()) < 1e-12
        for name, part in last.items():
            assert relative(state[name].detach(), part.detach()) < 1e-12


def check_finer_rate_of_a_smooth_input(module, channels, coarsest):
    """Half the step, half the error: a second at 100, 200 and 400 Hz, of which the coarsest may be so far off."""
    outputs = []
    for rate in (100, 200, 400):
        t = torch.arange(1, rate + 1, dtype=torch.float64).unsqueeze(1) / rate  # the second's end is common
        u = torch.sin(2 * torch.pi * 3 * t + torch.arange(channels)).unsqueeze(0)
        outputs.append(module(u, rate=rate)[0][:, rate // 100 - 1 :: rate // 100].detach())
    first, second = relative(outputs[0], outputs[1]), relative(outputs[1], outputs[2])
    assert first < coarsest and 1.7 < first / second < 2.3


def relative(found, expected):
    """Return the relative L2 error."""
    return np.linalg.norm(found - expected) / np.linalg.norm(expected)
