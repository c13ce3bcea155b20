"""Defaults of `generate` of Transformers as a `[decode]` table, which finds the same answers."""

from collections.abc import Callable
from typing import Any

from tfseq2seq.converters.base import Ids
from tfseq2seq.converters.weights import ConversionError

STOPS = {False: "current", True: "first", "never": "bound"}  # early_stopping -> our stop
MAX_LENGTH = 128  # of answers, where nothing says it

# What has no counterpart here, with the values that turn it off.
_OFF: dict[str, tuple[Any, ...]] = {
    "assistant_confidence_threshold": (), "constraints": (None,), "dola_layers": (None,),
    "encoder_no_repeat_ngram_size": (0, None), "encoder_repetition_penalty": (1.0, None), "epsilon_cutoff": (0.0, None),
    "eta_cutoff": (0.0, None), "exponential_decay_length_penalty": (None,), "force_words_ids": (None,),
    "guidance_scale": (1.0, None), "num_beam_groups": (1, None), "penalty_alpha": (0.0, None),
    "prompt_lookup_num_tokens": (None,), "renormalize_logits": (False, None), "sequence_bias": (None,),
    "stop_strings": (None,), "typical_p": (1.0, None), "watermarking_config": (None,)}


def decode_table(
    generation: dict[str, Any], ids: Ids, most: int, prompt_length: int = 1, notes: list[str] | None = None,
) -> dict[str, Any]:
    """The `[decode]` table.

    Args:
        generation: the values of generation_config.json.
        ids: of the target vocabulary.
        most: greatest number of tokens that the decoder can write.
        prompt_length: tokens that the decoder is given.
        notes: takes a line for each value that is carried over but for a detail.
    Raises:
        ConversionError: a value that has no counterpart, named.
    """
    for name, off in _OFF.items():
        if off and generation.get(name) not in off:
            raise _unsupported(name, generation[name], f"set it to {off[0]!r} in generation_config.json")
    beams = generation.get("num_beams") or 1
    table: dict[str, Any] = {"beam_size": beams, "length_penalty_kind": "length", "length_penalty": 1.0}
    table |= _lengths(generation, ids, most, prompt_length)
    table |= _sampling(generation, beams)
    if table.get("method") != "sample":
        early = generation.get("early_stopping") or False
        if early not in STOPS:
            raise _unsupported("early_stopping", early, "set it to true, false or \"never\"")
        table |= {"finish": "best", "stop": STOPS[early], "wait_for": beams}
    table["length_penalty"] = float(generation.get("length_penalty", 1.0))
    if table["length_penalty"] < 0:
        raise _unsupported("length_penalty", table["length_penalty"], "set it to 0 or more")
    table["num_hypotheses"] = generation.get("num_return_sequences") or 1
    table["block_ngrams"] = generation.get("no_repeat_ngram_size") or 0
    table["forbidden_ids"] = _phrases(generation, ids)
    table["forbidden_first"] = [int(ids.ours[id_]) for id_ in generation.get("begin_suppress_tokens") or []]
    if generation.get("repetition_penalty", 1.0) != 1.0:
        table["repetition_penalty"] = float(generation["repetition_penalty"])
        if beams > 1 and notes is not None:
            notes.append("repetition_penalty is of logits here, in a beam of Transformers of log-probabilities")
    return table


def _lengths(generation: dict[str, Any], ids: Ids, most: int, prompt_length: int) -> dict[str, Any]:
    """In our count, which has no prompt and in which the end token is always there."""
    limit = generation.get("max_new_tokens")
    if not limit:
        limit = generation["max_length"] - prompt_length if generation.get("max_length") else MAX_LENGTH
    least = max(1, (generation.get("min_length") or 0) - prompt_length + 1, (generation.get("min_new_tokens") or 0) + 1)
    forced = _single(generation.get("forced_eos_token_id"), "forced_eos_token_id")
    if forced is not None and forced != _single(generation.get("eos_token_id"), "eos_token_id"):
        raise _unsupported("forced_eos_token_id", forced, "it must be eos_token_id or none")
    given, cut = prompt_length - 1, forced is None  # what the prompt holds beside the start counts here
    limit = max(1, min(limit + given, most - cut))
    return {
        "max_length": limit, "min_length": min(least + given, limit), "free_end": not cut, "cut": cut,
        "count_prefix": given == 0}


def _sampling(generation: dict[str, Any], beams: int) -> dict[str, Any]:
    if not generation.get("do_sample"):
        return {}
    if beams > 1:
        raise _unsupported("do_sample", True, "set it to false, or num_beams to 1")
    draws = generation.get("num_return_sequences") or 1
    temperature, top_p, min_p = (generation.get(name) for name in ("temperature", "top_p", "min_p"))
    top_k = generation.get("top_k")
    return {
        "method": "sample", "beam_size": draws, "temperature": 1.0 if temperature is None else float(temperature),
        "top_k": 50 if top_k is None else top_k, "top_p": 1.0 if top_p is None else float(top_p),
        "min_p": 0.0 if min_p is None else float(min_p)}


def _phrases(generation: dict[str, Any], ids: Ids) -> list[list[int]]:
    phrases = [*(generation.get("bad_words_ids") or []), *([id_] for id_ in generation.get("suppress_tokens") or [])]
    return [[int(ids.ours[id_]) for id_ in phrase] for phrase in phrases]


def _single(value: Any, name: str) -> int | None:
    if isinstance(value, list):
        if len(value) != 1:
            raise _unsupported(name, value, "it must be one id")
        return value[0]
    return value


def special_id(generation: dict[str, Any], config: Callable[[str], Any], name: str) -> int:
    """An id as generation_config.json gives it, or config.json. Raises ConversionError where there is none, or several.
    """
    value = _single(generation.get(name), name)
    return config(name) if value is None else value


def _unsupported(name: str, value: Any, advice: str) -> ConversionError:
    return ConversionError(
        f"generation_config.json: {name} = {value!r} has no counterpart here: {advice}. Received: {name} = {value!r}.")
