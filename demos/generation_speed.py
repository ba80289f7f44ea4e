"""How fast models generate on one thread of this CPU: our engines beside the module's own step in torch.

    python demos/generation_speed.py            # the recipes small and sashimi, with random weights; two minutes

Prints microseconds of CPU time a sample and the real-time factor at 16 kHz, the fastest of several rounds.
"""

import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from audiossm.export import export_generation
from audiossm.streaming import load_generator
from audiossm.streaming.generation.measure import measure_generation
from audiossm.tasks import GenerationModel
from audiossm.tasks.checkpoint import save_model
from audiossm.training.recipes import load_recipe

RATE = 16000
LEVEL = {"rms_db": [-60.0, -20.0, -10.0], "peak": 1.0}  # no data: nothing is guarded here
TORCH = 64  # steps of a round in torch
ROUNDS = 5


@torch.inference_mode()
def torch_step(model: GenerationModel) -> float:
    """Return microseconds a sample of the module, called for one sample at a time with its state handed on."""
    state, code, fastest = None, torch.full((1, 1), model.start), float("inf")
    for _ in range(ROUNDS):
        begun = time.process_time()
        for _ in range(TORCH):
            logits, state = model(code, state)
            code = torch.multinomial(logits[0].softmax(-1), 1)
        fastest = min(fastest, (time.process_time() - begun) / TORCH)
    return 1e6 * fastest


def line(what: str, us: float) -> None:
    """Print a row."""
    print(f"  {what:<28}{us:9.1f} us a sample, real-time factor {us * RATE / 1e6:7.2f}", flush=True)


def main() -> None:
    """Print the figures of both recipes."""
    torch.set_num_threads(1)
    for name in ("small", "sashimi"):
        model = GenerationModel(replace(load_recipe(name, "generation").config, rate=RATE)).eval()
        with tempfile.TemporaryDirectory() as folder:
            save_model(Path(folder), model, {"level": LEVEL})
            export_generation(folder, Path(folder) / "gen.onnx")
            files = load_generator(Path(folder) / "gen.onnx")
        print(f"{name}: {files.facts.params:,} parameters")
        for batch in (1, 8):
            for engine, figures in measure_generation(files, 4.0, batch)["engines"].items():
                line(engine if batch == 1 else f"{engine}, {batch} streams, each", figures["sample_us"])
        line("the module in torch", torch_step(model))


if __name__ == "__main__":
    main()
