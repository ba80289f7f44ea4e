"""The splitting law as a test that a module joins with one line: `check_law(lambda: S4D(6), channels=6)`.

In eval mode, running the pieces of u one after another with the state handed on gives what one call on the whole gives,
outputs and final state, wherever u is cut. It is checked after some training and with slow poles, where a state that is
lost or wrong shows at once; and the check itself is checked: with a state dropped or damaged it must fail.
"""

import inspect

import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

TOLERANCE = {torch.float64: 1e-9, torch.float32: 1e-4}  # relative L2
SLOWER = {"log_decay": -6.0, "log_memory": 6.0}  # what to add to a parameter so that it forgets 400 times slower


class LawBroken(AssertionError):
    """A module does not obey the law."""


def check_law(make, channels, *, rate=None, longest=60, slower=SLOWER, examples=12, cancelled=()):
    """Check the module that `make()` builds, in float64 and in float32.

    channels, rate: of its input, the rate in Hz. longest: samples of the longest piece. slower: parameters by name, and
    what makes their poles slow; {} for a module that has none. examples: random cuts to try for each precision.
    cancelled: parameters that a norm behind them takes away, so that their gradient is zero but for rounding.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # the work is small: threads would only wait for each other
    try:
        for dtype, tolerance in TOLERANCE.items():
            torch.manual_seed(0)
            module = make().to(dtype)
            slow_down(module, slower)
            train(module, channels, rate, longest)
            check_gradients(module, channels, rate, longest, cancelled)
            module.eval()
            with torch.no_grad():
                check_state(module, channels, rate, longest)
                check_rate(module, channels)
                check_rows(module, channels, rate, longest, tolerance)
                check_cuts(module, channels, rate, longest, tolerance, examples)
                check_mutations(module, channels, rate, longest, tolerance)
    finally:
        torch.set_num_threads(threads)


# What is checked


def check_cuts(module, channels, rate, longest, tolerance, examples):
    """The law, for random pieces."""
    piece = st.one_of(st.sampled_from((0, 1)), st.integers(2, 20), st.integers(0, longest))

    @settings(max_examples=examples, deadline=None, derandomize=True, database=None)
    @given(st.integers(1, 3), st.lists(piece, min_size=1, max_size=6))
    @example(1, [0])
    @example(2, [1] * 9)
    @example(2, [longest, 0, longest])
    @example(1, [0, 1, longest, 7, 1, 0])
    def any_cut(batch, pieces):
        obey(module, audio(module, batch, sum(pieces), channels), pieces, rate, tolerance)

    any_cut()


def check_mutations(module, channels, rate, longest, tolerance):
    """The check notices a state that is dropped, and any part of it that is."""
    pieces = [longest // 2 + 1, longest // 3, longest - 2]
    u = audio(module, 2, sum(pieces), channels)
    obey(module, u, pieces, rate, tolerance)

    def must_break(lose):
        try:
            obey(module, u, pieces, rate, tolerance, between=lose)
        except LawBroken:
            return True
        return False

    names = list(module(u, rate=rate)[1])
    require(must_break(lambda state: None), "the check does not notice a dropped state")
    for name in names:
        damaged = must_break(lambda state, name=name: state | {name: torch.zeros_like(state[name])})
        require(damaged, f"the check does not notice that {name} of the state is lost: is it needed?")


def check_state(module, channels, rate, longest):
    """A state's names, shapes and types never change; None is the zero state; a call leaves its arguments alone."""
    zero = initial_state(module, 2, rate)
    u = audio(module, 2, longest, channels)
    expected = module(u, rate=rate)
    same_call(module(u, zero, rate=rate), expected, 0.0, "from initial_state instead of None")
    for name, part in zero.items():
        require(not part.any(), f"{name} of the zero state is not zero")
    for length in (0, 1, longest, 2 * longest):
        _, state = module(audio(module, 2, length, channels), zero, rate=rate)
        require(
            layout(state) == layout(zero), f"after {length} samples the state is {layout(state)}, not {layout(zero)}"
        )
    _, state = module(u, rate=rate)
    before, heard = {name: part.clone() for name, part in state.items()}, u.clone()
    first = module(u, state, rate=rate)
    same_state(state, before, 0.0, "a call changed the state it was given")
    same(u, heard, 0.0, "a call changed its input")
    same_call(module(u, state, rate=rate), first, 0.0, "the same call a second time")


