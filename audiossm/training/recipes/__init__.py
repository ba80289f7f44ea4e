"""Sizes and settings that go together, one short file each: `recipe` in it says what to build and how to train it."""

from dataclasses import dataclass, replace
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from audiossm.tasks import KeywordConfig
from audiossm.training.options import TrainOptions


@dataclass(frozen=True)
class Recipe:
    """What to build (its labels come from the data) and how to train it."""

    config: KeywordConfig
    options: TrainOptions

    def changed(self, config: dict[str, Any], options: dict[str, Any]) -> "Recipe":
        """Return the recipe with other values by field name; None leaves a field as it is."""
        given = [{name: value for name, value in fields.items() if value is not None} for fields in (config, options)]
        return Recipe(replace(self.config, **given[0]), replace(self.options, **given[1]))

    def with_layers(self, pattern: str, depth: int | None) -> "Recipe":
        """Return the recipe with layers of a pattern; None keeps the depth.

        Their state sizes are their own: N means another thing in each.
        """
        depth = self.config.layers if depth is None else depth
        return Recipe(replace(self.config, pattern=pattern, layers=depth, d_state=None), self.options)


def recipe_names() -> list[str]:
    """List the recipes: the files of this folder."""
    return sorted(module.name.replace("_", "-") for module in iter_modules(__path__))


def load_recipe(name: str) -> Recipe:
    """Return a recipe by its file's name, or raise ValueError with those that there are."""
    if name not in recipe_names():
        raise ValueError(f"there is no recipe {name!r}; there are {', '.join(recipe_names())}")
    return import_module(f"{__name__}.{name.replace('-', '_')}").recipe
