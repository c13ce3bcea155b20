"""What all converters share: the description of a model of another system becomes a run folder of ours."""

import dataclasses
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from pipelines.audio import FrontEnd
from pipelines.frames import write_frames
from pipelines.pairs import Splits
from pipelines.prepare import FRAMES, load_prepared, write_splits
from pipelines.wav import encode_wav
from tfseq2seq import checkpoints
from tfseq2seq.config import Run, parse_recipe, save_config
from tfseq2seq.converters.weights import ConversionError
from tfseq2seq.generation import Generator
from tfseq2seq.model import Seq2Seq, build_model
from tfseq2seq.structures import BOS, EOS, PAD, UNK
from tfseq2seq.tokenizers import Tokenizer
from tfseq2seq.training import IMPORTED, load_generator

REPLAYED = 32  # lines compared at once
NEVER = -1e4  # the logit of an id that is never predicted; in float16 too


@dataclasses.dataclass(frozen=True)
class Expected:
    """What the other system answered to a source with greedy search.

    Attributes:
        source: the line, or of speech the path of a recording.
        text: its answer.
        ids: its answer in our ids, without the end token; None where these are not known.
        max_length: most tokens that it was given, end token included.
    """

    source: str
    text: str
    ids: Sequence[int] | None = None
    max_length: int | None = None


@dataclasses.dataclass
class Conversion:
    """What a converter gives.

    Attributes:
        tables: of a recipe, all but its name: "task", "data", "model", "train", "decode", "export".
        source_tokenizer, target_tokenizer: of the two sides.
        weights: by their places in our model, as "encoder.stack.blocks.0.feed_forward.expand.kernel".
        architecture: what was found, in a line.
        num_weights: how many of the other system's weights were used.
        notes: what differs and the user should know, a line each.
        expected: answers of the other system to compare with.
        their_ids: of the target side, where the ids of `expected` are to be translated.
        prompt_length: tokens that their decoder is given, which are no part of an answer.
    """

    tables: dict[str, Any]
    source_tokenizer: Tokenizer | FrontEnd
    target_tokenizer: Tokenizer
    weights: Mapping[str, np.ndarray]
    architecture: str
    num_weights: int
    notes: list[str] = dataclasses.field(default_factory=list)
    expected: list[Expected] = dataclasses.field(default_factory=list)
    their_ids: "Ids | None" = None
    prompt_length: int = 1


class Ids:
    """From the ids of another system's vocabulary to ours, which begins with PAD, UNK, BOS and EOS.

    Rows of tables are copied: PAD, UNK and EOS have those of its own such tokens and BOS that of what its decoder
    starts with. All its ids but those of UNK and EOS follow in their order, so that the start and the padding of the
    other system, which it may predict, are ordinary tokens beside BOS and PAD, which are never predicted.

    Args:
        size: number of its ids.
        pad, unknown, start, end: its ids; those without an unknown token have None.
    Attributes:
        rows: [V] int64, for each of our ids the id there.
        ours: [size] int32, for each id there ours.
        never: our ids that are never predicted.
    """

    def __init__(self, size: int, pad: int, unknown: int | None, start: int, end: int):
        for name, id_ in (("pad", pad), ("unknown", unknown), ("start", start), ("end", end)):
            if id_ is not None and not 0 <= id_ < size:
                raise ConversionError(f"The {name} token must be one of {size} ids. Received: {id_}.")
        others = [id_ for id_ in range(size) if id_ not in (unknown, end)]
        self.rows = np.array([pad, end if unknown is None else unknown, start, end, *others], np.int64)
        self.ours = np.zeros([size], np.int32)
        self.ours[others] = np.arange(4, 4 + len(others))
        self.ours[end] = EOS
        if unknown is not None:
            self.ours[unknown] = UNK
        self.never = [PAD, BOS, *([UNK] if unknown is None else [])]

    def table(self, values: np.ndarray) -> np.ndarray:
        """Rows of a table [size, ...] in our order."""
        return values[self.rows]

    def bias(self, values: np.ndarray | None = None) -> np.ndarray:
        """The bias of the output layer, [size] there, in our order; what is never predicted has `NEVER`."""
        bias = np.zeros([len(self.rows)], np.float32) if values is None else values[self.rows].copy()
        bias[self.never] = NEVER
        return bias

    def names(self, names: Sequence[str]) -> list[str]:
        """The tokens in our order, each name once."""
        specials = ["<pad>", "<unk>", "<s>", "</s>"]
        found = dict.fromkeys(specials)
        for id_ in self.rows[4:]:
            name = names[id_]
            found[f"{name}#{id_}" if name in found else name] = None
        return list(found)


def assign(model: Seq2Seq, weights: Mapping[str, np.ndarray]) -> None:
    """Gives a model its weights.

    Raises:
        ConversionError: one is missing, given twice, unknown or of another shape.
    """
    left = {id(variable): variable for variable in model.weights}
    for place, values in weights.items():
        variable = _at(model, place)
        if left.pop(id(variable), None) is None:
            raise ConversionError(f"The weight {place} is given twice.")
        if tuple(variable.shape) != values.shape:
            raise ConversionError(
                f"The weight {place} must have the shape {tuple(variable.shape)} by the config. Received: "
                f"{values.shape}.")
        variable.assign(values)
    if left:
        missing = ", ".join(variable.path for variable in list(left.values())[:8])
        raise ConversionError(f"{len(left)} weights of the architecture are not in the files: {missing}.")


