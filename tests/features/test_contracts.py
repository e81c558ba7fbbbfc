"""Heads of every shape through the contracts: bags, volumes, pairs with joint PCA and images, checkpoint and resume."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from sklearn.decomposition import PCA

from medprobe import encoders
from medprobe.errors import CaseError, RequestError
from medprobe.features.bank import StoredBank
from medprobe.features.digests import Digests, source_key
from medprobe.features.encode import Pipeline, Preprocessing, encoding_facts
from medprobe.features.reduce import JointPCA, reduce_named
from medprobe.features.samples import EncodedSamples, Item
from medprobe.features.store import Encoding, Entry
from medprobe.imaging.formats import count_planes
from medprobe.types import Context, Features, Head, Image, Sample, Samples, Source, State


def encoded(folder: Path, arrays: dict[str, dict[str, np.ndarray]], targets: list, **options) -> EncodedSamples:  # type: ignore[no-untyped-def]
    """Arrays (planes, height, width) by case and role, through files, encoder and store."""
    encoder = encoders.load("mean-rgb")
    preprocessing = Preprocessing("full-range", (32, 32), colour=3)
    sources, items = {}, []
    for (case, roles), target in zip(arrays.items(), targets, strict=True):
        keys, by_role = {}, {}
        for role, array in roles.items():
            path = folder / f"{case}-{role}.npy"
            np.save(path, array)
            by_role[role] = (Source(path),)
            key = source_key(by_role[role], Digests(None).of([path]))
            sources[key], keys[role] = by_role[role], (key,)
        items.append(Item(case, case, keys, by_role, target))
    entries = [Entry(key, count_planes(one[0])) for key, one in sources.items()]
    encoding = Encoding(folder / "cache", encoding_facts(encoder, preprocessing, True, "fp32"))
    bank = StoredBank(encoding, Pipeline(encoder, preprocessing, True, 4, 0), sources, entries, lambda done, total, what: None)
    return EncodedSamples(items, bank, **options)


@dataclass(frozen=True)
class BrightestTile:
    """A bag is positive when its brightest tile passes a threshold halfway between the classes."""

    needs: ClassVar[frozenset[str]] = frozenset({"pooled"})

    def fit(self, train: Samples, val: Samples | None, ctx: Context) -> State:
        brightest = np.array([sample.features["image"].patch_mean.max() for sample in train])
        middle = (brightest[train.targets == 1].mean() + brightest[train.targets == 0].mean()) / 2
        return State({"middle": np.array([middle])})

    def predict(self, state: State, samples: Samples, ctx: Context) -> Iterator[np.ndarray]:
        for sample in samples:
            positive = float(sample.features["image"].patch_mean.max() > state.tensors["middle"][0])
            yield np.array([1 - positive, positive])


@dataclass(frozen=True)
class GridThreshold:
    """One number per class over every cell of a volume's grid: needs the grid, gives (D, h, w)."""

    needs: ClassVar[frozenset[str]] = frozenset({"grid"})

    def fit(self, train: Samples, val: Samples | None, ctx: Context) -> State:
        return State({"middle": np.array([np.mean([np.asarray(sample.features["image"].grid).mean() for sample in train])])})

    def predict(self, state: State, samples: Samples, ctx: Context) -> Iterator[np.ndarray]:
        for sample in samples:
            yield np.asarray(sample.features["image"].grid)[:, 0] > state.tensors["middle"][0]


@dataclass(frozen=True)
class Shift:
    """A pair's displacement: the whole-number shift that matches the reduced maps best; looks at the images too."""

    needs: ClassVar[frozenset[str]] = frozenset({"grid", "image"})

    def fit(self, train: Samples, val: Samples | None, ctx: Context) -> State:
        return State()

    def predict(self, state: State, samples: Samples, ctx: Context) -> Iterator[np.ndarray]:
        for sample in samples:
            fixed, moving = (np.asarray(sample.features[role].grid) for role in ("fixed", "moving"))
            assert sample.images["fixed"].pixels.shape == (1, 1, 32, 32)
            costs = {shift: float(((fixed - np.roll(moving, -shift, axis=3)) ** 2).sum()) for shift in (0, 1)}
            yield np.array([min(costs, key=costs.__getitem__)])


