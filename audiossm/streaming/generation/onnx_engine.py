"""Generation with ONNX Runtime: any model file, tier by tier, one call of a graph for each step of a tier."""

import numpy as np
import onnxruntime

from audiossm.streaming.files import bind
from audiossm.streaming.generation import draw
from audiossm.streaming.generation.facts import GenerationFacts


class OnnxEngine:
    """The loop of `models/FORMAT.md` for a batch of streams, on buffers bound once so that a step allocates nothing.

    labels: (B,) the class of each stream.

    Attributes:
        rows: for each pool, what the slower tier has said to the faster one, (B, p, H).
        states: of each tier, (2, B, S): a step reads one and writes the other (`turn`).
    """

    def __init__(self, facts: GenerationFacts, sessions: list[onnxruntime.InferenceSession], labels: np.ndarray):
        self._facts, batch = facts, len(labels)
        self._periods = facts.periods
        self._pools = [tier.pool for tier in facts.tiers[1:]]
        widths = [tier.width for tier in facts.tiers]
        between = list(zip(self._pools, widths, strict=False))  # of tier k and the next

        def zeros(*shape: int) -> np.ndarray:
            return np.zeros((batch, *shape), np.float32)

        self._code, self._class = np.zeros((batch, 1), np.int64), labels.astype(np.int64)[:, None]
        self._logits = zeros(facts.coding.outputs)
        self._held = [zeros(p, width) for p, width in between]  # what tier k has said for the next one to pool
        self.rows = [zeros(p, width) for p, width in between]  # what the next tier has said to tier k
        self._fine = [zeros(width) for _, width in between]
        self._coarse = [zeros(width) for _, width in between]
        self.states = [np.zeros((2, batch, tier.size), np.float32) for tier in facts.tiers]
        self._calls = []
        for k, session in enumerate(sessions):
            known = {"code": self._code, "class": self._class, "logits": self._logits}
            if k < len(between):
                known |= {"coarse": self._coarse[k], "fine" if k == 0 else "fine_out": self._fine[k]}
            if k > 0:
                known |= {"fine": self._held[k - 1], "coarse_out": self.rows[k - 1]}
            states = self.states[k]
            self._calls.append(
                [
                    (session, bind(session, known | {"state": states[turn], "state_out": states[1 - turn]}))
                    for turn in (0, 1)
                ]
            )
        self.reset()

    def reset(self) -> None:
        """Begin anew."""
        for array in (*self._held, *self.rows, *self.states):
            array[:] = 0
        self._last = np.full(len(self._code), self._facts.coding.start)
        self._heard = 0

    def step(self, codes: np.ndarray) -> np.ndarray:
        """Hear a code (B,) of each stream; return what is known of the next, (B, K), until the next call."""
        self._code[:, 0] = codes
        self._run(0)
        self._heard += 1
        for k in range(1, len(self._calls)):
            if self._heard % self._periods[k]:
                break
            self._run(k)
        return self._logits

    def run(
        self, given: np.ndarray, uniforms: np.ndarray, temperature: float, top_p: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Go on by n samples: those given (n, B), where not below zero, else drawn with uniforms (n, B, 2).

        Returns codes (n, B), and the bits that the model would need for each.
        """
        mixture = self._facts.coding.kind == "mixture"
        choose, price = (draw.draw_mixture, draw.mixture_bits) if mixture else (draw.draw_code, draw.code_bits)
        codes, bits = given.copy(), np.zeros(given.shape)
        for n in range(len(codes)):
            logits = self.step(self._last)
            for b in range(codes.shape[1]):
                if codes[n, b] < 0:
                    codes[n, b] = choose(logits[b], uniforms[n, b], temperature, top_p)
                bits[n, b] = price(logits[b], codes[n, b])
            self._last = codes[n]
        return codes, bits

    def turn(self, k: int) -> int:
        """Return which of tier k's two states is its present one."""
        return self._heard // self._periods[k] % 2

    def _run(self, k: int) -> None:
        """Run a step of tier k. Its count says which row of the next tier's it hears, and where its own word goes."""
        count = self._heard if k == 0 else self._heard // self._periods[k] - 1
        slower = k < len(self._pools)
        if slower:
            place = count % self._pools[k]
            np.copyto(self._coarse[k], self.rows[k][:, place])
        session, binding = self._calls[k][count % 2]
        session.run_with_iobinding(binding)
        if slower:
            self._held[k][:, place] = self._fine[k]
