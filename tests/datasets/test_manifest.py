"""A user's own data: what a manifest may say, and one clear sentence for everything that can be wrong with it."""

import math
import re
from pathlib import Path

import pytest

from medprobe.datasets.manifest import load_manifest
from medprobe.errors import MissingError, RequestError
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


@pytest.mark.parametrize("kind", ["segmentation", "bags", "clasification"])
def test_a_kind_that_there_is_not_lists_those_there_are(tmp_path: Path, kind: str) -> None:
    assert re.search(rf"kind.*classification.*found '{kind}'", refusal(write(tmp_path, kind=f'"{kind}"')))


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
        ({"classes": '["cat"]'}, "classes: expected two or more"),
        ({"classes": '["cat", "cat"]'}, "classes: expected different names, found 'cat' twice"),
        ({"multilabel": '"yes"'}, "multilabel: .*found 'yes'"),
        ({"multilabel": "true", "classes": '["id", "dog"]'}, "classes: 'id' is the name of another column"),
    ],
)
def test_a_wrong_key_is_named(tmp_path: Path, keys: dict[str, str], said: str) -> None:
    assert re.search(said, refusal(write(tmp_path, **keys)))


def test_all_wrong_keys_are_named_at_once(tmp_path: Path) -> None:
    said = refusal(write(tmp_path, kind='"bags"', dims="5", colour='"red"'))
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
    with pytest.raises(MissingError, match=r"toy: 2 of 4 files are missing .*first images/c\.png, images/d\.png") as raised:
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
        ("id;patient;split;image;target", "expected commas between columns, found semicolons"),
        ("id\tpatient\tsplit\timage\ttarget", "expected commas between columns, found tabs"),
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


def test_all_faults_are_listed_at_once_and_twenty_shown(tmp_path: Path) -> None:
    said = refusal(write(tmp_path, TABLE.replace("cat", "cta").replace("p2,test", "p1,test").replace("4,", "3,")))
    assert "4 faults" in said
    assert re.findall(r"^  (\d)\. ", said, flags=re.MULTILINE) == ["1", "2", "3", "4"]
    many = TABLE + "".join(f"{number},q,train,images/a.png,wolf\n" for number in range(10, 40))
    said = refusal(write(tmp_path, many))
    assert "30 faults" in said
    assert said.count("no class 'wolf'") == 20
    assert said.endswith("... and 10 more")


def test_an_empty_table_and_one_in_another_encoding_are_named(tmp_path: Path) -> None:
    assert "expected at least one case" in refusal(write(tmp_path, TABLE.splitlines()[0]))
    assert "no column 'id'" in refusal(write(tmp_path, ""))
    path = write(tmp_path)
    (tmp_path / "cases.csv").write_bytes(TABLE.replace("cat", "Kätzchen").encode("latin-1"))
    assert "save it as CSV in UTF-8" in refusal(path)
