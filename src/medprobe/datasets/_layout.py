"""What every official layout needs: where a dataset is, its files by stem, what is missing, and its fingerprint."""

import hashlib
import os
import tomllib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medprobe.datasets._csv import sheet_of
from medprobe.errors import MissingError, RequestError
from medprobe.files import digest_of
from medprobe.types import Case, Dataset, Lattice, Source

IGNORED = frozenset({".DS_Store", "__MACOSX", "Thumbs.db"})
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".dcm")


def is_leaving(path: Path) -> bool:
    """Whether a file is a leaving of another program (`._*`, `.DS_Store`, `__MACOSX/`, `Thumbs.db`)."""
    return path.name.startswith("._") or any(part in IGNORED for part in path.parts)


def images(folder: Path) -> dict[str, Path]:
    """stem → image file, of one folder, in order of name."""
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGES and not is_leaving(path))
    return {path.stem: path for path in files}


def images_under(folders: Iterable[Path], suffixes: Collection[str] = IMAGES) -> dict[str, Path]:
    """stem → image file, of all folders that exist and everything below them; where a stem occurs twice, the first file."""
    found: dict[str, Path] = {}
    for folder in folders:
        for path in _files_below(folder) if folder.is_dir() else ():
            if path.suffix.lower() in suffixes:
                found.setdefault(path.stem, path)
    return found


def _files_below(folder: Path) -> Iterator[Path]:
    with os.scandir(folder) as entries:
        listed = sorted((entry.name, entry.is_dir()) for entry in entries)
    for name, is_folder in listed:
        path = folder / name
        if not is_leaving(Path(name)):
            yield from _files_below(path) if is_folder else (path,)


def refuse_absent(dataset: Dataset, paths: Iterable[Path]) -> None:
    """MissingError naming every file or folder of the layout that is not there, and how to get the data."""
    absent = [str(path) for path in paths if not path.exists()]
    if absent:
        raise MissingError(f"{dataset.name}: expected {' and '.join(absent)}, found no such thing; get the data from {dataset.source}")


