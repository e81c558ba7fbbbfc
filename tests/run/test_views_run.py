"""Frozen decoders that learn from flipped and turned planes: encoded, kept under keys of their own, named in the plan, and right
where an encoder knows left from right."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from medprobe.errors import RequestError
from medprobe.run.encoded import open_bank, open_views
from medprobe.run.plan import make
from medprobe.run.request import Request
from medprobe.run.run import describe, run

ENCODER = """
import torch
from torch import nn


class Placed(nn.Module):
    def __init__(self):
        super().__init__()
        self.idle = nn.Parameter(torch.zeros(1))

    def forward_dense(self, x):
        cells = nn.functional.avg_pool2d(x[:, :1], 4)
        across = torch.linspace(-1, 1, cells.shape[-1]).expand_as(cells)
        return torch.cat([cells, across, cells * across], dim=1)

    def forward(self, x):
        return self.forward_dense(x).mean(dim=(2, 3))


def make_encoder():
    return Placed()
"""
PLACED = "placed.py:make_encoder"
VIEWS = ("horizontal", "+10.6066 degrees", "-10.6066 degrees", "horizontal, +10.6066 degrees", "horizontal, -10.6066 degrees")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Radiographs of 32 x 32 with a lung on each side, which an encoder that knows where a cell lies tells apart."""
    folder, rng = tmp_path_factory.mktemp("lungs"), np.random.default_rng(0)
    rows = ["id,patient,split,image,target"]
    for number in range(18):
        pixels, mask = rng.integers(20, 60, (32, 32)).astype(np.uint8), np.zeros((32, 32), np.uint8)
        for label, start in ((1, 18), (2, 2)):
            top, left = (4 * int(rng.integers(1, 4)), start + 2 + int(rng.integers(0, 2)) * 2)
            pixels[top : top + 12, left : left + 8], mask[top : top + 12, left : left + 8] = 220, label
        Image.fromarray(pixels).save(folder / f"{number}.png")
        Image.fromarray(mask).save(folder / f"m{number}.png")
        rows.append(f"c{number},p{number},{('train', 'train', 'test')[number % 3]},{number}.png,m{number}.png")
    (folder / "cases.csv").write_text("\n".join(rows) + "\n")
    classes = '["background", "left lung", "right lung"]'
    (folder / "lungs.toml").write_text(f'name = "lungs"\nkind = "segmentation"\nclasses = {classes}\n')
    (folder / "placed.py").write_text(ENCODER)
    return folder


def nothing(done: int, total: int, what: str) -> None:
    """No progress."""


def asked(home: Path, out: str, **settings: object) -> Request:
    known = {"head.epochs": 40, "head.learning_rate": 0.1}
    named = {f"head.{name}": value for name, value in settings.items()}
    return Request(
        str(home / PLACED), str(home / "lungs.toml/linear2d"), home / out, image_size=32,
        settings=known | named, cache=home / "cache",
    )  # fmt: skip


@pytest.fixture(scope="module")
def outcomes(home: Path) -> dict[str, dict]:
    """What was fitted under each policy, and how well."""
    found = {}
    for policy in ("none", "grids", "views"):
        request = asked(home, policy, augment=policy)
        plan = make(request, nothing)
        outcome = run(request, plan, nothing)
        (path,) = outcome.done
        document = json.loads(path.with_name(f"{path.name}.json").read_text())
        found[policy] = {**document, "plan": plan.summary()["groups"][0], "said": "\n".join(describe(plan))}
    return found


def test_views_are_right_where_flipped_grids_would_not_be(outcomes: dict[str, dict]) -> None:
    dice = {policy: one["scores"]["dice"]["value"] for policy, one in outcomes.items()}
    assert dice["none"] > 0.75
    assert dice["views"] >= dice["none"] - 0.02
    assert dice["grids"] >= dice["none"] - 0.05
    swapped = {policy: one["fit"]["swapped_classes"] for policy, one in outcomes.items()}
    assert swapped == {"none": [], "grids": [], "views": [[1, 2]]}
    warned = {policy for policy, one in outcomes.items() if any("knows left from right" in said for said in one["warnings"])}
    assert warned == {"grids"}


def test_the_plan_names_what_views_cost(home: Path, outcomes: dict[str, dict]) -> None:
    """18 planes, and in five views the ten that are left to train on."""
    found = outcomes["views"]["plan"]
    assert (found["planes"], found["planes_missing"], sorted(found["views"])) == (18 + 50, 50, sorted(VIEWS))
    assert "50 planes flipped and turned" in outcomes["views"]["said"]
    assert all(outcomes[policy]["plan"]["views"] == [] for policy in ("none", "grids"))
    again = make(asked(home, "again", augment="views", weight_decay=0), nothing).summary()["groups"][0]
    assert (again["planes"], again["planes_missing"]) == (68, 0), "views are kept for other heads"


def test_views_are_kept_under_keys_of_their_own(home: Path, outcomes: dict[str, dict]) -> None:
    request = asked(home, "views", augment="views")
    (group,) = make(replace(request, out=home / "other"), nothing).groups
    bank, views = open_bank(group, request, home / "cache", nothing), open_views(group, request, home / "cache", nothing)
    assert sorted(views) == sorted(VIEWS)
    assert len({group.of_view(view)[1].key for view in group.views} | {group.encoding.key}) == 6
    keys = [entry.key for entry in next(iter(group.views.values()))]
    whole, mirrored = (np.stack([one.features(key).grid[0] for key in keys]) for one in (bank, views["horizontal"]))
    np.testing.assert_allclose(mirrored[:, 0], whole[:, 0, :, ::-1], atol=1e-6)
    np.testing.assert_allclose(mirrored[:, 1], whole[:, 1], atol=1e-6, err_msg="a place is one of the flipped plane")


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"augment": "all"}, "augment"),
        ({"pairs": "left=right"}, "expected head.pairs of the classes"),
        ({"flips": "sideways"}, "head.flips must be auto, none, or axes of"),
    ],
)
def test_what_no_head_can_do_is_said_before_anything_is_encoded(home: Path, settings: dict, said: str) -> None:
    with pytest.raises(RequestError, match=said):
        make(asked(home, "refused", **settings), nothing)


def test_views_that_cannot_be_kept_are_refused(home: Path, tmp_path: Path) -> None:
    request = replace(asked(home, "refused", augment="views"), cache=tmp_path, cache_budget=1000)
    with pytest.raises(RequestError, match="raise --cache-budget"):
        make(request, nothing)
