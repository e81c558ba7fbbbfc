"""Tables of predictions made elsewhere: ids are the text that was written, numbers are numbers, or it is said."""

from pathlib import Path

import pandas as pd
import pytest
from PIL import Image

from medprobe.errors import RequestError
from medprobe.run.score import score_predictions

IDS = ["NA", "None", "nan", "NULL", "1e5", "007", "TRUE", "x;y"]
CLASSES = ["NA", "None"]


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MEDPROBE_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A manifest of cases to test alone, of which ids and classes are words that libraries take for nothing."""
    rows = ["id,patient,split,image,target"]
    for number, name in enumerate(IDS):
        Image.new("L", (4, 4), number).save(tmp_path / f"{number}.png")
        rows.append(f'"{name}",p{number},test,{number}.png,{CLASSES[number % 2]}')
    (tmp_path / "cases.csv").write_text("\n".join(rows) + "\n")
    (tmp_path / "toy.toml").write_text('name = "toy"\nkind = "classification"\nclasses = ["NA", "None"]\n')
    (tmp_path / "given").mkdir()
    return tmp_path


def scored(home: Path, out: str = "out") -> dict:
    (document,) = score_predictions(
        f"{home}/toy.toml", home / "given", home / out, "them", None, lambda *said: None
    )
    return document


def table(home: Path, separator: str = ",", point: str = ".") -> str:
    lines = [separator.join(("case", "prob.NA", "prob.None"))]
    for number, name in enumerate(IDS):
        wrong = number == 3
        low, high = ("0.25", "0.75")
        first, second = (low, high) if (number % 2 == 1) != wrong else (high, low)
        cells = (f'"{name}"', first.replace(".", point), second.replace(".", point))
        lines.append(separator.join(cells))
    return "\n".join(lines) + "\n"


WAYS = {
    "plain": lambda home: table(home),
    "german": lambda home: "sep=;\r\n" + table(home, ";", ",").replace("\n", "\r\n"),
    "tabs": lambda home: "\ufeff" + table(home, "\t", ","),
    "index": lambda home: "\n".join(
        f"{number - 1 if number else ''},{line}" for number, line in enumerate(table(home).splitlines())
    ),
    "trailing commas": lambda home: table(home).replace("\n", ",\n"),
}


@pytest.mark.parametrize("way", WAYS)
def test_a_table_is_matched_by_ids_as_they_are_written(toy: Path, way: str) -> None:
    (toy / "given" / "predictions.CSV").write_text(WAYS[way](toy), newline="")
    document = scored(toy)
    assert document["scores"]["accuracy@fixed_0.5"]["value"] == 7 / 8
    assert document["task"]["classes"] == CLASSES
    kept = pd.read_parquet(next((toy / "out").rglob("*.predictions.parquet")))
    assert sorted(kept["case"]) == sorted(IDS)


@pytest.mark.parametrize("how", ["text", "index", "bytes"])
def test_parquet_is_matched_by_ids_as_they_are_written(toy: Path, how: str) -> None:
    (toy / "given" / "a.csv").write_text(table(toy))
    first = scored(toy)["scores"]["auroc"]["value"]
    (toy / "given" / "a.csv").rename(toy / "a.csv")
    rows = pd.read_csv(toy / "a.csv", dtype={"case": str}, keep_default_na=False)
    if how == "bytes":
        rows["case"] = [name.encode() for name in rows["case"]]
    if how == "index":
        rows = rows.set_index("case")
    rows.to_parquet(toy / "given" / "a.parquet")
    assert scored(toy, "again")["scores"]["auroc"]["value"] == first


@pytest.mark.parametrize("cell", ["", "NA", "nan", "inf", "high", "0,5"])
def test_a_cell_that_is_no_number_is_named_with_its_case(toy: Path, cell: str) -> None:
    text = table(toy).replace('"007",0.25', f'"007","{cell}"')
    assert text != table(toy)
    (toy / "given" / "a.csv").write_text(text)
    with pytest.raises(RequestError, match=r"expected a number for every class .* for case '007'"):
        scored(toy)


@pytest.mark.parametrize("cell", ["3.4", "-0.1", "1.001", "99"])
def test_logits_and_percent_are_a_wrong_table_not_a_failed_result(toy: Path, cell: str) -> None:
    (toy / "given" / "a.csv").write_text(table(toy).replace('"007",0.25', f'"007",{cell}'))
    with pytest.raises(RequestError, match=rf"a\.csv: expected probabilities from 0 to 1, found .*{cell}.* for case '007'"):
        scored(toy)


def test_a_probability_may_be_rounded_past_1(toy: Path) -> None:
    (toy / "given" / "a.csv").write_text(table(toy).replace('"007",0.25,0.75', '"007",-1e-8,1.00000001'))
    assert scored(toy)["scores"]["accuracy@fixed_0.5"]["value"] == 7 / 8


def test_an_empty_cell_of_parquet_is_named_with_its_case(toy: Path) -> None:
    (toy / "a.csv").write_text(table(toy))
    rows = pd.read_csv(toy / "a.csv", dtype={"case": str}, keep_default_na=False)
    rows.loc[2, "prob.None"] = float("nan")
    rows.to_parquet(toy / "given" / "a.parquet")
    with pytest.raises(RequestError, match="for case 'nan'"):
        scored(toy)


def test_a_row_too_short_and_a_column_that_lacks_are_said(toy: Path) -> None:
    (toy / "given" / "a.csv").write_text(table(toy) + "more\n")
    with pytest.raises(RequestError, match="expected 3 values in every line, found others in line 10"):
        scored(toy)
    (toy / "given" / "a.csv").write_text(table(toy).replace("prob.None", "prob.none"))
    with pytest.raises(RequestError, match=r"found no prob\.None \(did you mean prob\.none"):
        scored(toy)


def test_what_other_systems_leave_beside_a_table_is_no_table(toy: Path) -> None:
    (toy / "given" / "a.csv").write_text(table(toy))
    (toy / "given" / "._a.csv").write_bytes(b"\0\5\x16\7")
    assert scored(toy)["status"] == "done"
