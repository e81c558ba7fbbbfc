"""A user's own data: what a manifest may say, and one clear sentence for everything that can be wrong with it."""

import csv
import math
import re
import shutil
from pathlib import Path

import pytest

from medprobe.datasets.manifest import load_manifest
from medprobe.errors import MissingError, RequestError
from medprobe.imaging.labels import read_labels
from medprobe.types import Case, Source

KEYS = {"name": '"toy"', "kind": '"classification"', "dims": "2", "modality": '"photo"', "classes": '["cat", "dog"]', "cases": '"cases.csv"'}
TABLE = """\
id,patient,split,image,target
1,p1,train,images/a.png,cat
2,p1,train,images/b.png,dog
3,p2,test,images/c.png,cat
4,p2,test,images/d.png,dog
"""


def write(folder: Path, table: str = TABLE, images: str = "abcd", **keys: str) -> Path:
    """A manifest in `folder` with empty images; a key given as "" is left out."""
    (folder / "images").mkdir(exist_ok=True)
    for name in images:
        (folder / "images" / f"{name}.png").touch()
    (folder / "cases.csv").write_bytes(table.encode())
    path = folder / "toy.toml"
    path.write_text("".join(f"{key} = {value}\n" for key, value in {**KEYS, **keys}.items() if value))
    return path


def cases(path: Path) -> list[Case]:
    dataset = load_manifest(path)
    assert dataset.root == path.parent.resolve()
    return list(dataset.cases(dataset.root))


def refusal(path: Path) -> str:
    """The one message of status 2 that this manifest must raise."""
    with pytest.raises(RequestError) as raised:
        load_manifest(path)
    assert raised.value.exit_status == 2
    return str(raised.value)


def edited(line: str, by: str) -> str:
    assert line in TABLE
    return TABLE.replace(line, by)


# ------------------------------------------------------------------------------------ what may be said


def test_a_manifest_gives_its_cases_in_order(tmp_path: Path) -> None:
    dataset = load_manifest(write(tmp_path))
    assert (dataset.name, dataset.kind, dataset.dims, dataset.modality, dataset.classes) == ("toy", "classification", 2, "photo", ("cat", "dog"))
    first, second, third, _ = list(dataset.cases(tmp_path))
    assert first == Case("1", "p1", {"image": (Source(tmp_path.resolve() / "images" / "a.png"),)}, 0, "train")
    assert (second.target, third.split, third.patient) == (1, "test", "p2")


def test_classes_may_be_given_by_index_and_spreadsheets_write_floats(tmp_path: Path) -> None:
    table = TABLE.replace("cat", "0").replace("dog", "1.0")
    assert [case.target for case in cases(write(tmp_path, table))] == [0, 1, 0, 1]


def test_a_class_name_wins_over_an_index(tmp_path: Path) -> None:
    table = TABLE.replace("cat", "1").replace("dog", "0")
    assert [case.target for case in cases(write(tmp_path, table, classes='["1", "0"]'))] == [0, 1, 0, 1]


def test_an_empty_target_is_unlabelled(tmp_path: Path) -> None:
    found = cases(write(tmp_path, TABLE + "5,p3,train,images/a.png,\n"))
    assert [case.target for case in found] == [0, 1, 0, 1, None]


MULTILABEL = """\
id,patient,fold,image,cat,dog
1,p1,0,images/a.png,1,0
2,p1,0,images/b.png,,1
3,p2,1,images/c.png,0.0,1.0
4,p2,1,images/d.png,,
"""


def test_multilabel_columns_become_zeros_ones_and_nan(tmp_path: Path) -> None:
    dataset = load_manifest(write(tmp_path, MULTILABEL, multilabel="true"))
    one, two, three, four = [case.target for case in dataset.cases(tmp_path)]
    assert dataset.multilabel
    assert (one, three, four) == ((1.0, 0.0), (0.0, 1.0), None)
    assert math.isnan(two[0])
    assert two[1] == 1.0


def test_folds_are_numbers_and_splits_then_absent(tmp_path: Path) -> None:
    found = cases(write(tmp_path, MULTILABEL, multilabel="true"))
    assert [(case.split, case.fold) for case in found] == [(None, 0), (None, 0), (None, 1), (None, 1)]


def test_a_patient_in_fold_1_and_1_0_is_in_one_fold(tmp_path: Path) -> None:
    table = MULTILABEL.replace("3,p2,1,", "3,p2,1.0,")
    assert [case.fold for case in cases(write(tmp_path, table, multilabel="true"))] == [0, 0, 1, 1]


def test_neither_split_nor_fold_is_allowed(tmp_path: Path) -> None:
    table = "\n".join(",".join(value for place, value in enumerate(line.split(",")) if place != 2) for line in TABLE.splitlines())
    assert {(case.split, case.fold) for case in cases(write(tmp_path, table))} == {(None, None)}


