"""What was run, as rows of the page: models, datasets and protocols, each with everything that was not the same throughout."""

from collections.abc import Iterable, Mapping
from typing import Any

from medprobe.report.read import PREDICTIONS, Row, Tree

SHOWN = ("window", "fit_rule", "resize", "pooling", "threshold", "main", "monitor", "protocol")
"""Fields of a task that the page shows; all are in the results."""
OF_PREDICTIONS = ("distance_unit", "resample", "values", "ignore", "classes")


def provenance(tree: Tree) -> dict[str, Any]:
    cells = [cell for row in tree.rows for cell in row.cells]
    stored = [cell["provenance"] for cell in cells]
    return {
        "model_rows": _models(tree.rows), "dataset_rows": _datasets(tree.rows), "task_rows": _tasks(tree.rows),
        "warnings": _warnings(tree.rows), "version": _every(one["medprobe"] for one in stored),
        "written": max(one.get("written", "") for one in stored),
        "devices": sorted({str(one["device"] or "—") for one in stored}),
        "libraries": _every(_pairs(one.get("libraries", {})) for one in stored),
    }  # fmt: skip


def _every(values: Iterable[Any]) -> str:
    """What was the same throughout, or each in turn."""
    return " / ".join(dict.fromkeys(map(str, values)))


def _pairs(facts: Mapping[str, Any], between: str = " ") -> str:
    return ", ".join(f"{key}{between}{value}" for key, value in facts.items())


def _models(rows: Iterable[Row]) -> list[dict[str, Any]]:
    found: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in rows:
        model = row.model
        one = {
            "name": row.label, "spec": model["spec"], "params": f"{model['params']:,}" if model["params"] else "—",
            "dim": model["dim"] or "—", "size": model["image_size"] or "—", "digest": _weights(row),
            "licence": model["licence"] or "—",
        }  # fmt: skip
        found.setdefault(tuple(one.values()), one)
    return list(found.values())


def _weights(row: Row) -> str:
    digests = {cell["provenance"].get("weights_sha256") for cell in row.cells} - {None}
    if row.model["control"] or not digests:
        return "—"
    return f"{len(digests)} draws" if len(digests) > 1 else digests.pop()[:16]


def _datasets(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """One line for each state of a dataset that was seen."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        for cell in row.cells:
            state = row.task["dataset"], cell["provenance"]["dataset_fingerprint"]
            if row not in found.setdefault(state, []):
                found[state].append(row)
    return [
        {
            "name": dataset, "fingerprint": fingerprint[:16],
            "cases": _every(row.task.get("n_cases", "—") for row in several),
            "licence": _every(row.task.get("licence", "—") for row in several),
            "validation": _every(cell["validation"] for row in several for cell in row.cells if "validation" in cell) or "—",
        }
        for (dataset, fingerprint), several in found.items()
    ]  # fmt: skip


def _tasks(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """One line for each protocol of a task, with the rows it is of where there are several."""
    found: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        found.setdefault(row.task_name, {}).setdefault(_protocol(row), []).append(row)
    return [
        {"name": task, "protocol": protocol, "models": _every(row.label for row in several) if len(ways) > 1 else "all"}
        for task, ways in found.items()
        for protocol, several in ways.items()
    ]


def _protocol(row: Row) -> str:
    if row.model["spec"] == PREDICTIONS:
        facts = row.cells[0].get("facts", {})
        stored = {key: facts[key] for key in OF_PREDICTIONS if facts.get(key) is not None}
        parts = [f"{key}={value}" for key, value in stored.items()]
        return "; ".join(["predictions made elsewhere", *parts, f"sha256 {str(facts.get('predictions_sha256'))[:16]}"])
    config = row.task["config"]
    fields = {"image_size": row.model["image_size"], **{key: config.get(key) for key in SHOWN}}
    task = "; ".join(f"{key}={value}" for key, value in fields.items())
    return f"{task}; head: {_pairs(config.get('head_config', {}), '=')}"


def _warnings(rows: Iterable[Row]) -> dict[str, list[str]]:
    """Warning → the rows that it is of."""
    found: dict[str, list[str]] = {}
    for row in rows:
        for said in (said for cell in row.cells for said in cell.get("warnings", [])):
            places = found.setdefault(said, [])
            if f"{row.label} on {row.task_name}" not in places:
                places.append(f"{row.label} on {row.task_name}")
    return found
