"""Writes a SavedModel that takes raw strings, after proof that it answers as the model it was made from."""

import contextlib
import hashlib
import importlib.metadata
import json
import os
import platform
import shutil
import uuid
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
from tensorflow.core.protobuf import saved_model_pb2

from pipelines.wav import decode_wav
from serving.checksums import write_checksums
from serving.folders import ABOUT, CONFIG, EXTRA, REPLAY, SAVED_MODEL, TOKENIZERS, WARM_UP, list_versions
from serving.replay import Outputs, Rows, find_difference, write_replay, write_warm_up
from serving.servables import load_model, short_message
from serving.signatures import (
    ALL_SIGNATURES,
    ALTERNATIVES,
    AS_EXPORTED,
    BEAM,
    GREEDY,
    SAMPLE,
    SAMPLES,
    SCORE,
    SERVING_DEFAULT,
    SIGNATURES,
    SPEECH_SIGNATURES,
    TOKENIZE,
    Signature,
)
from serving.weights import PackedWeights
from tfseq2seq.files import sync_folder

NUM_ALONE = 8  # check lines that are asked one by one as well
NUM_RECORDINGS, MOST_SAMPLES = 4, 1 << 17  # so many recordings are asked as samples too, and so much of each
PYTHON_OPERATIONS = {"PyFunc", "PyFuncStateless", "EagerPyFunc", "NumpyFunc"}
LIBRARIES = ("tfseq2seq", "tensorflow", "keras", "tensorflow-text", "numpy")

# What the check lines ask for in turn, {} being as exported: values that every export permits.
SETTINGS: dict[str, list[dict[str, Any]]] = {
    BEAM: [{}, {"length_penalty": 0.0, "min_length": 1}],
    SAMPLE: [{}, {"temperature": 0.0}, {"top_k": 3, "top_p": 0.9, "min_p": 0.1, "seed": 7}]}
LONGEST_CHARACTER = 5  # tokens, if it is spelled in bytes with a space before


class ExportError(RuntimeError):
    """No SavedModel was written; the text says why in one line."""