def test_channels_members_frames_and_spacing_are_understood(tmp_path: Path) -> None:
    for name in ("a.h5", "b.npz", "c.mp4", "odd:name.png"):
        (tmp_path / name).touch()
    table = (
        "id,patient,image,target,spacing,frame\n"
        "1,p1,images/a.png; images/b.png,cat,,\n"
        "2,p1,a.h5:/raw/ct;b.npz:/mr,dog,2.5 1 1,\n"
        "3,p2,c.mp4;c.mp4,cat,,7\n"
        "4,p2,odd:name.png;images/d.png,cat,,\n"
    )
    root = tmp_path.resolve()
    one, two, three, four = cases(write(tmp_path, table))
    assert one.images["image"] == (Source(root / "images/a.png"), Source(root / "images/b.png"))
    assert two.images["image"] == (Source(root / "a.h5", "raw/ct"), Source(root / "b.npz", "mr"))
    assert two.fields == {"spacing": "2.5 1 1"}
    assert three.images["image"][0].frames == (7,)
    assert four.images["image"][0] == Source(root / "odd:name.png")


def test_byte_order_mark_crlf_blank_lines_and_spaces_change_nothing(tmp_path: Path) -> None:
    plain = cases(write(tmp_path))
    assert cases(write(tmp_path, "\ufeff" + TABLE.replace(",", " , ").replace("\n", "\r\n") + "\r\n,,,,\r\n")) == plain
    path = tmp_path / "toy.toml"
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert cases(path) == plain


def test_names_beyond_ascii_and_quoted_commas_are_fine(tmp_path: Path) -> None:
    for name in ("Müller, 3 – 日本.png", "#1 %20.png"):
        (tmp_path / name).touch()
    table = TABLE.replace("images/a.png", '"Müller, 3 – 日本.png"').replace("images/b.png", "#1 %20.png").replace("cat", "chat ﬂou")
    found = cases(write(tmp_path, table, classes='["chat ﬂou", "dog"]'))
    assert [case.images["image"][0].path.name for case in found[:2]] == ["Müller, 3 – 日本.png", "#1 %20.png"]


# ------------------------------------------------------------------------------------ the manifest itself


@pytest.mark.parametrize("kind", ["clasification", "Bags", "detection"])
def test_a_kind_that_there_is_not_lists_those_there_are(tmp_path: Path, kind: str) -> None:
    listed = r"\(classification, bags, segmentation, instances, registration\)"
    assert re.search(rf"kind: must be one of those there are {listed}, found '{kind}'", refusal(write(tmp_path, kind=f'"{kind}"')))
    assert "found None" in refusal(write(tmp_path, kind=""))


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"clases": '["a"]'}, "clases: no such key; did you mean classes"),
        ({"values": "[0, 255]"}, "values: belongs to masks"),
        ({"ignore": "255"}, "ignore: belongs to masks"),
        ({"name": '"My Data"'}, "name: expected small letters.*'My Data'"),
        ({"name": ""}, "name: expected this key"),
        ({"dims": "4"}, "dims: .*found 4"),
        ({"classes": '"cat"'}, "classes: .*found 'cat'"),
        ({"classes": '["cat", 3]'}, r"classes\.1: .*found 3"),
        ({"classes": ""}, "classes: expected this key, found none; add it"),
        ({"classes": "[]"}, r"classes: .*found \[\]"),
        ({"classes": '["cat"]'}, "classes: expected two or more"),
        ({"classes": '["cat", "cat"]'}, "classes: expected different names, found 'cat' twice"),
        ({"multilabel": '"yes"'}, "multilabel: .*found 'yes'"),
        ({"multilabel": "true", "classes": '["id", "dog"]'}, "classes: 'id' is the name of another column"),
    ],
)
def test_a_wrong_key_is_named(tmp_path: Path, keys: dict[str, str], said: str) -> None:
    assert re.search(said, refusal(write(tmp_path, **keys)))


def test_all_wrong_keys_are_named_at_once(tmp_path: Path) -> None:
    said = refusal(write(tmp_path, kind='"bag"', dims="5", colour='"red"'))
    assert "3 faults" in said
    assert all(word in said for word in ("kind", "dims", "colour"))


def test_a_manifest_that_is_not_there_or_no_toml_is_named(tmp_path: Path) -> None:
    assert "found no file there" in refusal(tmp_path / "gone.toml")
    path = write(tmp_path)
    path.write_text("name = \n")
    assert "expected a TOML file" in refusal(path)
    assert "cases: expected a CSV file, found none" in refusal(write(tmp_path, cases='"other.csv"'))


