"""Where a recipe's pairs come from, as far as it can be judged before anything is read, and without TensorFlow."""

from pathlib import Path

from pipelines.pairs import DataError, Splits
from pipelines.reading import find_split
from pipelines.sources import find_corpus
from tfseq2seq.config import Data, Origin

INDEX = "index.json"  # of a folder that `prepare-corpus` made


def check_origins(data: Data) -> None:
    """Raises DataError where a recipe's `[data]` names no pairs or several, or what it names is not there."""
    named = [key for key in Origin.model_fields if getattr(data, key) is not None]
    if data.sets and named:
        raise DataError(f"data.{named[0]} belongs into one of data.sets, where there are any. Received both.")
    for origin, key in origins_of(data):
        _check_origin(origin, key)
    if data.alignments is not None and not expanded(data.alignments).exists():
        raise DataError(f"{expanded(data.alignments)}: no such file; data.alignments names it.")


def origins_of(data: Data) -> list[tuple[Origin, str]]:
    """Each origin of a recipe, with the key that holds it."""
    if not data.sets:
        return [(data, "data")]
    return [(each, f"data.sets[{number}]") for number, each in enumerate(data.sets)]


def files_of(origin: Origin) -> list[list[Path] | None]:
    """The files of the train, valid and test split of an origin that is no corpus; None of a split it lacks."""
    named: list[str | list[str] | None] = [origin.train, origin.valid, origin.test]
    if origin.folder is not None:
        named = [find_split(expanded(origin.folder), name) for name in Splits._fields]
    return [
        None if each is None else [expanded(path) for path in ([each] if isinstance(each, str) else each)]
        for each in named]


def expanded(path: str) -> Path:
    """A path of a recipe, relative to the current folder or with "~" for one's own."""
    return Path(path).expanduser()


def _check_origin(origin: Origin, key: str) -> None:
    named = [name for name in ("corpus", "folder", "train") if getattr(origin, name) is not None]
    if len(named) != 1:
        raise DataError(
            f"{key} needs exactly one of corpus (a data set known by name), folder (with train, valid and "
            f"test files) or train. Received: {', '.join(named) or 'none of them'}.")
    stray = [
        name for name, owner in (("pair", "corpus"), ("valid", "train"), ("test", "train"))
        if getattr(origin, name) is not None and owner not in named]
    if stray:
        raise DataError(f"{key}.{stray[0]} has no meaning beside {key}.{named[0]}; leave it out.")
    if origin.corpus is not None:
        find_corpus(origin.corpus, origin.pair)
        return
    if origin.folder is not None:
        folder = expanded(origin.folder)
        if (folder / INDEX).exists():
            return
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder; data.folder needs one with train, valid and test files.")
        if files_of(origin)[0] is None:
            raise DataError(f"{folder}: holds no train.tsv or train.jsonl (or .gz of it).")
    for paths in files_of(origin):
        for path in paths or []:
            if not path.exists():
                raise DataError(f"{path}: no such file.")