@dataclass(frozen=True)
class Counter:
    """Ten steps, each saved; stops once when told to."""

    needs: ClassVar[frozenset[str]] = frozenset({"pooled"})
    stop_at: int | None = None

    def fit(self, train: Samples, val: Samples | None, ctx: Context) -> State:
        state = ctx.checkpoint.load() or State({"sum": np.zeros(1)}, {"step": 0})
        while state.meta["step"] < 10:
            if state.meta["step"] == self.stop_at:
                raise KeyboardInterrupt
            x = train.pooled(ctx.pooling)[state.meta["step"] % len(train)]
            state = State({"sum": state.tensors["sum"] * 0.9 + x.sum()}, {"step": state.meta["step"] + 1})
            ctx.checkpoint.save(state)
        return state

    def predict(self, state: State, samples: Samples, ctx: Context) -> Iterator[np.ndarray]:
        yield from (np.array([0.5, 0.5]) for _ in samples)


@dataclass
class OnDisk:
    path: Path

    def load(self) -> State | None:
        return State.load(self.path) if self.path.exists() else None

    def save(self, state: State) -> None:
        state.save(self.path)


def tiles(rng: np.random.Generator, count: int, bright: bool) -> np.ndarray:
    planes = rng.integers(0, 90, (count, 32, 32)).astype(np.uint8)
    if bright:
        planes[rng.integers(count)] += 150
    return planes


def test_a_head_for_bags_of_varying_length(tmp_path: Path, rng: np.random.Generator) -> None:
    targets = [0, 1] * 6
    bags = {f"c{n}": {"image": tiles(rng, 2 + n, bool(target))} for n, target in enumerate(targets)}
    samples = encoded(tmp_path, bags, targets)
    assert [len(sample.features["image"].patch_mean) for sample in samples] == list(range(2, 14))
    head = BrightestTile()
    assert isinstance(head, Head)
    state = head.fit(samples.subset(range(8)), None, Context(0))
    predicted = np.stack(list(head.predict(state, samples.subset(range(8, 12)), Context(0))))
    assert predicted.argmax(axis=1).tolist() == targets[8:]


def test_a_head_for_grids_of_volumes(tmp_path: Path, rng: np.random.Generator) -> None:
    volumes = {}
    for n in range(4):
        volume = rng.integers(0, 60, (5, 32, 32)).astype(np.uint8)
        volume[2:4, :16, 16:] = 220
        volumes[f"v{n}"] = {"image": volume}
    samples = encoded(tmp_path, volumes, [None] * 4)
    state = GridThreshold().fit(samples, None, Context(0))
    for mask in GridThreshold().predict(state, samples, Context(0)):
        assert mask.shape == (5, 2, 2)
        expected = np.zeros((5, 2, 2), bool)
        expected[2:4, 0, 1] = True
        np.testing.assert_array_equal(mask, expected)


def test_a_head_for_pairs_with_joint_pca_and_images(tmp_path: Path, rng: np.random.Generator) -> None:
    left, right = np.zeros((1, 32, 32), np.uint8), np.zeros((1, 32, 32), np.uint8)
    left[:, :, :16] = rng.integers(150, 250, (32, 16))
    right[:, :, 16:] = rng.integers(150, 250, (32, 16))
    pairs = {"same": {"fixed": left, "moving": left.copy()}, "shifted": {"fixed": left, "moving": right}}
    samples = encoded(tmp_path, pairs, [None, None], images=True, reduce=reduce_named("joint-pca:2"))
    assert np.asarray(samples[0].features["fixed"].grid).shape == (1, 2, 2, 2)
    predicted = list(Shift().predict(State(), samples, Context(0)))
    assert [int(shift[0]) for shift in predicted] == [0, 1]


def test_a_head_that_was_stopped_resumes_to_the_same_state(tmp_path: Path, rng: np.random.Generator) -> None:
    samples = encoded(tmp_path, {f"c{n}": {"image": tiles(rng, 1, False)} for n in range(3)}, [0, 1, 0])
    undisturbed = Counter().fit(samples, None, Context(0))
    context = Context(0, checkpoint=OnDisk(tmp_path / "head.safetensors"))
    with pytest.raises(KeyboardInterrupt):
        Counter(stop_at=4).fit(samples, None, context)
    resumed = Counter().fit(samples, None, context)
    np.testing.assert_array_equal(resumed.tensors["sum"], undisturbed.tensors["sum"])
    assert resumed.meta == undisturbed.meta


