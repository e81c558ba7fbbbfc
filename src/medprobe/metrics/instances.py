"""Instance segmentations (neurons, cells): variation of information, adapted Rand error, average precision.

All numbers come from one table of how many voxels each pair of a true and a predicted id shares, and the table from
one pass over both volumes, which are never converted or copied whole. Arrays are 2D (y, x) or 3D (z, y, x), of any
integer type or bool, ids 0 to 2^64 - 1 in any numbering, any memory layout. Voxels whose true id is in `ignore` (by
default 0: background or unlabelled), or where `mask` is False, do not count. CREMI's own files mark background by
2^64 - 1: give `ignore=(0, 2**64 - 1)`.

    voi_split      H(prediction | truth), bits, from 0: objects cut into pieces            lower is better
    voi_merge      H(truth | prediction), bits, from 0: objects joined
    voi            their sum
    arand          adapted Rand error, 0-1, of pairs of different voxels, as scikit-image
    arand_snemi    the same of pairs with self-pairs, as the SNEMI3D and CREMI challenges
    cremi_score    sqrt(voi * arand_snemi)
    ap@0.5, ...    TP / (TP + FP + FN) at an IoU of 0.5 or more, 0-1                       higher is better
    ap             mean of ap@0.5, ap@0.55, ..., ap@0.95

Whatever is undefined (no voxel left, or no pair of voxels for `arand`) is NaN. Sums of squares are exact integers, so
that volumes beyond 10^9 voxels lose nothing. Sources: methods sheet 6; Meila 2007 (VOI); Arganda-Carreras et al. 2015
(adapted Rand error); cremi.org (its conventions); Caicedo et al. 2019, Data Science Bowl 2018 (average precision).
"""

import math
import operator
from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Literal, get_args

import numpy as np

from medprobe.errors import MedprobeError, RequestError
from medprobe.registry import did_you_mean

Convention = Literal["skimage", "snemi"]
THRESHOLDS = tuple(round(0.5 + 0.05 * step, 2) for step in range(10))
"""IoU of 0.5, 0.55, ..., 0.95."""

VIEWED, COPIED = 2**18, 2**16
"""Voxels that a thread takes at a time: where memory is in order, and where it is not."""


