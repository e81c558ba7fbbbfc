"""Synthetic patients: images in which a probe can find the finding and the controls cannot.

`phantom-xray` (grey, one finding) and `phantom-endoscopy` (colour, three classes) are drawn from a seed, so that
`medprobe demo` and the tests need no download. On disk they are what a user's own data would be:

    phantom-xray.toml                  the manifest
    cases.csv                          id, patient, split, image, target
    images/p001-v1-opacity.png         128x128, 8 bit

Every view of a patient is drawn once per class. The pictures of one view share anatomy, contrast, tilt and a smooth
lesion of random place, size and polarity; they differ only in a fine texture inside that lesion, and in noise. The
texture has zero mean, random phase and wavelengths of 4 to 11 px: so the mean colour has the same distribution in
every class, and what little is left of it at 32x32 pixels gives a linear probe nothing to hold. Its local energy tells
the classes apart, and that even a convolutional encoder with random weights computes. Patients, not images, are split
60/15/25.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medprobe.datasets.manifest import load_manifest
from medprobe.errors import MissingError
from medprobe.registry import DATASETS
from medprobe.types import Case, Dataset

SIDE = 128
"""Height and width of every phantom image in pixels."""


# ---------------------------------------------------------------------------------------- brushes


def plane_axes(tilt: float = 0.0, zoom: float = 1.0) -> tuple[np.ndarray, np.ndarray]:
    """(y, x) of every pixel, two (SIDE, SIDE) arrays over [-1, 1], turned by `tilt` radians and enlarged by `zoom`."""
    axis = (np.arange(SIDE) + 0.5) / SIDE * 2 - 1
    y, x = np.meshgrid(axis, axis, indexing="ij")
    return (np.cos(tilt) * y - np.sin(tilt) * x) / zoom, (np.sin(tilt) * y + np.cos(tilt) * x) / zoom


def step(value: np.ndarray, width: float) -> np.ndarray:
    """0 where `value` is negative, 1 where it is positive, blurred over about `width`."""
    return 1 / (1 + np.exp(-np.clip(value / width, -30, 30)))


def band_noise(rng: np.random.Generator, shortest: float, longest: float) -> np.ndarray:
    """(SIDE, SIDE) noise of mean 0 and sd 1 with wavelengths between `shortest` and `longest` pixels."""
    frequency = np.hypot(np.fft.fftfreq(SIDE)[:, None], np.fft.rfftfreq(SIDE)[None])
    band = (frequency >= 1 / longest) & (frequency <= 1 / shortest)
    noise = np.fft.irfft2(np.fft.rfft2(rng.standard_normal((SIDE, SIDE))) * band, s=(SIDE, SIDE))
    return noise / noise.std()


def balanced(pattern: np.ndarray, window: np.ndarray) -> np.ndarray:
    """The pattern seen through the window, shifted so that its sum is zero: it adds no mass."""
    return window * (pattern - (window * pattern).sum() / window.sum())


def lesion(
    rng: np.random.Generator, y: np.ndarray, x: np.ndarray, site: np.ndarray, radii: tuple[float, float]
) -> tuple[np.ndarray, np.ndarray]:
    """A soft disc centred on a random pixel of the boolean `site`: (window in [0, 1], slope across it in about [-1, 1])."""
    row, column = rng.choice(np.argwhere(site))
    down, right, radius = y - y[row, column], x - x[row, column], rng.uniform(*radii)
    angle = rng.uniform(0, 2 * np.pi)
    window = step(1 - np.hypot(down, right) / radius, 0.12)
    return window, (np.sin(angle) * down + np.cos(angle) * right) / radius


# ------------------------------------------------------------------------------------------ chest


@dataclass(frozen=True)
class Chest:
    """What all radiographs of one patient share; lengths in half image widths, grey in [0, 1]."""

    tilt: float
    zoom: float
    heart: float
    rib_spacing: float
    rib_phase: float
    contrast: float
    level: float
    noise: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Chest":
        return cls(
            tilt=rng.normal(0, 0.05),
            zoom=rng.uniform(0.95, 1.08),
            heart=rng.uniform(0.85, 1.15),
            rib_spacing=rng.uniform(0.19, 0.24),
            rib_phase=rng.uniform(0, 1),
            contrast=rng.uniform(0.85, 1.15),
            level=rng.normal(0, 0.03),
            noise=rng.uniform(0.008, 0.014),
        )

    def view(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """The same radiograph once per class: float (SIDE, SIDE) in [0, 1]."""
        y, x = plane_axes(self.tilt + rng.normal(0, 0.02), self.zoom)
        aside = np.abs(x)
        body = step(1 - (aside / 0.97) ** 4 - (np.abs(y - 0.42) / 1.3) ** 4, 0.06)
        diaphragm = 0.50 + 0.10 * np.cos(4 * (aside - 0.43)) - 0.10 * aside**2
        lungs = step(1 - np.hypot((aside - 0.43) / 0.35, (y + 0.10) / 0.70), 0.07) * step(diaphragm - y, 0.025)
        heart = step(1 - np.hypot((x - 0.15) / (0.33 * self.heart), (y - 0.33) / 0.34), 0.08)
        cage = step(1 - np.hypot(x / 0.86, (y + 0.02) / 0.86), 0.03) * step(aside - 0.10, 0.03)
        course = (y - 0.28 * np.cos(2.6 * aside)) / self.rib_spacing + self.rib_phase
        ribs = np.exp(6 * (np.cos(2 * np.pi * course) - 1)) * cage
        clavicles = (
            np.exp(-(((y + 0.64 + 0.22 * aside) / 0.03) ** 2)) * step(aside - 0.12, 0.03) * step(0.8 - aside, 0.03)
        )
        spine = np.exp(-((x / 0.085) ** 2))
        bone = 0.14 * spine + 0.075 * ribs + 0.09 * clavicles
        plane = 0.06 + body * (0.50 + bone) - 0.30 * lungs * (1 - heart) + 0.018 * lungs * band_noise(rng, 10, 40)

        window, _ = lesion(rng, y, x, lungs * (1 - heart) > 0.8, (0.20, 0.28))
        plane = plane + rng.choice([-1, 1]) * rng.uniform(0.03, 0.07) * window
        for finding in (0.0, 0.085 * balanced(band_noise(rng, 4, 7), window)):
            exposed = 0.42 + self.level + self.contrast * (plane + finding - 0.42)
            yield np.clip(exposed + self.noise * rng.standard_normal(plane.shape), 0, 1)


# -------------------------------------------------------------------------------------------- gut


@dataclass(frozen=True)
class Gut:
    """What all endoscopic frames of one patient share; lengths in half image widths, colour in [0, 1]."""

    hue: np.ndarray
    folds: float
    contrast: float
    noise: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> "Gut":
        return cls(
            hue=np.array([0.80, 0.47, 0.38]) + rng.normal(0, 0.02, 3),
            folds=rng.uniform(2.5, 3.6),
            contrast=rng.uniform(0.85, 1.12),
            noise=rng.uniform(0.006, 0.012),
        )

    def view(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        """The same frame once per class: float (SIDE, SIDE, 3) in [0, 1]."""
        y, x = plane_axes()
        down, right = y - rng.uniform(-0.35, 0.35), x - rng.uniform(-0.35, 0.35)
        depth, around, turn = np.hypot(down, right), np.arctan2(down, right), rng.uniform(-np.pi, np.pi)
        wall = depth * (1 + 0.10 * np.sin(3 * around + turn) + 0.05 * np.sin(5 * around - 2 * turn))
        fold = np.cos(2 * np.pi * self.folds * np.log(wall + 0.35) + turn)
        light = (0.16 + 0.84 * step(wall - 0.22, 0.11)) * (1 - 0.30 * (y**2 + x**2))
        shade = light * (1 + 0.10 * np.sign(fold) * np.abs(fold) ** 1.5) + 0.02 * band_noise(rng, 24, 64)
        vessels = np.exp(-((band_noise(rng, 16, 50) / 0.14) ** 2)) * step(band_noise(rng, 30, 80), 0.5) * light
        colour = shade[..., None] * self.hue - 0.12 * vessels[..., None] * np.array([0.5, 1.0, 0.9])

        window, slope = lesion(rng, y, x, (depth > 0.42) & (np.hypot(y, x) < 0.62), (0.24, 0.32))
        colour = colour + 0.16 * balanced(slope, window)[..., None] * np.array([1.0, 0.8, 0.75])
        glints = sum(np.exp(-(((y - a) ** 2 + (x - b) ** 2) / 0.022**2)) for a, b in rng.uniform(-0.7, 0.7, (3, 2)))
        field = step(1.02 - np.hypot(y, x), 0.015)[..., None]
        for texture in (0.0, band_noise(rng, 8.5, 11), band_noise(rng, 3.5, 5)):
            finding = 0.09 * balanced(texture + np.zeros_like(window), window)[..., None] * np.array([0.8, 1.0, 0.9])
            lit = 0.5 + self.contrast * (colour + finding + 0.35 * np.asarray(glints)[..., None] - 0.5)
            yield np.clip(0.015 + field * np.clip(lit + self.noise * rng.standard_normal(lit.shape), 0, 1), 0, 1)


# ----------------------------------------------------------------------------------------- cohort

MANIFEST = """\
name = "{name}"
kind = "classification"
dims = 2
modality = "{modality}"
classes = [{classes}]
cases = "cases.csv"
"""


def phantom(
    name: str, modality: str, classes: tuple[str, ...], patient: type[Chest] | type[Gut], patients: int
) -> Dataset:
    """A registered dataset whose twin draws the whole cohort: two views of each patient, each once per class.

    The first 60 % of the patients train, the next 15 % validate, the last 25 % test.
    """

    def cases(root: Path) -> Iterable[Case]:
        manifest = root / f"{name}.toml"
        if not manifest.is_file():
            raise MissingError(
                f"{name}: expected {manifest}, found none; draw it with: medprobe twin {name} --out {root}"
            )
        return load_manifest(manifest).cases(root)

    def twin(root: Path, rng: np.random.Generator) -> None:
        from PIL import Image

        (root / "images").mkdir(parents=True, exist_ok=True)
        rows = ["id,patient,split,image,target"]
        for number, child in enumerate(rng.spawn(patients)):
            split = "train" if number < 0.6 * patients else "val" if number < 0.75 * patients else "test"
            drawn = patient.draw(child)
            for view in range(2):
                for label, plane in zip(classes, drawn.view(child), strict=True):
                    case = f"p{number:03d}-v{view}-{label}"
                    Image.fromarray(np.rint(plane * 255).astype(np.uint8)).save(root / "images" / f"{case}.png")
                    rows.append(f"{case},p{number:03d},{split},images/{case}.png,{label}")
        (root / "cases.csv").write_text("\n".join(rows) + "\n")
        quoted = ", ".join(f'"{label}"' for label in classes)
        (root / f"{name}.toml").write_text(MANIFEST.format(name=name, modality=modality, classes=quoted))

    shares = {"train": 0.6, "val": 0.15, "test": 0.25}
    return DATASETS.register(name)(
        Dataset(
            name=name,
            kind="classification",
            dims=2,
            modality=modality,
            classes=classes,
            licence="CC0-1.0: drawn by medprobe",
            source="medprobe twin " + name + " --out DIR",
            citation="none: synthetic",
            cases=cases,
            twin=twin,
            counts={split: round(share * patients) * 2 * len(classes) for split, share in shares.items()},
            folders=(name,),
            note="synthetic: scores say whether the program works, nothing about medicine",
        )
    )


XRAY = phantom("phantom-xray", "X-ray", ("clear", "opacity"), Chest, patients=80)
ENDOSCOPY = phantom("phantom-endoscopy", "endoscopy", ("normal", "polyp", "erosion"), Gut, patients=60)