def _at(model: Seq2Seq, place: str) -> Any:
    found: Any = model
    for part in place.split("."):
        found = found[int(part)] if part.isdecimal() else getattr(found, part)
        if found is None:
            raise ConversionError(f"The architecture has no weight {place}, which the files hold.")
    return found


def write_run(conversion: Conversion, output: Path, about: Mapping[str, Any]) -> Run:
    """Makes the run's folder: config.json, tokenizers, a checkpoint of step 0, and lines to check exports by.

    Args:
        conversion: what a converter gave.
        output: the folder, which must not exist; its name is the run's.
        about: JSON values kept in imported.json.
    Returns:
        The recipe.
    Raises:
        ConversionError: weights that do not fit.
        ConfigError: what was found is no recipe of ours.
    """
    if output.exists():
        raise ConversionError(f"{output}: exists already; name another folder.")
    tables = dict(conversion.tables)
    tables["data"] = {**tables.get("data", {}), "tokenizers_from": str(output)}
    tables["train"] = {"start_from": str(output), **tables.get("train", {})}
    run = parse_recipe({**tables, "name": output.name}, conversion.architecture)
    source, target = conversion.source_tokenizer, conversion.target_tokenizer
    model = build_model(run.model, source.vocabulary_size, target.vocabulary_size)
    assign(model, conversion.weights)
    temporary = output.with_name(f".{output.name}.importing")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        pairs: list[tuple[str, str]] = [(each.source, each.text) for each in conversion.expected]
        if isinstance(source, FrontEnd):
            recordings = pairs or _made_up_recordings(source, temporary)
            write_frames(source.audio, [], recordings, temporary / "data" / FRAMES, lambda *_: None)
            pairs = [(path.replace(str(temporary), str(output.resolve())), text) for path, text in recordings]
            index = temporary / "data" / FRAMES / "index.json"
            index.write_text(index.read_text(encoding="utf-8").replace(str(temporary), str(output.resolve())))
        write_splits(temporary, Splits([], pairs or _made_up(source), []), {})
        source.save(temporary / "tokenizers" / "source")
        target.save(temporary / "tokenizers" / "target")
        checkpoints.save(
            temporary / "checkpoints", 0, {"weights": checkpoints.weights(model)}, {"best_step": 0}, keep=1)
        about = {**about, "architecture": conversion.architecture, "weights": conversion.num_weights}
        (temporary / IMPORTED).write_text(json.dumps(about, indent=2) + "\n", encoding="utf-8")
        save_config(run, temporary / "config.json")
        output.parent.mkdir(parents=True, exist_ok=True)
        temporary.rename(output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return run


def _made_up_recordings(front_end: FrontEnd, folder: Path) -> list[tuple[str, str]]:
    """Noise, long and short, where there are no recordings to check an export by."""
    random, pairs = np.random.RandomState(0), []
    (folder / "recordings").mkdir(parents=True)
    for number, seconds in enumerate((0.2, 0.5, 1.0)):
        path = folder / "recordings" / f"{number}.wav"
        samples = 0.1 * random.uniform(-1, 1, int(seconds * front_end.audio.sample_rate))
        path.write_bytes(encode_wav(samples, front_end.audio.sample_rate))
        pairs.append((str(path), ""))
    return pairs


def _made_up(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    """Lines of source tokens, long and short, where there are no others to check an export by."""
    random, size = np.random.RandomState(0), tokenizer.vocabulary_size
    rows = [random.randint(4, size, length).tolist() for length in (1, 2, 4, 6, 8, 12, 16, 24)]
    lines = tokenizer.decode(tf.ragged.constant(rows, dtype=tf.int32)).numpy()
    return [(line.decode("utf-8", "replace").replace("\n", " "), "") for line in lines]


def replay(
    conversion: Conversion, folder: Path, report: Callable[[str, float, float | None], None],
) -> tuple[int, int] | None:
    """How many of the other system's greedy answers the imported run gives too, and of how many; None of none."""
    if not conversion.expected:
        return None
    prepared = load_prepared(folder)
    run, equal = prepared.run, 0
    for limit in dict.fromkeys(each.max_length for each in conversion.expected):
        rows = [each for each in conversion.expected if each.max_length == limit]
        decode = run.decode
        if limit is not None:
            decode = decode.model_copy(update={"max_length": limit + conversion.prompt_length - 1, "min_length": 1})
        loaded = load_generator(run.model_copy(update={"decode": decode}), prepared, folder)
        for first in range(0, len(rows), REPLAYED):
            part = rows[first : first + REPLAYED]
            equal += _num_alike(loaded, part, conversion.prompt_length - 1)
            report("comparing answers", first + len(part), len(rows))
    return equal, len(conversion.expected)


def _num_alike(generator: Generator, expected: Sequence[Expected], num_given: int) -> int:
    @tf.function(input_signature=[tf.TensorSpec([None], tf.string)], autograph=False)
    def answer(texts):
        strings, _, found = generator._answers(texts, 1, "greedy")
        return strings["text"][:, 0], found.tokens[:, 0]

    texts, tokens = answer(generator.load([each.source for each in expected]))
    alike = 0
    for each, text, ids in zip(expected, texts.numpy(), tokens.numpy().tolist(), strict=True):
        found = [id_ for id_ in ids if id_ not in (PAD, EOS)][num_given:]
        alike += text.decode("utf-8", "replace") == each.text if each.ids is None else found == list(each.ids)
    return alike
