"""Tables of text from spreadsheets and programs of every system: cells are text, columns are where they are."""

from pathlib import Path

import pytest

from medprobe.datasets._csv import sheet_of
from medprobe.datasets._layout import read_table
from medprobe.errors import RequestError

COLUMNS = ("id", "name", "value")
TABLE = "id,name,value\n007,Grün,1.5\nNA,None,2\n"
ROWS = [(2, ["007", "Grün", "1.5"]), (3, ["NA", "None", "2"])]


def written(folder: Path, text: str, encoding: str = "utf-8") -> Path:
    path = folder / "a.csv"
    path.write_bytes(text.encode(encoding))
    return path


WAYS = {
    "plain": TABLE,
    "a byte order mark": "\ufeff" + TABLE,
    "CRLF": TABLE.replace("\n", "\r\n"),
    "CR": TABLE.replace("\n", "\r"),
    "no line end": TABLE.rstrip(),
    "semicolons": TABLE.replace(",", ";"),
    "tabs": TABLE.replace(",", "\t"),
    "quotes": '"id","name","value"\n"007","Grün","1.5"\n"NA","None","2"\n',
    "blanks": TABLE.replace(",", " ,  ").replace("\n", " \n"),
    "blanks before quotes": 'id, "name" ,value\n007, "Grün", 1.5\nNA, "None", 2\n',
    "blanks that do not break": TABLE.replace(",", "\xa0,"),
    "commas at the ends": TABLE.replace("\n", ",,\n"),
    "commas at the end of the header": TABLE.replace("value\n", "value,\n"),
    "commas at the ends of rows": TABLE.replace("5\n", "5,\n"),
    "an index of pandas": ",id,name,value\n0,007,Grün,1.5\n1,NA,None,2\n",
    "an index of pandas, twice": "Unnamed: 0,id,name,value\n4,007,Grün,1.5\n9,NA,None,2\n",
    "row numbers of R": '"","id","name","value"\n"1","007","Grün","1.5"\n"2","NA","None","2"\n',
    "empty lines": TABLE + "\n,,\n\n",
}


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_writing_a_table_gives_its_cells(tmp_path: Path, way: str) -> None:
    sheet = sheet_of(written(tmp_path, WAYS[way]), COLUMNS)
    assert (sheet.header, sheet.rows) == (list(COLUMNS), ROWS)


@pytest.mark.parametrize("line", ["sep=,", "sep=;", "SEP=;", '"sep=,"', "sep=\t", "sep=;;;"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_the_line_in_which_excel_names_the_separator_is_none_of_the_table(
    tmp_path: Path, line: str, end: str
) -> None:
    mark = next(each for each in ",;\t" if each in line)
    text = line + end + TABLE.replace(",", mark).replace("\n", end)
    sheet = sheet_of(written(tmp_path, text), COLUMNS)
    assert (sheet.header, sheet.separator) == (list(COLUMNS), mark)
    assert sheet.rows == [(number + 1, cells) for number, cells in ROWS]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_unicode_is_read_whatever_its_bytes(tmp_path: Path, encoding: str) -> None:
    assert sheet_of(written(tmp_path, TABLE, encoding), COLUMNS).rows == ROWS


@pytest.mark.parametrize("encoding", ["cp1252", "latin-1", "cp437"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_another_encoding_is_refused_by_its_line(tmp_path: Path, encoding: str, end: str) -> None:
    path = written(tmp_path, TABLE.replace("\n", end), encoding)
    with pytest.raises(RequestError, match=r"another encoding in line 2 .*007,Gr.*save it as CSV in UTF-8"):
        sheet_of(path, COLUMNS)


def test_a_comma_stands_for_the_point_only_where_it_parts_no_columns(tmp_path: Path) -> None:
    german = sheet_of(written(tmp_path, "id;name;value\n1;a;1,5\n"), COLUMNS)
    assert german.number(german.rows[0][1][2]) == "1.5"
    assert sheet_of(written(tmp_path, 'id,name,value\n1,a,"1,5"\n'), COLUMNS).number("1,5") == "1,5"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (",id,name,value\nx,1,a,2\n", r"column 1 has no name, and holds 'x'.*index=False"),
        (",id,name,value\n3,1,a,2\n3,2,b,2\n", "column 1 has no name, and holds '3'"),
        ("id,name,value,\n1,a,2,note\n", "column 4 has no name, and holds 'note'; name it, or remove it"),
        ("id,,name,value\n1,5,a,2\n", "column 2 has no name, and holds '5'"),
        ('"id,name,value"\n"1,a,2"\n', "found them around whole lines"),
    ],
)
def test_what_is_no_table_is_said(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        sheet_of(written(tmp_path, text), COLUMNS)


def test_an_official_table_is_read_in_the_same_ways(tmp_path: Path) -> None:
    for text in WAYS.values():
        rows = list(read_table(written(tmp_path, text), ("id", "value")))
        assert [(row["id"], row["value"]) for row in rows] == [("007", "1.5"), ("NA", "2")]
    path = written(tmp_path, TABLE, "cp1252")
    with pytest.raises(RequestError, match="another encoding in line 2"):
        list(read_table(path, ("id",)))
