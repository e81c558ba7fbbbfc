"""Code of one's own: the files it consists of, and its modules apart from everybody else's.

Two repositories may both have a `model.py` or `utils.py`, and one may be edited while Python runs. So the modules of a
folder are seen by its own code alone, are made from their source each time, and all their files enter the digest.
"""

import ast
import contextlib
import hashlib
import importlib
import importlib.util
import sys
import sysconfig
import threading
import types
from collections.abc import Callable, Iterable, Iterator, Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import (
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    ModuleSpec,
    PathFinder,
    SourceFileLoader,
)
from pathlib import Path
from typing import Any

from medprobe.errors import RequestError

PACKAGE = Path(__file__).resolve().parents[1]
STANDARD = Path(sysconfig.get_path("stdlib")).resolve()
LIBRARIES = {"site-packages", "dist-packages"}
ONE_AT_A_TIME = threading.RLock()
IMPORTED: dict[Path, tuple[str, Any]] = {}
"""File of a module that is shared → its digest when it was first met, and what it was imported by."""


class FromSource(SourceFileLoader):
    """Never from compiled files, which are told apart by whole seconds only."""

    def path_stats(self, path: Any) -> Any:
        raise OSError


class Finder(MetaPathFinder):
    """Modules below some folders, those of the names `tops` and below them; `files` are those it has found."""

    def __init__(self, folders: Sequence[Path], tops: set[str]) -> None:
        self.folders, self.tops, self.files = folders, tops, set[Path]()

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> ModuleSpec | None:
        if path is None and name not in self.tops:
            return None
        places = self.folders if path is None else [Path(place) for place in path if self._below(Path(place))]
        loaders = ((ExtensionFileLoader, EXTENSION_SUFFIXES), (FromSource, SOURCE_SUFFIXES))
        specs = [spec for place in places if (spec := FileFinder(str(place), *loaders).find_spec(name)) is not None]
        chosen = next((spec for spec in specs if spec.loader is not None), next(iter(specs), None))
        if chosen is not None and chosen.loader is not None and chosen.origin is not None:
            self.files.add(Path(chosen.origin).resolve())
        return chosen

    def _below(self, place: Path) -> bool:
        return not LIBRARIES & set(place.parts) and any(place.is_relative_to(folder) for folder in self.folders)


