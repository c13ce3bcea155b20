"""Commands around what was exported: is it whole, what are its versions called."""

from pathlib import Path
from typing import Annotated

import typer

from tfseq2seq.console import show
from tfseq2seq.quiet import import_tensorflow

ExportArgument = Annotated[
    Path, typer.Argument(help="An export folder that holds VERSION/ folders.", show_default=False)]


def check_export(
    folder: ExportArgument,
    version: Annotated[str, typer.Option(help="A number, a label or latest.")] = "latest",
    address: Annotated[
        str | None, typer.Option(help="host:port of a gRPC server that has this version, to be asked too.")] = None,
    model_name: Annotated[str, typer.Option(help="What that server calls the model.")] = "tfseq2seq",
    timeout: Annotated[float, typer.Option(help="Seconds to wait for each of its answers.")] = 60.0,
) -> None:
    """Check the files of a version against their checksums, and its answers to held-out lines against the exported."""
    import_tensorflow()
    from serving import checking

    checked = checking.check_export(folder, version, address, model_name, timeout)
    rows = ", ".join(f"{count} by {name}" for name, count in checked.rows.items())
    asked = "" if address is None else f"; those of the server at {address} too"
    show.print(
        f"{checked.path}: {checked.files} files are as they were exported, and so are the answers to held-out lines "
        f"({rows}){asked}", highlight=False, soft_wrap=True)


def label(
    folder: ExportArgument,
    give: Annotated[list[str] | None, typer.Argument(help="NAME=VERSION, each.", show_default=False)] = None,
    remove: Annotated[list[str] | None, typer.Option(help="A label to take away. May be repeated.")] = None,
) -> None:
    """Give versions labels, as stable=3, and print all versions; a client may ask for a version by its label."""
    from serving.folders import change_labels, find_versions, read_labels

    labels = {}
    for item in give or []:
        name, separator, version = item.partition("=")
        if not separator or not version.isdecimal():
            raise typer.BadParameter(f"label needs NAME=VERSION, as stable=3. Received: {item!r}.")
        labels[name] = int(version)
    labels = change_labels(folder, labels, remove) if labels or remove else read_labels(folder)
    for number, path in find_versions(folder).items():
        print("\t".join([str(number), ",".join(name for name, each in labels.items() if each == number), str(path)]))


def serving_config(
    exports: Annotated[list[str], typer.Argument(
        help="An export folder that holds VERSION/ folders; of several, each as NAME=FOLDER.", show_default=False)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where the files go.", show_default=False)],
    name: Annotated[str, typer.Option(help="Of the deployment, and of a model without a name.")] = "tfseq2seq",
    cores: Annotated[int | None, typer.Option(min=1, help="Of one server. Default: this machine's.")] = None,
    max_batch_size: Annotated[int, typer.Option(min=1, help="Most rows that are answered together.")] = 32,
    replicas: Annotated[int, typer.Option(min=1, help="Least servers in Kubernetes.")] = 2,
    image: Annotated[str, typer.Option(help="TensorFlow Serving's.")] = "tensorflow/serving:latest",
) -> None:
    """Write what TensorFlow Serving needs: models with their labels, batching, a start command, Compose, Kubernetes."""
    from serving.tensorflow_serving.settings import write_settings

    named: dict[str, str] = {}
    for item in exports:
        model, separator, folder = item.rpartition("=")
        if not separator and len(exports) > 1:
            raise typer.BadParameter(f"serving-config needs NAME=FOLDER of several exports. Received: {item!r}.")
        if separator and model in named:
            raise typer.BadParameter(f"serving-config needs another name for each export. Received: {model!r} twice.")
        named[model if separator else name] = folder
    for path in write_settings(
            named, output, name=name, cores=cores, max_batch_size=max_batch_size, replicas=replicas, image=image):
        print(path)
