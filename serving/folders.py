"""Where the versions of a model lie, as TensorFlow Serving looks for them: `FOLDER/VERSION/`."""

from pathlib import Path

SAVED_MODEL = "saved_model.pb"
EXTRA = "assets.extra"
WARM_UP = Path(EXTRA) / "tf_serving_warmup_requests"  # a TFRecord file of PredictionLog


def list_versions(folder: Path) -> dict[int, Path]:
    """The versions below `folder`, lowest first: every entry whose name is a whole number.

    Raises:
        OSError: `folder` cannot be read.
    """
    named = [path for path in folder.iterdir() if path.name.isascii() and path.name.isdecimal()]
    found = {int(path.name): path for path in named}
    return dict(sorted(found.items()))


def find_versions(folder: Path) -> dict[int, Path]:
    """The versions below `folder` that hold a SavedModel; there is at least one.

    Raises:
        ValueError: `folder` cannot be read or holds no version with a SavedModel.
    """
    needed = f"a server needs a folder that holds VERSION/{SAVED_MODEL}, as `tfseq2seq export` writes it"
    try:
        entries = list_versions(folder)
        versions = {version: path for version, path in entries.items() if (path / SAVED_MODEL).is_file()}
    except OSError as error:
        raise ValueError(f"{folder}: {needed}. Received: {error.strerror}.") from error
    if not versions:
        inside = "no version folder"
        if (folder / SAVED_MODEL).is_file():
            inside = "one version itself; pass the folder above it"
        elif entries:
            inside = f"versions without a SavedModel: {', '.join(map(str, entries))}"
        raise ValueError(f"{folder}: {needed}. Received: {inside}.")
    return versions
