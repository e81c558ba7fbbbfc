"""Results to a page: one self-contained index.html, with tables and figures as files beside it. Reads result files only."""

import base64
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medprobe.files import dump_json, write_atomically
from medprobe.report import compare, figures, published, tables
from medprobe.report.read import Row, Tree, read_tree
from medprobe.run.results import DENSE
from medprobe.tasks import stated

MAX_PICTURES = 24


@dataclass(frozen=True)
class Summary:
    """What a report says, for programs; `str` of it is what the command prints."""

    page: str
    done: int
    failed: int
    missing: int
    flags: list[str]
    unreadable: list[str]

    def __str__(self) -> str:
        lines = [f"flag: {flag}" for flag in self.flags]
        lines += [f"unreadable: {name}" for name in self.unreadable]
        return "\n".join([*lines, f"{self.done} results, {self.failed} failed, {self.missing} not run: {self.page}"])


def write_report(results: Path, out: Path | None = None) -> Summary:
    """Write OUT/index.html, OUT/report.json, OUT/tables, OUT/figures (default OUT: RESULTS/report).

    Equal results give equal files. RequestError when there are no results.
    """
    import jinja2

    tree = read_tree(results)
    base = tree.root.parent if tree.root.name == "results" else tree.root
    out = out or base / "report"
    drawn = [_figure(name, caption, figure, out) for name, caption, figure in figures.figures(tree)]
    sheets = tables.score_sheets(tree)
    lines = [{**line, "text": _ours(line), "printed": published.text_of(line)} for line in published.beside(tree)]
    for sheet in [*sheets, tables.full_sheet(tree), *_published_sheets(lines)]:
        tables.write_sheet(sheet, out / "tables")
    found = compare.flags(tree)
    missing = _missing(tree)
    cells = [cell for row in tree.rows for cell in row.cells]
    counts = {"done": sum(cell["status"] == "done" for cell in cells), "failed": sum(cell["status"] == "failed" for cell in cells), "missing": len(missing)}
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string((Path(__file__).parent / "template.html").read_text())
    page = template.render(
        counts=counts, models=tree.models, tasks=tree.tasks, flags=found, figures=drawn, sheets=sheets, published=_by_table(lines), notes=_notes(tree), missing=missing,
        few=tables.SMALL if any(tables.MARK in cell for sheet in sheets for row in sheet.rows for cell in row) else None,
        compared=any(row.control for row in tree.rows) and any(not row.control for row in tree.rows),
        changed=sorted({row.task["dataset"] for row in tree.rows if len(set().union(*(other.fingerprints for other in tree.rows if other.task["dataset"] == row.task["dataset"] and ("limit" in other.options) == ("limit" in row.options)))) > 1}),
        dense=any(row.task["kind"] in DENSE for row in tree.rows), ranked=any(row.task["kind"] not in DENSE for row in tree.rows),
        limited=any("limit" in row.options for row in tree.rows), untrained=sorted({row.label for row in tree.rows if row.model["random"]}),
        sizes=sorted({row.model["image_size"] for row in tree.rows if row.model["image_size"]}), failed=[row for row in tree.rows if row.failed],
        unreadable=tree.unreadable, pictures=_pictures(base / "pictures"), **_provenance(tree),
    )  # fmt: skip
    write_atomically(out / "index.html", page)
    facts = {
        "counts": counts, "flags": found, "missing": missing, "unreadable": list(tree.unreadable), "published": lines, "deviations": _notes(tree),
        "rows": [{"task": row.task_name, "model": row.label, "control": row.control, "main": row.main, "score": row.score(), "failed": row.failed} for row in tree.rows],
    }  # fmt: skip
    write_atomically(out / "report.json", dump_json(facts))
    return Summary(str(out / "index.html"), counts["done"], counts["failed"], counts["missing"], [flag["sentence"] for flag in found], list(tree.unreadable))


def _figure(name: str, caption: str, figure: Any, out: Path) -> dict[str, str]:
    """Save as .svg and .png; the svg goes into the page, its ids made its own."""
    for suffix in ("svg", "png"):
        buffer = io.BytesIO()
        figure.savefig(buffer, format=suffix, dpi=150, metadata={"Date": None} if suffix == "svg" else None)
        write_atomically(out / "figures" / f"{name}.{suffix}", buffer.getvalue())
        if suffix == "svg":
            text = buffer.getvalue().decode()
    text = re.sub(r"<metadata>.*?</metadata>", "", text[text.index("<svg") :], flags=re.DOTALL)
    text = re.sub(r'(id="|#)(?=[A-Za-z_])', rf"\g<1>{name}-", re.sub(r"#([0-9a-fA-F]{6})\b", r"&hash;\1", text)).replace("&hash;", "#")
    return {"caption": caption, "svg": text}


def _published_sheets(lines: list[dict[str, Any]]) -> list[tables.Sheet]:
    columns = ("dataset", "method", "head", "metric", "score", "published", "ours", "verdict")
    names = ("dataset", "method", "head", "metric", "score", "printed", "text", "verdict")
    return [tables.Sheet(f"published-table{table['table']}", f"Table {table['table']}", columns, tuple(tuple(line[name] for name in names) for line in (*table["ours"], *table["others"]))) for table in _by_table(lines)]