def read_table(path: Path, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """Rows of an official CSV by column name; what `_csv` understands and further columns are fine.

    RequestError if a column is not there; MissingError if the last line ends early.
    """
    sheet = sheet_of(path, columns)
    header = sheet.header
    if any(name not in header for name in columns):
        raise RequestError(
            f"{path}: expected the columns {', '.join(columns)}, "
            f"found {','.join(header) or 'an empty file'!r}; use the released file"
        )
    needed = 1 + max(header.index(name) for name in columns)
    for number, cells in sheet.rows:
        if len(cells) < needed:
            raise MissingError(
                f"{path}: expected {len(header)} values in line {number}, found fewer; "
                "the download may be partial, fetch it again"
            )
        yield dict(zip(header, cells, strict=False))


def checksum(ids: Iterable[str]) -> str:
    """First 16 hex digits of the sha256 of the sorted ids joined by newlines: which cases a part holds, in one word."""
    return hashlib.sha256("\n".join(sorted(ids)).encode()).hexdigest()[:16]


PARTIAL = "the download may be partial, fetch the rest"


def refuse_missing(
    dataset: str, missing: Collection[str], expected: int, base: Path, hint: str = PARTIAL
) -> None:
    """MissingError with the count and the first names, when anything is missing; `hint`: a cause."""
    if missing:
        first = ", ".join(sorted(missing)[:5]) + (", …" if len(missing) > 5 else "")
        raise MissingError(
            f"{dataset}: {len(missing):,} of {expected:,} files are missing under {base}, "
            f"first {first}; {hint}"
        )


def locate(dataset: Dataset, data: Path | None) -> Path:
    """The dataset's folder: a manifest's own; a path in DATA/medprobe.toml; DATA/<folder or name>; or DATA itself when
    it bears the dataset's name or holds one of its markers. MissingError says what was looked for and how to get the data."""
    if dataset.root is not None:
        return dataset.root
    how = f"get it from {dataset.source}, or try it with: medprobe twin {dataset.name} --out DIR"
    if data is None:
        raise MissingError(f"{dataset.name}: expected a data root (--data DIR or MEDPROBE_DATA), found none; {how}")
    named = _paths(data).get(dataset.name)
    if named is not None:
        path = (data / Path(named).expanduser()).resolve()
        if not path.is_dir():
            raise MissingError(f"{dataset.name}: {data / 'medprobe.toml'} names {path}, where there is no folder; correct the path, or {how}")
        return path
    names = dict.fromkeys((*dataset.folders, dataset.name))
    for path in (data / name for name in names):
        if path.is_dir():
            return path
    if data.is_dir() and (data.name in names or any((data / marker).exists() for marker in dataset.markers)):
        return data
    found = "found none" if data.is_dir() else "found no such data root"
    raise MissingError(f"{dataset.name}: expected a folder {' or '.join(names)} in {data}, or its path under [paths] in {data / 'medprobe.toml'}, {found}; {how}")


def _paths(data: Path) -> Mapping[str, Any]:
    file = data / "medprobe.toml"
    if not file.is_file():
        return {}
    try:
        paths = tomllib.loads(file.read_text(encoding="utf-8-sig")).get("paths", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"{file}: expected TOML with a [paths] table, found {error}; correct it") from None
    if not isinstance(paths, dict) or not all(isinstance(path, str) for path in paths.values()):
        raise RequestError(f'{file}: expected lines such as nih14 = "/path" under [paths], found something else; correct it')
    return paths


def cases_of(dataset: Dataset, root: Path) -> list[Case]:
    """The cases of a dataset by their ids, each as its dimensions say: the image of a case of two is
    one plane of pixels, but for bags, and for datasets that score the planes of a video."""
    cases = sorted(dataset.cases(root), key=lambda case: case.id)
    flat = dataset.dims == 2 and dataset.unit == "case" and dataset.kind != "bags"
    return [replace(case, images=_flat(case.images)) for case in cases] if flat else cases


def _flat(images: Mapping[str, tuple[Source, ...]]) -> dict[str, tuple[Source, ...]]:
    return {
        role: tuple(replace(source, plane=True) for source in sources)
        for role, sources in images.items()
    }


def paths_of(cases: Iterable[Case]) -> set[Path]:
    """Every file or folder that cases name, images and masks: what `fingerprint` needs digests of."""
    return {path for case in cases for source in (*_sources(case.images), *_sources(case.target)) for path in source.paths}


def _sources(value: Any) -> Iterator[Source]:
    if isinstance(value, Source):
        yield value
    elif isinstance(value, tuple | Mapping):
        for item in value.values() if isinstance(value, Mapping) else value:
            yield from _sources(item)


def fingerprint(cases: Iterable[Case], digests: Mapping[Path, str]) -> str:
    """sha256 over sorted (id, patient, split, fold, target, source digests): no paths, no times. Masks count by their bytes too."""
    rows = sorted(
        [case.id, case.patient, str(case.split), str(case.fold), digest_of(_content(case.target, digests)), digest_of({role: _content(sources, digests) for role, sources in case.images.items()})]
        for case in cases
    )
    return digest_of(rows)


def _content(value: Any, digests: Mapping[Path, str]) -> Any:
    """Sources as the digests of their bytes, everything else as it is."""
    if isinstance(value, Source):
        grid = value.grid.facts(digests) if isinstance(value.grid, Lattice) else value.grid and digests.get(value.grid)
        more = [value.rescale, grid]
        return [digests.get(value.path), value.member, value.frames, *(more if any(more) else [])]
    if isinstance(value, tuple):
        return [_content(item, digests) for item in value]
    if isinstance(value, Mapping):
        return {role: _content(item, digests) for role, item in value.items()}
    return value
