"""The tasks of the paper's tables: which there are, what they ask, and what a head that no table names gets instead."""

import subprocess
import sys

import pytest

from medprobe.registry import DATASETS, TASKS
from medprobe.report.published import DATASETS as PRINTED
from medprobe.report.published import published
from medprobe.run.results import score_keys
from medprobe.tasks.suites import default_task, suites

SUITES = {
    "paper/table2": 2, "paper/table5": 1, "paper/table6": 1, "paper/table7": 1, "paper/table8": 1, "paper/table9": 2,
    "paper/table10": 10, "paper/table11": 10, "paper/table14": 12, "paper/table15": 3, "paper/table16": 3,
}  # fmt: skip


def test_every_table_is_a_suite_in_order_of_its_number() -> None:
    found = suites()
    assert {name: len(tasks) for name, tasks in found.items() if name != "paper"} == SUITES
    assert [name for name in found if name != "paper"] == list(SUITES)
    assert found["paper"] == [task for name in SUITES for task in found[name]]
    assert found["paper/table9"] == ["ctrate/knn", "ctrate/linear"]
    assert {task.partition("/")[2] for table in (10, 11, 14) for task in found[f"paper/table{table}"]} == {"conv3d", "linear3d"}


@pytest.mark.parametrize("name", TASKS.names())
def test_a_task_asks_what_its_dataset_can_answer(name: str) -> None:
    task = TASKS.get(name)
    dataset = DATASETS.get(task.dataset)
    assert task.window == dataset.recipe
    assert task.main in score_keys(dataset, dataset.unit)
    assert task.image_size == (512 if dataset.kind in ("segmentation", "registration") else 256)
    if task.table is None:
        assert task.dataset == "ctrate-original" or task.head == "regnet", "all that no table prints"
    else:
        assert str(task.table) in {row["table"] for row in published() if row["dataset"] == PRINTED[task.dataset]}


def test_a_network_on_pixels_is_of_the_table_and_of_no_suite() -> None:
    endovis = DATASETS.get("endovis18")
    network, layer, control = (default_task(endovis, head) for head in ("unet2d", "linear2d", "constant"))
    assert (network.table, layer.table, control.table) == (7, None, None)
    assert {one.main for one in (network, layer, control)} == {"challenge_iou"}
    assert "endovis18/unet2d" not in suites()["paper"]


def test_listing_tasks_imports_no_torch() -> None:
    script = "import sys\nfrom medprobe.run.listing import listing\nassert len(listing('tasks')) > 30\nassert not {'torch', 'monai', 'timm', 'sklearn'} & set(sys.modules)\n"
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
