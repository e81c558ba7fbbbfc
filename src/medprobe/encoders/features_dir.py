"""`features:DIR`: features made elsewhere, one file per case, named `<case id>` and one of these suffixes.

- `.npy`  (N, D): one vector per plane; (D,) is one plane. Serves as `cls` and as `patch_mean`.
- `.npz`  any of `cls` (N, D), `patch_mean` (N, D), `grid` (N, D, h, w).
- `.h5`   the layout of TRIDENT and CLAM: `features` (N, D) or (1, N, D), beside `coords` (N, 2), one row per tile.

Or what `medprobe encode` wrote: `features.json` with one `features.npy`, `.parquet` or `.h5`. Or a single `features.npz` in DIR
with `ids` (n,) and `features` (n, D): one vector per case. Where a case id holds `/`,
files lie in folders of that name. Such an object sees no pixels: `features_of(case_id)` answers instead of a call.
"""

import hashlib
import json
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np

from medprobe.encoders.base import Request, only_last_layer, weightless
from medprobe.errors import CaseError, MissingError, RequestError
from medprobe.imaging.arrays import hdf5
from medprobe.registry import ENCODERS
from medprobe.types import Features

SUFFIXES = (".npy", ".npz", ".h5")


class StoredFeatures:
    """A folder of features as a (pixel-blind) encoder. `weights_sha256` is over the names and bytes of the files."""

    dims = 2
    channels: int | None = None
    image_size: int | None = None
    params = 0
    multiple = 1
    default_size = 224
    interpolates = True
    licence: str | None = None
    precision = "fp32"
    notes: tuple[str, ...] = ()
    faults: tuple[str, ...] = ()
    own_code = False

    def __init__(self, spec: str, folder: Path) -> None:
        self.name = self.spec = spec
        self.folder = folder
        self.source = str(folder)
        self.transform: dict[str, Any] = {}
        self._table: dict[str, dict[str, np.ndarray]] | None = None
        table = folder / "features.npz"
        if (folder / "features.json").is_file():
            self._table, table = read_encoded(folder)
        elif table.is_file():
            self._table = read_table(table)
        files = (
            [table]
            if self._table is not None
            else sorted(path for path in folder.rglob("*") if path.suffix in SUFFIXES)
        )
        if not files:
            raise MissingError(
                f"{spec}: expected features.npz, or a {', '.join(SUFFIXES)} file per case in {folder}, found none"
            )
        self.weights_sha256 = digest_of_files(folder, files)
        first = next(iter(self._table)) if self._table else files[0].relative_to(folder).with_suffix("").as_posix()
        self.dim: int | None = None
        try:
            features = self.features_of(first)
        except CaseError as error:
            raise MissingError(str(error)) from None
        vector = features.cls if features.cls is not None else features.patch_mean
        self.dim = None if vector is None else int(vector.shape[1])

    def covers(self, case_id: str) -> bool:
        """Whether there are features of this case."""
        return case_id in self._table if self._table is not None else self._file(case_id) is not None

    def _file(self, case_id: str) -> Path | None:
        paths = (self.folder / f"{case_id}{suffix}" for suffix in SUFFIXES)
        return next((path for path in paths if path.is_file() and path.resolve().is_relative_to(self.folder.resolve())), None)

    def features_of(self, case_id: str) -> Features:
        """The stored features of one case, float32 numpy arrays. CaseError when there are none, or they are not finite."""
        if self._table is not None:
            if case_id not in self._table:
                raise CaseError(
                    f"{self.name}: no features for case {case_id!r} among the {len(self._table)} of {self.folder}; add them"
                )
            return checked(case_id, {name: row[None] for name, row in self._table[case_id].items()})
        path = self._file(case_id)
        if path is not None:
            found = checked(case_id, read_case(path))
            vector = found.cls if found.cls is not None else found.patch_mean
            if self.dim is not None and vector is not None and vector.shape[1] != self.dim:
                raise CaseError(f"{path}: expected vectors of {self.dim} numbers as in the other files, found {vector.shape[1]}; make them with one encoder")
            return found
        raise CaseError(
            f"{self.name}: no features for case {case_id!r}; expected {case_id}.npy, .npz or .h5 in {self.folder}"
        )

    def __call__(self, x: Any) -> Features:
        raise RequestError(
            f"{self.name} holds features, not weights, and cannot encode pixels; use a task whose cases it covers"
        )


