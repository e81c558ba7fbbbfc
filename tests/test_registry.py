"""A family is whole for whoever asks: in threads, after an interrupt, beside a plug-in that is broken."""

import importlib.abc
import logging
import subprocess
import sys
import threading
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from medprobe import registry
from medprobe.errors import RequestError
from medprobe.registry import DATASETS, ENCODERS, HEADS, TASKS, Registry

THING = """
import {before}
from {package} import FAMILY
FAMILY.register("{name}")("{name} of the folder")
{after}
"""


@pytest.fixture
def family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest):
    """A registry over a folder of three modules of its own, and the folder."""
    name = "family_" + "".join(filter(str.isalnum, request.node.name))[-40:]
    folder = tmp_path / name
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    for thing in ("first", "second", "third"):
        write(folder, thing)
    made: Registry = Registry("thing", name)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(registry, "entry_points", lambda group: [])
    (folder / "__init__.py").write_text("FAMILY = None\n")
    importlib.import_module(name).FAMILY = made
    yield made, folder
    for module in [each for each in sys.modules if each.split(".")[0] == name]:
        del sys.modules[module]


def write(folder: Path, name: str, before: str = "time", after: str = "") -> None:
    text = THING.format(before=before, package=folder.name, name=name, after=after)
    (folder / f"{name}.py").write_text(text)


