"""check dataset: every registered dataset's twin is sound, and every kind of damage is found."""

import logging
import re
import shutil
import sys
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from medprobe.check.dataset import check_dataset
from medprobe.check.encoder import Finding
from medprobe.datasets.nih14 import NIH14
from medprobe.errors import MissingError
from medprobe.registry import DATASETS
from medprobe.types import Case, Dataset

PAGE = Path(__file__).resolve().parents[2] / "docs" / "add-a-dataset.md"


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDPROBE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    assert NIH14.twin is not None
    NIH14.twin(tmp_path / "nih14", np.random.default_rng(0))
    return tmp_path / "nih14"


def findings(dataset: Dataset, root: Path) -> dict[str, Finding]:
    found = check_dataset(dataset, root)
    assert len({finding.name for finding in found}) == len(found)
    return {finding.name: finding for finding in found}


def faults(dataset: Dataset, root: Path) -> list[str]:
    return [finding.name for finding in findings(dataset, root).values() if not finding.ok]


def changed(root: Path, change: object) -> Dataset:
    """NIH-14, with a function over its list of cases."""

    def cases(place: Path) -> Iterable[Case]:
        return change(list(NIH14.cases(place)))  # type: ignore[operator]

    return replace(NIH14, cases=cases, twin=None, counts={}, checksums={})


@pytest.mark.parametrize("name", DATASETS.names())
def test_the_twin_of_every_registered_dataset_is_sound(name: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    if name == "rsna":
        pytest.importorskip("pydicom")
    dataset = DATASETS.get(name)
    dataset.twin(tmp_path / "twin", np.random.default_rng(3))
    found = findings(dataset, tmp_path / "twin")
    assert [finding for finding in found.values() if not finding.ok] == []
    assert found["licence"].detail == dataset.licence
    assert found["source"].detail == dataset.source
    assert re.fullmatch(r"[0-9a-f]{64}", found["fingerprint"].detail)
    assert logging.root.manager.disable == logging.NOTSET


def test_a_twin_is_called_one_and_any_other_count_is_a_fault(root: Path) -> None:
    assert "the synthetic twin, where the release has train 86,524, test 25,596" in findings(NIH14, root)["counts"].detail
    lines = (root / "test_list.txt").read_text().splitlines()
    (root / "test_list.txt").write_text("\n".join(lines[:-1]) + "\n")
    said = findings(NIH14, root)["counts"]
    assert not said.ok
    assert said.detail.startswith("expected train 86,524, test 25,596, found train 24, test 11")


def test_the_released_counts_with_other_cases_are_a_fault(root: Path) -> None:
    release = replace(NIH14, counts={"train": 24, "test": 12}, checksums={"train": "0" * 16, "test": "0" * 16})
    assert faults(release, root) == ["split"]
    ids = [case.id for case in NIH14.cases(root) if case.split == "train"]
    from medprobe.datasets._layout import checksum

    assert faults(replace(release, checksums={"train": checksum(ids)}), root) == []


def test_an_id_that_occurs_twice_is_found(root: Path) -> None:
    double = changed(root, lambda cases: [*cases, cases[0]])
    assert faults(double, root) == ["ids"]
    assert "first 00000001_000" in findings(double, root)["ids"].detail


@pytest.mark.trap("datasets-2d rules 3: groups are disjoint, with an explicit override where the official split leaks")
def test_a_patient_in_two_parts_is_a_fault_unless_the_official_split_says_so(root: Path) -> None:
    leaking = changed(root, lambda cases: [replace(cases[0], patient=cases[-1].patient), *cases[1:]])
    assert faults(leaking, root) == ["patients"]
    assert findings(leaking, root)["patients"].detail.endswith("give every patient one part")
    official = findings(replace(leaking, official_leak="one patient, by design"), root)["patients"]
    assert official.ok
    assert re.search(r"warning, .*shared: 1 between .*; the official split leaks: one patient, by design", official.detail)


def test_a_class_that_a_part_lacks_is_found(root: Path) -> None:
    hernia = NIH14.classes.index("Hernia")

    def without(cases: list[Case]) -> list[Case]:
        return [case if case.split == "train" else replace(case, target=(*case.target[:hernia], 0.0, *case.target[hernia + 1 :])) for case in cases]

    assert faults(changed(root, without), root) == ["classes"]
    assert findings(changed(root, without), root)["classes"].detail == "test lacks Hernia"
    assert findings(NIH14, root)["classes"].detail == "all 14 have cases in train, test"


def test_unlabelled_cases_are_counted(root: Path) -> None:
    unlabelled = changed(root, lambda cases: [replace(cases[0], target=None), *cases[1:]])
    assert findings(unlabelled, root)["counts"].detail == "train 24, test 12; 1 unlabelled"


def test_a_damaged_image_and_a_missing_one_are_found(root: Path) -> None:
    cases = list(NIH14.cases(root))
    path = cases[0].images["image"][0].path
    path.write_bytes(path.read_bytes()[:60])
    assert faults(NIH14, root) == ["images"]
    assert path.name in findings(NIH14, root)["images"].detail
    path.unlink()
    assert faults(replace(NIH14, cases=lambda _: cases), root) == ["files", "images", "fingerprint"]


def test_a_partial_download_is_refused_by_the_reader(root: Path) -> None:
    shutil.rmtree(root / "images_002")
    with pytest.raises(MissingError, match="18 of 36"):
        check_dataset(NIH14, root)


def test_the_fingerprint_survives_a_move_and_knows_one_changed_pixel(root: Path, tmp_path: Path) -> None:
    before = findings(NIH14, root)["fingerprint"].detail
    assert findings(NIH14, shutil.move(root, tmp_path / "moved"))["fingerprint"].detail == before
    picture = next(iter(NIH14.cases(tmp_path / "moved"))).images["image"][0].path
    from PIL import Image

    with Image.open(picture) as file:
        pixels = np.array(file)
    pixels[0, 0] ^= 1
    Image.fromarray(pixels).save(picture)
    assert findings(NIH14, tmp_path / "moved")["fingerprint"].detail != before


def test_the_dataset_in_one_file_of_the_docs_is_sound_as_printed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    example = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)[0]
    (tmp_path / "leaves.py").write_text(example)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(DATASETS, "_things", dict(DATASETS.items()))
    import importlib

    importlib.import_module("leaves")
    monkeypatch.delitem(sys.modules, "leaves")
    dataset = DATASETS.get("leaves")
    dataset.twin(tmp_path / "twin", np.random.default_rng(0))
    assert faults(dataset, tmp_path / "twin") == []
    (tmp_path / "twin" / "photos" / "plant01-0.png").unlink()
    with pytest.raises(MissingError, match=r"leaves: 1 of 48 files are missing.*plant01-0\.png"):
        check_dataset(dataset, tmp_path / "twin")
