"""The files of a Transformers model, and the values in them that are read, refused or left."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tfseq2seq.converters.weights import ConversionError, Weights, read_weights


class ModelFiles:
    """A folder with a model.

    Args:
        folder: holds config.json; the other files are read when they are asked for.
    Attributes:
        config: of the architecture.
        generation: defaults of the search; those of generation_config.json go before those of an older config.json.
        tokenizer: tokenizer_config.json, with what special_tokens_map.json says beside it.
    Raises:
        ConversionError: config.json is missing or no JSON.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.config = self.json("config.json")
        self.generation = {
            **{name: self.config[name] for name in _GENERATION if self.config.get(name) is not None},
            **{name: value for name, value in (self.json("generation_config.json", {})).items() if value is not None}}
        special = self.json("special_tokens_map.json", {})
        self.tokenizer = {**special, **self.json("tokenizer_config.json", {})}

    def json(self, name: str, default: Any = None) -> Any:
        """The values of a JSON file; where it is missing the default, or a ConversionError without one."""
        path = self.folder / name
        if not path.exists() and default is not None:
            return default
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConversionError(f"{path}: cannot be read: {error}.") from error

    def bytes(self, name: str) -> bytes:
        """A file as it is. Raises ConversionError where it is missing."""
        try:
            return (self.folder / name).read_bytes()
        except OSError as error:
            raise ConversionError(f"{self.folder / name}: cannot be read: {error.strerror}.") from error

    def weights(self) -> Weights:
        """See `read_weights`."""
        return read_weights(self.folder)

    def get(self, name: str) -> Any:
        """A value of config.json. Raises ConversionError where it is not there."""
        if self.config.get(name) is None:
            raise ConversionError(f"{self.folder / 'config.json'}: needs {name}. Received: no value.")
        return self.config[name]

    def need(self, expected: Mapping[str, Iterable[Any]]) -> None:
        """Raises ConversionError where config.json has another value of a name than those that are supported."""
        for name, known in expected.items():
            if name in self.config and self.config[name] not in (*known, None):
                supported = " or ".join(map(repr, known))
                raise ConversionError(
                    f"{self.folder / 'config.json'}: {name} must be {supported}, others are not supported. "
                    f"Received: {name} = {self.config[name]!r}.")


# Defaults of the search that an older config.json holds itself.
_GENERATION = (
    "bad_words_ids", "begin_suppress_tokens", "bos_token_id", "decoder_start_token_id", "do_sample", "early_stopping",
    "encoder_no_repeat_ngram_size", "eos_token_id", "forced_bos_token_id", "forced_eos_token_id", "length_penalty",
    "max_length", "min_length", "no_repeat_ngram_size", "num_beam_groups", "num_beams", "pad_token_id",
    "repetition_penalty", "suppress_tokens", "temperature", "top_k", "top_p")
