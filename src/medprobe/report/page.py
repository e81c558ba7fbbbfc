"""Results to a page: one self-contained index.html, with tables and figures as files beside it. Reads result files only."""

import base64
import io
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medprobe.files import dump_json, write_atomically
from medprobe.report import compare, figures, published, tables, verdicts
from medprobe.report.missing import missing as not_run
from medprobe.report.provenance import provenance
from medprobe.report.read import Tree, read_tree
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
        done = f"{self.done} result{'s' if self.done != 1 else ''}"
        return "\n".join([*lines, f"{done}, {self.failed} failed, {self.missing} not run: {self.page}"])


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
    beside = _by_table([{**line, "text": _ours(line)} for line in published.beside(tree)])
    notes = _notes(tree)
    for sheet in [*sheets, tables.full_sheet(tree), *_published_sheets(beside, notes)]:
        tables.write_sheet(sheet, out / "tables")
    found = compare.flags(tree)
    missing = not_run(tree)
    stood = compare.controlled(tree)
    cells = [cell for row in tree.rows for cell in row.cells]
    counts = {"done": sum(cell["status"] == "done" for cell in cells), "failed": sum(cell["status"] == "failed" for cell in cells), "missing": len(missing)}
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string((Path(__file__).parent / "template.html").read_text())
    page = template.render(
        counts=counts, models=tree.models, tasks=tree.tasks, flags=found, figures=drawn, sheets=sheets, published=beside, notes=notes, missing=missing,
        few=tables.SMALL if any(tables.MARK in cell for sheet in sheets for row in sheet.rows for cell in row) else None,
        compared=sum(bool(rivals) for _, rivals in stood), uncontrolled=sorted({f"{row.label} on {row.task_name}" for row, rivals in stood if not rivals}),
        changed=sorted({row.task["dataset"] for row in tree.rows if len(set().union(*(other.fingerprints for other in tree.rows if other.task["dataset"] == row.task["dataset"] and ("limit" in other.options) == ("limit" in row.options)))) > 1}),
        dense=any(row.task["kind"] in DENSE for row in tree.rows), ranked=any(row.task["kind"] not in DENSE for row in tree.rows),
        limited=any("limit" in row.options for row in tree.rows), untrained=sorted({row.label for row in tree.rows if row.model["random"]}),
        sizes=sorted({row.model["image_size"] for row in tree.rows if row.model["image_size"]}), failed=[row for row in tree.rows if row.failed],
        unreadable=tree.unreadable, pictures=_pictures(base / "pictures"), **provenance(tree),
    )  # fmt: skip
    write_atomically(out / "index.html", page)
    facts = {
        "counts": counts, "flags": found, "missing": missing, "unreadable": list(tree.unreadable),
        "published": [{key: value for key, value in line.items() if key != "cell"} for table in beside for line in (*table["ours"], *table["others"])],
        "concordance": {table["table"]: table["concordance"] for table in beside}, "deviations": notes,
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


def _published_sheets(beside: list[dict[str, Any]], notes: dict[str, list[str]]) -> list[tables.Sheet]:
    columns = ("dataset", "method", "head", "our row", "metric", "score", "published", "ours", "verdict", "why")
    names = ("dataset", "method", "head", "row", "metric", "score", "printed", "text", "verdict", "why")
    return [
        tables.Sheet(
            f"published-table{table['table']}", f"Table {table['table']}", columns,
            tuple(tuple(line[name] for name in names) for line in (*table["ours"], *table["others"])),
            tuple(notes.get(table["table"], ())),
        )
        for table in beside
    ]  # fmt: skip


def _by_table(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Table by table, what stands beside a number of ours, what does not, and how far our rows keep the printed order."""
    found: dict[str, dict[str, Any]] = {}
    for line in lines:
        table = found.setdefault(line["table"], {"table": line["table"], "ours": [], "others": []})
        table["ours" if line["ours"] is not None else "others"].append(line)
    return [{**table, "concordance": verdicts.concordance(table["ours"])} for table in found.values()]


def _notes(tree: Tree) -> dict[str, list[str]]:
    """Table → where its tasks do not do what the paper says of them."""
    tasks: dict[str, set[str]] = {}
    for row in tree.rows:
        if (table := row.task["config"].get("table")) is not None:
            tasks.setdefault(str(table), set()).add(row.task_name)
    return {table: stated.footnotes(names) for table, names in tasks.items()}


def _ours(line: dict[str, Any]) -> str:
    return "—" if line["verdict"] == published.QUOTED else tables.interval_text(line["ours"], 4)


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
