"""Models of Hugging Face Transformers: a folder with config.json, safetensors and the files of a tokenizer.

Neither Transformers nor PyTorch is needed, and no pickle is read.
"""

import functools
import importlib.util
import json
from collections.abc import Callable
from pathlib import Path

from tfseq2seq.converters.base import Conversion, Expected
from tfseq2seq.converters.transformers import bart, t5, whisper
from tfseq2seq.converters.transformers.files import ModelFiles
from tfseq2seq.converters.weights import ConversionError
from tfseq2seq.structures import EOS

# model_type of config.json -> what reads such a model.
FAMILIES: dict[str, Callable[..., Conversion]] = {
    "marian": functools.partial(bart.read_bart, bart.MARIAN),
    "m2m_100": functools.partial(bart.read_bart, bart.M2M100),
    "bart": functools.partial(bart.read_bart, bart.BART),
    "mbart": functools.partial(bart.read_bart, bart.MBART),
    "pegasus": functools.partial(bart.read_bart, bart.PEGASUS),
    "t5": t5.read_t5,
    "mt5": t5.read_t5,
    "whisper": whisper.read_whisper,
}
MULTILINGUAL = ("m2m_100", "mbart", "whisper")


def read_transformers(
    path: str, source_language: str | None = None, target_language: str | None = None, revision: str | None = None,
) -> Conversion:
    """Reads a folder, or fetches a model of the Hugging Face hub by its name.

    Args:
        path: the folder, or a name as "Helsinki-NLP/opus-mt-en-de".
        source_language, target_language: of the families that have languages as tokens; default: what its files say.
        revision: of a model that is fetched.
    Raises:
        ConversionError: the files cannot be read, or say what is not supported.
    """
    folder = Path(path).expanduser()
    if not folder.is_dir():
        folder = _fetch(path, revision)
    files = ModelFiles(folder)
    family = files.config.get("model_type")
    if family not in FAMILIES:
        raise ConversionError(
            f"{folder / 'config.json'}: model_type must be one of {', '.join(FAMILIES)}. Received: {family!r}.")
    given = {"source_language": source_language, "target_language": target_language}
    languages = {name: value for name, value in given.items() if value is not None}
    if languages and family not in MULTILINGUAL:
        raise ConversionError(
            f"--source-language and --target-language are of {', '.join(MULTILINGUAL)}: leave them out. Received: "
            f"{languages} of a model of type {family}.")
    conversion = FAMILIES[family](files, **languages)
    conversion.expected = _expected(folder, conversion)
    return conversion


def _fetch(name: str, revision: str | None) -> Path:
    if importlib.util.find_spec("huggingface_hub") is None:
        raise ConversionError(
            f"{name}: is no folder, and models are fetched by name with huggingface_hub: pip install huggingface_hub, "
            "or name a folder. Received: no such package.")
    import huggingface_hub

    patterns = ["*.json", "*.safetensors", "*.model", "*.spm", "merges.txt"]
    return Path(huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=patterns))


def _expected(folder: Path, conversion: Conversion) -> list[Expected]:
    """The greedy answers of an expected.json beside the model, if there is one."""
    path = folder / "expected.json"
    ids = conversion.their_ids
    if not path.exists() or ids is None:
        return []
    values = json.loads(path.read_text(encoding="utf-8"))
    settings = values["runs"]["greedy"]["settings"]
    prompt, found = conversion.prompt_length, []
    for example in values["examples"]:
        answer = example["greedy"]
        ours = ids.ours[answer["ids"][prompt:]].tolist()
        ours = ours[:-1] if ours and ours[-1] == EOS else ours
        source = example.get("text") if "text" in example else str(folder / example["audio"])
        found.append(Expected(source, answer["text"], ours, settings["max_new_tokens"]))
    return found