def _by_table(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Table by table, what stands beside a number of ours and what does not."""
    found: dict[str, dict[str, Any]] = {}
    for line in lines:
        table = found.setdefault(line["table"], {"table": line["table"], "ours": [], "others": []})
        table["ours" if line["ours"] is not None else "others"].append(line)
    return list(found.values())


def _notes(tree: Tree) -> dict[str, list[str]]:
    """Table → where its tasks do not do what the paper says of them."""
    tasks: dict[str, set[str]] = {}
    for row in tree.rows:
        if (table := row.task["config"].get("table")) is not None:
            tasks.setdefault(str(table), set()).add(row.task_name)
    return {table: stated.footnotes(names) for table, names in tasks.items()}


def _ours(line: dict[str, Any]) -> str:
    return "—" if line["verdict"] == published.QUOTED else tables.interval_text(line["ours"])


def _missing(tree: Tree) -> list[str]:
    """Model × task pairs without any file, and folds or seeds that others of the task have."""
    missing = []
    for task in tree.tasks:
        rows = [row for row in tree.rows if row.task_name == task]
        cells = {(cell["seed"], cell["fold"]) for row in rows for cell in row.cells}
        for label in tree.models:
            row = tree.get(task, label)
            if row is None and any(other.task["head"] == "constant" or (other.model["spec"] == "pixels" and not other.model["control"]) for other in rows):
                continue  # the mean of the targets looks at no model, and a network on pixels has no other
            if row is None:
                missing.append(f"{label} on {task}")
                continue
            have = {(cell["seed"], cell["fold"]) for cell in row.cells}
            for seed, fold in sorted(cells - have, key=str):
                missing.append(f"{label} on {task}, seed {seed}" + ("" if fold is None else f", fold {fold}"))
    return missing


def _pictures(folder: Path) -> list[dict[str, str]]:
    """Pictures saved by runs, as data URIs no wider than 900 pixels."""
    from PIL import Image

    found = []
    for file in sorted(folder.rglob("*.png"))[:MAX_PICTURES] if folder.is_dir() else []:
        buffer = io.BytesIO()
        with Image.open(file) as picture:
            picture.thumbnail((900, 900))
            picture.save(buffer, "PNG")
        found.append({"name": str(file.relative_to(folder)), "uri": "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()})
    return found


def _made_elsewhere(row: Row) -> str:
    """What scores of predictions made elsewhere depend on; nothing for those made here."""
    if row.model["spec"] != "predictions":
        return ""
    facts = row.cells[0].get("facts", {})
    shown = [f"{key}={facts[key]}" for key in ("distance_unit", "resample", "values", "ignore", "classes") if facts.get(key) is not None]
    return "; ".join(["predictions made elsewhere", *shown, f"sha256 {str(facts.get('predictions_sha256'))[:16]}"])


def _provenance(tree: Tree) -> dict[str, Any]:
    """What was run, as rows of the page."""
    rows: tuple[Row, ...] = tree.rows
    cells = [cell for row in rows for cell in row.cells]
    model_rows = {
        (row.label, row.model["image_size"]): {
            "name": row.label, "spec": row.model["spec"], "params": f"{row.model['params']:,}" if row.model["params"] else "—", "dim": row.model["dim"] or "—",
            "size": row.model["image_size"] or "—", "digest": "—" if row.model["control"] else (row.cells[0]["provenance"]["weights_sha256"] or "—")[:16], "licence": row.model["licence"] or "—",
        }
        for row in rows
    }  # fmt: skip
    dataset_rows = {
        row.task["dataset"]: {
            "name": row.task["dataset"], "cases": row.task.get("n_cases", "—"), "fingerprint": row.cells[0]["provenance"]["dataset_fingerprint"][:16],
            "licence": row.task.get("licence", "—"), "validation": next((cell["validation"] for cell in row.cells if "validation" in cell), "—"),
        }
        for row in rows
    }  # fmt: skip
    shown = ("image_size", "pooling", "window", "fit_rule", "resize", "threshold", "main", "monitor", "protocol")
    task_rows = {row.task_name: {"name": row.task_name, "protocol": _made_elsewhere(row) or "; ".join(f"{key}={row.model['image_size'] if key == 'image_size' else row.task['config'].get(key)}" for key in shown) + "; head: " + ", ".join(f"{key}={value}" for key, value in row.task["config"].get("head_config", {}).items())} for row in rows}
    warnings: dict[str, list[str]] = {}
    for row in rows:
        for cell in row.cells:
            for said in cell.get("warnings", []):
                places = warnings.setdefault(said, [])
                if f"{row.label} on {row.task_name}" not in places:
                    places.append(f"{row.label} on {row.task_name}")
    libraries = cells[-1]["provenance"].get("libraries", {})
    return {
        "model_rows": list(model_rows.values()), "dataset_rows": list(dataset_rows.values()), "task_rows": list(task_rows.values()), "warnings": warnings,
        "version": cells[-1]["provenance"]["medprobe"], "written": max(cell["provenance"].get("written", "") for cell in cells),
        "devices": sorted({str(cell["provenance"]["device"] or "—") for cell in cells}), "libraries": ", ".join(f"{name} {number}" for name, number in libraries.items()),
    }  # fmt: skip
