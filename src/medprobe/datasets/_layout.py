"""What every reader of an official layout needs: find the folder, index its files, name what is missing.

Rules shared by all readers: files are matched by stem, operating-system litter is ignored, and whatever is absent is
an error that gives its count and first names; nothing falls back to other data.
"""

import csv
import os
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from medprobe.errors import MissingError, RequestError
from medprobe.types import Dataset

LITTER = frozenset({"__MACOSX", "Thumbs.db", "desktop.ini"})
SETTINGS = "medprobe.toml"


def is_litter(name: str) -> bool:
    """Names that operating systems leave behind: hidden files (`.DS_Store`, `._image.png`), `__MACOSX`, `Thumbs.db`."""
    return name.startswith(".") or name in LITTER


def files_under(folder: Path, suffixes: Iterable[str] = ()) -> Iterator[Path]:
    """All files below a folder in sorted order, litter left out; suffixes as ".png", compared without case."""
    wanted = frozenset(suffix.lower() for suffix in suffixes)
    with os.scandir(folder) as entries:
        listed = sorted(((entry.name, entry.is_dir()) for entry in entries if not is_litter(entry.name)))
    for name, is_folder in listed:
        if is_folder:
            yield from files_under(folder / name, wanted)
        elif not wanted or os.path.splitext(name)[1].lower() in wanted:
            yield folder / name


def index_by_stem(folders: Iterable[Path], suffixes: Iterable[str] = ()) -> dict[str, Path]:
    """Exact file stem -> file, over all folders that exist; where a stem occurs twice the first file stands."""
    wanted = tuple(suffixes)
    index: dict[str, Path] = {}
    for folder in folders:
        if folder.is_dir():
            for path in files_under(folder, wanted):
                index.setdefault(path.stem, path)
    return index


def read_table(path: Path, columns: Sequence[str], dataset: str, how: str) -> list[dict[str, str]]:
    """Rows of an official CSV by column name (a byte order mark and CRLF are fine); MissingError if it lacks `columns`."""
    require(path, dataset, how)
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        absent = [name for name in columns if name not in (reader.fieldnames or ())]
        if absent:
            found = ", ".join(reader.fieldnames or ()) or "an empty file"
            raise MissingError(f"{dataset}: expected the columns {', '.join(columns)} in {path}, found {found}; {how}")
        rows = list(reader)
    short = [str(i) for i, row in enumerate(rows, start=2) if any(row[name] is None for name in columns)]
    if short:
        raise MissingError(f"{dataset}: {path} has {len(short)} incomplete rows, first at line {short[0]}; the download may be partial: {how}")
    return rows


def require(path: Path, dataset: str, how: str) -> Path:
    """The path, or a MissingError that names it and says how to get the data."""
    if not path.exists():
        raise MissingError(f"{dataset}: expected {path}, which is not there; the download may be partial: {how}")
    return path


def first_names(names: Sequence[str], shown: int = 5) -> str:
    """`a, b, c` or `a, b, c, d, e, ...`."""
    return ", ".join(names[:shown]) + (", ..." if len(names) > shown else "")


def missing_files(dataset: str, missing: Sequence[str], expected: int, root: Path, how: str) -> MissingError:
    """The error of a partial download: how many of how many, the first names, how to get the rest."""
    return MissingError(
        f"{dataset}: {len(missing):,} of {expected:,} expected files are missing under {root}, first: "
        f"{first_names(missing)}; the download may be partial: {how}"
    )


def locate(dataset: Dataset, data_root: Path | None) -> Path:
    """The folder that holds a dataset.

    In this order: a manifest's own folder; the path that `[paths]` of DIR/medprobe.toml gives the dataset (relative to
    DIR); DIR/<one of dataset.folders, or its name>; DIR itself, if one of `dataset.markers` lies in it. MissingError
    says where it was looked for and how to get the data; RequestError if medprobe.toml cannot be read.
    """
    if dataset.root is not None:
        return dataset.root
    how = f"get the data: {dataset.source}"
    if data_root is None:
        raise MissingError(f"{dataset.name}: no data root given; use --data DIR or set MEDPROBE_DATA ({how})")
    if not data_root.is_dir():
        raise MissingError(f"{dataset.name}: the data root {data_root} is not a folder; give the folder that holds the datasets with --data DIR ({how})")
    given = _paths_given(data_root).get(dataset.name)
    if given is not None:
        folder = data_root / Path(given).expanduser()
        if not folder.is_dir():
            raise MissingError(f"{dataset.name}: {data_root / SETTINGS} says it is in {folder}, which is not a folder; correct the path or {how}")
        return folder
    names = tuple(dict.fromkeys((*dataset.folders, dataset.name)))
    for name in names:
        if (data_root / name).is_dir():
            return data_root / name
    if any((data_root / marker).exists() for marker in dataset.markers):
        return data_root
    raise MissingError(
        f"{dataset.name}: expected a folder {' or '.join(names)} in {data_root}, or a line {dataset.name} = "
        f'"/its/folder" under [paths] in {data_root / SETTINGS}, found neither; {how}'
    )


def _paths_given(data_root: Path) -> dict[str, str]:
    file = data_root / SETTINGS
    if not file.is_file():
        return {}
    try:
        settings = tomllib.loads(file.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"{file} is not valid TOML ({error}); correct that line") from None
    paths = settings.get("paths", {})
    if not isinstance(paths, dict) or not all(isinstance(value, str) for value in paths.values()):
        raise RequestError(f'{file}: expected [paths] to hold lines such as nih14 = "/its/folder", found {paths!r}; correct it')
    return paths