@pytest.mark.parametrize("name", ["../cases.csv", "/etc/passwd"])
def test_the_table_of_cases_must_be_inside_too(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "inner"
    folder.mkdir()
    (tmp_path / "cases.csv").write_text(TABLE)
    assert "cases: " in refusal(write(folder, cases=f'"{name}"'))


# ------------------------------------------------------------------------------------ the table


@pytest.mark.trap("bad input: label outside the vocabulary")
def test_a_label_outside_the_vocabulary_names_its_row_and_the_nearest_class(tmp_path: Path) -> None:
    assert "row 3: no class 'dgo'; did you mean dog?" in refusal(write(tmp_path, edited("b.png,dog", "b.png,dgo")))
    assert "row 3: no class '2'" in refusal(write(tmp_path, edited("b.png,dog", "b.png,2")))
    assert "row 3: no class '-1'" in refusal(write(tmp_path, edited("b.png,dog", "b.png,-1")))


@pytest.mark.trap("bad input: duplicate id")
def test_an_id_that_occurs_twice_is_named_with_its_rows(tmp_path: Path) -> None:
    assert "id '1' is in rows 2 and 4" in refusal(write(tmp_path, edited("3,p2", "1,p2")))


@pytest.mark.trap("bad input: patient in two splits")
def test_a_patient_in_two_splits_is_named_with_rows(tmp_path: Path) -> None:
    assert "patient 'p1' is in splits 'train' (row 2) and 'test' (row 4)" in refusal(write(tmp_path, edited("3,p2", "3,p1")))


@pytest.mark.trap("bad input: patient in two folds")
def test_a_patient_in_two_folds_is_named(tmp_path: Path) -> None:
    said = refusal(write(tmp_path, MULTILABEL.replace("3,p2", "3,p1"), multilabel="true"))
    assert "patient 'p1' is in folds 0 (row 2) and 1 (row 4)" in said


@pytest.mark.trap("bad input: class absent from train or test")
@pytest.mark.parametrize(("line", "by", "part"), [("b.png,dog", "b.png,cat", "train"), ("d.png,dog", "d.png,cat", "test")])
def test_a_class_absent_from_train_or_test_is_named(tmp_path: Path, line: str, by: str, part: str) -> None:
    assert f"no case in {part} has class dog" in refusal(write(tmp_path, edited(line, by)))


def test_a_class_absent_altogether_is_named_with_folds_and_one_absent_from_a_fold_is_not(tmp_path: Path) -> None:
    table = TABLE.replace("split", "fold").replace("train", "0").replace("test", "1").replace("d.png,dog", "d.png,cat")
    assert len(cases(write(tmp_path, table))) == 4
    assert "no case has class dog" in refusal(write(tmp_path, table.replace("dog", "cat")))
    assert "no case has class dog" in refusal(write(tmp_path, MULTILABEL.replace(",1\n", ",0\n").replace(",1.0\n", ",0\n"), multilabel="true"))


def test_folds_must_count_from_0_without_a_gap(tmp_path: Path) -> None:
    for numbers in (("1", "2"), ("0", "2"), ("0", "0")):
        table = TABLE.replace("split", "fold").replace("train", numbers[0]).replace("test", numbers[1])
        assert "folds must be 0, 1, ... without a gap" in refusal(write(tmp_path, table))


@pytest.mark.trap("bad input: a manifest path that leaves its folder")
@pytest.mark.parametrize("text", ["../secret.png", "images/../../secret.png", "images/..", "images/out.png", "linked/secret.png"])
def test_a_path_that_leaves_the_folder_is_refused(tmp_path: Path, text: str) -> None:
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    (tmp_path / "secret.png").touch()
    (folder / "images" / "out.png").symlink_to(tmp_path / "secret.png")
    (folder / "linked").symlink_to(tmp_path)
    path = write(folder, edited("images/a.png", text))
    if text == "images/..":  # inside, though a folder: nothing leaves
        assert len(cases(path)) == 4
    else:
        assert re.search(rf"row 2: image: .*{re.escape(repr(text))}, which leaves it", refusal(path))


@pytest.mark.parametrize("text", ["/etc/hostname", "C:/data/a.png", r"C:\data\a.png"])
def test_an_absolute_path_is_refused_with_the_reason(tmp_path: Path, text: str) -> None:
    assert re.search(r"row 2: image: paths are relative .* so that its folder can be moved", refusal(write(tmp_path, edited("images/a.png", text))))


def test_a_link_that_stays_inside_is_fine(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "link.png").symlink_to("a.png")
    assert len(cases(write(tmp_path, edited("images/b.png", "images/link.png")))) == 4


@pytest.mark.trap("bad input: missing images (count and first names)")
def test_missing_images_alone_are_status_3_with_count_and_first_names(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"toy: 2 of 4 files are missing .*first images/c\.png, images/d\.png; correct the paths in the table, or fetch the files") as raised:
        load_manifest(write(tmp_path, images="ab"))
    assert raised.value.exit_status == 3


def test_missing_images_beside_other_faults_are_told_with_them(tmp_path: Path) -> None:
    said = refusal(write(tmp_path, edited("b.png,dog", "b.png,dgo"), images="ab"))
    assert "2 faults" in said
    assert "2 of 4 images are missing, first images/c.png" in said


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("id,patient,split,imgae,target", r"no column 'image'(.|\n)*unknown column 'imgae'; did you mean image"),
        ("id,patient,split,image,label", "no column 'target'"),
        ("id,patient,split,image,image", "column 'image' is there 2 times"),
        ("id,split,fold,image,target", "both a split and a fold column"),
    ],
)
def test_wrong_columns_are_named(tmp_path: Path, header: str, said: str) -> None:
    assert re.search(said, refusal(write(tmp_path, edited("id,patient,split,image,target", header))))


