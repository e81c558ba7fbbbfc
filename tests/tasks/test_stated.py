"""No value that the paper states differs from a task's without a row that says so, with its reason; the docs print these rows."""

from dataclasses import replace
from pathlib import Path

import pytest

from medprobe.registry import DATASETS, HEADS, TASKS
from medprobe.tasks import stated
from medprobe.tasks.suites import default_task
from medprobe.types import Task

DOCS = Path(__file__).resolve().parents[2] / "docs" / "protocols.md"
NETWORKS = ("unet2d", "unet3d", "vnet", "unetr", "swinunetr", "dynunet")


def tasks() -> list[Task]:
    """Those of the tables, and the networks on pixels that stand in them."""
    found = [task for _, task in TASKS.items()]
    for dataset in dict.fromkeys(task.dataset for task in found if task.main.startswith("dice")):
        known = DATASETS.get(dataset)
        if known.kind == "segmentation":
            found += [default_task(known, head) for head in NETWORKS if known.dims in HEADS.get(head).dims]
    return found


def differences(task: Task) -> list[str]:
    """Settings in which a task is not what its rows say."""
    return [
        row.setting
        for row in stated.stated(task.name)
        if row.setting in stated.SETTINGS
        and stated.SETTINGS[row.setting](task) != (row.paper if row.ours is None else row.ours)
    ]


@pytest.mark.parametrize("task", tasks(), ids=lambda task: task.name)
def test_a_task_does_what_the_paper_states_or_says_why_not(task: Task) -> None:
    assert differences(task) == []


@pytest.mark.parametrize("row", stated.ROWS, ids=lambda row: f"{row.setting} of {row.tasks}")
def test_a_deviation_has_a_reason_and_is_one(row: stated.Row) -> None:
    assert (row.ours is None) == (row.why == "")
    assert row.ours != row.paper
    assert row.ours is not None or row.setting in stated.SETTINGS, "what nothing compares is no agreement"
    holds = [task for task in tasks() if row in stated.stated(task.name)]
    assert holds, "a row that holds for no task"
    assert {str(task.table) for task in holds} - {"None"} <= set(row.table.split())


def test_every_task_of_a_table_has_rows() -> None:
    assert all(list(stated.stated(name)) for name, task in TASKS.items() if task.table is not None)


@pytest.mark.parametrize(
    ("name", "change", "setting"),
    [
        ("msd-spleen/linear3d", {"head_config": {"warm_up": 0.0}}, "learning rate"),
        ("msd-lung/unet3d", {"head_config": {"learning_rate": 1e-4}}, "warm-up"),
        ("autopet2-ct/conv3d", {"head_config": {"learning_rate": 1e-4, "warm_up": 0.0}}, "warm-up"),
        ("hecktor2022-pet/unetr", {"head_config": {"learning_rate": 1e-3}}, "learning rate"),
        ("msd-colon/unet3d", {"head_config": {"learning_rate": 1e-4, "warm_up": 0.0, "flips": "none"}}, "augmentation"),
        ("nih14/linear", {"image_size": 224}, "image size"),
        ("rsna/linear", {"head_config": {"epochs": 100}}, "epochs"),
        ("ctrate/linear", {"stride": 4}, "vector of a volume"),
        ("acdc/voxelmorph", {"head_config": {}}, "intensities"),
    ],
)  # fmt: skip
def test_a_task_that_is_changed_is_found(name: str, change: dict, setting: str) -> None:
    dataset, _, head = name.partition("/")
    assert differences(replace(default_task(DATASETS.get(dataset), head), **change)) == [setting]


def test_networks_are_trained_as_the_decoders_of_their_table() -> None:
    for name, warm_up in (("msd-spleen/swinunetr", 0.0), ("hecktor2022-ctpet/vnet", 0.05)):
        dataset, _, head = name.partition("/")
        trained = stated.head_of(default_task(DATASETS.get(dataset), head))
        assert (trained.learning_rate, trained.warm_up) == (1e-4, warm_up)
    assert default_task(DATASETS.get("msd-spleen"), "constant").head_config == {}
    assert stated.head_of(default_task(DATASETS.get("endovis18"), "unet2d")).learning_rate == 1e-3


def test_footnotes_are_of_the_tasks_that_were_run() -> None:
    (augmentation, validation) = stated.footnotes(["msd-heart/unet3d"])
    assert augmentation == (
        "augmentation (msd-heart/unet3d): the paper says random rotations and flips; "
        "here random rotations: a heart is no mirror image of itself"
    )
    assert validation.startswith("validation (msd-heart/unet3d): the paper says none")
    both = stated.footnotes(["msd-spleen/unet3d", "msd-lung/conv3d"])
    assert any("random rotations and flips of the grids" in note and "(msd-lung/conv3d)" in note for note in both)
    assert any("(msd-lung/conv3d, msd-spleen/unet3d)" in note for note in both)
    assert stated.footnotes(["polyps/unet2d"]) == []


def test_the_table_of_the_docs_is_what_the_code_prints() -> None:
    assert stated.page() in DOCS.read_text(), "print it with: python -m medprobe.tasks.stated"
