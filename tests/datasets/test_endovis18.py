"""EndoVis 2018 instrument types: the twin through reader, check and score in every layout, and every trap of its sheet."""

import json
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from medprobe.check.dataset import check_dataset
from medprobe.datasets import endovis18
from medprobe.datasets._layout import checksum, locate
from medprobe.datasets.endovis18 import ENDOVIS18, INSTRUMENTS, OF_2017, SEQUENCES, TEST, name_of
from medprobe.errors import CaseError, MissingError, RequestError
from medprobe.imaging.labels import ABSENT, read_labels
from medprobe.run.score import score_predictions
from medprobe.types import Case

HYPHENS = [name.lower().replace(" ", "-") for name in INSTRUMENTS]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDPROBE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "data" / "endovis18"
    folder.mkdir(parents=True)
    assert ENDOVIS18.twin is not None
    ENDOVIS18.twin(folder, np.random.default_rng(0))
    return folder


def cases(root: Path) -> list[Case]:
    return list(ENDOVIS18.cases(root))


def mask(case: Case) -> np.ndarray:
    return read_labels(case.target, dims=2, classes=ENDOVIS18.classes).labels


def masks(root: Path) -> dict[str, list]:
    return {case.id: mask(case).tolist() for case in cases(root)}


def move(root: Path, folder: str, to: Callable[[Path, str, str, str], Path]) -> None:
    """Every file of `{train,val}/<folder>` to what `to(base, sequence, frame, rest of the name)` says."""
    for file in sorted(root.glob(f"*/{folder}/seq*.png")):
        sequence, frame, rest = re.fullmatch(r"seq(\d+)_frame(\d+)(.*)", file.name).groups()
        target = to(file.parent.parent, sequence, frame, rest)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(file, target)


def renumber(root: Path) -> None:
    """Masks and names as those that are numbered as 2017."""
    table = np.array([0, *OF_2017], np.uint8)
    for file in root.glob("*/annotations/seq*.png"):
        Image.fromarray(table[np.asarray(Image.open(file))]).save(file)
    for file in sorted(root.glob("*/binary_annotations/seq*.png"), reverse=True):
        file.rename(file.with_name(re.sub(r"class(\d)", lambda found: f"class{table[int(found[1])]}", file.name)))


def test_the_twin_passes_its_check_with_every_instrument_in_both_parts(root: Path) -> None:
    assert sum(file.stat().st_size for file in root.rglob("*")) < 400_000
    assert [finding for finding in check_dataset(ENDOVIS18, root) if not finding.ok] == []
    for split in ("train", "test"):
        assert {int(number) for case in cases(root) if case.split == split for number in np.unique(mask(case))} == set(range(8))


def test_its_own_masks_score_as_perfect(root: Path, tmp_path: Path) -> None:
    (tmp_path / "pred").mkdir()
    tests = [case for case in cases(root) if case.split == "test"]
    for case in tests:
        shutil.copy(case.target[0].path, tmp_path / "pred" / f"{case.id}.png")
    (document,) = score_predictions("endovis18/predictions", tmp_path / "pred", tmp_path / "out", "perfect", root.parent, lambda *_: None)
    scores: Any = document["scores"]
    assert (scores["dice"]["value"], scores["dice"]["n_cases"]) == (1, len(tests))
    assert scores["dice"]["per_class"] == dict.fromkeys(INSTRUMENTS, 1)
    assert (scores["hd95"]["value"], scores["hd95"]["unit"]) == (0, "px")


# ----------------------------------------------------------------------------------------------- layouts


@pytest.mark.trap("datasets-2d 8 Processed layout: SurgicalSAM nests sequences in folders")
def test_sequences_may_be_folders(root: Path) -> None:
    before = masks(root)
    for folder in ("images", "annotations", "binary_annotations"):
        move(root, folder, lambda base, sequence, frame, rest, folder=folder: base / folder / f"seq{sequence}" / f"frame{frame}{rest}")
    assert masks(root) == before
    for folder in ("images", "annotations"):
        for file in root.glob(f"*/{folder}/seq*/frame*.png"):
            file.rename(file.with_name(file.name.replace("frame", "00")))
    assert masks(root) == before


@pytest.mark.trap("datasets-2d 8 Processed layout: a third one, img/seq_1_frame000.png and type_lbl/seq_1_frame000.png")
def test_images_and_labels_may_lie_in_two_folders(root: Path) -> None:
    before = masks(root)
    move(root, "images", lambda base, sequence, frame, rest: root / "img" / f"seq_{sequence}_frame{frame}{rest}")
    move(root, "annotations", lambda base, sequence, frame, rest: root / "type_lbl" / f"seq_{sequence}_frame{frame}{rest}")
    for part in ("train", "val"):
        shutil.rmtree(root / part)
    assert masks(root) == before
    assert Counter(case.split for case in cases(root)) == {"train": 12, "test": 6}


