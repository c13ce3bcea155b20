"""What a client may ask of an exported model: plain names, known to export, server and client."""

import math
import numbers
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

DEFAULT_MODEL = "tfseq2seq"

SERVING_DEFAULT = "serving_default"  # the recipe's search; TensorFlow Serving's default when none is named
GREEDY = "greedy"
BEAM = "beam"
SAMPLE = "sample"
ALTERNATIVES = "alternatives"
SCORE = "score"
TOKENIZE = "tokenize"

# What a row may ask for -> its type. All inputs of a signature must be sent: `AS_EXPORTED` stands for "as exported",
# and "" for no prefix and no phrases.
_LENGTHS = {"length_penalty": "float32", "min_length": "int32", "max_length": "int32"}
BEAM_OPTIONS = {**_LENGTHS, "prefix": "string", "phrases": "string"}
SAMPLE_OPTIONS = {
    **_LENGTHS, "temperature": "float32", "top_k": "int32", "top_p": "float32", "min_p": "float32", "seed": "int64",
    "prefix": "string"}
AS_EXPORTED: dict[str, Any] = {"float32": math.nan, "int32": -1, "int64": -1, "string": ""}
PHRASE_SEPARATOR = "\n"  # between the phrases of a row
TOKEN_SEPARATOR = " "  # between tokens, of which none contains it

# One value for all texts, or one a text; None is as exported.
Numbers = float | Sequence[float | None] | None
Strings = str | Sequence[str | None] | None
Phrases = str | Sequence[str] | Sequence[str | Sequence[str] | None] | None


# Of a model of speech "text" and "source" are the bytes of WAV files; it has no tokens of a source, but a signature
# more, for samples [N, L] float32 in [-1, 1], of which `num_samples` [N] int32 are real, at `sample_rate` [N] int32 Hz.
# A server that batches joins only requests of one width L; strings it always can.
SAMPLES = "samples"


class Signature(NamedTuple):
    """A signature's tensors; dimension 0 of each is N, the rows of the request.

    Attributes:
        inputs: name -> type of [N] tensors.
        outputs: names of tensors, see `OUTPUTS`.
    """

    inputs: dict[str, str]
    outputs: tuple[str, ...]


# Outputs of signatures that answer texts, H hypotheses a row, best first; L is the longest answer of the export, and S
# its longest source.
OUTPUTS = {
    "text": "[N, H] string",
    # The recipe may say otherwise, see docs/decoding.md: with minimum_risk it is a utility in percent.
    "score": "[N, H] float32: log-probability / length penalty; -inf where no hypothesis exists",
    "log_probability": "[N, H] float32, nats",
    "length": "[N, H] int32, tokens, end token included",
    "alignment": '[N, H] string: "0-0 1-2", target token - source token with the most attention, the end left out',
    "token_log_probability": "[N, H, L] float32, nats; 0 after the end",
    "attention": "[N, H, L, S] float32, weights of each token on the source tokens, end tokens included; else 0",
    "tokens": '[N, H] string, joined by `TOKEN_SEPARATOR`, spaces in them as "▁", "</s>" at the end; to be looked at',
    "truncated": "[N] bool, whether a line was longer than S and so cut"}
_ANSWERS = ("text", "score", "truncated")
SIGNATURES = {
    SERVING_DEFAULT: Signature({"text": "string"}, _ANSWERS),
    GREEDY: Signature({"text": "string"}, _ANSWERS),
    BEAM: Signature({"text": "string", **BEAM_OPTIONS}, tuple(OUTPUTS)),
    SAMPLE: Signature({"text": "string", **SAMPLE_OPTIONS}, tuple(OUTPUTS)),
    ALTERNATIVES: Signature({"text": "string", "prefix": "string"}, tuple(OUTPUTS)),
    # [N] float32 nats; [N] int32; [N, S] float32 nats; [N] string, of the target.
    SCORE: Signature(
        {"source": "string", "target": "string"},
        ("log_probability", "length", "token_log_probability", "tokens", "truncated")),
    # [N] string, of the source; [N, S] int32, 0 after the end; [N] int32.
    TOKENIZE: Signature({"text": "string"}, ("tokens", "ids", "length", "truncated")),
}
SPEECH_SIGNATURES = {name: each for name, each in SIGNATURES.items() if name != TOKENIZE} | {
    SAMPLES: Signature({"samples": "float32", "num_samples": "int32", "sample_rate": "int32"}, _ANSWERS)}
ALL_SIGNATURES = SIGNATURES | SPEECH_SIGNATURES


def join_phrases(phrases: Phrases) -> Strings:
    """Phrases as they are sent, those of a row in one string."""
    if phrases is None or isinstance(phrases, str):
        return None if phrases is None else _joined_row([phrases])
    if all(isinstance(each, str) for each in phrases):
        return _joined_row(phrases)
    return [_joined_row([each] if isinstance(each, str) else each or []) for each in phrases]


def _joined_row(phrases: Sequence[Any]) -> str:
    for phrase in phrases:
        if not isinstance(phrase, str) or PHRASE_SEPARATOR in phrase:
            raise ValueError(f"Client needs strings without line ends as 'phrases'. Received: {phrase!r}.")
    return PHRASE_SEPARATOR.join(phrases)


def option_columns(asked: Mapping[str, Any], dtypes: Mapping[str, str], num_rows: int) -> dict[str, list[Any]]:
    """Options as the inputs of a signature, with `AS_EXPORTED` for what was left out."""
    columns = {}
    for name, dtype in dtypes.items():
        value = asked[name]
        if value is None or isinstance(value, str | numbers.Number):
            values = [value] * num_rows
        else:
            values = list(value)
        if len(values) != num_rows:
            raise ValueError(
                f"Client needs one {name} for all texts, or one a text. "
                f"Received: {len(values)} values, {num_rows} texts.")
        columns[name] = [AS_EXPORTED[dtype] if each is None else _cell(name, dtype, each) for each in values]
    return columns


def _cell(name: str, dtype: str, value: Any) -> Any:
    """One value of an option, known to fit its type and not to be the one that stands for "as exported"."""
    if dtype == "string":
        if isinstance(value, str):
            return value
        needed = "strings"
    elif dtype == "float32":
        if isinstance(value, numbers.Real) and not math.isnan(value):
            return float(value)
        needed = "numbers, or None for the exported one,"
    else:
        limit = 1 << (31 if dtype == "int32" else 63)
        if isinstance(value, numbers.Integral) and -limit <= int(value) < limit and value != AS_EXPORTED[dtype]:
            return int(value)
        needed = f"{dtype} numbers other than {AS_EXPORTED[dtype]}, or None for the exported one,"
    raise ValueError(f"Client needs {needed} as {name!r}. Received: {value!r}.")
