"""From exports to the files of a deployment."""

import json
import os
import re
import stat
import string
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

from serving.folders import ABOUT, CONFIG, find_versions, read_labels
from tfseq2seq.files import write_atomically

VERSION = "2.21"  # of TensorFlow Serving: the oldest that knows all operations of an export
IMAGE = "tensorflow/serving:latest"
POLL_SECONDS = 30  # after which a changed models.config is seen
BATCH_TIMEOUT, MOST_BATCHES = 2000, 100  # microseconds; batches that wait
SPARE_MEBIBYTES = 1024  # of the server itself, and of what a search holds
EXPANSION = {"float32": 1, "float16": 2, "bfloat16": 2, "int8": 4}  # of weights when they are computed with
_NAME = re.compile(r"[a-z]([a-z0-9-]{0,50}[a-z0-9])?")  # what Kubernetes and Compose take for one
_MODEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # stands in paths of the REST API and of containers


class Served(NamedTuple):
    """One model as it is to be served.

    Attributes:
        folder: holds its versions.
        versions: to be loaded.
        labels: label -> version.
        size: bytes of these versions, weights as they are computed with.
        compiled: whether a version needs XLA.
    """

    folder: Path
    versions: list[int]
    labels: dict[str, int]
    size: int
    compiled: bool