def export(
    generator: Any, folder: str | os.PathLike[str], version: int | None = None, *, config_json: str,
    check_sources: Sequence[str | bytes], check_targets: Sequence[str], num_hypotheses: int = 1,
    warm_up_lines: int = 5, tokenizers: Mapping[str, Any] | None = None, about: Mapping[str, Any] | None = None,
    packed: PackedWeights | None = None, score: Callable[[list[str]], Any] | None = None,
    progress: Callable[[str, float, float | None], None] = lambda *_: None,
) -> Path:
    """Writes `folder`/VERSION, where a server finds it whole or not at all.

    The model is written aside, loaded back, and asked the check lines, an empty line and no line at all, in
    one batch and alone, with options and without; it must answer as the generator does: equal strings, scores
    within `replay.TOLERANCE`. The lines and their answers are kept, for `checking.check_export`.

    Args:
        generator: `tfseq2seq.generation.Generator`.
        folder: holds the versions of this model; made if it is missing.
        version: number of the new version, at least 1; default: one above the highest.
        config_json: the resolved recipe, kept in assets.extra/config.json.
        check_sources: held-out source lines, at least 1; of speech the bytes of WAV files.
        check_targets: their targets.
        num_hypotheses: answers a row of serving_default; at most its beam size.
        warm_up_lines: how many of the check lines a server answers by each signature before it is ready.
        tokenizers: by the name of the folder below assets.extra/tokenizers that each is saved in.
        about: what JSON can hold, kept in assets.extra/export.json.
        packed: the form in which the weights are saved; the generator's weights must be rounded to it. Default: as
            they are.
        score: serving_default's best answers to the check lines to what JSON can hold, kept there as "check_scores".
        progress: told (stage, done, total).
    Returns:
        The folder of the new version.
    Raises:
        ValueError: no check lines, not one target a source, a version below 1, or too many warm-up lines.
        ExportError: the version exists already, the folder cannot be written, or the SavedModel answers
            otherwise; nothing is left behind.
    """
    if not check_sources or len(check_sources) != len(check_targets):
        raise ValueError(
            "export needs at least one check line and one target for each. "
            f"Received: {len(check_sources)} sources, {len(check_targets)} targets.")
    if version is not None and version < 1:
        raise ValueError(f"export needs a version of at least 1. Received: version={version}.")
    folder = Path(folder)
    created = not folder.exists()
    temporary = folder / f".export-{uuid.uuid4().hex}"  # a server looks at whole numbers only
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _next_version(folder, version)  # before the work, if it is to be refused
        temporary.mkdir()
        inputs = _check_inputs(check_sources, check_targets, generator)
        progress("exporting", 0, 3)
        functions = _trace(generator, num_hypotheses)
        progress("exporting", 1, 3)
        saved = functions if packed is None else _trace(generator, num_hypotheses, packed)
        _write_model(generator, saved, packed, temporary)
        real = {name: {each: rows[:-1] for each, rows in by_input.items()} for name, by_input in inputs.items()}
        write_warm_up(temporary / WARM_UP, real, warm_up_lines, alone=generator.decode.jit_compile)
        progress("exporting", 2, 3)
        answers = _check(functions, temporary, inputs, generator.decode.method)
        write_replay(temporary / REPLAY, *_without_draws(inputs, answers, generator.decode.method))
        for name, tokenizer in (tokenizers or {}).items():
            tokenizer.save(temporary / TOKENIZERS / name)
        best = [texts[0].decode("utf-8", "replace") for texts in answers[SERVING_DEFAULT]["text"][:-1]]
        described = _describe(temporary, signatures_of(generator)) | {
            **(about or {}), "check_scores": score(best) if score else None}
        (temporary / ABOUT).write_text(json.dumps(described, indent=2) + "\n", encoding="utf-8")
        (temporary / CONFIG).write_text(config_json, encoding="utf-8")
        write_checksums(temporary)
        progress("exporting", 3, 3)
        sync_folder(temporary)
        return _publish(temporary, folder, version)
    except OSError as error:
        raise ExportError(f"cannot write {error.filename or folder}: {error.strerror or error}") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        if created and folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()


def _trace(generator: Any, num_hypotheses: int, packed: PackedWeights | None = None) -> dict[str, Any]:
    """Signature -> the concrete function behind it, which unpacks its weights where they are packed."""

    def with_width(function):
        return lambda **inputs: function(num_hypotheses=num_hypotheses, **inputs)

    def unpacking(function):
        def call(**inputs):
            with packed.in_graph() if packed else contextlib.nullcontext():
                return function(**inputs)

        return call

    functions = {
        SERVING_DEFAULT: with_width(generator.beam), GREEDY: generator.greedy, BEAM: with_width(generator.beam_with),
        SAMPLE: with_width(generator.sample_with), ALTERNATIVES: with_width(generator.alternatives),
        SCORE: generator.score, TOKENIZE: generator.tokenize}
    if generator.reads_speech:
        functions[SAMPLES] = with_width(generator.beam_of_samples)
    return {
        name: tf.function(unpacking(functions[name]), autograph=False).get_concrete_function(**{
            each: tf.TensorSpec([None, None] if each == "samples" else [None], dtype, name=each)
            for each, dtype in signature.inputs.items()})
        for name, signature in signatures_of(generator).items()}


def signatures_of(generator: Any) -> dict[str, Signature]:
    """What an export of this generator can be asked."""
    return SPEECH_SIGNATURES if generator.reads_speech else SIGNATURES


def _next_version(folder: Path, version: int | None) -> int:
    taken = list_versions(folder)
    if version is None:
        return max(taken, default=0) + 1
    if version in taken:
        raise ExportError(
            f"{taken[version]} exists already; name another version, or none for the next free one "
            f"({max(taken) + 1}). Received: version={version}.")
    return version


