"""One TOML recipe describes a run; here is every key it may hold.

Unknown keys, wrong types and values out of range are refused where they stand, with one line that
names the file, the key, what was received and the nearest valid name.
"""

import difflib
import json
import os
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pydantic
from pydantic import Field

PositiveInt = Annotated[int, Field(ge=1)]
NonNegative = Annotated[float, Field(ge=0)]
Rate = Annotated[float, Field(ge=0, lt=1)]


class ConfigError(ValueError):
    """A recipe cannot be used as it stands; the text says which key and how to mend it."""


class _Table(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(
        extra="forbid", frozen=True, validate_default=True, strict=True, allow_inf_nan=False)


class Tokenizer(_Table):
    """How one side's text becomes ids."""

    kind: Literal["unigram", "bpe", "characters", "bytes", "words"] = "unigram"
    vocabulary_size: Annotated[int, Field(ge=8)] = 8000  # an upper bound for characters and words; bytes have 260
    case: Literal["keep", "lower", "upper"] = "keep"  # applied in the graph, before encoding


class Data(_Table):
    """Where the pairs come from, and what is done to them before training.

    Name exactly one of `corpus` (a data set that `pipelines.sources` can obtain), `folder` (holding
    train, valid and test files) or `train` (with `valid`, and `test` if there is one).
    """

    corpus: str | None = None
    pair: str | None = None  # languages of the corpus, as "en-fr"
    folder: str | None = None
    train: str | list[str] | None = None  # one .tsv/.jsonl file, or [source file, target file]
    valid: str | list[str] | None = None
    test: str | list[str] | None = None
    source_tokenizer: Tokenizer = Tokenizer()
    target_tokenizer: Tokenizer = Tokenizer()
    share_tokenizer: bool = False  # one vocabulary for both sides, trained on both
    max_source_length: PositiveInt = 128  # tokens, end token included; longer pairs are left out of training
    max_target_length: PositiveInt = 128
    filter: bool = True  # drop what `check` calls broken: empty, badly-ratioed, control characters, leaked
    batch_tokens: PositiveInt = 4096  # padded tokens of the wider side in one global batch
    num_lengths: PositiveInt = 4  # distinct padded lengths a side: each pair of lengths is one trace


class Encoder(_Table):
    """Reads the source."""

    kind: Literal["recurrent"] = "recurrent"
    cell: Literal["lstm", "gru"] = "lstm"
    layers: PositiveInt = 1
    units: PositiveInt = 256  # of each direction
    bidirectional: bool = True
    dropout: Rate = 0.1  # on the input of every layer and on the output


class Decoder(_Table):
    """Writes the target."""

    kind: Literal["attentional"] = "attentional"
    cell: Literal["lstm", "gru"] = "lstm"
    layers: PositiveInt = 1
    units: PositiveInt = 512
    attention: Literal["additive", "dot", "general", "concat"] = "general"
    input_feeding: bool = False  # Luong et al., 2015, section 3.3; costs a loop over target steps
    dropout: Rate = 0.1
    bridge: Literal["dense", "copy", "zero"] = "dense"  # encoder's last state -> decoder's first


class Model(_Table):
    """The network."""

    embedding_units: PositiveInt = 256
    share_embeddings: Literal["none", "source_target", "target_output", "all"] = "none"
    encoder: Encoder = Encoder()
    decoder: Decoder = Decoder()

    @pydantic.model_validator(mode="after")
    def _consistent(self):
        encoder, decoder = self.encoder, self.decoder
        width = encoder.units * (2 if encoder.bidirectional else 1)
        if decoder.attention == "dot" and width != decoder.units:
            raise ValueError(
                "decoder.attention = \"dot\" needs encoder states as wide as the decoder's: set decoder.units to "
                f"{width}, or use \"general\". Received: encoder {width} wide, decoder {decoder.units}")
        shapes = [(encoder.cell, encoder.layers, width), (decoder.cell, decoder.layers, decoder.units)]
        if decoder.bridge == "copy" and shapes[0] != shapes[1]:
            raise ValueError(
                "decoder.bridge = \"copy\" needs the same cell, layers and width on both sides (a bidirectional "
                f"encoder is twice as wide); or use \"dense\". Received: encoder {shapes[0]}, decoder {shapes[1]}")
        return self


class Train(_Table):
    """How the weights are found."""

    steps: PositiveInt = 10_000
    max_minutes: Annotated[float, Field(gt=0)] | None = None  # stop early, with an evaluation, after this long
    evaluate_every: PositiveInt = 500  # steps; checkpoints and the metric come at this pace
    checkpoint_every: PositiveInt | None = None  # steps; default: evaluate_every
    keep_checkpoints: PositiveInt = 3
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3  # the peak; for noam the factor
    schedule: Literal["constant", "inverse_square_root", "noam", "linear", "cosine"] = "inverse_square_root"
    warmup_steps: Annotated[int, Field(ge=0)] = 500
    label_smoothing: Rate = 0.1
    clip_norm: NonNegative = 1.0  # largest global gradient norm; 0 turns clipping off
    metric: str | None = None  # what chooses the best checkpoint; default: the task's own
    patience: PositiveInt | None = None  # evaluations without a better metric before training stops
    valid_lines: PositiveInt = 1000  # held-out lines decoded at each evaluation
    replicas: PositiveInt | None = None  # default: every visible device
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = "float32"
    jit_compile: bool = False
    seed: Annotated[int, Field(ge=0)] = 1

    @pydantic.model_validator(mode="after")
    def _consistent(self):
        if self.schedule in ("noam", "inverse_square_root") and self.warmup_steps < 1:
            raise ValueError(
                f"schedule = \"{self.schedule}\" needs warmup_steps of at least 1. Received: {self.warmup_steps}")
        if self.schedule in ("linear", "cosine") and self.steps <= self.warmup_steps:
            raise ValueError(
                f"schedule = \"{self.schedule}\" needs more steps than warmup_steps; set both. "
                f"Received: steps={self.steps}, warmup_steps={self.warmup_steps}")
        return self


class Decode(_Table):
    """How hypotheses are searched and ranked."""

    beam_size: Annotated[int, Field(ge=1, le=256)] = 4
    num_hypotheses: PositiveInt = 1  # answers a source, at most beam_size
    length_penalty: NonNegative = 0.6  # alpha, Wu et al., 2016, eq. 14; 0 turns it off
    max_length: PositiveInt = 128  # target tokens, end token included
    min_length: PositiveInt = 1  # target tokens, end token included
    batch_tokens: PositiveInt = 4096  # padded source tokens decoded at once by evaluate and predict

    @pydantic.model_validator(mode="after")
    def _consistent(self):
        if self.num_hypotheses > self.beam_size:
            raise ValueError(
                f"num_hypotheses must be at most beam_size. Received: num_hypotheses={self.num_hypotheses}, "
                f"beam_size={self.beam_size}")
        if self.min_length > self.max_length:
            raise ValueError(
                f"min_length must be at most max_length. Received: min_length={self.min_length}, "
                f"max_length={self.max_length}")
        return self


class Export(_Table):
    """What the SavedModel holds."""

    num_hypotheses: PositiveInt = 4  # width of the answers of serving_default, at most decode.beam_size
    max_source_length: PositiveInt = 256  # tokens; longer requests are cut here
    check_lines: PositiveInt = 32  # held-out lines replayed through checkpoint and SavedModel


class Run(_Table):
    """A whole recipe: the top level of the TOML file."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")
    task: str = "translation"
    data: Data = Data()
    model: Model = Model()
    train: Train = Train()
    decode: Decode = Decode()
    export: Export = Export()

    @pydantic.model_validator(mode="after")
    def _consistent(self):
        if self.model.share_embeddings in ("source_target", "all") and not self.data.share_tokenizer:
            raise ValueError(
                "model.share_embeddings = \"" + self.model.share_embeddings + "\" needs data.share_tokenizer = true: "
                "one table can only serve one vocabulary. Received: share_tokenizer = false")
        if self.export.num_hypotheses > self.decode.beam_size:
            raise ValueError(
                "export.num_hypotheses must be at most decode.beam_size. Received: "
                f"export.num_hypotheses={self.export.num_hypotheses}, decode.beam_size={self.decode.beam_size}")
        return self


def load_recipe(path: str | os.PathLike[str], overrides: dict[str, Any] | None = None) -> Run:
    """Reads a TOML recipe or a saved JSON config.

    Args:
        path: the file.
        overrides: dotted keys to values laid over the file's, as {"train.steps": 100}.
    Raises:
        ConfigError: the file cannot be read, is not TOML/JSON, or a key or value in it is wrong.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot read the recipe: {error}") from error
    try:
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except (json.JSONDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path}: not valid {path.suffix.lstrip('.').upper() or 'TOML'}: {error}") from error
    if not isinstance(values, dict):  # JSON may hold anything
        raise ConfigError(f"{path}: 'recipe' must be a table. Received: {values!r}.")
    for key, value in (overrides or {}).items():
        _set(values, key, value, str(path))
    return parse_recipe(values, str(path))


def parse_recipe(values: dict[str, Any], where: str = "recipe") -> Run:
    """Builds a `Run` from plain values; `where` names them in errors. Raises ConfigError."""
    try:
        return Run.model_validate(values)
    except pydantic.ValidationError as error:
        raise ConfigError("\n".join(_explain(error.errors(), where))) from None


def save_config(run: Run, path: str | os.PathLike[str]) -> None:
    """Writes the resolved config, defaults included, as JSON that `load_recipe` reads back."""
    temporary = Path(f"{path}.writing")
    temporary.write_text(run.model_dump_json(indent=2) + "\n", encoding="utf-8")
    os.replace(temporary, path)


def _set(values: dict[str, Any], key: str, value: Any, where: str) -> None:
    *tables, last = key.split(".")
    for depth, table in enumerate(tables, start=1):
        values = values.setdefault(table, {})
        if not isinstance(values, dict):
            table = ".".join(tables[:depth])
            raise ConfigError(f"{where}: cannot set '{key}': '{table}' is not a table. Received: {values!r}.")
    values[last] = value


def _explain(errors: Sequence[Any], where: str) -> list[str]:
    """One line for every wrong key; a key of several types is wrong once, not once a type."""
    by_key: dict[str, list[Any]] = {}
    for item in errors:
        by_key.setdefault(".".join(_path(item)), []).append(item)
    return [f"{where}: {_line(key, items)}" for key, items in by_key.items()]


def _line(key: str, items: list[Any]) -> str:
    first, path = items[0], _path(items[0])
    if first["type"] == "extra_forbidden":
        known = _known_keys(path[:-1])
        return f"unknown key '{key}'.{_hint(path[-1], known)} Known here: {', '.join(known)}."
    if first["type"] == "missing":
        return f"'{key}' is needed: add it. Received: no value."
    if first["type"] == "model_type":
        return f"'{key or 'recipe'}' must be a table. Received: {first['input']!r}."
    if first["type"] == "literal_error":
        expected = first["ctx"]["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        hint = _hint(first["input"], expected)
        return f"'{key}' must be one of {', '.join(expected)}.{hint} Received: {first['input']!r}."
    if len(first["loc"]) > len(path):  # pydantic tried every type a key may have
        types = dict.fromkeys(str(item["loc"][len(path)]) for item in items)
        return f"'{key}' must be of type {' or '.join(types)}. Received: {first['input']!r}."
    message = first["msg"].removeprefix("Value error, ").rstrip(".")
    received = "" if "Received: " in message else f". Received: {first['input']!r}"
    return f"{key and repr(key) + ': '}{message}{received}."


def _hint(received: Any, known: list[str]) -> str:
    close = difflib.get_close_matches(str(received), known, n=1)
    return f" Did you mean {close[0]!r}?" if close else ""


def _path(item: Any) -> list[str]:
    """The keys that lead to an error, without pydantic's names for the types and items it tried."""
    path: list[str] = []
    for part in item["loc"]:
        path.append(str(part))
        if not _table_of(path):
            break
    return path


def _known_keys(path: list[str]) -> list[str]:
    return list(_table_of(path).model_fields)


def _table_of(path: list[str]) -> Any:
    """The model of the table at `path`, or None where there is no table."""
    model: Any = Run
    for key in path:
        if model is None or key not in model.model_fields:
            return None
        annotation = model.model_fields[key].annotation
        model = annotation if isinstance(annotation, type) and issubclass(annotation, _Table) else None
    return model
