"""`medprobe check`: the machine, a dataset on disk, an encoder, or a task with both."""

import platform
from pathlib import Path

from medprobe.errors import MedprobeError, RequestError
from medprobe.registry import DATASETS, did_you_mean

KINDS = ("env", "dataset", "encoder", "task")


def check(what: str, name: str | None, data: Path | None, weights: Path | None):
    """Findings of one check. RequestError: an unknown kind, or a name missing."""
    if what not in KINDS:
        raise RequestError(f"nothing to check named {what!r}; {did_you_mean(what, list(KINDS))}")
    if what != "env" and name is None:
        raise RequestError(f"check {what} needs a name; for example: medprobe check {what} {'nih14' if what == 'dataset' else 'pixels' if what == 'encoder' else 'nih14/linear'}")
    if what == "env":
        return check_environment()
    assert name is not None
    if what == "encoder":
        from medprobe import encoders
        from medprobe.check.encoder import check_encoder
        from medprobe.tasks import models

        return check_encoder(encoders.load(models.resolve(name, weights).spec, weights=weights))
    from medprobe.check.dataset import check_dataset
    from medprobe.datasets._layout import locate

    if what == "dataset":
        from medprobe.datasets.manifest import load_manifest

        if name not in DATASETS and Path(f"{name}.toml").is_file():
            raise RequestError(f"no dataset named {name!r}; did you mean {name}.toml, the manifest?")
        dataset = load_manifest(Path(name)) if name.endswith(".toml") else DATASETS.get(name)
        return check_dataset(dataset, locate(dataset, data))
    return _check_task(name, data)


def _check_task(name: str, data: Path | None):
    from medprobe.check.dataset import check_dataset
    from medprobe.check.encoder import Finding
    from medprobe.datasets._layout import cases_of, locate
    from medprobe.registry import HEADS
    from medprobe.run import splits
    from medprobe.tasks.suites import tasks_named

    findings = []
    for task, dataset in tasks_named(name):
        root = locate(dataset, data)
        findings += [finding._replace(name=f"{task.name} {finding.name}") for finding in check_dataset(dataset, root, task.window)]
        cases = splits.with_folds(cases_of(dataset, root), task.split_seed)
        for fold in splits.folds_of(cases):
            parts = splits.parts_of(cases, fold, task.split_seed)
            said = f"train {len(parts.train)}, val {len(parts.val)}, test {len(parts.test)} cases; validation: {parts.validation}"
            findings.append(Finding(f"{task.name} parts" + ("" if fold is None else f" fold {fold}"), bool(parts.train and parts.test), said))
        if task.head == "identity":
            tests = {index for fold in splits.folds_of(cases) for index in splits.parts_of(cases, fold, task.split_seed).test}
            findings += _readings(task.name, dataset, [cases[index] for index in sorted(tests)])
        try:
            HEADS.get(task.head)(**task.head_config)
            findings.append(Finding(f"{task.name} head", True, f"{task.head} with {dict(task.head_config) or 'its defaults'}"))
        except MedprobeError as error:
            findings.append(Finding(f"{task.name} head", False, str(error)))
    return findings


def _readings(name: str, dataset, cases):
    """The unregistered pairs under every reading, beside the printed row where there is one."""
    from medprobe.check.encoder import Finding
    from medprobe.check.unregistered import readings
    from medprobe.report.printed import published, value_of
    from medprobe.report.published import DATASETS as PRINTED

    printed = {cell["metric"]: value_of(cell) for cell in published() if cell["method"] == "Unregistered" and cell["dataset"] == PRINTED.get(dataset.name)}
    try:
        found = readings(dataset, cases, printed)
    except MedprobeError as error:
        return [Finding(f"{name} unregistered", False, str(error))]
    if not printed:
        return [Finding(f"{name} unregistered", True, str(one)) for one in found]
    row = ", ".join(f"{metric} {value:.4f}" for metric, value in printed.items())
    first = Finding(f"{name} printed", True, f"{row}; nearest of {len(found)} readings: {found[0]}")
    return [first, *(Finding(f"{name} unregistered", True, f"{one} (away by {100 * one.distance:.1f} %)") for one in found)]


EXTRAS = {
    "dicom": ("pydicom", "pylibjpeg", "openjpeg", "jpeg_ls"), "video": ("av",), "volumes": ("SimpleITK",),
    "hub": ("transformers", "open_clip"), "wsi": ("openslide",), "em": ("waterz", "skimage"), "slurm": ("submitit",), "ray": ("ray",),
}  # fmt: skip


def check_environment():
    """Python, libraries, threads, accelerator, cache, extras; a missing extra is said, not a fault."""
    import os
    import shutil
    from importlib.metadata import PackageNotFoundError, version
    from importlib.util import find_spec

    from medprobe.check.encoder import Finding
    from medprobe.run.request import default_cache

    findings = [Finding("python", True, platform.python_version())]
    for library in ("torch", "torchvision", "timm", "numpy", "scikit-learn", "pandas", "pyarrow"):
        try:
            findings.append(Finding(library, True, version(library)))
        except PackageNotFoundError:
            findings.append(Finding(library, False, "not installed; run: pip install --upgrade medprobe"))
    import torch

    device = torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none: features are computed on the CPU"
    findings += [Finding("threads", True, str(torch.get_num_threads())), Finding("accelerator", True, device)]
    cache = default_cache()
    there = next(parent for parent in (cache, *cache.parents) if parent.exists())
    writable = os.access(there, os.W_OK)
    findings.append(Finding("cache", writable, f"{cache}, {shutil.disk_usage(there).free / 1e9:.1f} GB free" if writable else f"{cache} cannot be written; set MEDPROBE_CACHE"))
    for extra, modules in EXTRAS.items():
        absent = [module for module in modules if find_spec(module) is None]
        findings.append(Finding(f"extra {extra}", True, "installed" if not absent else f'not installed ({", ".join(absent)}); if you need it: pip install "medprobe[{extra}]"'))
    return findings