def test_an_unknown_column_is_refused_with_the_nearest_name(tmp_path: Path) -> None:
    table = "\n".join(line + (",spaceing" if not number else ",1 1 1") for number, line in enumerate(TABLE.splitlines()))
    assert "unknown column 'spaceing'; did you mean spacing" in refusal(write(tmp_path, table))


@pytest.mark.parametrize(
    ("line", "by", "said"),
    [
        ("1,p1", ",p1", "row 2: id is empty"),
        ("1,p1", "1,", "row 2: patient is empty"),
        ("images/a.png", "", "row 2: image is empty"),
        ("1,p1,train", "1,p1,", "row 2: split must be train, val or test, found ''"),
        ("1,p1,train", "1,p1,Train", "row 2: split must be train, val or test, found 'Train'; did you mean train"),
        ("a.png,cat", "a.png,cat,extra", "row 2: expected 5 values, found 6"),
        ("a.png,cat", "a.png", "row 2: expected 5 values, found 4"),
        ("images/a.png", "images/a.png;", "row 2: image: expected a path between the semicolons"),
        ("images/a.png", "images/a.png:/x", "row 2: image: expected a path, file.h5:/dataset"),
        ("images/a.png", "images/a.png;images/b.png", "same number of channels in every row, found 1 (row 3) and 2 (row 2)"),
    ],
)
def test_a_wrong_row_is_named_by_its_number(tmp_path: Path, line: str, by: str, said: str) -> None:
    assert said in refusal(write(tmp_path, edited(line, by)))


@pytest.mark.parametrize(
    ("column", "value", "said"),
    [
        ("frame", "x", "frame must be a whole number"),
        ("frame", "-1", "frame must be a whole number"),
        ("spacing", "1 1", "spacing must be three sizes"),
        ("spacing", "1 1 0", "spacing must be three sizes"),
        ("spacing", "1 1 nan", "spacing must be three sizes"),
    ],
)
def test_a_wrong_optional_value_is_named(tmp_path: Path, column: str, value: str, said: str) -> None:
    table = "\n".join(line + (f",{column}" if not number else f",{value}" if number == 2 else ",") for number, line in enumerate(TABLE.splitlines()))
    assert f"row 3: {said}" in refusal(write(tmp_path, table))


def test_a_wrong_flag_of_a_multilabel_table_is_named(tmp_path: Path) -> None:
    assert "row 2: cat must be 0, 1 or empty, found 'yes'" in refusal(write(tmp_path, MULTILABEL.replace("a.png,1", "a.png,yes"), multilabel="true"))


def test_all_faults_are_listed_at_once_and_those_alike_counted(tmp_path: Path) -> None:
    said = refusal(write(tmp_path, TABLE.replace("cat", "cta").replace("p2,test", "p1,test").replace("4,", "3,")))
    assert "4 faults" in said
    assert len(said.splitlines()) == 5
    many = TABLE + "".join(f"{number},q,train,images/a.png,wolf\n" for number in range(10, 40)) + "41,z,tran,images/a.png,cat\n"
    said = refusal(write(tmp_path, many))
    assert "31 faults" in said
    assert said.count("no class 'wolf'") == 3
    assert "... and 27 more like this" in said
    assert "found 'tran'" in said, "a fault of another kind is not buried"


def test_a_number_is_no_index_where_classes_are_named_by_numbers(tmp_path: Path) -> None:
    table = "id,patient,split,image,target\n1,p1,train,images/a.png,1\n2,p2,test,images/b.png,0\n"
    assert "no class '0'" in refusal(write(tmp_path, table, classes='["1", "2"]'))


def test_an_empty_table_and_one_in_another_encoding_are_named(tmp_path: Path) -> None:
    assert "expected at least one case" in refusal(write(tmp_path, TABLE.splitlines()[0]))
    assert "no column 'id'" in refusal(write(tmp_path, ""))
    path = write(tmp_path)
    (tmp_path / "cases.csv").write_bytes(TABLE.replace("cat", "Kätzchen").encode("latin-1"))
    assert "save it as CSV in UTF-8" in refusal(path)


# ------------------------------------------------------------------------------------------ bags

BAGS = """\
id,patient,fold,image,target
1,p1,0,slides/a.svs,cat
2,p1,0,tiles,dog
3,p2,1,c.h5,cat
4,p2,1,c.h5:/features,
"""


