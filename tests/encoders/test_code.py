"""Code of one's own: helpers of one name in two folders, edits while Python runs, and all files in the digest."""

import sys
from pathlib import Path

import pytest
import torch

from medprobe.encoders import load
from medprobe.encoders.code import reached
from medprobe.errors import RequestError

NET = """
from torch import nn

class Net(nn.Module):
    def forward(self, x):
        return {body}
"""
MEAN, SPREAD, LARGEST = "x.mean(dim=(2, 3))", "x[:, :, ::56, ::56].flatten(1)", "x.amax(dim=(2, 3))"
ENTRY = "from {module} import Net\n\ndef make():\n    return Net()\n"
LAZY = """
from torch import nn

class Net(nn.Module):
    def forward(self, x):
        from {module} import answer
        return answer(x)

def make():
    return Net()
"""


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return folder


LAYOUTS = {
    "a helper": ("model.py", "model"),
    "a package": ("models/vit.py", "models.vit"),
    "a helper of a helper": ("utils/nets/small.py", "utils.nets.small"),
    "relative": ("model.py", ".model"),
    "relative package": ("models/vit.py", ".models.vit"),
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("regular", [True, False])
@pytest.mark.parametrize("order", ["ab", "ba"])
def test_files_keep_their_own_helpers_whatever_these_are_called(
    layout: str, regular: bool, order: str, tmp_path: Path
) -> None:
    file, module = LAYOUTS[layout]
    for name, body in (("a", MEAN), ("b", SPREAD)):
        write(tmp_path / name, {file: NET.format(body=body), "enc.py": ENTRY.format(module=module)})
        if regular:
            for parent in list((tmp_path / name / file).parents)[:-1]:
                if parent.is_relative_to(tmp_path / name) and parent != tmp_path / name:
                    (parent / "__init__.py").touch()
    made = {name: load(f"{tmp_path}/{name}/enc.py:make") for name in order}
    assert (made["a"].dim, made["b"].dim) == (3, 48)
    planes = torch.rand(1, 3, 224, 224)
    assert torch.equal(made["a"](planes).cls, planes.mean(dim=(2, 3)))
    assert module.strip(".") not in sys.modules


@pytest.mark.parametrize("module", ["nets", "models.vit"])
def test_what_a_file_puts_on_the_path_itself_is_its_own_too(module: str, tmp_path: Path) -> None:
    """As many research repositories do, of which each has a `models` or `utils` beside the folder of its scripts."""
    entry = "import sys\nfrom pathlib import Path\nsys.path.append(str(Path(__file__).parents[1]))\n"
    digests = []
    for name, body in (("a", MEAN), ("b", SPREAD), ("a", LARGEST)):
        file = module.replace(".", "/") + ".py"
        write(tmp_path / name, {file: NET.format(body=body), "tools/enc.py": entry + ENTRY.format(module=module)})
        before = list(sys.path)
        encoder = load(f"{tmp_path}/{name}/tools/enc.py:make")
        assert sys.path == before
        assert encoder.dim == (48 if name == "b" else 3)
        digests.append(encoder.weights_sha256)
    assert len(set(digests)) == 3


def test_relative_imports_reach_the_packages_above(tmp_path: Path) -> None:
    write(
        tmp_path,
        {
            "lab/__init__.py": "",
            "lab/nets.py": NET.format(body=MEAN),
            "lab/sub/__init__.py": "",
            "lab/sub/enc.py": ENTRY.format(module="..nets"),
        },
    )
    assert load(f"{tmp_path}/lab/sub/enc.py:make").dim == 3


@pytest.mark.parametrize("module", ["helper", "helpers.inner", ".helper"])
@pytest.mark.parametrize("entry", [ENTRY, LAZY])
def test_an_edited_helper_is_seen_within_one_session(module: str, entry: str, tmp_path: Path) -> None:
    """Of equal length and within one second, so that neither size nor time of the file tells."""
    file = module.lstrip(".").replace(".", "/") + ".py"
    digests, answers = [], []
    for body in (LARGEST, LARGEST.replace("amax", "amin")):
        text = NET.format(body=body) + f"\ndef answer(x):\n    return {body}\n"
        write(tmp_path, {file: text, "enc.py": entry.format(module=module)})
        encoder = load(f"{tmp_path}/enc.py:make")
        digests.append(encoder.weights_sha256)
        answers.append(float(encoder(torch.linspace(0, 1, 3 * 224 * 224).view(1, 3, 224, 224)).cls[0, 0]))
    assert digests[0] != digests[1]
    assert answers[1] == 0 != answers[0]


def test_an_encoder_loaded_before_keeps_the_code_it_was_loaded_with(tmp_path: Path) -> None:
    text = NET.format(body=MEAN) + "\ndef answer(x):\n    return x.mean(dim=(2, 3))\n"
    write(tmp_path, {"helper.py": text, "enc.py": LAZY.format(module="helper")})
    first = load(f"{tmp_path}/enc.py:make")
    write(tmp_path, {"helper.py": text.replace("x.mean(dim=(2, 3))", "x.sum(dim=(2, 3))")})
    second = load(f"{tmp_path}/enc.py:make")
    planes = torch.rand(1, 3, 8, 8)
    assert torch.equal(first(planes).cls, planes.mean(dim=(2, 3)))
    assert torch.equal(second(planes).cls, planes.sum(dim=(2, 3)))


def test_what_is_imported_only_when_a_branch_is_met_enters_the_digest(tmp_path: Path) -> None:
    text = NET.format(body=MEAN) + "\ndef rarely():\n    from deep.rare import x\n"
    write(tmp_path, {"enc.py": text + "\ndef make():\n    return Net()\n", "deep/rare.py": "import further\nx = 1\n", "further.py": "y = 1\n"})
    digests = [load(f"{tmp_path}/enc.py:make").weights_sha256]
    for name in ("deep/rare.py", "further.py"):
        (tmp_path / name).write_text((tmp_path / name).read_text() + "# a remark\n")
        digests.append(load(f"{tmp_path}/enc.py:make").weights_sha256)
    assert len(set(digests)) == 3


def test_files_that_it_does_not_import_do_not_enter_the_digest(tmp_path: Path) -> None:
    write(tmp_path, {"enc.py": NET.format(body=MEAN) + "\ndef make():\n    return Net()\n", "run_all.py": "import enc\n"})
    before = load(f"{tmp_path}/enc.py:make").weights_sha256
    write(tmp_path, {"run_all.py": "import enc\nprint(1)\n", "other.py": "x = 2\n"})
    assert load(f"{tmp_path}/enc.py:make").weights_sha256 == before


def test_libraries_python_and_medprobe_are_not_followed(tmp_path: Path) -> None:
    write(tmp_path, {"enc.py": "import torch, os, json\nimport medprobe.types\nimport mine\n", "mine.py": "import enc\n"})
    search = [tmp_path, *map(Path, sys.path)]
    assert reached(tmp_path / "enc.py", search) == {tmp_path / "mine.py", tmp_path / "enc.py"}


def test_a_file_may_be_named_after_the_library_it_wraps(tmp_path: Path) -> None:
    text = "import timm\n\ndef make():\n    return timm.create_model('test_resnet', num_classes=0)\n"
    write(tmp_path, {"timm.py": text})
    assert load(f"{tmp_path}/timm.py:make").dim == 96


def test_a_helper_named_as_a_library_is_the_folders_for_its_own_file_alone(tmp_path: Path) -> None:
    import timm

    write(tmp_path, {"timm.py": NET.format(body=MEAN), "enc.py": ENTRY.format(module="timm")})
    assert load(f"{tmp_path}/enc.py:make").dim == 3
    assert sys.modules["timm"] is timm


def test_a_module_outside_the_folder_that_was_edited_since_its_import_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is shared with the program around, so it is not imported again behind its back."""
    write(tmp_path, {"lib/shared_nets.py": NET.format(body=MEAN), "enc/enc.py": ENTRY.format(module="shared_nets")})
    monkeypatch.syspath_prepend(str(tmp_path / "lib"))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    first = load(f"{tmp_path}/enc/enc.py:make").weights_sha256
    assert load(f"{tmp_path}/enc/enc.py:make").weights_sha256 == first
    write(tmp_path, {"lib/shared_nets.py": NET.format(body=LARGEST)})
    with pytest.raises(RequestError, match=r"shared_nets\.py as it was when shared_nets was imported.*start Python again"):
        load(f"{tmp_path}/enc/enc.py:make")
    del sys.modules["shared_nets"]
    assert load(f"{tmp_path}/enc/enc.py:make").weights_sha256 != first
    del sys.modules["shared_nets"]


def test_nothing_is_left_behind_and_nothing_is_written(tmp_path: Path) -> None:
    write(tmp_path, {"helper.py": NET.format(body=MEAN), "enc.py": ENTRY.format(module="helper")})
    before, folders, finders = set(sys.modules), list(sys.path), list(sys.meta_path)
    load(f"{tmp_path}/enc.py:make")
    left = {name for name in set(sys.modules) - before if "user" in name or name in ("helper", "enc")}
    assert left == set()
    assert (sys.path, sys.meta_path) == (folders, finders)
    assert not list(tmp_path.rglob("*.pyc"))
