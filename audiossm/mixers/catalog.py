"""Mixers by name. A mixer is a file of this folder that holds a class of the same name, with a sentence `when`.

So adding one is adding a file: `gru.py` with a class `GRU(Mixer)` is found as "gru".
"""

import inspect
from functools import cache
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from audiossm import mixers
from audiossm.mixers.base import Mixer


@cache
def known_mixers() -> dict[str, type[Mixer]]:
    """Return the mixers by name, in alphabetical order: those that say when to take them."""
    found = {}
    for name in sorted(module.name for module in iter_modules(mixers.__path__)):
        for value in vars(import_module(f"{mixers.__name__}.{name}")).values():
            same_name = inspect.isclass(value) and value.__name__.lower() == name.replace("_", "")
            if same_name and issubclass(value, Mixer) and value.when:
                found[name.replace("_", "-")] = value
    return found


def find_mixer(name: str) -> type[Mixer]:
    """Return a mixer's class, or raise ValueError with the names that there are."""
    if name not in known_mixers():
        raise ValueError(f"there is no mixer {name!r}; there are {', '.join(known_mixers())}")
    return known_mixers()[name]


def build_mixer(name: str, d_model: int, **sizes: Any) -> Mixer:
    """Build a mixer of a width; of `sizes` it gets those that it has, but those that are None.

    Raises ValueError for an unknown name, or for sizes that do not go together.
    """
    made = find_mixer(name)
    taken = inspect.signature(made).parameters
    return made(
        d_model=d_model, **{size: value for size, value in sizes.items() if size in taken and value is not None}
    )  # type: ignore[call-arg]
