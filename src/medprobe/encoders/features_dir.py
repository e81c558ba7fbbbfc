"""`features:DIR`: features made elsewhere, one file per case, named `<case id>` and one of these suffixes.

- `.npy`  (N, D): one vector per plane; (D,) is one plane. Serves as `cls` and as `patch_mean`.
- `.npz`  any of `cls` (N, D), `patch_mean` (N, D), `grid` (N, D, h, w).
- `.h5`   the layout of TRIDENT and CLAM: `features` (N, D) or (1, N, D), beside `coords` (N, 2), one row per tile.

Or a single `features.npz` in DIR with `ids` (n,) and `features` (n, D): one vector per case. Where a case id holds `/`,
files lie in folders of that name. Such an object sees no pixels: `features_of(case_id)` answers instead of a call.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np

from medprobe.encoders.base import Request, only_last_layer, weightless
from medprobe.errors import CaseError, MissingError, RequestError
from medprobe.registry import ENCODERS
from medprobe.types import Features

SUFFIXES = (".npy", ".npz", ".h5")


class StoredFeatures:
    """A folder of features as a (pixel-blind) encoder. `weights_sha256` is over names, sizes and the ends of the files."""

    dims = 2
    channels: int | None = None
    image_size: int | None = None
    params = 0
    multiple = 1
    default_size = 224
    interpolates = True
    licence: str | None = None
    precision = "fp32"

    def __init__(self, spec: str, folder: Path) -> None:
        self.name = self.spec = spec
        self.folder = folder
        self.source = str(folder)
        self.transform: dict[str, Any] = {}
        self._table: dict[str, np.ndarray] | None = None
        table = folder / "features.npz"
        if table.is_file():
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
        features = self.features_of(first)
        vector = features.cls if features.cls is not None else features.patch_mean
        self.dim: int | None = None if vector is None else int(vector.shape[1])

    def features_of(self, case_id: str) -> Features:
        """The stored features of one case, float32 numpy arrays. CaseError when there are none, or they are not finite."""
        if self._table is not None:
            if case_id not in self._table:
                raise CaseError(
                    f"{self.name}: no features for case {case_id!r} among the {len(self._table)} ids of features.npz; add them"
                )
            return checked(case_id, {"cls": self._table[case_id][None]})
        for suffix in SUFFIXES:
            path = self.folder / f"{case_id}{suffix}"
            if path.is_file() and path.resolve().is_relative_to(self.folder.resolve()):
                return checked(case_id, read_case(path))
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
    """Features made elsewhere: `features:DIR`, one `.npy`, `.npz` or TRIDENT/CLAM `.h5` file per case."""
    only_last_layer(request)
    folder = Path(request.rest)
    if not folder.is_dir():
        raise MissingError(f"{request.spec}: expected a folder of features at {folder}, found none; check the path")
    return StoredFeatures(request.spec, folder)


def read_table(path: Path) -> dict[str, np.ndarray]:
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
        return dict(zip((str(name) for name in arrays["ids"]), arrays["features"], strict=True))


def read_case(path: Path) -> dict[str, np.ndarray]:
    """The arrays of one file by the name of their role."""
    try:
        if path.suffix == ".npy":
            array = np.load(path, allow_pickle=False)
            return {"cls": array[None] if array.ndim == 1 else array}
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in ("cls", "patch_mean", "grid") if name in arrays}
        import h5py

        with h5py.File(path, "r") as file:
            array = np.asarray(file["features"])
            return {"cls": array[0] if array.ndim == 3 and array.shape[0] == 1 else array}
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise CaseError(
            f"{path} holds no readable features ({str(error).splitlines()[0][:120]}); write it again"
        ) from None


def checked(case_id: str, arrays: dict[str, np.ndarray]) -> Features:
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


def digest_of_files(folder: Path, files: list[Path], ends: int = 1 << 16) -> str:
    """sha256 over relative names, sizes, and the first and last 64 KiB of each file: slide features are too large to read twice."""
    digest = hashlib.sha256()
    for path in files:
        size = path.stat().st_size
        digest.update(f"{path.relative_to(folder).as_posix()} {size}\n".encode())
        with path.open("rb") as file:
            digest.update(file.read(ends))
            file.seek(max(size - ends, 0))
            digest.update(file.read(ends))
    return digest.hexdigest()