@dataclass(frozen=True, eq=False)
class Contingency:
    """How many voxels each pair of a true and a predicted id shares, by ascending (true, pred); counted voxels only.

    `true`, `pred` uint64 and `count` int64 are (P,), one entry per pair that occurs. `true_ids` (T,) ascending have
    `true_sizes` voxels in all, `pred_ids` (S,) have `pred_sizes`; `n` is their sum, `voxels` that of the whole volume.
    """

    true: np.ndarray
    pred: np.ndarray
    count: np.ndarray
    true_ids: np.ndarray
    true_sizes: np.ndarray
    pred_ids: np.ndarray
    pred_sizes: np.ndarray
    n: int
    voxels: int

    @classmethod
    def of(cls, true: np.ndarray, pred: np.ndarray, count: np.ndarray, voxels: int) -> "Contingency":
        """From pairs in any order, in which one may occur several times."""
        order = np.lexsort((pred, true))
        true, pred, count = true[order], pred[order], count[order].astype(np.int64)
        true, pred, count = _summed(true, pred, count=count)
        by_pred = np.argsort(pred, kind="stable")
        true_ids, true_sizes = _summed(true, count=count)
        pred_ids, pred_sizes = _summed(pred[by_pred], count=count[by_pred])
        return cls(true, pred, count, true_ids, true_sizes, pred_ids, pred_sizes, int(count.sum()), voxels)

    def joined(self, segment: np.ndarray) -> "Contingency":
        """The table after `pred_ids[i]` became `segment[i]`, so that an agglomeration is scored without its voxels.

        `segment` (S,) integers from 0, else raises MedprobeError.
        """
        segment = np.asarray(segment)
        _check_labels(segment, "segments")
        if segment.shape != self.pred_ids.shape:
            raise MedprobeError(
                f"expected one segment for each of {len(self.pred_ids)} predicted ids, found an array of shape "
                f"{segment.shape}; give them in the order of `pred_ids`"
            )
        ids = _unsigned(segment).astype(np.uint64)
        _check_signs(ids, segment, "segments")
        return Contingency.of(self.true, ids[np.searchsorted(self.pred_ids, self.pred)], self.count, self.voxels)

    def voi(self) -> tuple[float, float]:
        """(split, merge) in bits; see the function."""
        if not self.n:
            return math.nan, math.nan
        known_true = self.true_sizes[np.searchsorted(self.true_ids, self.true)]
        known_pred = self.pred_sizes[np.searchsorted(self.pred_ids, self.pred)]
        split, merge = (float(self.count @ np.log2(known / self.count)) / self.n for known in (known_true, known_pred))
        return split, merge

    def adapted_rand_error(self, convention: Convention = "skimage") -> float:
        """0-1; see the function."""
        if convention not in get_args(Convention):
            raise RequestError(
                f"no convention of the adapted Rand error named {convention!r}; "
                f"{did_you_mean(convention, list(get_args(Convention)))}"
            )
        truth = _squares(self.true_sizes)
        if convention == "skimage":
            both, truth, prediction = (
                squares - self.n for squares in (_squares(self.count), truth, _squares(self.pred_sizes))
            )
        else:
            # All times the number of voxels, so that they are integers.
            alone = int(self.count[self.pred == 0].sum())
            both = _squares(self.count[self.pred != 0]) * self.voxels + alone
            prediction = _squares(self.pred_sizes[self.pred_ids != 0]) * self.voxels + alone
            truth *= self.voxels
        return (truth + prediction - 2 * both) / (truth + prediction) if truth + prediction else math.nan

    def average_precision(self, thresholds: Sequence[float] = THRESHOLDS) -> dict[str, float]:
        """Key -> value, 0-1; see the function."""
        thresholds = [float(threshold) for threshold in thresholds]
        if not thresholds or not all(0 < threshold <= 1 for threshold in thresholds):
            raise RequestError(f"expected IoU thresholds above 0 and up to 1, found {thresholds}; give at least one")
        instances = (self.true != 0) & (self.pred != 0)
        overlap = self.count[instances]
        a = np.searchsorted(self.true_ids, self.true[instances])
        b = np.searchsorted(self.pred_ids, self.pred[instances])
        iou = overlap / (self.true_sizes[a] + self.pred_sizes[b] - overlap)
        both = np.count_nonzero(self.true_ids) + np.count_nonzero(self.pred_ids)
        values = {}
        for threshold in thresholds:
            close = iou >= threshold
            found = _matches(a[close], b[close]) if threshold <= 0.5 else np.count_nonzero(close)
            values[f"ap@{threshold:g}"] = float(found / (both - found)) if both else math.nan
        return {**values, "ap": float(np.mean(list(values.values())))}

    def scores(self) -> dict[str, float]:
        """What `measure_instances` gives."""
        split, merge = self.voi()
        snemi = self.adapted_rand_error("snemi")
        precision = self.average_precision()
        return {
            "voi_split": split,
            "voi_merge": merge,
            "voi": split + merge,
            "arand": self.adapted_rand_error("skimage"),
            "arand_snemi": snemi,
            "cremi_score": cremi_score(split, merge, snemi),
            **{key: precision[key] for key in ("ap@0.5", "ap@0.75", "ap")},
        }


def _summed(*ids: np.ndarray, count: np.ndarray) -> tuple[np.ndarray, ...]:
    """Sorted ids, or pairs of ids, without repeats, and the sum of the counts of each."""
    first = np.ones(len(count), dtype=bool)
    first[1:] = np.any([each[1:] != each[:-1] for each in ids], axis=0)
    starts = np.flatnonzero(first)
    return *(each[starts] for each in ids), np.add.reduceat(count, starts)


def _squares(counts: np.ndarray) -> int:
    """The exact sum of squares: of 64 bits as long as all voxels are fewer than 2^32, else of Python's integers."""
    if int(counts.sum()) < 2**32:
        counts = counts.astype(np.uint64)
        return int(counts @ counts)
    return sum(count * count for count in counts.tolist())


