"""A trained generation model -> an ONNX file for each tier, verified against the module (models/FORMAT.md)."""

import hashlib
import json
from pathlib import Path
from typing import Any

import onnx
from onnx import helper, numpy_helper
from torch import nn

from audiossm.export.frame import unstreamable
from audiossm.export.graph import to_onnx
from audiossm.export.keywords import Exported
from audiossm.export.tiers import sample_inputs, tiers_of
from audiossm.export.verify_generation import verify_generation
from audiossm.streaming.generation.facts import GenerationFacts
from audiossm.streaming.generation.model import Generator, assemble
from audiossm.streaming.metadata import FORMAT, KEY
from audiossm.tasks import GenerationModel
from audiossm.tasks.checkpoint import load_model, parameter_count, write_beside


def export_generation(run: str | Path, out: str | Path, data_terms: str = "not stated") -> Exported:
    """Write the model of a run folder as ONNX files, once they are shown to equal the module.

    Args:
        run: folder that `audiossm train generate` left.
        out: file of tier 0, which has the metadata; the others lie beside it as `<stem>.tier1.onnx` ...
        data_terms: what the licence of the training data permits, kept in the file.

    Raises:
        FileNotFoundError, ValueError: the run is not as it should be, or its model cannot be a file.
        RuntimeError: the files compute something else than the module.
    """
    out = Path(out)
    if not out.parent.is_dir():
        raise FileNotFoundError(f"no folder {out.parent} to write {out.name} into")
    model, training = load_model(run, GenerationModel)
    files, nodes = build_generation(model, training, out.name, data_terms)
    generator = opened(files)
    error = verify_generation(generator, model)
    for name, data in reversed(files.items()):  # the first tier's last: it is not there before all is
        write_beside(out.with_name(name), data)
    return Exported(out, sum(map(len, files.values())), nodes, error)


def build_generation(
    model: GenerationModel, training: dict[str, Any], name: str, data_terms: str
) -> tuple[dict[str, bytes], int]:
    """Return the files by their names, the first tier's first, and how many nodes their graphs have together."""
    missing = unstreamable(model)
    if missing:
        raise ValueError(f"this model cannot be streamed: {', '.join(missing)} needs the future")
    if "level" not in training or model.config.rate is None:
        raise ValueError("the run does not know its training data's rate and level: train it with this audiossm")
    tiers = tiers_of(model)
    names = [name, *(f"{Path(name).stem}.tier{k}.onnx" for k in range(1, len(tiers)))]
    graphs = [tier_graph(tier) for tier in tiers]
    files = {}
    for k, graph in enumerate(graphs[1:], 1):
        stamp(graph, {"format": FORMAT, "task": model.task, "tier": k})
        files[names[k]] = graph.SerializeToString()
    stamp(graphs[0], metadata(model, training, tiers, files, data_terms))
    nodes = sum(len(graph.graph.node) for graph in graphs)
    return {name: graphs[0].SerializeToString()} | files, nodes


def tier_graph(tier: Any) -> onnx.ModelProto:
    """Trace a tier. Every parameter and buffer of it keeps its name in the file, for those who run the step themselves.

    torch stores equal tensors once, and folds some away: those are added, as initializers that no node reads.
    """
    proto = to_onnx(tier, sample_inputs(tier), tier.inputs, tier.outputs)
    there = {entry.name for entry in proto.graph.initializer}
    if isinstance(tier.layers.step, nn.Module):
        for name, tensor in tier.state_dict().items():
            if name not in there:
                proto.graph.initializer.append(numpy_helper.from_array(tensor.detach().numpy(), name))
    return proto


def stamp(proto: onnx.ModelProto, facts: dict[str, Any]) -> None:
    """Put metadata into a graph, and check it."""
    proto.producer_name = "audiossm"
    proto.producer_version = proto.doc_string = ""
    helper.set_model_props(proto, {KEY: json.dumps(facts)})
    onnx.checker.check_model(proto, full_check=True)


def metadata(
    model: GenerationModel, training: dict[str, Any], tiers: list[Any], files: dict[str, bytes], data_terms: str
) -> dict[str, Any]:
    """Return the JSON object of models/FORMAT.md; `files` are those of the tiers above 0."""
    config, coding = model.config, model.coding
    pools = (1, *config.pools)
    digests = [(None, None), *((name, hashlib.sha256(data).hexdigest()) for name, data in files.items())]
    mixture = coding.name == "mixture"
    table = None if mixture else [float(x) for x in coding.values()]
    return {
        "format": FORMAT,
        "task": model.task,
        "rate": config.rate,
        "coding": {
            "kind": coding.name,
            "codes": coding.codes,
            "start": model.start,
            "components": config.components if mixture else None,
            "table": table,
        },
        "classes": list(config.classes),
        "tiers": [
            {
                "file": file,
                "sha256": digest,
                "pool": pools[k],
                "width": config.d_model * config.expand**k,
                "state": tier.layers.packing.described(),
                "size": tier.layers.packing.size,
            }
            for k, (tier, (file, digest)) in enumerate(zip(tiers, digests, strict=True))
        ],
        "level": training["level"],
        "params": parameter_count(model),
        "training": {name: value for name, value in training.items() if name != "level"},
        "data_terms": data_terms,
    }


def opened(files: dict[str, bytes]) -> Generator:
    """Return files that are not written yet as the runtime loads them."""
    (name, first), *_ = files.items()
    proto = onnx.load_model_from_string(first)
    facts = GenerationFacts.parse({entry.key: entry.value for entry in proto.metadata_props}[KEY])
    return assemble(name, facts, first, files.__getitem__)