def bags(folder: Path, table: str = BAGS, **keys: str) -> Path:
    (folder / "slides").mkdir(exist_ok=True)
    (folder / "tiles").mkdir(exist_ok=True)
    for name in ("slides/a.svs", "tiles/1.png", "c.h5"):
        (folder / name).touch()
    return write(folder, table, kind='"bags"', **keys)


def test_a_bag_is_a_slide_a_folder_of_tiles_or_an_h5(tmp_path: Path) -> None:
    dataset = load_manifest(bags(tmp_path))
    found, root = list(dataset.cases(tmp_path)), tmp_path.resolve()
    assert dataset.kind == "bags"
    assert [case.images["image"] for case in found] == [(Source(root / "slides/a.svs"),), (Source(root / "tiles"),), (Source(root / "c.h5"),), (Source(root / "c.h5", "features"),)]
    assert [case.target for case in found] == [0, 1, 0, None]


def test_bags_are_checked_as_images_are(tmp_path: Path) -> None:
    assert "no case has class dog" in refusal(bags(tmp_path, BAGS.replace("dog", "cat")))
    assert "row 3: no class 'wolf'" in refusal(bags(tmp_path, BAGS.replace("dog", "wolf")))
    assert "values: belongs to masks, and kind is bags" in refusal(bags(tmp_path, values="[0, 1]"))
    (tmp_path / "tiles" / "1.png").unlink()
    (tmp_path / "tiles").rmdir()
    path = write(tmp_path, BAGS, kind='"bags"')
    with pytest.raises(MissingError, match=r"1 of 3 files are missing .*first tiles"):
        load_manifest(path)


# ------------------------------------------------------------------------------------------ masks

SEGMENTATION = """\
id,patient,split,image,target
1,p1,train,images/a.png,masks/a.png
2,p1,train,images/b.png,masks.h5:/b
3,p2,test,images/c.png,masks.npz:/c
4,p2,test,images/d.png,
"""
OVERLAPPING = """\
id,patient,split,image,cat,dog
1,p1,train,images/a.png,masks/a.png,masks/b.png
2,p2,test,images/b.png,,
"""
REGISTRATION = """\
id,patient,fold,fixed,moving,fixed_target,moving_target
1,p1,0,images/a.png,images/b.png,masks/a.png,masks.h5:/b
2,p2,1,images/c.png,images/d.png,,
"""
FILES = ("masks/a.png", "masks/b.png", "masks.h5", "masks.npz")


def masks(folder: Path, table: str = SEGMENTATION, kind: str = "segmentation", files: tuple[str, ...] = FILES, **keys: str) -> Path:
    (folder / "masks").mkdir(exist_ok=True)
    for name in files:
        (folder / name).touch()
    return write(folder, table, kind=f'"{kind}"', **keys)


def test_a_segmentation_has_the_source_of_a_mask_as_target(tmp_path: Path) -> None:
    dataset = load_manifest(masks(tmp_path, values="[0, 255]", ignore="7"))
    root = tmp_path.resolve()
    assert (dataset.kind, dataset.classes, dataset.values, dataset.ignore, dataset.note) == ("segmentation", ("cat", "dog"), (0, 255), 7, None)
    targets = [case.target for case in dataset.cases(tmp_path)]
    assert targets == [(Source(root / "masks/a.png"),), (Source(root / "masks.h5", "b"),), (Source(root / "masks.npz", "c"),), None]
    plain = load_manifest(masks(tmp_path))
    assert (plain.values, plain.ignore) == (None, None)


def test_overlapping_classes_have_a_mask_each(tmp_path: Path) -> None:
    dataset = load_manifest(masks(tmp_path, OVERLAPPING, multilabel="true", ignore="9"))
    root = tmp_path.resolve()
    one, two = dataset.cases(tmp_path)
    assert (one.target, two.target) == ((Source(root / "masks/a.png"), Source(root / "masks/b.png")), None)
    assert dataset.multilabel
    assert dataset.ignore == 9


def test_a_class_without_mask_beside_others_is_told_to_have_an_empty_one(tmp_path: Path) -> None:
    said = refusal(masks(tmp_path, OVERLAPPING.replace("masks/b.png", ""), multilabel="true"))
    assert "row 2: expected a mask in each of cat and dog, found none in dog; give an empty mask where a class is absent" in said


def test_instances_have_one_class_unless_they_name_some(tmp_path: Path) -> None:
    dataset = load_manifest(masks(tmp_path, kind="instances", classes="", ignore="0", dims="3"))
    assert (dataset.kind, dataset.classes, dataset.values, dataset.ignore, dataset.dims) == ("instances", ("object",), None, 0, 3)
    assert next(iter(dataset.cases(tmp_path))).target == (Source(tmp_path.resolve() / "masks/a.png"),)
    assert load_manifest(masks(tmp_path, kind="instances", classes='["neuron"]')).classes == ("neuron",)