def _matches(a: np.ndarray, b: np.ndarray) -> int:
    """The largest number of pairs (a[i], b[i]) in which no instance stands twice.

    As many as `linear_sum_assignment` finds, without its dense matrix. At 0.5 a tie needs it: an object cut into equal
    halves overlaps each by exactly 0.5. Above 0.5 no instance has two partners.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import maximum_bipartite_matching

    if not len(a):
        return 0
    (_, rows), (_, columns) = np.unique(a, return_inverse=True), np.unique(b, return_inverse=True)
    pairs = csr_array((np.ones(len(a), dtype=bool), (rows.astype(np.int32), columns.astype(np.int32))))
    return int(np.count_nonzero(maximum_bipartite_matching(pairs, perm_type="column") >= 0))


def contingency(
    pred: np.ndarray, true: np.ndarray, ignore: Collection[int] = (0,), *, mask: np.ndarray | None = None
) -> Contingency:
    """The table of two label arrays of one shape; `mask` of that shape, bool, is True where voxels count.

    One pass, on two threads, over runs of equal pairs in memory order. Beyond the arrays it holds a hash table per
    thread, of 48 to 192 bytes per pair, and 2^16 voxels at a time of arrays that are not in order.

    Raises MedprobeError if shapes differ, there is no voxel, labels are not integers or a counted id is negative, and
    RequestError if `ignore` is not a collection of ids.
    """
    ignored = _ignored(ignore)
    arrays = _checked(pred, true, mask)
    table = _count(arrays)
    for ids, array, name in zip(table.T, arrays[:2], ("truth", "prediction")):
        _check_signs(ids, array, name)
    true_id, pred_id, count = table[~np.isin(table[:, 0], ignored, kind="sort")].T
    return Contingency.of(true_id, pred_id, count, voxels=arrays[0].size)


def voi(
    pred: np.ndarray, true: np.ndarray, ignore: Collection[int] = (0,), *, mask: np.ndarray | None = None
) -> tuple[float, float]:
    """Variation of information in bits as (split, merge): H(pred | true) and H(true | pred).

    Arrays and errors as `contingency`; (NaN, NaN) if no voxel counts. The same as scikit-image's
    `variation_of_information(true, pred, ignore_labels=ignore)`.
    """
    return contingency(pred, true, ignore, mask=mask).voi()


def adapted_rand_error(
    pred: np.ndarray,
    true: np.ndarray,
    ignore: Collection[int] = (0,),
    convention: Convention = "skimage",
    *,
    mask: np.ndarray | None = None,
) -> float:
    """1 - F of the pairs of voxels that lie in one object in both, in the truth, in the prediction: 0 is perfect.

    `skimage` counts pairs of different voxels, as scikit-image's `adapted_rand_error`; NaN if there is none. `snemi`,
    as the SNEMI3D and CREMI challenges, counts each voxel as a pair with itself too, and takes predicted 0 not for an
    object but for c single voxels, of weight c / all voxels of the volume in all; NaN if no voxel counts. They agree on
    large volumes. Arrays and errors as `contingency`, and RequestError for another convention.
    """
    return contingency(pred, true, ignore, mask=mask).adapted_rand_error(convention)


def average_precision(
    pred: np.ndarray,
    true: np.ndarray,
    thresholds: Sequence[float] = THRESHOLDS,
    ignore: Collection[int] = (0,),
    *,
    mask: np.ndarray | None = None,
) -> dict[str, float]:
    """`ap@<threshold>` = TP / (TP + FP + FN) of instances paired at an IoU of the threshold or more; `ap`, their mean.

    Each instance is in one pair at most, and id 0 is none. Voxels of ignored truth do not count for the size of a
    prediction either, and a prediction only of such voxels is no instance; where background is annotated, as for
    nuclei, `ignore=()` counts it as a false one. NaN if both are without instances. Arrays and errors as `contingency`,
    and RequestError unless thresholds are above 0 and at most 1.
    """
    return contingency(pred, true, ignore, mask=mask).average_precision(thresholds)


def measure_instances(
    pred: np.ndarray,
    true: np.ndarray,
    *,
    ignore: Collection[int] = (0,),
    mask: np.ndarray | None = None,
    border: float | None = None,
    spacing: Sequence[float] | None = None,
) -> dict[str, float]:
    """Every number of the list above, by key, from one table.

    `border` in nm leaves out the band of `border_mask`, for which `spacing` is nm in array order; CREMI's leaderboard
    took 25 nm, its evaluation code and this function by default none. Arrays and errors as `contingency`.
    """
    if border is not None:
        if spacing is None:
            raise RequestError(f"expected a spacing with a border of {border} nm, found none; give nm in array order")
        arrays = _checked(pred, true, mask)
        counted = border_mask(arrays[0], border, spacing)
        np.logical_not(counted, out=counted)
        mask = counted if mask is None else np.logical_and(counted, mask, out=counted)
    return contingency(pred, true, ignore, mask=mask).scores()


def cremi_score(voi_split: float, voi_merge: float, arand: float) -> float:
    """sqrt((split + merge) * arand), from bits and a fraction; 0 is perfect. CREMI's takes the `snemi` convention."""
    return math.sqrt((voi_split + voi_merge) * arand)