@pytest.mark.trap("datasets-2d 8 Metrics: overlapping instance masks, the later file wins, names sorted")
def test_masks_of_instruments_are_laid_over_one_another_in_order_of_name(root: Path) -> None:
    before = masks(root)
    overlap = root / "train" / "binary_annotations"
    first, second = (np.asarray(Image.open(overlap / f"seq1_frame000_class{number}_inst0.png")) > 0 for number in (1, 2))
    assert (first & second).any()
    for part in ("train", "val"):
        shutil.rmtree(root / part / "annotations")
    assert masks(root) == before
    background = next(case for case in cases(root) if case.id == "seq1_frame002")
    assert [source.member for source in background.target] == [ABSENT]
    (overlap / "seq1_frame000_class2_inst0.png").rename(overlap / "seq1_frame000_aclass2_inst0.png")
    below = next(case for case in cases(root) if case.id == "seq1_frame000")
    assert (mask(below)[first & second & (np.array(before["seq1_frame000"]) == 2)] == 1).all()


def test_masks_of_instruments_of_another_size_are_refused(root: Path) -> None:
    for part in ("train", "val"):
        shutil.rmtree(root / part / "annotations")
    Image.fromarray(np.full((5, 5), 255, np.uint8)).save(root / "train" / "binary_annotations" / "seq1_frame000_class3_inst0.png")
    with pytest.raises(CaseError, match="expected the size of the other masks of its case, 32 x 40, found 5 x 5"):
        mask(cases(root)[0])


def test_augmented_copies_of_the_training_frames_are_left_out(root: Path) -> None:
    before = masks(root)
    for folder in ("images", "binary_annotations"):
        move(root, folder, lambda base, sequence, frame, rest, folder=folder: base / ("0" if base.name == "train" else "") / folder / f"seq{sequence}" / f"{frame}{rest}")
    shutil.rmtree(root / "train" / "annotations")
    shutil.copytree(root / "train" / "0", root / "train" / "1")
    shutil.copytree(root / "train" / "0", root / "train" / "40")
    assert masks(root) == before


@pytest.mark.trap("datasets-2d 8 Challenge layout: archives may nest one folder deeper and carry __MACOSX twins with real names")
def test_a_folder_deeper_and_beside_leavings_of_a_mac(root: Path) -> None:
    before = masks(root)
    assert (root / "__MACOSX" / "train" / "annotations" / "seq1_frame000.png").is_file()
    assert (root / "train" / "annotations" / "._seq1_frame000.png").is_file()
    for part in ("train", "val", "__MACOSX"):
        (root / "download").mkdir(exist_ok=True)
        shutil.move(root / part, root / "download" / part)
    assert masks(root) == before


@pytest.mark.trap("datasets-2d 8 Split: sequence names repeat in the challenge's test set")
def test_frames_of_the_challenge_serve_where_no_others_are_and_its_test_set_never(root: Path) -> None:
    before = masks(root)
    move(root, "images", lambda base, sequence, frame, rest: root / "miccai_challenge_release_2" / f"seq_{sequence}" / "left_frames" / f"frame{frame}{rest}")
    frames = root / "miccai_challenge_release_2" / "seq_1"
    for other in ("right_frames", "labels"):
        shutil.copytree(frames / "left_frames", frames / other)
    shutil.copytree(frames, root / "test_data" / "seq_1")
    shutil.copytree(frames, root / "test_data" / "seq_8")
    assert masks(root) == before
    assert all("left_frames" in case.images["image"][0].path.parts for case in cases(root))


@pytest.mark.trap("datasets-2d 8 Access: instrument types are not in the challenge's data, whose labels are parts and tissue")
def test_the_download_of_the_challenge_alone_is_refused_with_where_the_types_are(root: Path) -> None:
    move(root, "images", lambda base, sequence, frame, rest: root / "miccai_challenge_release_2" / f"seq_{sequence}" / "left_frames" / f"frame{frame}{rest}")
    for part in ("train", "val"):
        shutil.rmtree(root / part)
    shutil.copytree(root / "miccai_challenge_release_2" / "seq_1" / "left_frames", root / "miccai_challenge_release_2" / "seq_1" / "labels")
    with pytest.raises(MissingError, match=r"found 18 frames and no such labels.*BCV-Uniandes/ISINet.*SurgicalSAM"):
        cases(root)


# --------------------------------------------------------------------------------------------- numbering