def test_a_registration_has_two_images_and_two_masks_by_role(tmp_path: Path) -> None:
    one, two = cases(masks(tmp_path, REGISTRATION, "registration"))
    root = tmp_path.resolve()
    assert one.images == {"fixed": (Source(root / "images/a.png"),), "moving": (Source(root / "images/b.png"),)}
    assert one.target == {"fixed": (Source(root / "masks/a.png"),), "moving": (Source(root / "masks.h5", "b"),)}
    assert (two.target, two.fold) == (None, 1)


def test_a_registration_without_masks_needs_neither_classes_nor_columns(tmp_path: Path) -> None:
    bare = "\n".join(",".join(line.split(",")[:5]) for line in REGISTRATION.splitlines())
    for table in (bare, REGISTRATION.replace("masks/a.png,masks.h5:/b", ",")):
        dataset = load_manifest(masks(tmp_path, table, "registration", classes=""))
        assert dataset.classes == ()
        assert [case.target for case in dataset.cases(tmp_path)] == [None, None]


@pytest.mark.parametrize(
    ("line", "by", "said"),
    [
        ("masks/a.png,masks", "masks/a.png;masks/b.png,masks", "row 2: fixed_target: expected one mask, found 2; write one file"),
        (",masks.h5:/b", ",", "row 2: expected a mask in each of fixed_target and moving_target, found none in moving_target; give both or neither"),
        ("images/b.png", "", "row 2: moving is empty; fill it in"),
        ("images/b.png", "../b.png", "row 2: moving: expected a path inside the manifest's folder"),
        ("masks/a.png", "../a.png", "row 2: fixed_target: expected a path inside the manifest's folder"),
        ("images/a.png", "images/a.png;images/b.png", "found 1 (row 2) and 2 (row 2); correct the fixed and moving column"),
        (",moving_target", "", "no column 'moving_target'; add it"),
        (",moving_target", ",moving_targte", "unknown column 'moving_targte'; did you mean moving_target"),
        ("fixed,", "image,", "no column 'fixed'"),
        ("2,p2,1", "2,p1,1", "patient 'p1' is in folds 0 (row 2) and 1 (row 3)"),
        ("2,p2,1", "1,p2,1", "id '1' is in rows 2 and 3"),
        ("2,p2,1", "2,p2,3", "folds must be 0, 1, ... without a gap"),
    ],
)
def test_what_is_wrong_with_a_registration_is_named(tmp_path: Path, line: str, by: str, said: str) -> None:
    assert line in REGISTRATION
    assert said in refusal(masks(tmp_path, REGISTRATION.replace(line, by, 1), "registration"))


def test_masks_of_a_registration_need_classes(tmp_path: Path) -> None:
    said = refusal(masks(tmp_path, REGISTRATION, "registration", classes=""))
    assert "found none, and masks in 1 rows, first 2; add classes, background first" in said


@pytest.mark.parametrize("kind", ["segmentation", "instances"])
@pytest.mark.parametrize(
    ("line", "by", "said"),
    [
        ("masks/a.png", "../a.png", "row 2: target: expected a path inside the manifest's folder, found '../a.png', which leaves it"),
        ("masks/a.png", "/a.png", "row 2: target: paths are relative to the manifest"),
        ("masks/a.png", "masks/out.png", "row 2: target: expected a path inside the manifest's folder, found 'masks/out.png', which leaves it"),
        ("masks/a.png", "masks/a.png:/x", "row 2: target: expected a path, file.h5:/dataset"),
        ("masks/a.png", "masks/a.png;masks/b.png", "row 2: target: expected one mask, found 2; write one file"),
        (",target", ",label", "no column 'target'"),
        ("3,p2", "3,p1", "patient 'p1' is in splits 'train' (row 2) and 'test' (row 4)"),
        ("3,p2", "1,p2", "id '1' is in rows 2 and 4"),
    ],
)
def test_what_is_wrong_with_masks_is_named_by_the_same_checks(tmp_path: Path, kind: str, line: str, by: str, said: str) -> None:
    folder = tmp_path / "data"
    (folder / "masks").mkdir(parents=True)
    (folder / "masks" / "out.png").symlink_to(tmp_path / "a.png")
    assert line in SEGMENTATION
    assert said in refusal(masks(folder, SEGMENTATION.replace(line, by), kind))


@pytest.mark.trap("bad input: missing masks (count and first names)")
def test_missing_masks_are_counted_with_missing_images(tmp_path: Path) -> None:
    with pytest.raises(MissingError, match=r"toy: 3 of 7 files are missing .*first images/d\.png, masks\.npz, masks/a\.png"):
        load_manifest(masks(tmp_path, images="abc", files=("masks.h5",)))
    said = refusal(masks(tmp_path, SEGMENTATION.replace("p2,test", "p2,tst", 1), images="abc", files=("masks.h5",)))
    assert "3 of 7 images and masks are missing, first images/d.png" in said


