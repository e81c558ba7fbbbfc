"""Families of other packages: their code, and what they make of planes, belong to the key of features."""

import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from medprobe.encoders import load
from medprobe.registry import ENCODERS

PLUGIN = """
from medprobe.encoders.base import LoadedEncoder
from medprobe.types import Features
{imports}

def forward(x):
    return Features({value})

def build(request):
    return LoadedEncoder(request, forward, dim=3)
"""
MEAN, ZEROS = "x.mean(dim=(2, 3))", "x.mean(dim=(2, 3)) * 0"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., str]]:
    """Writes files of a plug-in, imports it anew as a new process would, and gives the digest of its encoder."""
    names: set[str] = set()
    monkeypatch.syspath_prepend(str(tmp_path))
    _ = ENCODERS.names()

    def digest(module: str = "plug_in_of_test", **files: str) -> str:
        for name, text in files.items():
            path = tmp_path / f"{name.replace('__', '/')}.py"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        for name in names:
            sys.modules.pop(name, None)
        importlib.invalidate_caches()
        before = set(sys.modules)
        monkeypatch.setattr(sys, "dont_write_bytecode", True)
        monkeypatch.setitem(ENCODERS._things, "plug-in", importlib.import_module(module).build)
        names.update(set(sys.modules) - before)
        return load("plug-in").weights_sha256

    yield digest
    for name in names:
        sys.modules.pop(name, None)


def test_an_edited_forward_gives_another_digest(installed: Callable[..., str]) -> None:
    first = installed(plug_in_of_test=PLUGIN.format(imports="", value=MEAN))
    assert installed() == first
    assert installed(plug_in_of_test=PLUGIN.format(imports="", value=ZEROS)) != first


HEAD = """
from dataclasses import dataclass
import helper_of_head

@dataclass(frozen=True)
class Head:
    scale: float = 1.0
"""


def test_the_code_of_a_plug_in_head_belongs_to_the_key_of_its_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from medprobe.heads.logreg import LogisticRegression
    from medprobe.run.question import code_facts

    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def facts(head: str, helper: str) -> dict[str, str]:
        (tmp_path / "head_of_test.py").write_text(head)
        (tmp_path / "helper_of_head.py").write_text(helper)
        importlib.invalidate_caches()
        for name in ("head_of_test", "helper_of_head"):
            sys.modules.pop(name, None)
        return code_facts(importlib.import_module("head_of_test").Head())

    first = facts(HEAD, "x = 1\n")
    assert set(first) == {"head_code"}
    assert facts(HEAD, "x = 1\n") == first
    assert facts(HEAD, "x = 2\n") != first
    assert facts(HEAD.replace("1.0", "2.0"), "x = 1\n") != first
    assert code_facts(LogisticRegression()) == {}


def test_a_remark_in_a_module_it_imports_gives_another_digest(installed: Callable[..., str]) -> None:
    text = PLUGIN.format(imports="from helper_of_plug_in import f", value="f(x)")
    lazy = PLUGIN.format(imports="", value="__import__('helper_of_plug_in').f(x)") + "\ndef g():\n    import helper_of_plug_in\n"
    for code in (text, lazy):
        helper = f"def f(x):\n    return {MEAN}\n"
        first = installed(plug_in_of_test=code, helper_of_plug_in=helper)
        assert installed(helper_of_plug_in=helper + "# a remark\n") != first


def test_modules_of_its_package_count_and_scripts_that_call_it_do_not(installed: Callable[..., str]) -> None:
    package = {
        "plug__pkg____init__": "", "plug__pkg__code": PLUGIN.format(imports="from .nets import f", value="f(x)"),
        "plug__pkg__nets": f"def f(x):\n    return {MEAN}\n", "plug__pkg__train": "import plug.pkg.code\n",
    }  # fmt: skip
    first = installed("plug.pkg.code", **package)
    assert installed("plug.pkg.code", plug__pkg__train="import plug.pkg.code\nprint(1)\n", notebook="x = 1\n") == first
    assert installed("plug.pkg.code", plug__pkg__nets=f"def f(x):\n    return {ZEROS}\n") != first


def test_an_installed_package_counts_and_libraries_beside_it_do_not(installed: Callable[..., str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path / "site-packages"))
    code = PLUGIN.format(imports="import a_library\nfrom the_plug_in.nets import f", value="f(x)")
    files = {
        "site-packages__the_plug_in____init__": "", "site-packages__the_plug_in__code": code,
        "site-packages__the_plug_in__nets": f"def f(x):\n    return {MEAN}\n", "site-packages__a_library": "x = 1\n",
    }  # fmt: skip
    first = installed("the_plug_in.code", **files)
    assert installed("the_plug_in.code", **{"site-packages__a_library": "x = 2\n"}) == first
    files["site-packages__the_plug_in__nets"] += "# a remark\n"
    assert installed("the_plug_in.code", **files) != first


def test_a_plug_in_whose_answers_change_is_at_fault(installed: Callable[..., str]) -> None:
    installed(plug_in_of_test=PLUGIN.format(imports="import torch", value=f"{MEAN} + torch.rand(3)"))
    (said,) = load("plug-in").faults
    assert "the same planes twice differ" in said


@pytest.mark.accept
def test_a_function_of_a_script_counts_by_its_own_source_and_its_answer(tmp_path: Path) -> None:
    """What else the script does is not part of it."""
    script = """
from medprobe.encoders import load
from medprobe.encoders.base import LoadedEncoder
from medprobe.registry import ENCODERS
from medprobe.types import Features

def answer(x):
    return Features({value})

@ENCODERS.register("mine")
def build(request):
    return LoadedEncoder(request, answer, dim=3)

print(load("mine").weights_sha256)
# {remark}
"""
    said = []
    for value, remark in ((MEAN, "one"), (MEAN, "two"), (ZEROS, "two")):
        (tmp_path / "script.py").write_text(script.format(value=value, remark=remark))
        done = subprocess.run([sys.executable, tmp_path / "script.py"], capture_output=True, text=True, check=True, env=dict(os.environ))
        said.append(done.stdout)
    assert said[0] == said[1] != said[2]
