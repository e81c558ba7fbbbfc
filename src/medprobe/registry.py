"""Names to things: a family looks in its folder, then at entry points of other packages.

A module of the folder adds its things by `FAMILY.register(name)(thing)`, or `@FAMILY.register(name)` over a class or
function. Modules are imported at the first question, so a module must import torch and its like only inside functions.

Whoever asks, in whatever thread, is answered from the whole family: imports wait for each other by themselves, and one
that was interrupted is done again by the next question.
"""

import difflib
import importlib
import logging
import pkgutil
import sys
import threading
from collections.abc import Callable, Iterator
from importlib.metadata import EntryPoint, entry_points
from types import CodeType
from typing import Generic, TypeVar

from medprobe.errors import RequestError

T = TypeVar("T")
log = logging.getLogger(__name__)


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
        self._writers: dict[str, tuple[str, CodeType]] = {}
        """Name → the module that registered it, and its code."""
        self._broken: dict[str, EntryPoint] = {}
        self._asking: set[int] = set()
        """Threads that are importing modules for this family, which may themselves ask."""
        self._whole = False

    def register(self, name: str) -> Callable[[T], T]:
        def add(thing: T) -> T:
            writer = _module_being_run()
            if name in self._things and not _is_run_again(self._writers.get(name), writer):
                raise RequestError(
                    f"a {self.kind} named {name!r} is registered twice; "
                    "give one of them another name"
                )
            self._things[name], self._writers[name] = thing, writer
            return thing

        return add

    def _look(self) -> None:
        if self._whole or threading.get_ident() in self._asking:
            return
        self._asking.add(threading.get_ident())
        try:
            package = importlib.import_module(self.package)
            for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda one: one.name):
                if not module.name.startswith("_"):  # what modules share registers nothing
                    importlib.import_module(f"{self.package}.{module.name}")
            for point in entry_points(group=self.package):
                self._plug_in(point)
            self._whole = True
        finally:
            self._asking.discard(threading.get_ident())

    def _plug_in(self, point: EntryPoint) -> None:
        """Add what another package offers; one that cannot be loaded is said, and hides no other."""
        try:
            thing = point.load()
        except (Exception, SystemExit) as error:
            if self._broken.setdefault(point.name, point) is point:
                log.warning("%s", self._said_of(point, error))
            return
        if self._things.setdefault(point.name, thing) is not thing:
            log.warning(
                "the %s %r of %s is left out, since there is another of that name; "
                "its package must give it another", self.kind, point.name, point.value,
            )  # fmt: skip

    def _said_of(self, point: EntryPoint, error: BaseException) -> str:
        said = (str(error) or "no reason given").splitlines()[0]
        return (
            f"the {self.kind} {point.name!r} of another package cannot be loaded: {point.value} "
            f"raises {type(error).__name__}: {said}; mend or uninstall that package"
        )

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
        if name in self._things:
            return self._things[name]
        if name in self._broken:
            return self._loaded(self._broken[name])
        raise RequestError(f"no {self.kind} named {name!r}; {did_you_mean(name, self.names())}")

    def _loaded(self, point: EntryPoint) -> T:
        """What could not be loaded before, tried again."""
        try:
            return self._things.setdefault(point.name, point.load())
        except (Exception, SystemExit) as error:
            raise RequestError(self._said_of(point, error)) from error


def _module_being_run() -> tuple[str, CodeType]:
    """The module, script or notebook cell whose lines are being run, and their code."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_locals is not frame.f_globals:
        frame = frame.f_back
    return frame.f_globals.get("__name__", ""), frame.f_code


def _is_run_again(before: tuple[str, CodeType] | None, now: tuple[str, CodeType]) -> bool:
    """Whether a module is run anew: its import was interrupted, or a notebook's cell was edited."""
    return before is not None and before[0] == now[0] and before[1] is not now[1]


DATASETS: Registry = Registry("dataset", "medprobe.datasets")
ENCODERS: Registry = Registry("encoder family", "medprobe.encoders")
HEADS: Registry = Registry("head", "medprobe.heads")
TASKS: Registry = Registry("task", "medprobe.tasks")
