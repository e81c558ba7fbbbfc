"""Where a dataset is found, what is ignored, how missing files are named."""

from dataclasses import replace
from pathlib import Path

import pytest

from medprobe.datasets import _layout
from medprobe.errors import MissingError, RequestError
from medprobe.types import Case, Dataset, Source

TOY = Dataset("toy", "classification", 2, "photo", ("a", "b"), "free", "https://example.org", "none", cases=lambda root: [], folders=("Toy-Release",), markers=("toy.csv",))


def test_a_dataset_is_found_under_each_of_its_names(tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    assert _layout.locate(TOY, tmp_path) == tmp_path / "toy"
    (tmp_path / "Toy-Release").mkdir()
    assert _layout.locate(TOY, tmp_path) == tmp_path / "Toy-Release"


def test_a_path_in_medprobe_toml_wins(tmp_path: Path) -> None:
    (tmp_path / "toy").mkdir()
    elsewhere = tmp_path / "disk" / "copy"
    elsewhere.mkdir(parents=True)
    for path in (str(elsewhere), "disk/copy"):
        (tmp_path / "medprobe.toml").write_text(f'[paths]\ntoy = "{path}"\n')
        assert _layout.locate(TOY, tmp_path) == elsewhere.resolve()
    (tmp_path / "medprobe.toml").write_text('[paths]\ntoy = "gone"\n')
    with pytest.raises(MissingError, match="gone"):
        _layout.locate(TOY, tmp_path)


@pytest.mark.parametrize("text", ["[paths\n", "[paths]\ntoy = 3\n", "paths = 3\n"])
def test_a_broken_medprobe_toml_is_a_wrong_request(tmp_path: Path, text: str) -> None:
    (tmp_path / "medprobe.toml").write_text(text)
    with pytest.raises(RequestError, match=r"medprobe\.toml"):
        _layout.locate(TOY, tmp_path)


def test_the_data_root_may_be_the_dataset_itself(tmp_path: Path) -> None:
    (tmp_path / "toy.csv").touch()
    assert _layout.locate(TOY, tmp_path) == tmp_path


def test_a_dataset_that_is_not_there_says_where_it_was_expected_and_how_to_get_it(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"Toy-Release or toy .*medprobe\.toml.*https://example\.org"):
        _layout.locate(TOY, tmp_path)
    with pytest.raises(MissingError, match="no such data root"):
        _layout.locate(TOY, tmp_path / "nowhere")
    with pytest.raises(MissingError, match=r"--data DIR or MEDPROBE_DATA"):
        _layout.locate(TOY, None)


def test_a_manifest_needs_no_data_root(tmp_path: Path) -> None:
    assert _layout.locate(replace(TOY, root=tmp_path), None) == tmp_path


def test_leavings_of_other_programs_are_not_images(tmp_path: Path) -> None:
    for name in ("a.png", "b.PNG", "._a.png", "deep/c.png", "__MACOSX/d.png", "__MACOSX/deep/e.png", ".DS_Store", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / name).touch()
    assert sorted(_layout.images_under([tmp_path, tmp_path / "absent"], (".png",))) == ["a", "b", "c"]


def test_a_table_that_ends_early_is_a_partial_download(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("\ufeffid,label,x\r\n1,a,2\r\n2", encoding="utf-8")
    with pytest.raises(MissingError, match="line 3"):
        list(_layout.read_table(tmp_path / "a.csv", ("id", "label")))
    with pytest.raises(RequestError, match="columns name"):
        list(_layout.read_table(tmp_path / "a.csv", ("name",)))


def test_the_fingerprint_knows_content_and_parts_but_no_paths() -> None:
    def case(path: str, **changes: object) -> Case:
        return replace(Case("1", "p", {"image": (Source(Path(path)),)}, 0, "train"), **changes)  # type: ignore[arg-type]

    digests = {Path("a"): "aa", Path("moved/a"): "aa", Path("b"): "bb"}
    base = _layout.fingerprint([case("a")], digests)
    assert _layout.fingerprint([case("moved/a")], digests) == base
    others = [case("b"), case("a", target=1), case("a", split="test"), case("a", patient="q"), case("a", fold=1), case("a", id="2")]
    assert len({base, *(_layout.fingerprint([other], digests) for other in others)}) == 7
    two = [case("a"), case("b", id="2")]
    assert _layout.fingerprint(two, digests) == _layout.fingerprint(two[::-1], digests)


def test_the_fingerprint_knows_the_bytes_of_masks_but_no_paths() -> None:
    def pair(folder: str, mask: str, member: str | None = None) -> Case:
        target = {role: (Source(Path(folder) / (mask if role == "moving" else "m"), member),) for role in ("fixed", "moving")}
        return Case("1", "p", {"fixed": (Source(Path(folder) / "a"),), "moving": (Source(Path(folder) / "a"),)}, target, "train")

    digests = {Path(folder) / name: name * 2 for folder in ("here", "moved") for name in ("a", "m", "n")}
    base = _layout.fingerprint([pair("here", "m")], digests)
    assert _layout.fingerprint([pair("moved", "m")], digests) == base
    others = [pair("here", "n"), pair("here", "m", "labels"), replace(pair("here", "m"), target=None), replace(pair("here", "m"), target=(Source(Path("here/m")),))]
    assert len({base, *(_layout.fingerprint([other], digests) for other in others)}) == 5


def test_paths_of_cases_are_those_of_images_and_masks() -> None:
    image, mask = Source(Path("a"), "raw"), Source(Path("b"))
    cases = [
        Case("1", "p", {"image": (image, Source(Path("c")))}, (mask,)),
        Case("2", "p", {"fixed": (image,), "moving": (Source(Path("d")),)}, {"fixed": (Source(Path("e")),), "moving": (mask,)}),
        Case("3", "p", {"image": (image,)}, 1), Case("4", "p", {"image": (image,)}, (0.0, 1.0)), Case("5", "p", {"image": (image,)}),
    ]  # fmt: skip
    assert _layout.paths_of(cases) == {Path(name) for name in "abcde"}
