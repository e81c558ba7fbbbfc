"""The command line: parse, call, print. stdout is the result, stderr the progress; errors end with their exit status."""

import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from medprobe.errors import MedprobeError, RequestError

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None, help="Measure what a frozen vision encoder knows about medicine: one encoder, every task, one command.")
cache_app = typer.Typer(no_args_is_help=True, help="Features kept on disk: list, verify, clean.")
app.add_typer(cache_app, name="cache")

Json = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")]
Data = Annotated[Path | None, typer.Option("--data", envvar="MEDPROBE_DATA", help="Folder that holds the datasets, each in a folder of its own. Not needed for manifests.")]
Cache = Annotated[Path | None, typer.Option("--cache", envvar="MEDPROBE_CACHE", help="Where features are kept [default: the user cache].")]


def _config(context: typer.Context, file: Path | None) -> Path | None:
    """Options of a YAML file become defaults: a flag or a variable still wins."""
    if file is None:
        return None
    import yaml

    try:
        options = yaml.safe_load(file.read_text()) or {}
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise _stop(RequestError(f"--config {file}: expected a YAML file of options, found {str(error).splitlines()[0]}; correct it")) from None
    known = {name.lstrip("-"): parameter for parameter in context.command.params for name in getattr(parameter, "opts", []) if name.startswith("--")}
    if not isinstance(options, dict) or (unknown := sorted(set(map(str, options)) - set(known))):
        from medprobe.registry import did_you_mean

        said = f"no option named {unknown[0]!r}; {did_you_mean(unknown[0], sorted(known))}" if isinstance(options, dict) else "expected lines of option: value; correct it"
        raise _stop(RequestError(f"--config {file}: {said}"))
    context.default_map = {known[key].name: _option_text(value, known[key]) for key, value in options.items()}
    return file


def _option_text(value: Any, parameter: Any) -> Any:
    if isinstance(value, dict):
        return [f"{key}={item}" for key, item in value.items()]
    if parameter.multiple:
        return [str(item) for item in value] if isinstance(value, list) else [str(value)]
    if isinstance(value, list):
        return ",".join(map(str, value))
    return value if isinstance(value, bool) else str(value)


Config = Annotated[Path | None, typer.Option("--config", is_eager=True, callback=_config, help="YAML file of options; flags and variables win over it.")]


def _stop(error: BaseException) -> SystemExit:
    print(f"medprobe: {error}", file=sys.stderr)
    return SystemExit(getattr(error, "exit_status", 1))


def _settings(given: list[str]) -> dict[str, Any]:
    import yaml

    settings = {}
    for text in given:
        key, equals, value = text.partition("=")
        if not equals:
            raise RequestError(f"--set {text}: expected KEY=VALUE, for example head.epochs=100; correct it")
        try:
            settings[key.strip()] = yaml.safe_load(_number(value))
        except yaml.YAMLError:
            raise RequestError(f"--set {text}: expected a number, a word or a list such as [1,2], found {value!r}; correct it") from None
    return settings


def _number(text: str) -> str:
    """YAML reads 1e-3 as text: write it as it does read numbers."""
    try:
        return repr(float(text)) if "e" in text.lower() and "." not in text else text
    except ValueError:
        return text


def _batch_size(text: str) -> int | None:
    if text != "auto" and not (text.isascii() and text.isdigit()):
        raise RequestError(f"--batch-size: expected auto or a whole number, found {text!r}; correct it")
    return None if text == "auto" else int(text)


