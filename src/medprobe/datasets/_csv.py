"""Tables of text as spreadsheets and programs of every system write them; a cell is always text.

Understood: a byte order mark, UTF-8 and UTF-16, any line ends, commas, semicolons and tabs between
columns, a first line `sep=;`, blanks around values, commas at the end of every line, and the column
of row numbers that pandas and R put first.
"""

import codecs
import csv
import io
import re
import string
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medprobe.errors import RequestError

NAMES = {",": "comma", ";": "semicolon", "\t": "tab"}
"""What stands between columns."""
MARKS = {codecs.BOM_UTF16_LE: "utf-16", codecs.BOM_UTF16_BE: "utf-16"}
BLANKS = string.whitespace + "\xa0\ufeff"
NAMELESS = r"(Unnamed: \d+)?"
"""What pandas calls a column without a name when it reads it, and writes."""
LIMIT = 1 << 24
"""Characters of the largest cell."""


@dataclass(frozen=True)
class Sheet:
    """Column names, and the cells of each line that holds any, with its number in the file."""

    header: list[str]
    rows: list[tuple[int, list[str]]]
    separator: str = ","

    def number(self, cell: str) -> str:
        """Numbers with decimal points, for which commas may stand where they part no columns."""
        return cell if self.separator == "," else cell.replace(",", ".")


def sheet_of(path: Path, columns: Collection[str]) -> Sheet:
    """The table of a file, in which some of these columns are wanted. RequestError: it is none."""
    text = text_of(path)
    said = re.match(r'"?sep=([,;\t])"?[,;\t]*(?:\r\n|\r|\n|$)', text, re.IGNORECASE)
    lines = text[said.end() :] if said else text
    separators = said[1] if said else "".join(NAMES)
    first: dict[str, list[str]] = {each: next(_cells(lines, each), []) for each in separators}
    heads = {each: {cell.strip(BLANKS) for cell in cells} for each, cells in first.items()}
    separator = max(separators, key=lambda each: len(heads[each] & set(columns)))
    rows = _rows(path, lines, separator, 1 if said else 0)
    header = rows[0][1] if rows else []
    if len(header) == 1 and sum(name in header[0] for name in columns) > 1:
        raise RequestError(
            f"{path}: expected quotes around cells, found them around whole lines ({header[0]!r}); "
            "save it as CSV again"
        )
    filled = [(number, cells) for number, cells in rows[1:] if any(cells)]
    return _without_nameless(path, Sheet(header, filled, separator))


def text_of(path: Path) -> str:
    data = path.read_bytes()
    encoding = MARKS.get(data[:2], "utf-8-sig")
    if encoding == "utf-8-sig" and b"\0" in data[:2]:
        encoding = "utf-16-be" if data[0] == 0 else "utf-16-le"
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start)
        line = data.split(b"\n")[number].decode("cp1252", "replace").strip()[:60]
        raise RequestError(
            f"{path}: expected text in UTF-8, found another encoding in line {number + 1} "
            f"(in that of Windows it would be {line!r}); save it as CSV in UTF-8"
        ) from None


def _rows(path: Path, text: str, separator: str, before: int) -> list[tuple[int, list[str]]]:
    """Each row with the number of its (last) line, where `before` lines are cut off."""
    reader = _cells(text, separator)
    try:
        return [
            (reader.line_num + before, [cell.strip(BLANKS) for cell in cells]) for cells in reader
        ]
    except csv.Error as error:
        number = reader.line_num + before
        raise RequestError(
            f"{path}: expected rows of cells, found {error} in line {number}; save it as CSV again"
        ) from None


def _cells(text: str, separator: str) -> Any:
    csv.field_size_limit(LIMIT)
    return csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)


def _without_nameless(path: Path, sheet: Sheet) -> Sheet:
    """Without columns that have no name and no use: empty ones, and row numbers in the first."""
    nameless = [place for place, name in enumerate(sheet.header) if re.fullmatch(NAMELESS, name)]
    width = len(sheet.header)
    rows = []
    for number, cells in sheet.rows:
        while len(cells) > width and not cells[-1]:
            cells.pop()
        while len(cells) < width and len(cells) in nameless:
            cells.append("")
        rows.append((number, cells))
    for place in nameless:
        held = [cells[place] for _, cells in rows if len(cells) > place and cells[place]]
        if held and not (place == 0 and _are_row_numbers(held)):
            raise RequestError(
                f"{path}: column {place + 1} has no name, and holds {held[0]!r}; name it, or "
                "remove it (pandas writes its index so: write index=False)"
            )
    left = [place for place in range(width) if place not in nameless]
    if len(left) == width:
        return Sheet(sheet.header, rows, sheet.separator)

    def cut(cells: list[str]) -> list[str]:
        return [cells[place] for place in left] if len(cells) == width else cells

    kept = [(number, cut(cells)) for number, cells in rows]
    return Sheet(cut(sheet.header), kept, sheet.separator)


def _are_row_numbers(cells: list[str]) -> bool:
    numbers = [int(cell) for cell in cells if re.fullmatch(r"\d{1,9}", cell, re.ASCII)]
    return len(numbers) == len(cells) == len(set(numbers)) > 0