@pytest.mark.trap("datasets-2d 8 Classes: labels numbered as those of 2017; values above 7 demand an explicit id map")
@pytest.mark.parametrize("evidence", ["names", "masks", "one mask"])
def test_numbers_above_7_are_refused_with_what_to_write(root: Path, evidence: str) -> None:
    if evidence == "one mask":
        file = root / "val" / "annotations" / "seq2_frame001.png"
        stored = np.array(Image.open(file))
        stored[0, 0] = 9
        Image.fromarray(stored).save(file)
    else:
        renumber(root)
        if evidence == "masks":
            for part in ("train", "val"):
                shutil.rmtree(root / part / "binary_annotations")
    with pytest.raises(RequestError, match=r"expected the numbers 1 to 7 \(1 Bipolar Forceps, .*7 Clip Applier\), found [89], .*labels\.json") as raised:
        cases(root)
    assert raised.value.exit_status == 2


@pytest.mark.trap("datasets-2d 8 Classes: never guess silently")
def test_what_the_refusal_says_to_write_makes_the_labels_of_2017_the_same_as_those_of_2018(root: Path, tmp_path: Path) -> None:
    before = masks(root)
    renumber(root)
    with pytest.raises(RequestError) as raised:
        cases(root)
    (root / "labels.json").write_text(str(raised.value).partition("for those of 2017: ")[2])
    assert masks(root) == before
    (tmp_path / "pred").mkdir()
    for case in cases(root):
        if case.split == "test":
            Image.fromarray(np.array(before[case.id], np.uint8)).save(tmp_path / "pred" / f"{case.id}.png")
    (document,) = score_predictions("endovis18/predictions", tmp_path / "pred", tmp_path / "out", "of 2018", root.parent, lambda *_: None)
    assert document["scores"]["dice"]["value"] == 1
    (tmp_path / "as stored").mkdir()
    for case in cases(root):
        if case.split == "test":
            shutil.copy(case.target[0].path, tmp_path / "as stored" / f"{case.id}.png")
    for number, labels in enumerate((None, "values")):
        folder = tmp_path / "as stored", tmp_path / f"out{number}"
        (document,) = score_predictions("endovis18/predictions", *folder, "of 2017", root.parent, lambda *_: None, labels=labels)
        assert (document["scores"]["dice"]["value"], document["facts"]["labels"]) == (1, "values")
    for part in ("train", "val"):
        shutil.rmtree(root / part / "annotations")
    assert masks(root) == before


def test_the_file_of_the_script_of_isinet_is_understood_and_instruments_of_2017_have_no_class(root: Path) -> None:
    before = masks(root)
    renumber(root)
    names = [*HYPHENS[:3], "vessel-sealer", "grasping-retractor", *HYPHENS[3:]]
    (root / "labels_2017.json").write_text(json.dumps([{"name": name, "classid": number} for number, name in enumerate(names, 1)]))
    assert masks(root) == before
    file = root / "train" / "annotations" / "seq1_frame000.png"
    stored = np.array(Image.open(file))
    stored[0, :3] = 4
    Image.fromarray(stored).save(file)
    with pytest.raises(CaseError, match=r"expected the mask values 0, 1, 2, 3, 6, 7, 8, 9, found 4 in 3 voxels"):
        masks(root)
    (root / "train" / "binary_annotations" / "seq1_frame000_class4_inst0.png").write_bytes(b"")
    with pytest.raises(RequestError, match=r"expected one of the numbers 1, 2, 3, 6, 7, 8, 9 that labels\*\.json gives .*found 4"):
        cases(root)


def test_a_declaration_of_1_to_7_changes_nothing_and_one_beside_another_is_refused(root: Path) -> None:
    before = cases(root)
    declared = [{"name": name, "classid": number} for number, name in enumerate(INSTRUMENTS, 1)]
    (root / "labels.json").write_text(json.dumps(declared))
    assert cases(root) == before
    (root / "labels_2017.json").write_text(json.dumps([{"name": name, "classid": number} for number, name in zip(OF_2017, HYPHENS, strict=True)]).replace('"name": ', '"n": '))
    with pytest.raises(RequestError, match="expected a list of"):
        cases(root)
    (root / "labels_2017.json").write_text(json.dumps([{"name": name, "classid": number} for name, number in zip(HYPHENS, OF_2017, strict=True)]))
    with pytest.raises(RequestError, match="expected one numbering of the instruments"):
        cases(root)
    (root / "labels_2017.json").unlink()
    (root / "labels.json").write_text(json.dumps([*declared[:6], {"name": "clip applier", "classid": 3}]))
    with pytest.raises(RequestError, match="expected another number above 0 for each instrument"):
        cases(root)