def _publish(temporary: Path, folder: Path, version: int | None) -> Path:
    while True:
        path = folder / str(_next_version(folder, version))
        try:
            temporary.rename(path)
        except OSError:
            if not path.exists():
                raise
            continue  # another export took the number meanwhile
        sync_folder(folder, files=False)
        return path


def _check_inputs(
    sources: Sequence[str | bytes], targets: Sequence[str], generator: Any,
) -> dict[str, Rows]:
    """Signature -> input -> rows. An empty line is asked as well: some user will send one."""
    decode = generator.decode
    by_name: dict[str, Sequence[str | bytes]] = {"text": sources, "source": sources, "target": targets}
    if decode.max_length > LONGEST_CHARACTER and decode.max_length_ratio is None:  # a prefix may be too long for it
        by_name["prefix"] = [target[:1] for target in targets]
    encoded = {
        name: [line.encode("utf-8", "surrogatepass") if isinstance(line, str) else line for line in [
            *lines, generator.empty_source if name in ("text", "source") else b""]]
        for name, lines in by_name.items()}
    num_rows = len(sources) + 1
    found: dict[str, Rows] = {
        name: {
            each: encoded[each] if each in encoded else _settings(SETTINGS.get(name, [{}]), each, dtype, num_rows)
            for each, dtype in signature.inputs.items()}
        for name, signature in signatures_of(generator).items() if name != SAMPLES}
    if generator.reads_speech:
        found[SAMPLES] = _as_samples(encoded["text"][-NUM_RECORDINGS:])
    return found


def _as_samples(recordings: Sequence[bytes]) -> Rows:
    """The inputs of `SAMPLES`: the beginnings of what the WAV files hold, padded to one length."""
    read = [decode_wav(content) for content in recordings]
    decoded = [(samples.numpy()[:MOST_SAMPLES], rate.numpy()) for samples, rate in read]
    longest = max(1, *(len(samples) for samples, _ in decoded))
    return {
        "samples": [np.pad(samples, [0, longest - len(samples)]).tolist() for samples, _ in decoded],
        "num_samples": [len(samples) for samples, _ in decoded], "sample_rate": [int(rate) for _, rate in decoded]}


def _settings(settings: list[dict[str, Any]], name: str, dtype: str, num_rows: int) -> list[Any]:
    """An option of each row, which takes the settings in turn."""
    return [settings[row % len(settings)].get(name, AS_EXPORTED[dtype]) for row in range(num_rows)]


def _write_model(generator: Any, functions: dict[str, Any], packed: PackedWeights | None, folder: Path) -> None:
    model = tf.Module(name="served_model")
    # Their variables and tables go along.
    if packed is None:
        model.generator = generator
    else:
        model.weights, model.tokenizers = packed.module, generator.tokenizers
    try:
        # Nothing is trained there, and the recurrent layers' own gradients cannot be saved.
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        tf.saved_model.save(model, str(folder), signatures=functions, options=options)
    except tf.errors.OpError as error:  # how TensorFlow says that the disk is full
        reason = short_message(error)
        raise ExportError(f"cannot write the SavedModel in {folder.parent}: {reason}") from error
    (folder / EXTRA).mkdir(exist_ok=True)


def _describe(folder: Path, signatures: Mapping[str, Signature]) -> dict[str, Any]:
    return {
        "libraries": {"python": platform.python_version(), **_installed()},
        "signatures": {name: signature._asdict() for name, signature in signatures.items()},
        "variables_sha256": _variables_sha256(folder)}


def _installed() -> dict[str, str]:
    versions = {}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return versions


def _variables_sha256(folder: Path) -> str:
    """Of every variable's name, type, shape and values, in the order of the names."""
    reader = tf.train.load_checkpoint(str(folder / "variables" / "variables"))
    digest = hashlib.sha256()
    for name in sorted(reader.get_variable_to_shape_map()):
        if name != "_CHECKPOINTABLE_OBJECT_GRAPH":
            values = reader.get_tensor(name)
            digest.update(f"{name} {values.dtype} {values.shape}\n".encode())
            digest.update(values.tobytes())
    return digest.hexdigest()