def check_rate(module, channels):
    """A module that does not live in audio time refuses a rate, and says that it does."""
    if module.any_rate:
        return
    try:
        module(audio(module, 1, 5, channels), rate=8000)
    except ValueError:
        return
    raise LawBroken("any_rate is False, but a rate is accepted")


def check_rows(module, channels, rate, longest, tolerance):
    """A sequence gives the same alone and in any company."""
    u = audio(module, 3, 2 * longest, channels)
    y, _ = module(u, rate=rate)
    for row in range(len(u)):
        same(module(u[row : row + 1], rate=rate)[0], y[row : row + 1], tolerance, f"row {row} alone")


def check_gradients(module, channels, rate, longest, cancelled=()):
    """Every parameter and the input are told how to change."""
    module.train()
    module.zero_grad()
    u = audio(module, 2, 2 * longest, channels).requires_grad_()
    y, _ = module(u, rate=rate)
    (y * torch.randn_like(y)).sum().backward()
    for name, tensor in [*module.named_parameters(), ("the input", u)]:
        require(tensor.grad is not None, f"no gradient reaches {name}")
        require(bool(tensor.grad.isfinite().all()), f"the gradient of {name} is not finite")
        require(name in cancelled or bool(tensor.grad.any()), f"the gradient of {name} is zero")


# How


def obey(module, u, pieces, rate, tolerance, between=lambda state: state):
    """Raise LawBroken unless the pieces give what the whole gives; `between` gets each state that is handed on."""
    state, outputs, begin = None, [], 0
    for i, size in enumerate(pieces):
        y, state = module(u[:, begin : begin + size], between(state) if i else None, rate=rate)
        outputs.append(y)
        begin += size
    same_call((torch.cat(outputs, dim=1), state), module(u, rate=rate), tolerance, f"cut into {pieces}")


def slow_down(module, slower):
    """Make time constants longer than the test."""
    chosen = [
        (p, slower[name.split(".")[-1]]) for name, p in module.named_parameters() if name.split(".")[-1] in slower
    ]
    require(bool(chosen) or not slower, f"no parameter is named {' or '.join(slower)}: say `slower`, {{}} for no poles")
    with torch.no_grad():
        for parameter, change in chosen:
            parameter += change


def train(module, channels, rate, longest):
    """Take a few optimizer steps, so that nothing is at its initial value."""
    module.train()
    optimizer = torch.optim.Adam(module.parameters(), lr=0.01)
    for step in range(4):
        y, _ = module(audio(module, 3, 2 * longest, channels, seed=step), rate=rate)
        loss = (y - torch.randn_like(y)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    require(bool(loss.isfinite()), "training diverged")


def audio(module, batch, length, channels, seed=0):
    """Return noise (batch, length, channels) in the module's precision."""
    generator = torch.Generator().manual_seed(1000 * seed + length)
    noise = torch.randn(batch, length, channels, generator=generator, dtype=torch.float64)
    return 0.3 * noise.to(next(module.parameters()).dtype)


def initial_state(module, batch, rate):
    """Return the zero state; that of a module which reads audio depends on the rate."""
    if "rate" in inspect.signature(module.initial_state).parameters:
        return module.initial_state(batch, rate)
    return module.initial_state(batch)


def layout(state):
    """Return what of a state may not depend on time."""
    return [(name, tuple(part.shape), part.dtype) for name, part in state.items()]


def same_call(found, expected, tolerance, what):
    """Compare two results (y, state)."""
    same(found[0], expected[0], tolerance, f"{what}: the output")
    same_state(found[1], expected[1], tolerance, what)


def same_state(found, expected, tolerance, what):
    """Compare two states part by part."""
    require(list(found) == list(expected), f"{what}: the state has {list(found)}, not {list(expected)}")
    for name in expected:
        same(found[name], expected[name], tolerance, f"{what}: {name} of the state")


def same(found, expected, tolerance, what):
    """Compare two tensors by relative L2; integers exactly."""
    require(found.shape == expected.shape, f"{what} has shape {tuple(found.shape)}, not {tuple(expected.shape)}")
    require(found.dtype == expected.dtype, f"{what} is {found.dtype}, not {expected.dtype}")
    if not expected.is_floating_point():
        require(torch.equal(found, expected), f"{what} differs: {found} for {expected}")
        return
    error, size = (found - expected).norm().item(), expected.norm().item()
    require(error <= tolerance * size, f"{what} differs by {error:.3g}, {tolerance:g} of {size:.3g} is allowed")


def require(condition, message):
    if not condition:
        raise LawBroken(message)