def write_settings(
    exports: Mapping[str, str | os.PathLike[str]], output: str | os.PathLike[str], *, name: str = "tfseq2seq",
    cores: int | None = None, max_batch_size: int = 32, replicas: int = 2, image: str = IMAGE,
) -> list[Path]:
    """Writes the files of a deployment, each with comments.

    models.config (this machine's folders), models.container.config (the same below /models), batching_parameters.pbtxt,
    monitoring.config, start.sh, docker-compose.yaml, and kubernetes/ with configuration, volume, deployment, service
    and autoscaler.

    A model without labels is served in its highest version, and a newer one is taken up by itself. One with labels is
    served in the versions that have one, and the highest.

    Args:
        exports: the folder of each model by the name that clients ask for.
        output: the folder of the files; made if it is missing.
        name: of the deployment.
        cores: of one server; default: this machine's.
        max_batch_size: most rows of a batch.
        replicas: least servers in Kubernetes; the most are four times as many.
        image: TensorFlow Serving's container image.
    Returns:
        The files.
    Raises:
        ValueError: a folder holds no version, its labels are broken, a name cannot be one, or a number is below 1.
        OSError: `output` cannot be written.
    """
    cores = cores or os.cpu_count() or 1
    for what, value in (("cores", cores), ("max_batch_size", max_batch_size), ("replicas", replicas)):
        if value < 1:
            raise ValueError(f"serving-config needs {what} >= 1. Received: {value}.")
    if not _NAME.fullmatch(name):
        raise ValueError(
            "serving-config needs a name of at most 52 lower-case letters, digits and '-', a letter first. "
            f"Received: {name!r}.")
    for each in exports:
        if not _MODEL.fullmatch(each):
            raise ValueError(
                f"serving-config needs models named by letters, digits, '.', '_' and '-'. Received: {each!r}.")
    if not exports:
        raise ValueError("serving-config needs at least one export. Received: none.")
    served = {each: _read(Path(folder)) for each, folder in exports.items()}
    size = sum(each.size for each in served.values())
    values: dict[str, Any] = {
        "name": name, "first": next(iter(served)), "image": image, "version": VERSION, "cores": cores,
        "max_batch_size": max_batch_size, "batch_timeout_micros": BATCH_TIMEOUT, "max_enqueued_batches": MOST_BATCHES,
        "num_batch_threads": max(1, cores // 2), "replicas": replicas, "most_replicas": 4 * replicas,
        "poll_seconds": POLL_SECONDS, "layout": " and ".join(f"{each}/VERSION" for each in served),
        "memory_mebibytes": SPARE_MEBIBYTES + _mebibytes(2 * size), "storage_mebibytes": max(_mebibytes(3 * size), 64)}
    written = {
        "models.config": _models(served, {each: str(found.folder.resolve()) for each, found in served.items()}),
        "models.container.config": _models(served, {each: f"/models/{each}" for each in served}),
        "batching_parameters.pbtxt": _fill("batching_parameters.pbtxt", values),
        "monitoring.config": _fill("monitoring.config", values)}
    flags = _flags(values, compiled=any(each.compiled for each in served.values()))
    written["start.sh"] = _fill("start.sh", values | {"flags": _shell(flags)})
    volumes = "\n".join(
        f"      - {{type: bind, source: {_compose(found.folder)}, target: /models/{each}, read_only: true}}"
        for each, found in served.items())
    written["docker-compose.yaml"] = _fill(
        "docker-compose.yaml", values | {"flags": _yaml(flags, 6), "volumes": volumes})
    kubernetes = values | {
        "flags": _yaml(flags, 12), "models": _indented(written["models.container.config"]),
        "batching": _indented(written["batching_parameters.pbtxt"]),
        "monitoring": _indented(written["monitoring.config"])}
    for each in ("configuration", "volume", "deployment", "service", "autoscaler"):
        written[f"kubernetes/{each}.yaml"] = _fill(f"{each}.yaml", kubernetes)
    return [_write(Path(output) / file, text) for file, text in written.items()]


def _read(folder: Path) -> Served:
    versions, labels = find_versions(folder), read_labels(folder)
    chosen = sorted({max(versions), *labels.values()})
    size, compiled = 0, False
    for version in chosen:
        about, config = (_json(versions[version] / file) for file in (ABOUT, CONFIG))
        weights = sum(path.stat().st_size for path in versions[version].rglob("*") if path.is_file())
        size += weights * EXPANSION.get(about.get("weights", ""), 1)
        compiled |= config.get("decode", {}).get("jit_compile", False)
    return Served(folder, chosen, labels, size, compiled)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:  # a SavedModel of another origin
        return {}


def _models(served: Mapping[str, Served], paths: Mapping[str, str]) -> str:
    lines = [
        "# Which models are served, from where, in which versions. A changed file is seen within "
        f"{POLL_SECONDS} seconds.", "model_config_list {"]
    for name, found in served.items():
        lines += [
            "  config {", f"    name: {json.dumps(name)}", f"    base_path: {json.dumps(paths[name])}",
            '    model_platform: "tensorflow"']
        if found.labels:
            lines += [
                "    # Versions with a label, and the highest: requests that name neither go there. A label can",
                "    # be moved to a version that is loaded already: load it first, by a file that only adds it here.",
                "    model_version_policy { specific {" + "".join(f" versions: {each}" for each in found.versions)
                + " } }"]
            lines += [
                f"    version_labels {{ key: {json.dumps(label)} value: {version} }}"
                for label, version in found.labels.items()]
        else:
            lines += [
                "    # The highest version; a newer one is loaded before this one goes.",
                "    model_version_policy { latest { num_versions: 1 } }"]
        lines.append("  }")
    return "\n".join([*lines, "}", ""])


def _flags(values: Mapping[str, Any], compiled: bool) -> list[tuple[str, str]]:
    """Flags of the server with the reason of each; DIR stands for the folder of the settings, MODELS for its file."""
    threads, batch = values["num_batch_threads"], values["max_batch_size"]
    xla = [("--xla_cpu_compilation_enabled=true", "a model was exported with decode.jit_compile")] if compiled else []
    return [
        ("--port=8500", "gRPC"),
        ("--rest_api_port=8501", "REST, metrics, health"),
        ("--model_config_file=DIR/MODELS", ""),
        (f"--model_config_file_poll_wait_seconds={POLL_SECONDS}", "new labels and models without a restart"),
        ("--allow_version_labels_for_unavailable_models=true", "labels are given at the start, before versions load"),
        ("--enable_batching=true", ""),
        ("--batching_parameters_file=DIR/batching_parameters.pbtxt", ""),
        ("--monitoring_config_file=DIR/monitoring.config", ""),
        (f"--grpc_max_threads={4 * batch}", "4 x max_batch_size: a batched call blocks its thread"),
        (f"--rest_api_num_threads={2 * batch}", "likewise"),
        (f"--tensorflow_inter_op_parallelism={values['cores']}", "operations at once: the cores"),
        (f"--tensorflow_intra_op_parallelism={max(1, values['cores'] // threads)}",
         "threads that share one: the cores that a batch has for itself"),
        ("--max_num_load_retries=0", "a broken model fails at once, not after minutes"),
        *xla]


def _shell(flags: list[tuple[str, str]]) -> str:
    return "\n".join(
        f"  {_quoted(flag)}{f'  # {reason}' if reason else ''}"
        for flag, reason in ((flag.replace("DIR", "$here").replace("MODELS", "models.config"), reason)
                             for flag, reason in flags))


def _quoted(flag: str) -> str:
    name, value = flag.split("=", 1)
    return f'{name}="{value}"' if "$" in value else flag


def _yaml(flags: list[tuple[str, str]], indent: int) -> str:
    return "\n".join(
        " " * indent + "- " + flag.replace("DIR", "/config").replace("MODELS", "models.container.config")
        + (f" # {reason}" if reason else "") for flag, reason in flags)


def _compose(folder: Path) -> str:
    return json.dumps(str(folder.resolve()), ensure_ascii=False).replace("$", "$$")  # no variable of Compose


def _indented(text: str) -> str:
    return "\n".join(f"    {line}".rstrip() for line in text.splitlines())


def _fill(template: str, values: Mapping[str, Any]) -> str:
    text = (resources.files("serving.tensorflow_serving") / "templates" / template).read_text(encoding="utf-8")
    return string.Template(text).substitute(values)


def _write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, text)
    if path.suffix == ".sh":
        path.chmod(path.stat().st_mode | stat.S_IXUSR | stat.S_IXGRP | stat.S_IXOTH)
    return path


def _mebibytes(size: int) -> int:
    return -(-size // 2**20)
