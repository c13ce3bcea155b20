"""From a recipe's [decode], and what single rows ask for, to the arguments of `decoding.search`."""

from pathlib import Path
from typing import Any

import tensorflow as tf

from pipelines.text import source_ids
from tfseq2seq.decoding import Sampling, Trie
from tfseq2seq.decoding.processors import (
    block_ngrams,
    forbid_first,
    forbid_phrases,
    forbid_tokens,
    force_prefix,
    free_end_at,
    from_step,
    no_end_before,
    only_from,
    penalize_repetition,
)
from tfseq2seq.decoding.scoring import length_limits
from tfseq2seq.structures import EOS, PAD, UNK, source_mask

# What a row may ask for, as [N] tensors, with the number that stands for "as exported" (for a float it is NaN). A
# server takes no scalar with batching, and every input of a signature must be sent.
DEFAULT_NUMBER = -1
ROW_OPTIONS = {
    "length_penalty": tf.float32, "min_length": tf.int32, "max_length": tf.int32, "temperature": tf.float32,
    "top_k": tf.int32, "top_p": tf.float32, "min_p": tf.float32, "seed": tf.int64, "prefix": tf.string,
    "phrases": tf.string}
BEAM_OPTIONS = ("length_penalty", "min_length", "max_length", "prefix", "phrases")
SAMPLE_OPTIONS = (
    "length_penalty", "min_length", "max_length", "temperature", "top_k", "top_p", "min_p", "seed", "prefix")
PHRASE_SEPARATOR = "\n"
MOST_PHRASES, LONGEST_PHRASE = 8, 16  # phrases of a row, tokens of a phrase