@pytest.mark.parametrize(
    ("kind", "keys", "said"),
    [
        ("segmentation", {"classes": ""}, "classes: expected this key"),
        ("segmentation", {"classes": '["polyp"]'}, r"classes: expected two or more, found \['polyp'\]; name them all, background first, or set multilabel"),
        ("segmentation", {"values": "[0]"}, "values: expected one for each of 2 classes, found 1"),
        ("segmentation", {"values": "[3, 3]"}, "values: expected different values, found 3 twice"),
        ("segmentation", {"values": "[0, 1.5]"}, r"values\.1: .*found 1\.5"),
        ("segmentation", {"values": '"0"'}, "values: .*found '0'"),
        ("segmentation", {"ignore": "true"}, "ignore: .*found True"),
        ("segmentation", {"ignore": "1"}, "ignore: without values 1 means 'dog' in a mask; give values"),
        ("segmentation", {"multilabel": "true", "values": "[0, 255]"}, r"values: with multilabel every class has a mask of 0 and 1 \(or 255\)"),
        ("segmentation", {"multilabel": "true", "ignore": "1"}, "ignore: without values 1 means 'present' in a mask; choose another value"),
        ("instances", {"values": "[0, 1]"}, "values: instances keep the numbers of their file"),
        ("instances", {"multilabel": "true"}, "multilabel: belongs to classification, bags, segmentation, and kind is instances"),
        ("registration", {"multilabel": "true"}, "multilabel: belongs to .*, and kind is registration"),
        ("registration", {"classes": '["heart"]'}, r"classes: expected two or more, found \['heart'\]; name them all, background first$"),
        ("registration", {"classes": "", "values": "[0, 1]"}, "values: expected one for each of 0 classes, found 2"),
        ("segmentation", {"dims": "4"}, "dims: .*found 4"),
    ],
)
def test_a_wrong_key_of_masks_is_named(tmp_path: Path, kind: str, keys: dict[str, str], said: str) -> None:
    assert re.search(said, refusal(masks(tmp_path, kind=kind, **keys)))


def test_a_value_written_for_a_class_and_as_ignored_counts_as_the_class(tmp_path: Path) -> None:
    dataset = load_manifest(masks(tmp_path, values="[0, 255]", ignore="255"))
    assert (dataset.values, dataset.ignore) == ((0, 255), None)
    assert dataset.note == "ignore = 255 is also the mask value of class 'dog', and counts as that class"


def test_a_class_needs_no_case_of_its_own_in_masks_and_frames_are_of_images(tmp_path: Path) -> None:
    table = "\n".join(line + (",frame" if not number else ",7" if number == 1 else ",") for number, line in enumerate(SEGMENTATION.splitlines()))
    first = cases(masks(tmp_path, table, classes='["a", "b", "c"]'))[0]
    assert first.images["image"][0].frames == (7,)
    assert first.target[0].frames is None


def test_a_real_manifest_of_polyps_is_read_and_its_masks_understood(tmp_path: Path, samples: Path) -> None:
    data = samples / "endoscopy_polyp"
    with (data / "cases.csv").open() as file:
        rows = list(csv.DictReader(file))[:6]
    lines = ["id,patient,split,image,target"]
    for number, row in enumerate(rows):
        for name in (row["image"], row["mask"]):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            shutil.copy(data / name, tmp_path / name)
        lines.append(f"{number},{number},{'test' if number % 2 else 'train'},{row['image']},{row['mask']}")
    dataset = load_manifest(write(tmp_path, "\n".join(lines), kind='"segmentation"', classes='["background", "polyp"]', values="[0, 255]"))
    for case, row in zip(dataset.cases(tmp_path), rows, strict=True):
        found = read_labels(case.target, dims=dataset.dims, classes=dataset.classes, values=dataset.values, ignore=dataset.ignore)
        assert found.labels.mean() == pytest.approx(float(row["polyp_fraction"]), abs=1e-3)


def test_channels_of_volumes_are_read_on_the_grid_of_the_first(samples: Path, tmp_path: Path) -> None:
    import shutil

    from medprobe.imaging import recipes

    for name in ("CT_image", "CT_mask", "PET_image"):
        shutil.copy(samples / "petct_sarcoma" / "STS_002" / f"{name}.nii.gz", tmp_path)
    (tmp_path / "m.toml").write_text('name = "m"\nkind = "segmentation"\ndims = 3\nclasses = ["background", "tumour"]\n')
    (tmp_path / "cases.csv").write_text("id,patient,image,target\na,a,CT_image.nii.gz;PET_image.nii.gz,CT_mask.nii.gz\nb,b,CT_image.nii.gz;CT_image.nii.gz,CT_mask.nii.gz\n")
    one, two = load_manifest(tmp_path / "m.toml").cases(tmp_path)
    assert [source.grid for source in one.images["image"]] == [None, (tmp_path / "CT_image.nii.gz").resolve()]
    assert [source.grid for source in two.images["image"]] == [None, None]
    assert recipes.image(one.images["image"], "ct+suv").pixels.shape == (2, 48, 143, 161)