@ENCODERS.register("features")
@weightless
def stored(request: Request) -> StoredFeatures:
    """Features made elsewhere: `features:DIR`, a `.npy`, `.npz` or TRIDENT/CLAM `.h5` file per case, or what `medprobe encode` wrote."""
    only_last_layer(request)
    folder = Path(request.rest)
    if not folder.is_dir():
        raise MissingError(f"{request.spec}: expected a folder of features at {folder}, found none; check the path")
    return StoredFeatures(request.spec, folder)


def read_encoded(folder: Path) -> tuple[dict[str, dict[str, np.ndarray]], Path]:
    """Case id → its vectors by name, and the file, of what `medprobe encode` wrote."""
    try:
        facts = json.loads((folder / "features.json").read_text())
        ids, columns = [str(name) for name in facts["ids"]], dict(facts["columns"])
        path = folder / PureWindowsPath(facts["file"]).name  # of either system
        if path.suffix == ".npy":
            matrix = np.load(path, allow_pickle=False)
        elif path.suffix == ".parquet":
            import pandas as pd

            matrix = pd.read_parquet(path).set_index("case").loc[ids].to_numpy(np.float32)
        else:
            with hdf5(path) as file:
                matrix = np.asarray(file["features"])
        if matrix.shape != (len(ids), sum(columns.values())):
            raise ValueError(f"{matrix.shape} values for {len(ids)} ids of {sum(columns.values())} columns")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise MissingError(f"{folder}: expected features.json and the file it names, as medprobe encode writes them, found {str(error).splitlines()[0][:120]}; encode again") from None
    parts = np.split(matrix, np.cumsum(list(columns.values()))[:-1], axis=1)
    return {name: {part: rows[place] for part, rows in zip(columns, parts, strict=True)} for place, name in enumerate(ids)}, path


def read_table(path: Path) -> dict[str, dict[str, np.ndarray]]:
    with np.load(path, allow_pickle=False) as arrays:
        if (
            "ids" not in arrays
            or "features" not in arrays
            or len(arrays["ids"]) != len(arrays["features"])
            or arrays["features"].ndim != 2
        ):
            raise MissingError(
                f"expected ids (n,) and features (n, D) in {path}, found {', '.join(arrays.files)}; write both with one row per case"
            )
        ids = [name.decode() if isinstance(name, bytes) else str(name) for name in arrays["ids"]]
        if double := sorted({name for name in ids if ids.count(name) > 1} if len(set(ids)) < len(ids) else ()):
            raise MissingError(f"expected every id once in {path}, found {double[0]!r} more often; keep one row per case")
        return {name: {"cls": row} for name, row in zip(ids, arrays["features"], strict=True)}


def read_case(path: Path) -> dict[str, np.ndarray]:
    """The arrays of one file by the name of their role."""
    try:
        if path.suffix == ".npy":
            array = np.load(path, allow_pickle=False)
            return {"cls": array[None] if array.ndim == 1 else array}
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in ("cls", "patch_mean", "grid") if name in arrays}
        with hdf5(path) as file:
            array = np.asarray(file["features"])
            return {"cls": array[0] if array.ndim == 3 and array.shape[0] == 1 else array}
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise CaseError(
            f"{path} holds no readable features ({str(error).splitlines()[0][:120]}); write it again"
        ) from None


def checked(case_id: str, arrays: dict[str, np.ndarray]) -> Features:
    for name, array in arrays.items():
        if np.asarray(array).dtype.kind not in "fiub":
            raise CaseError(f"case {case_id!r}: expected real numbers as {name}, found {np.asarray(array).dtype}; write it again")
    made = {name: np.asarray(array, dtype=np.float32) for name, array in arrays.items()}
    for name, array in made.items():
        if array.ndim != (4 if name == "grid" else 2) or not len(array):
            raise CaseError(
                f"case {case_id!r}: expected {name} of shape {'(N, D, h, w)' if name == 'grid' else '(N, D)'}, found {array.shape}; write it again"
            )
        if not np.isfinite(array).all():
            raise CaseError(
                f"case {case_id!r}: expected finite features, found NaN or infinity in {name}; make them again"
            )
    if not made:
        raise CaseError(f"case {case_id!r}: expected cls, patch_mean or grid, found none of them; name the arrays so")
    cls, grid = made.get("cls"), made.get("grid")
    mean = made.get("patch_mean", grid.mean(axis=(2, 3)) if grid is not None else cls)
    return Features(cls if cls is not None else None, mean, (grid,) if grid is not None else ())


def digest_of_files(folder: Path, files: list[Path]) -> str:
    """sha256 over the relative names and the bytes of the files."""
    digest = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{path.relative_to(folder).as_posix()} {content}\n".encode())
    return digest.hexdigest()
