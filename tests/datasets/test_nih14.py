"""NIH ChestX-ray14: the twin through the reader, every trap of its sheet, and the real lists where they are at hand."""

import shutil
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from medprobe.datasets import nih14
from medprobe.datasets._layout import checksum
from medprobe.datasets.nih14 import CLASSES, NIH14, names_of_lists, target_of
from medprobe.errors import MissingError, RequestError
from medprobe.types import Case


@pytest.fixture
def root(tmp_path: Path) -> Path:
    assert NIH14.twin is not None
    NIH14.twin(tmp_path, np.random.default_rng(0))
    return tmp_path


def cases(root: Path) -> list[Case]:
    return list(NIH14.cases(root))


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def test_the_twin_has_every_class_with_both_outcomes_in_both_parts(root: Path) -> None:
    found = cases(root)
    assert Counter(case.split for case in found) == {"train": 24, "test": 12}
    for split in ("train", "test"):
        share = np.mean([case.target for case in found if case.split == split], axis=0)
        assert ((share > 0) & (share < 1)).all()
    assert {case.patient for case in found if case.split == "train"}.isdisjoint(case.patient for case in found if case.split == "test")


def test_the_patient_is_the_first_eight_digits(root: Path) -> None:
    assert all(case.patient == case.id[:8] and len(case.patient) == 8 for case in cases(root))


def test_both_layouts_give_the_same_cases(root: Path) -> None:
    before = [(case.id, case.target, case.split) for case in cases(root)]
    (root / "images").mkdir()
    for folder in sorted(root.glob("images_*")):
        for file in (folder / "images").iterdir():
            shutil.move(file, root / "images" / file.name)
        shutil.rmtree(folder)
    assert [(case.id, case.target, case.split) for case in cases(root)] == before


def test_the_2017_table_with_its_empty_last_column_gives_the_same_labels(root: Path) -> None:
    before = [case.target for case in cases(root)]
    table = root / "Data_Entry_2017_v2020.csv"
    text = "".join(line + ",\r\n" for line in table.read_text().splitlines())
    (root / "Data_Entry_2017.csv").write_text("\ufeff" + text.replace(",41,", ",414,"), encoding="utf-8")
    table.unlink()
    assert [case.target for case in cases(root)] == before


def test_several_findings_are_several_ones_and_no_finding_is_all_zeros(root: Path) -> None:
    table = root / "Data_Entry_2017.csv"
    both = target_of("Effusion|Cardiomegaly", table)
    assert [CLASSES[place] for place, value in enumerate(both) if value == 1] == ["Cardiomegaly", "Effusion"]
    assert target_of("No Finding", table) == (0.0,) * 14
    with pytest.raises(RequestError, match="No Finding"):
        target_of("No Finding|Mass", table)


def test_a_finding_outside_the_vocabulary_is_named_with_the_nearest(root: Path) -> None:
    with pytest.raises(RequestError, match=r"'Infiltrate'.*did you mean Infiltration"):
        target_of("Infiltrate", root)


@pytest.mark.trap("datasets-2d 1 Traps (d): other readers sort the classes by alphabet and keep one image per patient")
def test_classes_are_in_the_order_of_the_public_lists_and_every_image_of_a_patient_counts(root: Path, samples: Path) -> None:
    assert CLASSES[0] == "Atelectasis"
    assert CLASSES[12:] == ("Pleural_Thickening", "Hernia")
    assert list(CLASSES) != sorted(CLASSES)
    assert set(Counter(case.patient for case in cases(root)).values()) == {2}
    lists = samples.parent / "splits" / "nih-chestxray14"
    if not lists.is_dir():
        pytest.skip(f"no lists at {lists}")
    positives = np.zeros(14, int)
    for line in (lists / "test_official.txt").read_text().splitlines():
        positives += np.array(line.split()[1:], int)
    assert dict(zip(CLASSES, positives, strict=True))["Hernia"] == 86
    assert positives[CLASSES.index("Infiltration")] == 6112


@pytest.mark.trap("datasets-2d 1 Traps (a): an older random split goes by the name test_list.txt")
@pytest.mark.parametrize("line", ["00000003_000.png 0 1 0 0 0 0 0 0 0 0 0 0 0 0", "images/00000003_000.png", "3"])
def test_lists_of_another_form_are_refused(root: Path, line: str) -> None:
    (root / "test_list.txt").write_text(line + "\n")
    with pytest.raises(RequestError, match=r"test_list\.txt.*NIH's own lists"):
        cases(root)