class SearchOptions:
    """Arguments of the search for one recipe.

    Args:
        decode: `tfseq2seq.config.Decode`.
        target_tokenizer: Tokenizer of the target side.
    Raises:
        ValueError: a forbidden string has no token, or `only_from` has no line.
        OSError: `only_from` cannot be read.
    """

    def __init__(self, decode, target_tokenizer):
        self.decode, self.tokenizer = decode, target_tokenizer
        self.vocabulary_size = target_tokenizer.vocabulary_size
        self.before = target_tokenizer.before
        self.forbidden = [self._ids(text, "forbidden") for text in decode.forbidden]
        for ids in (*decode.forbidden_ids, decode.forbidden_first):
            if any(id_ >= self.vocabulary_size for id_ in ids):
                raise ValueError(
                    f"decode.forbidden_ids and forbidden_first need ids below {self.vocabulary_size}, the size of the "
                    f"target vocabulary. Received: {ids}")
        self.forbidden += decode.forbidden_ids
        self.trie = None
        if decode.only_from is not None:
            lines = Path(decode.only_from).expanduser().read_text("utf-8").split("\n")
            lines = [line for line in (line.rstrip("\r") for line in lines) if line]
            if not lines:
                raise ValueError(f"decode.only_from needs a file with one answer a line. Received: {decode.only_from}")
            answers = self._alone(lines)
            for line, ids in zip(lines, answers, strict=True):
                self._check(ids, line, "only_from")
                if len(ids) >= decode.max_length:
                    raise ValueError(
                        f"decode.only_from needs answers that end within max_length = {decode.max_length} tokens. "
                        f"Received: {line!r}, {len(ids)} tokens and the end")
            self.trie = Trie([[*self.before, *ids] for ids in answers])

    def _ids(self, text, name):
        ids = self._alone([text])[0]
        self._check(ids, text, name)
        return ids

    def _alone(self, texts):
        """Ids of texts that go with no source."""
        copies = self.tokenizer.copies(tf.fill([len(texts)], ""))
        return self.tokenizer.encode_beside(tf.constant(texts), copies)[:, len(self.before) :].to_list()

    def _check(self, ids, text, name):
        if not ids or UNK in ids:
            raise ValueError(
                f"decode.{name} needs strings of at least one token, all of which the model knows. Received: {text!r}")

    def arguments(self, text, source, requested, method=None, beam_size=None) -> dict[str, Any]:
        """Keyword arguments of `search`, all but those that follow from the sources.

        Args:
            text: [N] source strings; draws are seeded by them too.
            source: [N, S] their ids, or [N, S, F + 1] features.
            requested: options of the rows by name, a part of `ROW_OPTIONS`, each [N]; "phrases" holds those of a row
                with `PHRASE_SEPARATOR` between them.
            method: "beam", "sample", "greedy", or "alternatives": the likeliest tokens after each row's prefix, each
                gone on with greedily; default the recipe's.
            beam_size: default the recipe's, 1 for "greedy".
        Raises:
            tf.errors.InvalidArgumentError: in the graph, a value out of its range.
        """
        decode, method = self.decode, method or self.decode.method
        beam_size = beam_size or (1 if method == "greedy" else decode.beam_size)
        requested = {name: _one_a_row(values, name, text) for name, values in requested.items()}
        limit, least = self._lengths(source, requested)
        prefix = self._prefix(requested["prefix"], text, limit) if "prefix" in requested else None
        found: dict[str, Any] = {
            "vocabulary_size": self.vocabulary_size, "beam_size": beam_size,
            "length_penalty": self._row(requested, "length_penalty", decode.length_penalty),
            "length_penalty_kind": decode.length_penalty_kind, "end_length": decode.end_length,
            "coverage_penalty": decode.coverage_penalty, "max_length": limit, "min_length": least,
            **self._processors(text, prefix, limit, least)}
        if decode.cut:
            found["count_forced_end"] = False
        if self.before and not decode.count_prefix:
            found["num_uncounted"] = len(self.before)
        if method == "sample":
            settings = {name: self._row(requested, name, getattr(decode, name)) for name in (
                "temperature", "top_k", "top_p", "min_p")}
            seed = tf.cast(self._row(requested, "seed", decode.seed), tf.int64)
            found["sampling"] = Sampling(**settings, seed=seed + tf.strings.to_hash_bucket_fast(text, 2**62))
        elif method == "alternatives":
            found["alternatives_at"] = _num_tokens(prefix)
        elif method == "beam":
            # Not by the number of answers that are wanted: it differs between `predict` and a server.
            wait_for = decode.wait_for or (None if decode.stop == "bound" else beam_size // decode.num_groups)
            found |= {"finish": decode.finish, "stop": decode.stop, "wait_for": wait_for}
            if decode.num_groups > 1:
                found |= {"num_groups": decode.num_groups, "diversity_strength": decode.diversity_strength}
            if "phrases" in requested:
                found |= self._phrases(requested["phrases"], text, beam_size, limit)
        return found

    def _lengths(self, source, requested):
        """Most and least tokens of each answer, for all rows or [N]."""
        decode, lengths = self.decode, tf.reduce_sum(tf.cast(source_mask(source), tf.int32), 1)
        limit = self._row(requested, "max_length", decode.max_length)
        least = self._row(requested, "min_length", decode.min_length)
        if "max_length" in requested and "min_length" in requested:
            asked = (requested["max_length"] != DEFAULT_NUMBER) & (requested["min_length"] != DEFAULT_NUMBER)
            least = _checked(
                least, ~asked | (least <= limit), "min_length needs numbers up to max_length. Received: min_length",
                least, "max_length", limit)
        if decode.max_length_ratio is not None or "max_length" in requested:
            limit = length_limits(lengths, limit, decode.max_length_ratio, decode.max_length)
        if decode.min_length_ratio is not None:
            relative = length_limits(lengths, decode.max_length, decode.min_length_ratio, decode.max_length)
            least = tf.maximum(relative, least)
        if tf.is_tensor(limit) or tf.is_tensor(least):
            least = tf.minimum(least, limit)
        return limit + decode.cut if decode.cut else limit, least

    def _processors(self, text, prefix, limit, least):
        """The arguments `processors` and `reshapers`."""
        decode = self.decode
        reshapers = [penalize_repetition(decode.repetition_penalty)] if decode.repetition_penalty != 1 else []
        if self.before:
            reshapers.append(force_prefix(tf.tile(tf.constant([self.before]), [tf.size(text), 1])))
        constraints = self._constraints(prefix)
        if decode.renormalize:
            reshapers, constraints = [*reshapers, *constraints, no_end_before(least)], []
        if decode.free_end or decode.cut:
            reshapers.append(free_end_at(limit))
        return {"processors": constraints, "reshapers": reshapers}

    def _constraints(self, prefix):
        decode, found = self.decode, []
        single = [ids[0] for ids in self.forbidden if len(ids) == 1]
        longer = [ids for ids in self.forbidden if len(ids) > 1]
        if single:
            found.append(forbid_tokens(single, self.vocabulary_size))
        if longer:
            found.append(forbid_phrases(longer))
        if decode.forbidden_first:
            found.append(forbid_first(decode.forbidden_first, self.vocabulary_size, len(self.before)))
        if decode.block_ngrams:
            found.append(block_ngrams(decode.block_ngrams))
        if self.before:  # what comes first is given, whatever is forbidden elsewhere
            found = [each if hasattr(each, "start") else from_step(len(self.before), each) for each in found]
        if self.trie is not None:
            found.append(only_from(self.trie))
        if prefix is not None:
            found.append(force_prefix(prefix))
        return found

    def _prefix(self, texts, sources, limit):
        """[N] strings to [N, P] ids, padded by PAD."""
        prefix, _ = source_ids(texts, self.tokenizer, self.decode.max_length + 1, sources)
        prefix = tf.where(prefix == EOS, PAD, prefix)
        lengths = _num_tokens(prefix)
        if self.decode.jit_compile:  # of one shape for all, or each length would be compiled anew
            prefix = tf.pad(prefix, [[0, 0], [0, self.decode.max_length + 1 - tf.shape(prefix)[1]]])
        return _checked(
            prefix, lengths < limit, "prefix needs fewer tokens than max_length. Received: tokens", lengths,
            "max_length", limit)

    def _phrases(self, texts, sources, beam_size, limit):
        """The argument of `search` for [N] strings, each several phrases: [N, C, L] ids."""
        if beam_size == 1 or self.decode.num_groups > 1:  # the search has no beams to share out among phrases
            tf.debugging.Assert(tf.reduce_all(texts == ""), [
                "phrases needs a model exported with beam_size above 1 and num_groups = 1. Received: beam_size",
                beam_size, "num_groups", self.decode.num_groups])
            return {}
        parts = tf.strings.split(texts, PHRASE_SEPARATOR)  # [N, (C)]
        copies = self.tokenizer.copies(tf.gather(sources, parts.value_rowids()))
        ids = self.tokenizer.encode_beside(parts.flat_values, copies)  # [all, (L)]
        most, longest = (
            tf.reduce_max(tf.concat([[0], tf.cast(each.row_lengths(), tf.int32)], 0)) for each in (parts, ids))
        known = _checked(
            ids.flat_values, ids.flat_values != UNK, "phrases needs tokens that the model knows. Received:", texts)
        known = _checked(
            known, (most <= MOST_PHRASES) & (longest <= LONGEST_PHRASE),
            f"phrases needs at most {MOST_PHRASES} phrases of at most {LONGEST_PHRASE} tokens a row. Received:",
            most, "phrases,", longest, "tokens")
        nested = parts.with_flat_values(ids.with_flat_values(known))  # [N, (C), (L)]
        phrases = nested.to_tensor(PAD, shape=[None, MOST_PHRASES, LONGEST_PHRASE])
        lengths = tf.reduce_max(tf.reduce_sum(tf.cast(phrases != PAD, tf.int32), 2), 1)
        return {"phrases": _checked(
            phrases, lengths < limit, "phrases needs fewer tokens than max_length. Received: tokens", lengths,
            "max_length", limit)}

    def _row(self, requested, name, default):
        """The default, or [N] values with it where a row asks for nothing, each in its range."""
        if name not in requested:
            return default
        values, dtype = requested[name], ROW_OPTIONS[name]
        unset = tf.math.is_nan(values) if dtype.is_floating else values == DEFAULT_NUMBER
        values = tf.where(unset, tf.cast(default, dtype), values)
        most = {
            "max_length": self.decode.max_length, "min_length": self.decode.max_length, "top_p": 1, "min_p": 1}
        least = {"max_length": 1, "min_length": 1, "seed": dtype.min}
        low, high = least.get(name, 0), most.get(name, dtype.max)
        fine = (values >= tf.cast(low, dtype)) & (values <= tf.cast(high, dtype))
        words = f"from {low} to {high}" if name in most else f"of at least {low}" + ", finite" * dtype.is_floating
        if name == "top_p":
            fine, words = fine & (values > 0), "above 0 and at most 1"
        wrong = tf.boolean_mask(values, ~fine)
        return _checked(values, fine, f"{name} needs numbers {words}. Received:", wrong)


def _num_tokens(ids):
    """[N, S] ids to [N] numbers of those that are no padding."""
    return tf.reduce_sum(tf.cast(ids != PAD, tf.int32), 1)


def _one_a_row(values, name, text):
    return _checked(
        values, tf.size(values) == tf.size(text), f"{name} needs one value a row. Received: values", tf.size(values),
        "rows", tf.size(text))


def _checked(values, fine, *message):
    """The values, once it is known that all is fine; else InvalidArgumentError, INVALID_ARGUMENT of a server."""
    with tf.control_dependencies([tf.debugging.Assert(tf.reduce_all(fine), message, summarize=32)]):
        return tf.identity(values)