def _check(
    functions: dict[str, Any], folder: Path, inputs: dict[str, Rows], method: str,
) -> dict[str, dict[str, np.ndarray]]:
    """The outputs of the functions; raises ExportError where the SavedModel in `folder` answers otherwise."""
    _check_operations(folder)
    answers = {}
    try:
        loaded = load_model(folder)
        for name, by_input in inputs.items():
            num_rows = len(next(iter(by_input.values())))
            expected = _ask(functions[name], name, by_input, slice(None))
            received = _ask(loaded.signatures[name], name, by_input, slice(None))
            answers[name] = expected
            _compare(name, "the SavedModel", by_input, expected, received, at=0)
            _ask(loaded.signatures[name], name, by_input, slice(0))  # no rows must be no trouble
            for row in dict.fromkeys([*range(min(NUM_ALONE, num_rows)), num_rows - 1]):
                if _draws(name, by_input, row, method):
                    continue
                one = slice(row, row + 1)
                alone = _ask(loaded.signatures[name], name, by_input, one)
                batched = {output: values[one] for output, values in expected.items()}
                _compare(name, "the SavedModel asked for this line alone", by_input, batched, alone, at=row)
    except tf.errors.OpError as error:
        raise ExportError(f"the check of the SavedModel failed: {short_message(error)}") from error
    return answers


def _without_draws(
    inputs: dict[str, Rows], answers: dict[str, dict[str, np.ndarray]], method: str,
) -> tuple[dict[str, Rows], dict[str, dict[str, np.ndarray]]]:
    """What can be asked again anywhere: the rows, and the answers to them."""
    kept_inputs, kept_answers = {}, {}
    for name, by_input in inputs.items():
        num_rows = len(next(iter(by_input.values())))
        rows = [row for row in range(num_rows) if not _draws(name, by_input, row, method)]
        if rows:
            kept_inputs[name] = {each: [values[row] for row in rows] for each, values in by_input.items()}
            kept_answers[name] = {output: values[rows] for output, values in answers[name].items()}
    return kept_inputs, kept_answers


def _draws(signature: str, by_input: Rows, row: int, method: str) -> bool:
    """Whether the row's answer may hang on the last bits of a probability, which change with the batch's shape."""
    if signature == SAMPLE:
        return by_input["temperature"][row] != 0.0
    return signature in (SERVING_DEFAULT, SAMPLES) and method == "sample"


def _check_operations(folder: Path) -> None:
    saved = saved_model_pb2.SavedModel.FromString((folder / SAVED_MODEL).read_bytes())
    used = saved.meta_graphs[0].meta_info_def.stripped_op_list.op  # those in functions included
    found = sorted({operation.name for operation in used} & PYTHON_OPERATIONS)
    if found:
        raise ExportError(
            f"the model calls Python from its graph ({', '.join(found)}), which no server can do; "
            "write that part with TensorFlow operations.")


def _ask(function: Any, signature: str, by_input: Rows, rows: slice) -> dict[str, np.ndarray]:
    tensors, dtypes = {}, ALL_SIGNATURES[signature].inputs
    for name, values in by_input.items():
        chosen = values[rows]
        inner = [len(values[0])] if isinstance(values[0], list) else []  # of a vector a row
        tensors[name] = tf.constant(chosen, dtypes[name], [len(chosen), *inner])
    return {output: values.numpy() for output, values in function(**tensors).items()}


def _compare(signature: str, who: str, by_input: Rows, expected: Outputs, received: Outputs, at: int) -> None:
    difference = find_difference(
        signature, who, by_input, expected, received, at, reference="the model in this process")
    if difference:
        raise ExportError(f"{difference}; nothing was exported.")