def border_mask(true: np.ndarray, thickness_nm: float, resolution_nm: Sequence[float]) -> np.ndarray:
    """True in the band around borders that CREMI can leave out; of the shape of `true`, (z, y, x) or (y, x).

    In each section, pixels with another id (0 is one) among their four neighbours are borders, and the band is where
    the nearest is at most `thickness_nm` away, centre to centre. `resolution_nm` is in array order. 0 nm is borders
    alone; a section of one id has no band. Raises MedprobeError for labels that are not integers or not 2D or 3D, and
    RequestError for a thickness below 0 or a resolution that is not one positive number per axis.
    """
    true, resolution = np.asarray(true), [float(nm) for nm in resolution_nm]
    _check_labels(true, "truth")
    if true.ndim not in (2, 3):
        raise MedprobeError(f"expected truth (z, y, x) or (y, x) for a border, found {true.ndim} axes; give sections")
    if len(resolution) != true.ndim or not all(0 < nm < math.inf for nm in resolution):
        raise RequestError(
            f"expected a resolution of {true.ndim} positive numbers, nm in array order, found {resolution_nm}; "
            "give one per axis"
        )
    if not 0 <= thickness_nm < math.inf:
        raise RequestError(f"expected a border of 0 nm or more, found {thickness_nm}; give None for no border")
    from medprobe.metrics import _contingency as kernels

    reach = _reach(thickness_nm, resolution[-2], resolution[-1], true.shape)
    band = np.zeros(true.shape, dtype=bool)
    for section, out in zip(true, band, strict=True) if true.ndim == 3 else [(true, band)]:
        border = np.zeros(section.shape, dtype=bool)
        for here, there in ((np.s_[1:], np.s_[:-1]), (np.s_[:, 1:], np.s_[:, :-1])):
            differs = section[here] != section[there]
            border[here] |= differs
            border[there] |= differs
        kernels.widen(border, reach, out.view(np.uint8))
    return band


