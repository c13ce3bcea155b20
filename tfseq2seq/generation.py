"""Strings in, strings out: a model, its tokenizers and the search, joined in one `tf.Module`.

Training's evaluation, `predict`, `evaluate` and the exported SavedModel all run this same graph code, so
that they cannot answer differently.
"""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from pipelines.audio import FrontEnd
from pipelines.batching import inference_batches
from pipelines.recordings import num_frames, read_recording
from pipelines.text import SeveralSources, read_source, source_ids
from pipelines.wav import encode_wav
from tfseq2seq.alignment import alignments, in_source_order, replace_unknown
from tfseq2seq.decoding import combine, expected_utility
from tfseq2seq.decoding.scoring import score_tokens
from tfseq2seq.model_search import find_compiled, find_in_parts
from tfseq2seq.options import SearchOptions
from tfseq2seq.structures import BOS, EOS, PAD, Hypotheses

_TEXT = tf.TensorSpec([None], tf.string)


class Answer(NamedTuple):
    """One hypothesis for one source line."""

    text: str
    score: float


class Generator(tf.Module):
    """Answers source strings with target strings; of speech the strings in the graph are WAV files.

    Args:
        model: `Seq2Seq`, or several that answer as one and share their tokenizers.
        source_tokenizer: Tokenizer of the source side, or `FrontEnd`.
        target_tokenizer: Tokenizer of the target side.
        decode: `tfseq2seq.config.Decode`.
        max_source_length: Tokens, end token included; longer sources (and targets to score) are cut here.
        step: Training step of the weights.
        weights: Of several models, numbers above 0; default all alike.
    Attributes:
        reads_speech: whether sources are recordings.
        empty_source: the bytes of a source without anything in it.
    """

    def __init__(self, model, source_tokenizer, target_tokenizer, decode, max_source_length, step=0, weights=None):
        super().__init__(name="generator")
        self.models = list(model) if isinstance(model, list | tuple) else [model]
        self.model, self.weights = self.models[0], weights
        self.tokenizers = (source_tokenizer, target_tokenizer)
        self.decode, self.max_source_length, self.step = decode, max_source_length, step
        self.reads_speech = isinstance(source_tokenizer, FrontEnd)
        self.empty_source = encode_wav(np.zeros(0), source_tokenizer.audio.sample_rate) if self.reads_speech else b""
        self.options = SearchOptions(decode, target_tokenizer)
        self.traced_answer = tf.function(self.answer_in_graph, input_signature=[_TEXT], autograph=False)

    def hypotheses(self, text, num_hypotheses, method=None, beam_size=None, source=None, **requested):
        """Searches.

        Args:
            text: [N] strings.
            source: what the model reads, and whether each row was cut, where that is not to be made of the text.
            num_hypotheses: H, answers a source, at most the beam size.
            method: "beam", "sample", "greedy" or "alternatives"; default the recipe's.
            beam_size: default the recipe's, 1 for "greedy".
            requested: `options.ROW_OPTIONS` of the rows, each [N].
        Returns:
            what the model reads, [N, S] ids or [N, S, F + 1] features, whether each source was cut [N] bool, and
            Hypotheses, token ids with their attention.
        """
        source, cut = source or read_source(text, self.tokenizers[0], self.max_source_length)
        arguments = self.options.arguments(text, source, requested, method, beam_size)
        arguments |= {
            "num_hypotheses": num_hypotheses, "weights": self.weights, "combination": self.decode.ensemble}
        if self.decode.jit_compile:
            found = Hypotheses(*tf.cond(
                tf.shape(source)[0] == 1,
                lambda: find_compiled(self.models, source, self.decode.most_steps, **arguments),
                lambda: find_in_parts(self.models, source, self.decode.parts, **arguments)))
        else:
            found = find_in_parts(self.models, source, self.decode.parts, **arguments)
        if isinstance(self.tokenizers[0], SeveralSources):
            num_sources = len(self.model.encoder.encoders)
            found = found._replace(attention=in_source_order(found.attention, source, num_sources))
        return source, cut, found

    def beam(self, text, num_hypotheses):
        """The recipe's own search, whatever its method.

        Args:
            text: [N] strings.
            num_hypotheses: H, answers a source, at most the beam size.
        Returns:
            {"text": [N, H] strings, best first, "score": [N, H] float32, log-probability / length penalty, or with
            `minimum_risk` the expected utility in percent, "truncated": [N] bool, whether the source was cut}.
        """
        return self._answers(text, num_hypotheses)[0]

    def greedy(self, text):
        """The likeliest token at each step. Returns as `beam` with H = 1."""
        return self._answers(text, 1, "greedy")[0]

    def beam_with(self, text, num_hypotheses, **requested):
        """Beam search with options of each row, see `_described`."""
        return self._described(text, *self._answers(text, num_hypotheses, "beam", **requested))

    def sample_with(self, text, num_hypotheses, **requested):
        """Draws with options of each row, see `_described`.

        A recipe that draws says how many in beam_size, and the best H of them are given; another draws H.
        """
        draws = self.decode.beam_size if self.decode.method == "sample" else num_hypotheses
        return self._described(text, *self._answers(text, num_hypotheses, "sample", draws, **requested))

    def beam_of_samples(self, samples, num_samples, sample_rate, num_hypotheses):
        """As `beam`, of recordings as samples, see `FrontEnd.read_samples`."""
        source = self.tokenizers[0].read_samples(samples, num_samples, sample_rate, self.max_source_length)
        # What stands for the text: draws are seeded by it.
        text = tf.strings.as_string(tf.reduce_sum(source[0], [1, 2]), precision=3)
        return self._answers(text, num_hypotheses, source=source)[0]

    def alternatives(self, text, prefix, num_hypotheses):
        """What else might stand after the prefix: see `search`'s `alternatives_at`. Returns as `_described`."""
        answers = self._answers(text, num_hypotheses, "alternatives", num_hypotheses, prefix=prefix)
        return self._described(text, *answers)

    def score(self, source, target):
        """log p(target | source), end token included, in nats.

        Args:
            source: [N] strings.
            target: [N] strings.
        Returns:
            {"log_probability": [N] float32, "length": [N] int32, tokens of the target, end token included,
            "token_log_probability": [N, L] float32, of each of them, then 0; L is `max_source_length`, of speech
            the recipe's max_length; "tokens": [N]
            string, of the target as in `tokenize`, "truncated": [N] bool, whether source or target was cut}.
        """
        sources, cut = read_source(source, self.tokenizers[0], self.max_source_length)
        most = self.decode.max_length if self.reads_speech else self.max_source_length
        labels, target_cut = source_ids(target, self.tokenizers[1], most, source)  # [N, T], ended by EOS
        inputs = tf.concat([tf.fill([tf.shape(labels)[0], 1], BOS), labels[:, :-1]], 1)
        logits = [model({"source": sources, "target": inputs}, training=False) for model in self.models]
        if len(logits) > 1:
            steps = [lambda tokens, state, memory, part=part: (part, (), None) for part in logits]
            logits = [combine(steps, self.weights, self.decode.ensemble)(None, logits, logits)[0]]
        each = score_tokens(logits[0], labels)
        return {
            "log_probability": tf.reduce_sum(each, 1),
            "length": tf.reduce_sum(tf.cast(labels != PAD, tf.int32), 1),
            "token_log_probability": _to_width(each, most),
            "tokens": self._named(labels, source), "truncated": cut | target_cut}

    def tokenize(self, text):
        """What the model reads of the sources.

        Args:
            text: [N] strings.
        Returns:
            {"tokens": [N] string, the tokens with a space between, spaces in them as "▁", "</s>" at the end, "ids":
            [N, S] int32, S is `max_source_length`; PAD after the end, "length": [N] int32, tokens, end token included,
            "truncated": [N] bool, whether the source was cut}.
        """
        ids, cut = source_ids(text, self.tokenizers[0], self.max_source_length)
        labels = self.tokenizers[0].labels(text)[:, : self.max_source_length - 1].to_tensor("")
        end = self.tokenizers[0].names(ids)  # of each row, where its labels end
        labels = tf.concat([labels, tf.fill([tf.shape(ids)[0], 1], "")], 1)
        return {
            "tokens": _joined(tf.where(labels == "", end, labels), ids), "ids": _to_width(ids, self.max_source_length),
            "length": tf.reduce_sum(tf.cast(ids != PAD, tf.int32), 1), "truncated": cut}

    def answer_in_graph(self, text):
        """[N] strings to what `beam` gives, their source ids [N, S] and Hypotheses; traced as `traced_answer`."""
        return self._answers(text, self.decode.num_hypotheses)

    def _answers(self, text, num_hypotheses, method=None, beam_size=None, **options):
        """{"text", "score", "truncated"}, source ids and Hypotheses, both in the same order."""
        method = method or self.decode.method
        by_risk = method == "sample" and self.decode.minimum_risk is not None
        wanted = (beam_size or self.decode.beam_size) if by_risk else num_hypotheses
        source, cut, hypotheses = self.hypotheses(text, wanted, method, beam_size, **options)
        texts, scores = self._texts(text, hypotheses), hypotheses.scores
        if by_risk:
            there = tf.cast(hypotheses.lengths > 0, tf.float32)
            utility = expected_utility(texts, self.decode.minimum_risk, there)
            scores, order = tf.math.top_k(tf.where(there > 0, utility, -float("inf")), num_hypotheses)
            hypotheses = Hypotheses(*(tf.gather(leaf, order, batch_dims=1) for leaf in hypotheses))
            hypotheses, texts = hypotheses._replace(scores=scores), tf.gather(texts, order, batch_dims=1)
        return {"text": texts, "score": scores, "truncated": cut}, source, hypotheses

    def _described(self, text, strings, source, hypotheses):
        """Everything about answers, in shapes that do not depend on the batch (TensorFlow Serving joins batches).

        Returns:
            "text" [N, H] string; "score" [N, H] float32; "log_probability" [N, H] float32, nats; "length" [N, H]
            int32, tokens with the end token; "alignment" [N, H] string, for each token but the end the source token
            with the most attention, as "0-0 1-2" (target-source); "token_log_probability" [N, H, L] float32, L the
            recipe's max_length; "attention" [N, H, L, S] float32, for each of these tokens its weights on the source
            tokens, the end token among them, S is `max_source_length`; 0 beyond either end, and where the model has
            no attention, of speech the steps of the memory of a recording as long as `max_source_length`; "tokens"
            [N, H] string, as in `tokenize`, but of the answer; "truncated" [N] bool.
        """
        most = self.max_source_length
        if self.reads_speech:
            most = self.model.encoder.num_steps(most)
        attention = _to_width(hypotheses.attention, most)
        return {
            **strings, "log_probability": hypotheses.log_probabilities, "length": hypotheses.lengths,
            "alignment": alignments(hypotheses, source),
            "token_log_probability": _to_width(hypotheses.token_log_probabilities, self.decode.max_length),
            "attention": _to_width(attention, self.decode.max_length, axis=2),
            "tokens": self._named(hypotheses.tokens, text)}

    def _named(self, ids, text):
        """[N, ..., T] target ids beside their sources to [N, ...] strings of tokens."""
        names = self.tokenizers[1].names_beside(ids, self.tokenizers[1].copies(text))
        return _joined(names, ids)

    def _texts(self, text, hypotheses):
        shape = tf.shape(hypotheses.tokens)
        copies = self.tokenizers[1].copies(text)
        if copies is not None:
            copies = tf.repeat(copies, shape[1], axis=0)
        texts = self.tokenizers[1].decode_beside(tf.reshape(hypotheses.tokens, [-1, shape[2]]), copies)
        if self.decode.replace_unknown:
            texts = replace_unknown(texts, self.tokenizers[0].pieces(text), hypotheses)
        return tf.ensure_shape(tf.reshape(texts, shape[:2]), [None, hypotheses.tokens.shape[1]])

    def answer(self, lines: list[str], batch_tokens: int | None = None, on_batch: Any = None) -> list[list[Answer]]:
        """Decodes lines of any number, sorted by length and batched by padded source tokens.

        `tfseq2seq.prediction` does the same for files, several batches at once.

        Args:
            lines: source lines.
            batch_tokens: padded source tokens at once; default the config's.
            on_batch: called with the number of lines done; an exception it raises ends the work.
        Returns:
            For each line its hypotheses, best first, in the order of the lines.
        """
        answers: list[list[Answer]] = [[] for _ in lines]
        done = 0
        for rows in self.batches(lines, batch_tokens)[0]:
            for row, answer in zip(rows, self.answer_batch([lines[row] for row in rows]), strict=True):
                answers[row] = answer
            done += len(rows)
            if on_batch:
                on_batch(done)
        return answers

    def batches(
        self, lines: list[str], batch_tokens: int | None = None, at_least: int = 1,
    ) -> tuple[list[list[int]], int]:
        """Groups lines of like length.

        Args:
            lines: source lines.
            batch_tokens: most padded source tokens in a batch; default the config's.
            at_least: batches wanted of as many lines or more, so that all workers have one; then the budget shrinks.
        Returns:
            The row numbers of each batch, shortest first; and how many lines `max_source_length` cuts.
        """
        reader = self.tokenizers[0]
        if self.reads_speech:
            lengths = np.array([num_frames(reader, path) for path in lines], np.int64)
        else:
            lengths = reader.encode(tf.constant(lines, tf.string, shape=[len(lines)])).row_lengths().numpy() + 1
        cut = int((lengths > self.max_source_length).sum())
        lengths = np.minimum(lengths, self.max_source_length)
        budget = batch_tokens or self.decode.batch_tokens
        if at_least > 1:
            budget = min(budget, -(-int(lengths.sum()) // at_least))
        return inference_batches(lengths, budget), cut

    def answer_batch(self, lines: list[str]) -> list[list[Answer]]:
        """Hypotheses of each line, best first, decoded at once. Several threads may call it."""
        return to_answers(self.traced_answer(self.load(lines))[0])

    def load(self, lines: list[str]) -> tf.Tensor:
        """[N] strings as the graph takes them: the lines, or of speech the files that they name. Raises DataError."""
        if self.reads_speech:
            return tf.constant([read_recording(path) for path in lines], tf.string, shape=[len(lines)])
        return tf.constant(lines, tf.string, shape=[len(lines)])

    def attention(self, line: str) -> tuple[list[str], list[str], np.ndarray]:
        """Best hypothesis of one line with its attention.

        Returns:
            source tokens (S), target tokens (T) and weights [T, S].
        """
        _, source, found = self.traced_answer(self.load([line]))
        vocabularies = [tokenizer.vocabulary() for tokenizer in self.tokenizers]
        copies = self.tokenizers[1].copies(tf.constant([line]))
        if copies is not None:  # in the place of their ids' names, and "" for the last id
            held = [text.decode("utf-8", "replace") for text in copies[0].numpy()]
            vocabularies = [names[: -len(held) - 1] + [*held, ""] for names in vocabularies]
        num_read = found.attention.shape[3]  # of several sources those beyond the last encoder are not
        if self.reads_speech:  # where each step of the memory begins
            seconds = self.tokenizers[0].audio.hop * source.shape[1] / max(1, num_read)
            source_tokens = [f"{i * seconds:.2f} s" for i in range(num_read)]
        else:
            source_tokens = [vocabularies[0][i] for i in source[0].numpy() if i != PAD][:num_read]
        ids = found.tokens[0, 0].numpy().tolist()
        ids = ids[: ids.index(EOS) + 1] if EOS in ids else ids
        weights = found.attention[0, 0].numpy()[: len(ids), : len(source_tokens)]
        return source_tokens, [vocabularies[1][i] for i in ids], weights


def _joined(labels, ids):
    """Labels [..., T] of ids, PAD at their end, to [...] strings with a space between."""
    spaced = tf.where(tf.range(tf.shape(ids)[-1]) == 0, labels, tf.strings.join([" ", labels]))
    labels = tf.where(ids == PAD, "", spaced)
    return tf.ensure_shape(tf.strings.reduce_join(labels, -1), ids.shape[:-1])


def _to_width(values, width, axis=-1):
    """The values with an axis of this width, cut or filled with 0."""
    axis %= values.shape.rank
    values = values[(slice(None),) * axis + (slice(width),)]
    missing = [[0, width - tf.shape(values)[i] if i == axis else 0] for i in range(values.shape.rank)]
    return tf.ensure_shape(
        tf.pad(values, missing), [*values.shape[:axis], width, *values.shape[axis + 1 :]])


def to_answers(strings: dict[str, tf.Tensor]) -> list[list[Answer]]:
    """What `Generator.beam` gives as hypotheses of each line; those that do not exist are left out."""
    return [
        [
            Answer(text.decode("utf-8", "replace"), float(score))
            for text, score in zip(texts, scores, strict=True) if np.isfinite(score)]
        for texts, scores in zip(strings["text"].numpy(), strings["score"].numpy(), strict=True)]
