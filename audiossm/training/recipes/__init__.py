"""Sizes and settings that go together, one short file each: `recipe` in it says what to build and how to train it.

A folder holds the recipes of a task.
"""

from dataclasses import dataclass, replace
from importlib import import_module
from pkgutil import iter_modules
from typing import Any, Generic, TypeVar

from audiossm.tasks import EnhancementConfig, GenerationConfig, KeywordConfig
from audiossm.training.options import EnhanceOptions, GenerateOptions, TrainOptions

Config = TypeVar("Config", KeywordConfig, GenerationConfig, EnhancementConfig)
Options = TypeVar("Options", TrainOptions, GenerateOptions, EnhanceOptions)


@dataclass(frozen=True)
class Recipe(Generic[Config, Options]):
    """What to build (its labels or classes come from the data) and how to train it."""

    config: Config
    options: Options

    def changed(self, config: dict[str, Any], options: dict[str, Any]) -> "Recipe[Config, Options]":
        """Return the recipe with other values by field name; None leaves a field as it is."""
        given = [{name: value for name, value in fields.items() if value is not None} for fields in (config, options)]
        return Recipe(replace(self.config, **given[0]), replace(self.options, **given[1]))

    def with_layers(self, pattern: str, depth: int | None) -> "Recipe[Config, Options]":
        """Return the recipe with layers of a pattern; None keeps the depth.

        Their state sizes are their own: N means another thing in each.
        """
        assert not isinstance(self.config, EnhancementConfig), "whose layers are of one kind"
        depth = self.config.layers if depth is None else depth
        return Recipe(replace(self.config, pattern=pattern, layers=depth, d_state=None), self.options)

    def with_mixer(self, mixer: str) -> "Recipe[Config, Options]":
        """Return an enhancement recipe with another mixer over time. Its state size is its own, as in `with_layers`."""
        assert isinstance(self.config, EnhancementConfig), "others have patterns of layers"
        return Recipe(replace(self.config, d_state=None), self.options).changed({"mixer": mixer}, {})


def recipe_names(task: str = "keywords") -> list[str]:
    """List the recipes of a task: the files of its folder."""
    folder = import_module(f"{__name__}.{task}")
    return sorted(module.name.replace("_", "-") for module in iter_modules(folder.__path__))


def load_recipe(name: str, task: str = "keywords") -> Recipe[Any, Any]:
    """Return a recipe by its file's name, or raise ValueError with those that there are."""
    if name not in recipe_names(task):
        raise ValueError(f"there is no recipe {name!r}; there are {', '.join(recipe_names(task))}")
    return import_module(f"{__name__}.{task}.{name.replace('-', '_')}").recipe