def _reach(thickness_nm: float, height_nm: float, width_nm: float, shape: tuple[int, ...]) -> np.ndarray:
    """How many rows from a pixel the thickness reaches, by columns from it; at most all rows and columns.

    Distances are in rows, as CREMI's are in pixels, so that one equal to the thickness rounds as there.
    """
    height, width = (int(min(length, thickness_nm // nm + 2)) for length, nm in zip(shape[-2:], (height_nm, width_nm)))
    rows, columns = np.arange(height)[:, None], np.arange(width) * (width_nm / height_nm)
    near = np.sqrt(rows**2 + columns**2) <= thickness_nm / height_nm
    return near[:, near[0]].sum(axis=0, dtype=np.int32) - np.int32(1)


def _ignored(ignore: Collection[int]) -> np.ndarray:
    try:
        return np.array([operator.index(label) for label in ignore], dtype=np.uint64)
    except (TypeError, OverflowError):
        raise RequestError(
            f"expected true ids to ignore, as a tuple of integers from 0 to 2^64 - 1, found {ignore!r}; "
            "give (0,) for the background, () for none"
        ) from None


def _checked(pred: np.ndarray, true: np.ndarray, mask: np.ndarray | None) -> list[np.ndarray]:
    """[true, pred], and mask if there is one."""
    arrays = [np.asarray(array) for array in (true, pred, mask) if array is not None]
    for array, name in zip(arrays, ("truth", "prediction")):
        _check_labels(array, name)
    if mask is not None and arrays[2].dtype != bool:
        raise MedprobeError(f"expected a mask of bool, True where voxels count, found {arrays[2].dtype}; convert it")
    shapes = list(dict.fromkeys(array.shape for array in arrays))
    if len(shapes) > 1:
        raise MedprobeError(
            f"expected truth, prediction and mask of one shape, found {' and '.join(map(str, shapes))}; "
            "bring them onto one grid"
        )
    if not arrays[0].size:
        raise MedprobeError(f"expected label arrays with voxels, found shape {shapes[0]}; check how they were cropped")
    return arrays


def _check_labels(array: np.ndarray, name: str) -> None:
    if array.dtype.kind not in "iub":
        raise MedprobeError(
            f"{name}: expected integer ids, found {array.dtype}; convert them with .astype(numpy.uint64) if they are "
            "whole numbers"
        )


def _check_signs(ids: np.ndarray, array: np.ndarray, name: str) -> None:
    """`ids` are those of `array`, seen as unsigned."""
    if array.dtype.kind == "i" and (ids > np.iinfo(array.dtype).max).any():
        raise MedprobeError(
            f"{name}: expected ids of 0 or more, found {array.min()}; number them anew, or mask their voxels out"
        )


def _unsigned(array: np.ndarray) -> np.ndarray:
    """The same memory as unsigned integers of the same size."""
    return array.view(np.dtype(f"u{array.itemsize}").newbyteorder(array.dtype.byteorder))


def _count(arrays: list[np.ndarray]) -> np.ndarray:
    """(P, 3) uint64, in no order: true id, predicted id and voxels of each pair."""
    from medprobe.metrics import _contingency as kernels

    inward = np.argsort([-abs(stride) for stride in arrays[0].strides], kind="stable")
    arrays = [array.transpose(inward) for array in (_unsigned(arrays[0]), _unsigned(arrays[1]), *arrays[2:])]
    if all(array.flags.c_contiguous and array.flags.aligned and array.dtype.isnative for array in arrays):
        parts = _cut([array.reshape(-1) for array in arrays], VIEWED)
    else:
        parts = _cut(arrays, COPIED)
    threads = 2 if arrays[0].size > VIEWED else 1
    waiting: SimpleQueue[list[np.ndarray] | None] = SimpleQueue()
    for part in (*parts, *[None] * threads):
        waiting.put(part)

    def count(_: int) -> tuple[np.ndarray, int]:
        """Whichever thread the machine lets run takes the next part."""
        table, used = kernels.empty_table(), 0
        for part in iter(waiting.get, None):
            flat = [_frozen(array) for array in part]
            table, used = kernels.scan(flat[0], flat[1], flat[2] if len(flat) > 2 else None, table, used)
        return table, used

    if threads == 1:
        table, _ = count(0)
    else:
        with ThreadPoolExecutor(threads) as pool:
            (table, used), (other, used_other) = pool.map(count, range(threads))
        table = kernels.merge(table, used, other, used_other)
    return table[table[:, 2] > 0]


def _cut(arrays: list[np.ndarray], voxels: int) -> Iterator[list[np.ndarray]]:
    """Halves of halves, none above that many voxels.

    Cut across the outermost axis, or if rows are scattered across the longest, as near-cubes suit every memory order.
    """
    shape = arrays[0].shape
    if arrays[0].size <= voxels:
        yield arrays
        return
    rows = all(array.strides[-1] == array.itemsize for array in arrays)
    axis = next(axis for axis, length in enumerate(shape) if length > 1) if rows else int(np.argmax(shape))
    middle = shape[axis] // 2
    for half in (slice(None, middle), slice(middle, None)):
        yield from _cut([array[(slice(None),) * axis + (half,)] for array in arrays], voxels)


def _frozen(array: np.ndarray) -> np.ndarray:
    """(n,), contiguous, native, a view where memory allows; read-only, so that one compiled loop serves all."""
    flat = np.require(array, array.dtype.newbyteorder("="), ("C", "A")).reshape(-1)
    flat.flags.writeable = False
    return flat