class Modules:
    """The modules that the code of a file imports from its folder: in place while that code runs, and at no other time."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        folder = self.path.parent
        relative = any(
            isinstance(node, ast.ImportFrom) and node.level for node in ast.walk(_tree(self.path))
        )
        self.root = _above_packages(folder) if relative else folder
        self.name = f"medprobe_user_{hashlib.sha256(str(self.path).encode()).hexdigest()[:12]}"
        self.tops = {self.name, *_modules_in(folder)}
        if _elsewhere(self.path.stem):  # a file that is named after the library it wraps
            self.tops.discard(self.path.stem)
        if self.root != folder:
            self.tops.add(folder.relative_to(self.root).parts[0])
        self.finder = Finder([folder] if self.root == folder else [folder, self.root], self.tops)
        self.loaded: dict[str, Any] = {}
        self.added: list[str] = []

    @property
    def files(self) -> list[Path]:
        """The file, what it has imported from its folder so far, and what it would import anywhere in its code."""
        search = [*self.finder.folders, *(Path(place or ".").resolve() for place in sys.path)]
        return sorted({self.path, *self.finder.files, *reached(self.path, search)})

    @property
    def shared(self) -> list[Path]:
        """Those of the files that lie outside its folder, and are the same modules for everybody."""
        own = [*self.finder.folders, *(Path(place).resolve() for place in self.added)]
        return [file for file in self.files if not any(file.is_relative_to(folder) for folder in own)]

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """What the code itself adds to `sys.path` is in place no longer than its modules."""
        with ONE_AT_A_TIME:
            folders, writes, before = list(sys.path), sys.dont_write_bytecode, set(sys.modules)
            aside = {name: module for name, module in sys.modules.items() if self._mine(name) or name in self.loaded}
            for name in aside:
                del sys.modules[name]
            sys.modules.update(self.loaded)
            sys.path[:0] = self.added
            sys.meta_path.insert(0, self.finder)
            sys.dont_write_bytecode = True
            try:
                yield
            finally:
                sys.meta_path.remove(self.finder)
                self.added = [place for place in sys.path if place not in folders]
                sys.path[:], sys.dont_write_bytecode = folders, writes
                mine = [
                    name
                    for name, module in list(sys.modules.items())
                    if self._mine(name) or name in self.loaded or (name not in before and self._added(module))
                ]
                self.loaded = {name: sys.modules.pop(name) for name in mine}
                sys.modules.update(aside)

    def _mine(self, name: str) -> bool:
        return name.partition(".")[0] in self.tops

    def _added(self, module: Any) -> bool:
        """Whether a module lies in a folder that the code added to `sys.path`."""
        file = Path(getattr(module, "__file__", None) or next(iter(getattr(module, "__path__", ())), "") or "/").resolve()
        places = [Path(place).resolve() for place in self.added]
        return _counts(file, None) and any(file.is_relative_to(place) for place in places)

    def run(self) -> Any:
        """The file as a module; call it with the modules in place."""
        package = types.ModuleType(self.name)
        package.__path__ = [str(self.root)]
        sys.modules[self.name] = package
        name = self.name
        for part in self.path.parent.relative_to(self.root).parts:
            name = f"{name}.{part}"
            importlib.import_module(name)
        name = f"{name}.{self.path.stem.replace('.', '_')}"
        loader = FromSource(name, str(self.path))
        spec = importlib.util.spec_from_file_location(name, self.path, loader=loader)
        assert spec is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        loader.exec_module(module)
        return module

    def around(self, function: Callable[[Any], Any]) -> Callable[[Any], Any]:
        """The function, which may import when it is called."""

        def called(x: Any) -> Any:
            with self.in_place():
                return function(x)

        return called


def _above_packages(folder: Path) -> Path:
    """The folder that holds the outermost package of this one; the folder itself where it is no package."""
    while (folder / "__init__.py").is_file():
        folder = folder.parent
    return folder


def _modules_in(folder: Path) -> set[str]:
    """Names that can be imported from a folder, but for those of Python and of medprobe."""
    found = {file.stem for file in folder.glob("*.py")}
    for child in folder.iterdir():
        regular = (child / "__init__.py").is_file()
        if regular or (child.is_dir() and child.name.isidentifier() and not _elsewhere(child.name)):
            found.add(child.name)
    return found - set(sys.stdlib_module_names) - {"medprobe"}


def _elsewhere(name: str) -> bool:
    """Whether a regular package of this name is installed, which goes before a folder without `__init__.py`."""
    loaded = sys.modules.get(name)
    if loaded is not None:
        return getattr(loaded, "__file__", None) is not None
    spec = PathFinder.find_spec(name)
    return spec is not None and spec.loader is not None and spec.origin is not None


def digest_of(files: Iterable[Path]) -> str:
    """sha256 over the bytes of the files, in the order of their paths; of a single file, of its bytes alone."""
    digests = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()]
    return digests[0] if len(digests) == 1 else hashlib.sha256(" ".join(digests).encode()).hexdigest()


def refuse_edited(files: Iterable[Path]) -> None:
    """RequestError for a shared module that was edited since it was imported: the old code would run under the digest of the
    new."""
    wanted = {file.name: file for file in files}
    for name, module in list(sys.modules.items()):
        file = wanted.get(Path(getattr(module, "__file__", None) or "").name)
        if file is None or Path(module.__file__ or "").resolve() != file:
            continue
        now = (digest_of([file]), module.__spec__)
        before = IMPORTED.setdefault(file, now)
        if before[0] != now[0] and before[1] is now[1]:
            raise RequestError(f"expected {file} as it was when {name} was imported, found it edited since; start Python again")
        IMPORTED[file] = now


def files_of_module(name: str) -> list[Path]:
    """The file of a module of another package, and what it imports anywhere in its code that belongs to no library."""
    file = Path(getattr(sys.modules[name], "__file__", None) or "")
    if not file.is_file():
        return []
    folder = _above_packages(file.resolve().parent)
    search = [folder, *(Path(place or ".").resolve() for place in sys.path)]
    return sorted({file.resolve(), *reached(file.resolve(), search)})


def reached(start: Path, search: Sequence[Path]) -> set[Path]:
    """Every file that the code of `start` imports, and theirs in turn, at the top or inside functions, without running any."""
    own = _library_of(start)
    found: set[Path] = set()
    waiting = [start]
    while waiting:
        for file in _imported(waiting.pop(), search):
            if file not in found and _counts(file, own):
                found.add(file)
                waiting.append(file)
    return found


def _counts(file: Path, own: Path | None) -> bool:
    """Whether a file is no library's, not Python's and not ours; of a plug-in that is installed, its own package counts."""
    if own is not None and file.is_relative_to(own):
        return True
    return not (LIBRARIES & set(file.parts) or file.is_relative_to(PACKAGE) or file.is_relative_to(STANDARD))


def _library_of(file: Path) -> Path | None:
    """The package of an installed file."""
    return next((child for child in (file, *file.parents) if child.parent.name in LIBRARIES), None)


def _imported(file: Path, search: Sequence[Path]) -> Iterator[Path]:
    for node in ast.walk(_tree(file)):
        if isinstance(node, ast.Import):
            for name in node.names:
                yield from _files_of(name.name, search)
        elif isinstance(node, ast.ImportFrom):
            places = search
            if node.level:
                places = [file.parents[min(node.level, len(file.parents)) - 1]]
            for name in node.names:
                yield from _files_of(f"{node.module}.{name.name}" if node.module else name.name, places)


def _files_of(name: str, search: Sequence[Path]) -> Iterator[Path]:
    """The files along a dotted name, in the first folder that has its first part; a module that is loaded may lie elsewhere."""
    parts = name.split(".")
    for place in search:
        found = [
            file.resolve()
            for depth in range(1, len(parts) + 1)
            for file in (place.joinpath(*parts[:depth]).with_suffix(".py"), place.joinpath(*parts[:depth], "__init__.py"))
            if file.is_file()
        ]
        if found or place.joinpath(parts[0]).is_dir():
            yield from found
            return
    loaded = (sys.modules.get(".".join(parts[:depth])) for depth in range(1, len(parts) + 1))
    yield from (Path(file).resolve() for module in loaded if (file := getattr(module, "__file__", None)) and file.endswith(".py"))


def _tree(file: Path) -> ast.AST:
    try:
        return ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, OSError):  # what cannot be read is met when it is run
        return ast.Module([], [])