@pytest.mark.equality("scikit-learn, PCA of both images together; 1e-4")
def test_joint_pca_equals_scikit_learns_up_to_the_sign_rule(rng: np.random.Generator) -> None:
    grids = {role: rng.normal(size=(2, 10, 3, 4)).astype(np.float32) for role in ("fixed", "moving")}
    reduced = JointPCA(4)(Sample("s", "p", {role: Features(grids=(grid,)) for role, grid in grids.items()}))
    rows = np.concatenate([np.moveaxis(grid, 1, -1).reshape(-1, 10) for grid in grids.values()])
    reference = PCA(4, svd_solver="full").fit(rows)
    ours = np.concatenate([np.moveaxis(reduced.features[role].grid, 1, -1).reshape(-1, 4) for role in grids])
    theirs = reference.transform(rows)
    signs = np.sign(reference.components_[np.arange(4), np.abs(reference.components_).argmax(axis=1)])
    np.testing.assert_allclose(ours, theirs * signs, atol=1e-4)


def test_joint_pca_without_the_mean_and_of_the_foreground(rng: np.random.Generator) -> None:
    roles = ("fixed", "moving")
    features = {role: Features(grids=(rng.normal(3, 1, (1, 5, 4, 4)).astype(np.float32),)) for role in roles}
    bright = np.zeros((1, 1, 8, 8), np.float32)
    bright[..., 2:6, 4:8] = 0.8
    bright[..., 0, 0] = 0.9
    sample = Sample("s", "p", features, {role: Image(bright) for role in roles})
    rows = {role: np.moveaxis(features[role].grid[0], 0, -1).reshape(-1, 5) for role in roles}
    inside = np.zeros((4, 4), bool)
    inside[1:3, 2:4] = True
    for name, chosen, centred in (("joint-pca:3", np.ones(16, bool), True), ("joint-pca:3,uncentred", np.ones(16, bool), False), ("joint-pca:3,foreground", inside.ravel(), True)):
        reference = PCA(3, svd_solver="full").fit(np.concatenate([rows[role][chosen] for role in roles]))
        signs = np.sign(reference.components_[np.arange(3), np.abs(reference.components_).argmax(axis=1)])
        step = reduce_named(name)
        assert step is not None
        reduced = step(sample)
        for role in roles:
            expected = (rows[role] - (reference.mean_ if centred else 0)) @ reference.components_.T * signs
            np.testing.assert_allclose(np.moveaxis(reduced.features[role].grid[0], 0, -1).reshape(-1, 3), expected, atol=1e-4)


@pytest.mark.parametrize("name", ["pca", "joint-pca:0", "joint-pca:4,whole", "half,foreground"])
def test_an_unknown_reduction_is_refused(name: str) -> None:
    with pytest.raises(RequestError, match="joint-pca:N"):
        reduce_named(name)


def test_channels_of_other_sizes_do_not_become_one_sample(tmp_path: Path, rng: np.random.Generator) -> None:
    encoder = encoders.load("mean-rgb")
    preprocessing = Preprocessing("full-range", (32, 32), colour=3)
    paths = {}
    for name, shape in (("ct", (4, 20, 24)), ("pet", (4, 10, 12)), ("short", (3, 20, 24))):
        np.save(tmp_path / f"{name}.npy", rng.random(shape, np.float32))
        paths[name] = (Source(tmp_path / f"{name}.npy"),)
    digests = Digests(tmp_path / "cache").of([source.path for (source,) in paths.values()])
    keys = {name: source_key(source, digests) for name, source in paths.items()}
    entries = [Entry(keys[name], count_planes(source[0])) for name, source in paths.items()]
    encoding = Encoding(tmp_path / "cache", encoding_facts(encoder, preprocessing, False, "fp32"))
    bank = StoredBank(encoding, Pipeline(encoder, preprocessing, False, 8, 0), {keys[name]: source for name, source in paths.items()}, entries, lambda done, total, what: None)
    for other in ("pet", "short"):
        samples = EncodedSamples([Item("case", "p", {"image": (keys["ct"], keys[other])}, {"image": (*paths["ct"], *paths[other])}, 0)], bank)
        with pytest.raises(CaseError, match="case: expected channels of one shape, found 4 planes of 20 x 24 and"):
            _ = samples[0]
        with pytest.raises(CaseError, match="expected channels of one shape"):
            samples.pooled("patch_mean")
