"""Names to things: a family looks in its folder, then at entry points of other packages.

A module of the folder adds its things by `FAMILY.register(name)(thing)`, or `@FAMILY.register(name)` over a class or
function. Modules are imported at the first question, so a module must import torch and its like only inside functions.
"""

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import Generic, TypeVar

from medprobe.errors import RequestError

T = TypeVar("T")


def did_you_mean(name: str, known: list[str]) -> str:
    """A clause to end an error with: the closest known names, or all of them when there are few."""
    close = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
    if close:
        return f"did you mean {' or '.join(close)}?"
    if len(known) <= 12:
        return f"there are: {', '.join(known)}"
    return f"there are {len(known)}, among them {', '.join(known[:6])}"


class Registry(Generic[T]):
    """One family of named things, for example the datasets."""

    def __init__(self, kind: str, package: str) -> None:
        self.kind, self.package = kind, package
        self._things: dict[str, T] = {}
        self._looked = False

    def register(self, name: str) -> Callable[[T], T]:
        def add(thing: T) -> T:
            if name in self._things:
                raise RequestError(f"a {self.kind} named {name!r} is registered twice; give one of them another name")
            self._things[name] = thing
            return thing

        return add

    def _look(self) -> None:
        if self._looked:
            return
        self._looked = True
        package = importlib.import_module(self.package)
        for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda module: module.name):
            if module.name.startswith("_"):  # what modules share registers nothing
                continue
            importlib.import_module(f"{self.package}.{module.name}")
        for point in entry_points(group=self.package):
            if point.name not in self._things:
                self._things[point.name] = point.load()

    def names(self) -> list[str]:
        self._look()
        return sorted(self._things)

    def items(self) -> Iterator[tuple[str, T]]:
        for name in self.names():
            yield name, self._things[name]

    def __contains__(self, name: str) -> bool:
        self._look()
        return name in self._things

    def get(self, name: str) -> T:
        self._look()
        if name not in self._things:
            raise RequestError(f"no {self.kind} named {name!r}; {did_you_mean(name, self.names())}")
        return self._things[name]


DATASETS: Registry = Registry("dataset", "medprobe.datasets")
ENCODERS: Registry = Registry("encoder family", "medprobe.encoders")
HEADS: Registry = Registry("head", "medprobe.heads")
TASKS: Registry = Registry("task", "medprobe.tasks")
