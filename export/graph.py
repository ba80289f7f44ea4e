"""A module of a few tensors -> a small, plain ONNX graph."""

import contextlib
import io
import logging
import sys
import warnings
from collections.abc import Iterator, Sequence

import onnx
import torch
from onnx_ir.passes.common import DeduplicateInitializersPass
from onnxscript import opset18 as op
from torch import Tensor, nn
from torch.fx.experimental.const_fold import split_const_subgraphs

OPSET = 18  # what tract, OpenVINO and the web can read


def to_onnx(
    module: nn.Module, sample: Sequence[Tensor], inputs: Sequence[str], outputs: Sequence[str]
) -> onnx.ModelProto:
    """Trace a module into an ONNX model with a symbolic batch axis, leading in every tensor.

    All that depends on parameters alone (kernels, powers of the decays) is computed here, once, and stored as a
    constant; equal constants are stored once, such as the matrices of all blocks of a long frame.
    """
    batch = torch.export.Dim("batch")
    shapes = [{0: batch} for _ in sample]
    with quiet(), torch.no_grad():
        traced = torch.export.export(module, tuple(sample), dynamic_shapes=shapes).module(check_guards=False)
        folded = split_const_subgraphs(traced)
        folded.run_folding()
        program = torch.onnx.export(
            folded,
            tuple(sample),
            dynamo=True,
            external_data=False,
            dynamic_shapes=shapes,
            input_names=list(inputs),
            output_names=list(outputs),
            opset_version=OPSET,
            custom_translation_table={torch.ops.aten.gelu.default: gelu},
            verbose=False,
        )
    assert program is not None
    DeduplicateInitializersPass(size_limit=sys.maxsize)(program.model)
    model = program.model_proto
    if [entry.version for entry in model.opset_import if entry.domain == ""] != [OPSET]:
        raise RuntimeError(f"torch wrote opset {model.opset_import[0].version} where {OPSET} was asked for")
    strip(model)
    return model


def gelu(x, approximate: str = "none"):
    """Write GELU in the order of terms that ONNX Runtime knows and runs as one node."""
    return op.Mul(op.Mul(x, 0.5), op.Add(op.Erf(op.Div(x, 2**0.5)), 1.0))


def strip(model: onnx.ModelProto) -> None:
    """Remove what torch leaves of this machine: stack traces with local paths, and inferred shapes."""
    del model.metadata_props[:]
    del model.graph.metadata_props[:]
    del model.graph.value_info[:]
    del model.functions[:]
    model.doc_string = model.graph.doc_string = ""
    for item in (*model.graph.node, *model.graph.input, *model.graph.output, *model.graph.initializer):
        del item.metadata_props[:]
        item.doc_string = ""


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Keep torch's exporter from telling of packages that nobody needs here."""
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