@pytest.mark.trap("datasets-2d 8 Images: labels.json of the challenge lists scene parts, of the test set as {classes: []} with RGBA")
def test_the_labels_file_of_the_challenge_says_nothing_of_instruments(root: Path) -> None:
    before = cases(root)
    parts = [{"name": "background-tissue", "color": [0, 0, 0], "classid": 0}, {"name": "suction-instrument", "color": [123, 15, 175], "classid": 9}]
    (root / "labels.json").write_text(json.dumps(parts))
    (root / "release").mkdir()
    (root / "release" / "labels.json").write_text(json.dumps({"classes": [{"name": "clamps", "color": [0, 255, 125, 255], "classid": 7}]}))
    assert cases(root) == before


@pytest.mark.trap("datasets-2d 8 Images: labels are often RGBA; drop alpha")
def test_a_mask_of_indices_may_be_stored_as_rgba_and_colours_are_refused(root: Path) -> None:
    before = masks(root)
    file = root / "train" / "annotations" / "seq1_frame000.png"
    indices = np.asarray(Image.open(file))
    Image.fromarray(np.dstack([indices, indices, indices, np.full_like(indices, 255)])).save(file)
    assert masks(root) == before
    colours = np.zeros((*indices.shape, 4), np.uint8)
    colours[indices > 0] = (123, 15, 175, 255)
    colours[..., 3] = 255
    Image.fromarray(colours).save(file)
    with pytest.raises(CaseError, match="expected one number per pixel"):
        masks(root)


# ------------------------------------------------------------------------------------- split and absence


@pytest.mark.trap("datasets-2d 8 Split: test is sequences 2, 5, 9 and 15; there is no third set")
def test_the_four_sequences_of_isinet_are_test_and_a_sequence_is_a_patient(root: Path) -> None:
    found = cases(root)
    assert {case.patient for case in found if case.split == "test"} == {"seq2", "seq5"}
    assert {case.patient for case in found if case.split == "train"} == {"seq1", "seq3", "seq4", "seq6"}
    assert not any(case.split == "val" for case in found)
    assert "must not choose anything" in (ENDOVIS18.note or "")


@pytest.mark.trap("datasets-2d 8 Challenge layout: 15 sequences (no seq_8) of 149 frames")
def test_counts_and_names_of_the_release() -> None:
    assert 8 not in SEQUENCES
    assert ENDOVIS18.counts == {"train": 1639, "test": 596}
    names = {name_of((sequence, frame)): sequence for sequence in SEQUENCES for frame in range(149)}
    assert len(names) == 2235
    assert {name_of((1, 0)), name_of((16, 148))} == {"seq1_frame000", "seq16_frame148"}
    for split, known in ENDOVIS18.checksums.items():
        assert checksum(name for name, sequence in names.items() if (sequence in TEST) == (split == "test")) == known


def test_sequences_of_another_year_or_in_the_wrong_part_are_refused(root: Path) -> None:
    shutil.copy(root / "train" / "images" / "seq1_frame000.png", root / "train" / "images" / "seq8_frame000.png")
    with pytest.raises(RequestError, match="expected the sequences 1 to 7 and 9 to 16 of 2018, found 8"):
        cases(root)
    (root / "train" / "images" / "seq8_frame000.png").rename(root / "val" / "images" / "seq3_frame009.png")
    with pytest.raises(RequestError, match="found sequence 3 in val"):
        cases(root)
    (root / "val" / "images" / "seq3_frame009.png").rename(root / "val" / "images" / "picture.png")
    with pytest.raises(RequestError, match=r"picture\.png: expected a name such as seq1_frame000\.png"):
        cases(root)


@pytest.mark.trap("datasets-2d rules 1: a missing root, label file or image names the expected path")
def test_partial_copies_are_named_with_count_and_first_files(root: Path) -> None:
    (root / "train" / "images" / "seq1_frame000.png").unlink()
    (root / "val" / "annotations" / "seq2_frame001.png").unlink()
    with pytest.raises(MissingError, match=r"endovis18: 2 of 18 files are missing .*annotations/seq2_frame001\.png, images/seq1_frame000\.png"):
        cases(root)


def test_one_frame_in_two_files_is_refused(root: Path) -> None:
    (root / "train" / "images" / "seq1").mkdir()
    shutil.copy(root / "train" / "images" / "seq1_frame000.png", root / "train" / "images" / "seq1" / "frame000.png")
    with pytest.raises(RequestError, match="expected one file of seq1_frame000 in images"):
        cases(root)


def test_it_is_found_by_its_folders(root: Path) -> None:
    assert locate(ENDOVIS18, root.parent) == root
    assert locate(ENDOVIS18, root) == root


def test_the_page_says_what_is_rare() -> None:
    assert "rare or absent" in (endovis18.__doc__ or "")