# ------------------------------------------------------------------------- tables of other systems


def test_backslashes_stand_between_folders_unless_a_file_has_them_in_its_name(
    tmp_path: Path,
) -> None:
    plain = cases(write(tmp_path))
    assert cases(write(tmp_path, TABLE.replace("images/", "images\\"))) == plain
    assert cases(write(tmp_path, TABLE.replace("images/", ".\\images\\"))) == plain
    (tmp_path / r"images\a.png").touch()
    found = cases(write(tmp_path, TABLE.replace("images/", "images\\")))
    assert found[0].images["image"][0].path.name == r"images\a.png"
    assert found[1] == plain[1]


def test_backslashes_are_understood_in_masks_members_and_the_name_of_the_table(
    tmp_path: Path,
) -> None:
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "a.h5").touch()
    table = "id,patient,split,image,target\n1,p,test,images\\a.png;images\\b.png,m\\a.h5:/x\n"
    keys = {"kind": '"segmentation"', "cases": r"'m\cases.csv'"}
    path = write(tmp_path, **keys)
    (tmp_path / "m" / "cases.csv").write_text(table)
    (case,) = cases(path)
    assert [source.path.name for source in case.images["image"]] == ["a.png", "b.png"]
    assert case.target == (Source(tmp_path.resolve() / "m" / "a.h5", "x"),)


@pytest.mark.parametrize("text", [r"..\secret.png", r"images\..\..\secret.png"])
def test_backslashes_do_not_leave_the_folder(tmp_path: Path, text: str) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "secret.png").touch()
    path = write(tmp_path / "data", edited("images/a.png", text))
    assert "which leaves it" in refusal(path)


@pytest.mark.parametrize("text", [r"D:\a.png", r"\\server\share\a.png", r"\images\a.png"])
def test_paths_of_a_drive_or_server_are_refused_with_the_reason(tmp_path: Path, text: str) -> None:
    path = write(tmp_path, edited("images/a.png", text))
    assert "paths are relative to the manifest" in refusal(path)


@pytest.mark.parametrize(
    ("text", "there"),
    [
        ("images/A.PNG", "images/a.png"),
        ("Images/a.png", "images/a.png"),
        (r"IMAGES\A.png", "images/a.png"),
        ("images/a.jpg", "images/a.png"),
        ("images/ü.png", "images/u\u0308.png"),
        ("images/b c.png", "images/bc.png"),
    ],
)
def test_a_file_of_a_name_that_reads_alike_is_named(tmp_path: Path, text: str, there: str) -> None:
    path = write(tmp_path, edited("images/a.png", text))
    for name in ("u\u0308", "bc"):
        (tmp_path / "images" / f"{name}.png").touch()
    with pytest.raises(MissingError) as raised:
        load_manifest(path)
    assert f"did you mean {there}?" in str(raised.value)
    both = write(tmp_path, edited("images/a.png", text).replace("d.png,dog", "d.png,dgo"))
    assert f"did you mean {there}?" in refusal(both)


@pytest.mark.parametrize(
    "name", ["NA", "None", "nan", "NULL", "1e5", "007", "TRUE", "2024-01-02", "-0"]
)
def test_ids_patients_and_classes_stay_the_text_they_are(tmp_path: Path, name: str) -> None:
    table = TABLE.replace("1,p1", f"{name},p1").replace("p2", name).replace("cat", name)
    found = cases(write(tmp_path, table, classes=f'["{name}", "dog"]'))
    assert (found[0].id, found[2].patient) == (name, name)
    assert [case.target for case in found] == [0, 1, 0, 1]


def test_a_table_of_a_german_spreadsheet_is_understood(tmp_path: Path) -> None:
    table = 'sep=;\nid;patient;split;image;target;spacing\n' + "".join(
        f"{number};p{number};{part};images\\{name}.png;{target};1,5 0,7 0,7\n"
        for number, (part, name, target) in enumerate(
            zip(["train"] * 2 + ["test"] * 2, "abcd", ["cat", "dog"] * 2, strict=True)
        )
    )
    found = cases(write(tmp_path, table))
    assert [case.fields["spacing"] for case in found] == ["1.5 0.7 0.7"] * 4
    assert found[3].target == 1


def test_a_table_of_cases_to_test_alone_is_read_for_scoring(tmp_path: Path) -> None:
    found = cases(write(tmp_path, TABLE.replace("train", "test")))
    assert {case.split for case in found} == {"test"}
    path = write(tmp_path, edited("b.png,dog", "b.png,"))
    assert "no case in train has class dog" in refusal(path)
    lacking = TABLE.replace("train", "test").replace("dog", "cat")
    assert "no case in test has class dog" in refusal(write(tmp_path, lacking))