def test_all_threads_that_ask_first_find_everything(family) -> None:
    made, folder = family
    write(folder, "first", after="time.sleep(0.2)")
    found: list[list[str]] = []
    threads = [threading.Thread(target=lambda: found.append(made.names())) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [["first", "second", "third"]] * 4


@pytest.mark.parametrize("error", [KeyboardInterrupt, ImportError, MemoryError])
def test_after_a_first_question_that_was_cut_off_the_next_finds_everything(
    family, monkeypatch: pytest.MonkeyPatch, error
) -> None:
    made, folder = family

    class Raises(importlib.abc.MetaPathFinder):
        pressed = False

        def find_spec(self, name, path, target=None):
            if name == f"{folder.name}.second" and not self.pressed:
                self.pressed = True
                raise error

    monkeypatch.setattr(sys, "meta_path", [Raises(), *sys.meta_path])
    with pytest.raises(error):
        made.names()
    assert made.names() == ["first", "second", "third"]


def test_a_module_that_was_cut_off_after_it_registered_registers_again(family) -> None:
    made, folder = family
    flag = folder.parent / "cut"
    flag.write_text("")
    after = f"import pathlib\nif pathlib.Path({str(flag)!r}).exists():\n    raise KeyboardInterrupt"
    write(folder, "second", after=after)
    with pytest.raises(KeyboardInterrupt):
        made.get("third")
    flag.unlink()
    assert made.get("second") == "second of the folder"
    assert made.names() == ["first", "second", "third"]


def test_a_module_may_ask_the_family_it_belongs_to(family) -> None:
    made, folder = family
    write(folder, "second", after="asked = FAMILY.names()")
    assert made.names() == ["first", "second", "third"]
    assert "first" in sys.modules[f"{folder.name}.second"].asked


def test_two_things_of_one_name_are_refused(family) -> None:
    made, folder = family
    write(folder, "third", after="FAMILY.register('third')('again')")
    with pytest.raises(RequestError, match="'third' is registered twice"):
        made.names()
    write(folder, "third", after="FAMILY.register('first')('taken')  # an edit of another length")
    importlib.invalidate_caches()
    with pytest.raises(RequestError, match="'first' is registered twice"):
        made.names()


def test_a_cell_of_a_notebook_that_is_run_again_gives_the_new_thing() -> None:
    made: Registry = Registry("thing", "medprobe.tasks")
    cell = "FAMILY.register('mine')({})"
    for value in (1, 2):
        exec(compile(cell.format(value), f"<cell {value}>", "exec"), {"__name__": "__main__", "FAMILY": made})
    assert made._things["mine"] == 2


@pytest.fixture
def plugged(family, monkeypatch: pytest.MonkeyPatch):
    """A registry with plug-ins: one that is broken between two that are not."""
    made, folder = family
    (folder.parent / f"{folder.name}_good.py").write_text("A, B = 'a', 'b'\n")
    (folder.parent / f"{folder.name}_bad.py").write_text("import sys\nraise ImportError('no libfoo')\n")
    points = [
        EntryPoint("a", f"{folder.name}_good:A", "g"),
        EntryPoint("bad", f"{folder.name}_bad:Bad", "g"),
        EntryPoint("b", f"{folder.name}_good:B", "g"),
    ]
    monkeypatch.setattr(registry, "entry_points", lambda group: points)
    yield made, folder, points
    sys.modules.pop(f"{folder.name}_good", None)
    sys.modules.pop(f"{folder.name}_bad", None)


def test_a_broken_plug_in_is_named_and_hides_no_other(plugged, caplog) -> None:
    made, folder, _ = plugged
    with caplog.at_level(logging.WARNING):
        assert made.names() == ["a", "b", "first", "second", "third"]
    assert f"'bad' of another package cannot be loaded: {folder.name}_bad:Bad" in caplog.text
    assert "no libfoo" in caplog.text
    with pytest.raises(RequestError, match="no libfoo; mend or uninstall that package"):
        made.get("bad")


def test_a_plug_in_that_was_mended_is_loaded_when_it_is_asked_for(plugged) -> None:
    made, folder, _ = plugged
    assert "bad" not in made
    (folder.parent / f"{folder.name}_bad.py").write_text("Bad = 'mended'\n")
    importlib.invalidate_caches()
    assert made.get("bad") == "mended"
    assert "bad" in made


@pytest.mark.parametrize("line", ["sys.exit(3)", "raise KeyError('x')", "1 / 0", "def"])
def test_whatever_a_plug_in_raises_is_its_own_fault(plugged, line) -> None:
    made, folder, _ = plugged
    (folder.parent / f"{folder.name}_bad.py").write_text(f"import sys\n{line}\n")
    assert {"a", "b"} <= set(made.names())


def test_a_plug_in_of_a_name_that_is_taken_is_said_not_hidden(plugged, caplog) -> None:
    made, folder, points = plugged
    points.append(EntryPoint("first", f"{folder.name}_good:A", "g"))
    with caplog.at_level(logging.WARNING):
        assert made.get("first") == "first of the folder"
    assert f"'first' of {folder.name}_good:A is left out" in caplog.text


PROGRAM = """
import importlib.abc, pkgutil, sys
from medprobe import registry

known = next(one for one in vars(registry).values() if getattr(one, "package", "") == {package!r})
package = __import__({package!r}, fromlist=["x"])
names = [each.name for each in pkgutil.iter_modules(package.__path__) if each.name[0] != "_"]

class CtrlC(importlib.abc.MetaPathFinder):
    left = [f"{package}.{{name}}" for name in names[::3]] if {interrupted} else []
    def find_spec(self, name, path, target=None):
        if name in self.left:
            self.left.remove(name)
            raise KeyboardInterrupt

sys.meta_path.insert(0, CtrlC())
found = None
while found is None:
    try:
        found = known.names()
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
print(*found)
"""


@pytest.mark.parametrize("known", [DATASETS, ENCODERS, HEADS, TASKS])
def test_every_family_is_whole_after_its_import_was_interrupted(known) -> None:
    """In new processes, in which nothing has been imported yet: at every third module."""

    def found(interrupted: bool) -> subprocess.CompletedProcess[str]:
        program = PROGRAM.format(package=known.package, interrupted=interrupted)
        return subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=True
        )

    one, other = found(True), found(False)
    assert "interrupted" in one.stderr
    assert other.stderr == ""
    assert one.stdout == other.stdout != ""
