"""What there is, as rows: datasets, encoder families, heads, tasks, models, and what a cache holds."""

import sys
from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from medprobe.errors import RequestError
from medprobe.features.store import Finding
from medprobe.registry import DATASETS, ENCODERS, HEADS, TASKS, did_you_mean

KINDS = ("datasets", "encoders", "heads", "tasks", "models")


def listing(what: str) -> list[dict[str, Any]]:
    """Rows with a `name` each. RequestError: no such list."""
    if what == "datasets":
        return [
            {"name": name, "modality": one.modality, "kind": one.kind, "classes": len(one.classes), "cases": sum(one.counts.values()), "licence": one.licence, "source": one.source}
            for name, one in DATASETS.items()
        ]
    if what == "encoders":
        return [{"name": name, "about": _first_line(one)} for name, one in ENCODERS.items()]
    if what == "heads":
        return [
            {"name": name, "for": _answers(one), "about": _first_line(sys.modules[one.__module__]), "settings": " ".join(f"{field.name}={field.default}" for field in fields(one))}
            for name, one in HEADS.items()
        ]
    if what == "tasks":
        return [{"name": name, "main": one.main, "image_size": one.image_size, "table": one.table} for name, one in TASKS.items()]
    if what == "models":
        from medprobe.tasks.models import NAMED

        return [
            {"name": name, "spec": one.spec, "licence": one.licence, "gated": "gated" if one.gated else "", "source": one.source, "note": one.needs or one.note}
            for name, one in NAMED.items()
        ]
    raise RequestError(f"no list named {what!r}; {did_you_mean(what, list(KINDS))}")


def _first_line(thing: Any) -> str:
    return (thing.__doc__ or "").strip().partition("\n")[0]


def _answers(head: Any) -> str:
    """The kinds of dataset a head is for, and how many dimensions where that matters."""
    dims: tuple[int, ...] = getattr(head, "dims", ())
    return "+".join(sorted(getattr(head, "kinds", ("classification",)))) + (f" {dims[0]}D" if len(dims) == 1 else "")


def cache_rows(findings: Iterable[Finding]) -> list[dict[str, Any]]:
    """One row per way of encoding: planes done, bytes, encoder and size."""
    rows: dict[str, dict[str, Any]] = {}
    for finding in findings:
        facts = finding.facts
        row = rows.setdefault(finding.encoding, {"encoding": finding.encoding, "encoder": facts.get("encoder", "unknown" if finding.kind == "features" else "decoded planes"), "size": facts.get("size"), "precision": facts.get("precision"), "shards": 0, "planes": 0, "bytes": 0})
        row["shards"] += finding.shard != "-"
        row["planes"] += finding.done
        row["bytes"] += finding.bytes
    return list(rows.values())