def _numbers(text: str, option: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise RequestError(f"{option}: expected whole numbers joined by commas, found {text!r}; for example 0,1,2") from None


def _bytes(text: str | None, option: str) -> int | None:
    """'50GB' → bytes."""
    if text is None:
        return None
    units = {"B": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
    upper = text.strip().upper()
    for unit in sorted(units, key=len, reverse=True):
        if upper.endswith(unit):
            try:
                return int(float(upper.removesuffix(unit)) * units[unit])
            except ValueError:
                break
    if upper.isdigit():
        return int(upper)
    raise RequestError(f"{option}: expected a size such as 50GB or 800MB, found {text!r}; write it so")


def _print(value: Any) -> None:
    from medprobe.files import dump_json

    sys.stdout.write(dump_json(value))


@app.command()
def run(
    model: Annotated[str, typer.Option("--model", "-m", help="Models: names, globs or specs, joined by commas.")],
    task: Annotated[str, typer.Option("--task", "-t", help="Tasks: DATASET/HEAD, globs, suites, or MANIFEST.toml/HEAD, joined by commas.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for results.")] = Path("runs"),
    data: Data = None,
    weights: Annotated[list[str] | None, typer.Option("--weights", help="Local checkpoint FILE, or NAME=FILE per model.")] = None,
    seeds: Annotated[str, typer.Option(help="Seeds, joined by commas.")] = "0",
    folds: Annotated[str, typer.Option(help="all, or folds joined by commas.")] = "all",
    image_size: Annotated[int | None, typer.Option(help="Side of the planes in pixels.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", "-L", help="At most N cases of each split or fold.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda:0.")] = "auto",
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    batch_size: Annotated[str, typer.Option("--batch-size", "-b", help="auto or a number; never changes a result beyond rounding.")] = "auto",
    set_: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE: head.FIELD or task.FIELD. Repeatable.")] = None,
    cache: Cache = None,
    cache_budget: Annotated[str | None, typer.Option(help="Features beyond this, for example 50GB, are streamed.")] = None,
    planes_budget: Annotated[str, typer.Option(help="Decoded planes up to this are kept, so that another encoder decodes nothing; 0 keeps none.")] = "10GB",
    max_ram: Annotated[str, typer.Option(help="Memory for features held at a time.")] = "8GB",
    skip_unreadable: Annotated[int, typer.Option(help="How many unreadable cases a result may leave out.")] = 0,
    engine: Annotated[str, typer.Option(help="Where cells run: local.")] = "local",
    plan: Annotated[bool, typer.Option("--plan", help="Say what would be done, and stop.")] = False,
    fail_fast: Annotated[bool, typer.Option("--fail-fast", help="Stop at the first failed result.")] = False,
    config: Config = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Evaluate models on tasks. The same command again does only what is not done."""
    from medprobe.run import plan as planning
    from medprobe.run.progress import reporting, say
    from medprobe.run.request import Request
    from medprobe.run.run import closing_lines, describe
    from medprobe.run.run import run as run_plan

    if engine != "local":
        raise RequestError(f"--engine {engine}: this version runs cells on this machine only; use --engine local")
    request = Request(
        model, task, out, data, tuple(weights or ()), _numbers(seeds, "--seeds"), None if folds == "all" else _numbers(folds, "--folds"),
        image_size, limit, device, precision, _batch_size(batch_size), _settings(set_ or []), cache,
        _bytes(cache_budget, "--cache-budget"), _bytes(planes_budget, "--planes-budget") or 0, _bytes(max_ram, "--max-ram") or 0, skip_unreadable, fail_fast,
    )  # fmt: skip
    with reporting() as progress:
        made = planning.make(request, progress, tolerant=plan)
        progress.finish()
        if plan:
            _print(made.summary()) if as_json else print("\n".join(describe(made)))
            return
        for line in describe(made):
            say(line)
        outcome = run_plan(request, made, progress)
    if as_json:
        _print({"done": [f"{path}.json" for path in outcome.done], "failed": {f"{path}.json": said for path, said in outcome.failed.items()}, "warnings": {said: [f"{path}.json" for path in paths] for said, paths in outcome.warnings.items()}})
    elif outcome.done:
        _show_table(out)
    for line in closing_lines(outcome, out):
        say(line)
    if outcome.done:
        say(f"next: medprobe report {out}")
    if outcome.failed:
        raise SystemExit(1)


def _show_table(out: Path) -> None:
    from rich.console import Console

    from medprobe.report.tables import console_table

    Console(width=None if sys.stdout.isatty() else 160).print(console_table(out))


@app.command()
def encode(
    model: Annotated[str, typer.Option("--model", "-m", help="One model.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the features.")],
    task: Annotated[str | None, typer.Option("--task", "-t", help="Encode the cases of this task.")] = None,
    images: Annotated[Path | None, typer.Option("--images", help="Encode every image file of this folder.")] = None,
    format_: Annotated[str, typer.Option("--format", help="npy, parquet or h5.")] = "npy",
    data: Data = None,
    weights: Annotated[list[str] | None, typer.Option("--weights", help="Local checkpoint.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side of the planes in pixels.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", "-L", help="At most N cases.")] = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda:0.")] = "auto",
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    batch_size: Annotated[str, typer.Option("--batch-size", "-b", help="auto or a number.")] = "auto",
    seed: Annotated[int, typer.Option(help="Seed of `random:` weights.")] = 0,
    skip_unreadable: Annotated[int, typer.Option(help="How many unreadable images may be left out.")] = 0,
    cache: Cache = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Features only: per case its class token and its patch mean side by side, for use elsewhere (and as `features:DIR`)."""
    from medprobe.run.export import export
    from medprobe.run.progress import reporting
    from medprobe.run.request import Request

    request = Request(
        model, task or "", out, data, tuple(weights or ()), (seed,), None, image_size, limit, device, precision,
        _batch_size(batch_size), cache=cache, skip_unreadable=skip_unreadable,
    )  # fmt: skip
    with reporting() as progress:
        written = export(request, images, format_, progress)
    parts = " + ".join(f"{name} {width}" for name, width in written["columns"].items())
    _print(written) if as_json else print(f"{written['cases']} cases, {written['dim']} values each ({parts}): {written['file']}")


@app.command()
def score(
    task: Annotated[str, typer.Option("--task", "-t", help="One task.")],
    predictions: Annotated[Path, typer.Option(help="Folder with predictions.parquet or .csv (case, prob.<class>), or with a label map or displacement per case.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for results.")],
    name: Annotated[str, typer.Option(help="What to call the model.")],
    data: Data = None,
    resample: Annotated[str | None, typer.Option(help="nearest: put label maps of another grid on that of the reference.")] = None,
    labels: Annotated[str | None, typer.Option(help="What the numbers of label maps are: values (of the data's masks) or indices (of the classes).")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Score someone else's predictions exactly as our own."""
    from medprobe.run.progress import reporting
    from medprobe.run.score import score_predictions

    if resample not in (None, "nearest"):
        raise RequestError(f"--resample: expected nearest, found {resample!r}; label maps are resampled no other way")
    with reporting() as progress:
        documents = score_predictions(task, predictions, out, name, data, progress, resample is not None, labels)
    if as_json:
        _print(documents)
    else:
        _show_table(out)
        for said in dict.fromkeys(document["facts"].get("labels") for document in documents):
            if said:
                read_as = "mask values of the data" if said == "values" else "class indices"
                typer.echo(f"predictions were read as {read_as} (--labels {said})", err=True)
        for said in dict.fromkeys(warning for document in documents for warning in document["warnings"]):
            typer.echo(f"warning: {said}", err=True)
        typer.echo(f"next: medprobe report {out}", err=True)


@app.command()
def report(
    results: Annotated[Path, typer.Argument(help="The --out folder of a run.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Where to write [default: RESULTS/report].")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Write index.html, tables and figures from the results of runs."""
    from dataclasses import asdict

    from medprobe.report.page import write_report

    summary = write_report(results, out)
    if as_json:
        _print(asdict(summary))
    else:
        print(summary)


@app.command()
def compare(
    results: Annotated[Path, typer.Argument(help="The --out folder of a run.")],
    baseline: Annotated[str, typer.Option(help="The model the others are compared with; or MODEL/HEAD, to compare across heads.")],
    metric: Annotated[str | None, typer.Option(help="A score key [default: the main score of each task].")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Paired, patient-clustered differences to a baseline, with intervals and Holm's correction."""
    from rich.console import Console

    from medprobe.report.compare import comparison_table, comparisons

    rows = comparisons(results, baseline, metric)
    if as_json:
        _print(rows)
    else:
        Console(width=None if sys.stdout.isatty() else 160).print(comparison_table(rows, baseline))


@app.command()
def show(
    model: Annotated[str, typer.Option("--model", "-m", help="Models, joined by commas: their features are shown side by side.")],
    task: Annotated[str, typer.Option("--task", "-t", help="One task.")],
    case: Annotated[str, typer.Option("--case", help="The id of one of its cases.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for pictures; the --out of a run, to see its predictions too.")] = Path("runs"),
    data: Data = None,
    weights: Annotated[list[str] | None, typer.Option("--weights", help="Local checkpoint FILE, or NAME=FILE per model.")] = None,
    image_size: Annotated[int | None, typer.Option(help="Side of the planes in pixels.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="KEY=VALUE: head.FIELD or task.FIELD, as in the run. Repeatable.")] = None,
    cache: Cache = None,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda:0.")] = "auto",
    precision: Annotated[str, typer.Option(help="fp32 or bf16.")] = "fp32",
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Pictures of one case: planes, feature PCA, prediction, target. Nothing is trained."""
    from medprobe.run.progress import reporting, say
    from medprobe.run.request import Request
    from medprobe.run.show import show as show_case

    request = Request(model, task, out, data, tuple(weights or ()), image_size=image_size, device=device, precision=precision, settings=_settings(set_ or []), cache=cache)
    with reporting() as progress:
        files, notes = show_case(request, case, progress)
    for note in notes:
        say(note)
    if as_json:
        _print([str(file) for file in files])
    else:
        print("\n".join(map(str, files)))


@app.command(name="list")
def list_(
    what: Annotated[str, typer.Argument(help="datasets, encoders, heads, tasks or models")],
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """What there is."""
    from medprobe.run.listing import listing

    rows = listing(what)
    if as_json:
        _print(rows)
        return
    others = [key for key in rows[0] if key != "name"]
    print(f"{'NAME':<28} {'  '.join(others).upper()}")
    for row in rows:
        rest = "  ".join(str(row[key]) for key in others if row[key] not in (None, "", False))
        print(f"{row['name']:<28} {rest}".rstrip())
    if what == "tasks":
        from medprobe.tasks.suites import suites

        print(f"suites: {', '.join(suites())}; any DATASET/HEAD of list datasets and list heads is a task too, and so is MANIFEST.toml/HEAD")


@app.command()
def check(
    what: Annotated[str, typer.Argument(help="env, dataset, encoder or task")],
    name: Annotated[str | None, typer.Argument(help="Its name.")] = None,
    data: Data = None,
    weights: Annotated[Path | None, typer.Option(help="Local checkpoint of the encoder.")] = None,
    as_json: Json = False,
    debug: Debug = False,
) -> None:
    """Check the machine, a dataset on disk, an encoder's conformance, or a task."""
    from medprobe.check.check import check as check_named

    findings = check_named(what, name, data, weights)
    if as_json:
        _print([{"name": finding.name, "ok": finding.ok, "detail": finding.detail} for finding in findings])
    else:
        for finding in findings:
            detail = finding.detail.removeprefix("warning, ")
            print(f"{finding.word:7} {finding.name}: {detail}")
    if not all(finding.ok for finding in findings):
        raise SystemExit(1)


@app.command()
def twin(
    dataset: Annotated[str, typer.Argument(help="A dataset's name.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="A data root: the twin gets a folder of its own in it.")],
    seed: Annotated[int, typer.Option(help="Seed of its contents.")] = 0,
    debug: Debug = False,
) -> None:
    """A tiny synthetic copy of a dataset in its official layout, to try things before the data arrive."""
    import numpy as np

    from medprobe.registry import DATASETS

    found = DATASETS.get(dataset)
    folder = out / (found.folders[0] if found.folders else found.name)
    if folder.exists() and any(folder.iterdir()):
        raise RequestError(f"{folder} is there already and not empty; choose another --out")
    if found.twin is None:
        raise RequestError(f"{dataset} has no twin; see its page for the layout")
    folder.mkdir(parents=True, exist_ok=True)
    found.twin(folder, np.random.default_rng(seed))
    print(folder)


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for phantoms, results and report.")] = Path("demo"),
    debug: Debug = False,
) -> None:
    """The whole pipeline on phantoms: no data, no downloads, under three minutes on two cores."""
    from medprobe.run.demo import run_demo

    failed = run_demo(out)
    _show_table(out)
    from medprobe.report.page import write_report

    print(write_report(out))
    if failed:
        raise SystemExit(1)


@cache_app.command("ls")
def cache_ls(cache: Cache = None, as_json: Json = False, debug: Debug = False) -> None:
    """What is kept: one line per way of encoding."""
    from medprobe.features.store import inspect
    from medprobe.run.listing import cache_rows

    rows = cache_rows(inspect(_cache(cache), verify=False))
    if as_json:
        _print(rows)
        return
    for row in rows:
        print(f"{row['encoding']}  {row['planes']:>9} planes  {row['bytes'] / 1e6:>10.1f} MB  {row['encoder']}  {row['size']}")


@cache_app.command("verify")
def cache_verify(cache: Cache = None, as_json: Json = False, debug: Debug = False) -> None:
    """Compare every byte with its checksum; faults are computed again by the next run that needs them."""
    from dataclasses import asdict

    from medprobe.features.store import inspect

    findings = list(inspect(_cache(cache), verify=True))
    faults = [finding for finding in findings if finding.fault is not None]
    if as_json:
        _print([asdict(finding) for finding in findings])
    else:
        for finding in faults:
            again = "the next run with this encoding writes it again"
            if finding.shard != "-":
                again = "it is computed again by the next run, or removed by: medprobe cache gc"
            print(f"FAULT  {finding.encoding}/{finding.shard}: {finding.fault}; {again}")
        shards = sum(finding.shard != "-" for finding in findings)
        print(f"{shards} shards, {len(faults)} faults")
    if faults:
        raise SystemExit(1)


@cache_app.command("gc")
def cache_gc(cache: Cache = None, debug: Debug = False) -> None:
    """Remove unfinished and damaged shards and leftovers."""
    from medprobe.features.store import collect_garbage

    removed, freed = collect_garbage(_cache(cache))
    print(f"{removed} shards removed, {freed / 1e6:.1f} MB freed")


def _cache(cache: Path | None) -> Path:
    from medprobe.errors import MissingError
    from medprobe.run.request import default_cache

    if cache is not None and not cache.is_dir():
        raise MissingError(f"--cache: expected a folder at {cache}, found none; check the path")
    return cache or default_cache()


class Interrupted(BaseException):
    """SIGINT or SIGTERM arrived."""


def _interrupt(signum: int, frame: Any) -> NoReturn:
    raise Interrupted(signum)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run a command and leave with its exit status."""
    words = sys.argv[1:] if arguments is None else arguments
    debug = "--debug" in words
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    try:
        app(args=words, standalone_mode=True)
    except SystemExit as leave:
        raise leave
    except (KeyboardInterrupt, Interrupted) as stop:
        kept = "what is done is kept, the same command goes on from there"
        goes_on = {"run", "encode"} & set(words[:1])
        print(f"medprobe: interrupted{f'; {kept}' if goes_on else ''}", file=sys.stderr)
        sys.stdout.flush()
        os._exit(143 if signal.SIGTERM in stop.args else 130)
    except MedprobeError as error:
        if debug:
            raise
        raise _stop(error) from None
    except BrokenPipeError:
        os._exit(0)
    except Exception as error:
        if debug:
            raise
        print(f"medprobe: {type(error).__name__}: {error}; run again with --debug for the traceback", file=sys.stderr)
        raise SystemExit(1) from None
    raise SystemExit(0)


