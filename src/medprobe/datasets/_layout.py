"""What every official layout needs: where a dataset is, its files by stem, what is missing, and its fingerprint."""

import tomllib
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from medprobe.errors import MissingError, RequestError
from medprobe.files import digest_of
from medprobe.types import Case, Dataset, Source

IGNORED = frozenset({".DS_Store", "__MACOSX", "Thumbs.db"})
IMAGES = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".dcm")


def is_leaving(path: Path) -> bool:
    """Whether a file is a leaving of another program (`._*`, `.DS_Store`, `__MACOSX/`, `Thumbs.db`)."""
    return path.name.startswith("._") or any(part in IGNORED for part in path.parts)


def images(folder: Path) -> dict[str, Path]:
    """stem → image file, of one folder, in order of name."""
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in IMAGES and not is_leaving(path))
    return {path.stem: path for path in files}


def refuse_missing(dataset: str, missing: Collection[str], expected: int, base: Path) -> None:
    """MissingError with the count and the first names, when anything is missing."""
    if missing:
        first = ", ".join(sorted(missing)[:5]) + (", …" if len(missing) > 5 else "")
        raise MissingError(f"{dataset}: {len(missing)} of {expected} files are missing under {base}, first {first}; the download may be partial, fetch the rest")


def locate(dataset: Dataset, data: Path | None) -> Path:
    """The dataset's folder: a manifest's own; a path in DATA/medprobe.toml; DATA/<folder or name>; or DATA itself when
    that bears the dataset's name. MissingError says what was looked for and how to get the data."""
    if dataset.root is not None:
        return dataset.root
    how = f"get it from {dataset.source}, or try it with: medprobe twin {dataset.name} --out DIR"
    if data is None:
        raise MissingError(f"{dataset.name}: expected a data root (--data DIR or MEDPROBE_DATA), found none; {how}")
    named = _paths(data).get(dataset.name)
    if named is not None:
        path = (data / named).resolve()
        if not path.is_dir():
            raise MissingError(f"{dataset.name}: {data / 'medprobe.toml'} names {path}, where there is no folder; correct the path")
        return path
    names = dict.fromkeys((*dataset.folders, dataset.name))
    for path in (*(data / name for name in names), data):
        if path.is_dir() and (path is not data or data.name in names):
            return path
    raise MissingError(f"{dataset.name}: expected a folder {' or '.join(names)} in {data}, found none; {how}")


def _paths(data: Path) -> Mapping[str, Any]:
    file = data / "medprobe.toml"
    if not file.is_file():
        return {}
    try:
        paths = tomllib.loads(file.read_text()).get("paths", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise RequestError(f"{file}: expected TOML with a [paths] table, found {error}; correct it") from None
    if not isinstance(paths, dict) or not all(isinstance(path, str) for path in paths.values()):
        raise RequestError(f'{file}: expected lines such as nih14 = "/path" under [paths], found something else; correct it')
    return paths


def fingerprint(cases: Iterable[Case], digests: Mapping[Path, str]) -> str:
    """sha256 over sorted (id, patient, split, fold, target, source digests): no paths, no times."""
    rows = sorted(
        [case.id, case.patient, str(case.split), str(case.fold), digest_of(_content(case.target, digests)), digest_of({role: _content(sources, digests) for role, sources in case.images.items()})]
        for case in cases
    )
    return digest_of(rows)


def _content(value: Any, digests: Mapping[Path, str]) -> Any:
    """Sources as the digests of their bytes, everything else as it is."""
    if isinstance(value, Source):
        return [digests.get(value.path), value.member, value.frames]
    if isinstance(value, tuple):
        return [_content(item, digests) for item in value]
    return value