@pytest.mark.trap("datasets-2d 1 Traps (a): a random split puts images of one patient into both lists")
def test_lists_that_share_patients_are_refused(root: Path) -> None:
    edit(root / "train_val_list.txt", "00000001_000.png\n", "")
    with (root / "test_list.txt").open("a") as file:
        file.write("00000001_000.png\n")
    with pytest.raises(RequestError, match=r"1 in both .*00000001"):
        cases(root)


@pytest.mark.trap("datasets-2d 1 Traps (b): the RSNA images are a subset of these")
def test_the_page_says_that_rsna_shares_its_patients() -> None:
    assert "rsna" in (NIH14.note or "")


@pytest.mark.trap("datasets-2d 1 Traps (c): labels are text-mined")
def test_the_page_says_that_labels_are_text_mined() -> None:
    assert "text-mined" in (nih14.__doc__ or "")


@pytest.mark.trap("datasets-2d 1 Images: a few hundred grey files are stored as RGBA")
def test_a_grey_image_stored_as_rgba_gives_one_channel_with_the_same_values(root: Path) -> None:
    from PIL import Image

    from medprobe.imaging.recipes import planes

    (case,) = [case for case in cases(root) if case.id == "00000002_001"]
    with Image.open(case.images["image"][0].path) as file:
        assert file.mode == "RGBA"
        stored = np.asarray(file)[..., 0]
    assert NIH14.grey
    pixels = planes(case.images["image"], window=NIH14.recipe, size=None, colour=1).pixels
    assert pixels.shape == (1, 1, 64, 64)
    np.testing.assert_array_equal(pixels[0, 0], stored)


@pytest.mark.trap("datasets-2d rules 2: `._*`, `.DS_Store` and `__MACOSX` are no images")
def test_leavings_of_a_mac_stand_in_for_no_image(root: Path) -> None:
    gone = root / "images_001" / "images" / "00000001_000.png"
    assert gone.with_name("._00000001_000.png").is_file()
    (root / "images_001" / "__MACOSX").mkdir()
    shutil.move(gone, root / "images_001" / "__MACOSX" / gone.name)
    with pytest.raises(MissingError, match=r"1 of 36 .*00000001_000\.png"):
        cases(root)


def test_a_partial_download_is_named_with_count_and_first_files(root: Path) -> None:
    shutil.rmtree(root / "images_002")
    with pytest.raises(MissingError, match=r"18 of 36 files are missing .* first 00000010_000\.png, 00000010_001\.png.*partial") as raised:
        next(iter(NIH14.cases(root)))
    assert raised.value.exit_status == 3


@pytest.mark.trap("datasets-2d rules 1: a missing root, label file or image names the expected path")
def test_everything_absent_is_named_at_once(root: Path) -> None:
    for name in ("Data_Entry_2017_v2020.csv", "test_list.txt"):
        (root / name).unlink()
    with pytest.raises(MissingError, match=r"Data_Entry_2017_v2020\.csv and .*test_list\.txt.*get the data from"):
        cases(root)


def test_an_image_without_a_line_in_the_table_is_named(root: Path) -> None:
    table = root / "Data_Entry_2017_v2020.csv"
    table.write_text("\n".join(table.read_text().splitlines()[:-3]) + "\n")
    with pytest.raises(MissingError, match="3 of 36 images"):
        cases(root)


def test_crlf_and_blank_lines_in_the_lists_change_nothing(root: Path) -> None:
    before = names_of_lists(root)
    for name in ("train_val_list.txt", "test_list.txt"):
        text = (root / name).read_text().replace("\n", "\r\n")
        (root / name).write_bytes(text.encode() + b"\r\n")
    assert names_of_lists(root) == before


def test_the_official_lists_have_the_counts_the_dataset_promises(samples: Path) -> None:
    lists = samples.parent / "splits" / "nih-chestxray14"
    if not lists.is_dir():
        pytest.skip(f"no lists at {lists}")
    listed = names_of_lists(lists)
    assert Counter(split for _, split in listed) == NIH14.counts
    for split, known in NIH14.checksums.items():
        assert checksum(name[:-4] for name, part in listed if part == split) == known
    patients = {split: {name[:8] for name, part in listed if part == split} for split in NIH14.counts}
    assert {split: len(found) for split, found in patients.items()} == {"train": 28008, "test": 2797}
