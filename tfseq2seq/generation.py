"""Strings in, strings out: a model, its tokenizers and the search, joined in one `tf.Module`.

Training's evaluation, `predict`, `evaluate` and the exported SavedModel all run this same graph code, so
that they cannot answer differently.
"""

from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from pipelines.batching import inference_batches
from pipelines.text import source_ids
from tfseq2seq.decoding import search
from tfseq2seq.decoding.scoring import score_targets
from tfseq2seq.structures import BOS, EOS, PAD, Hypotheses

_TEXT = tf.TensorSpec([None], tf.string)


class Answer(NamedTuple):
    """One hypothesis for one source line."""

    text: str
    score: float


class Generator(tf.Module):
    """Answers source strings with target strings.

    Args:
        model: `Seq2Seq`.
        source_tokenizer: Tokenizer of the source side.
        target_tokenizer: Tokenizer of the target side.
        decode: `tfseq2seq.config.Decode`.
        max_source_length: Tokens, end token included; longer sources (and targets to score) are cut here.
        step: Training step of the weights.
    """

    def __init__(self, model, source_tokenizer, target_tokenizer, decode, max_source_length, step=0):
        super().__init__(name="generator")
        self.model = model
        self.tokenizers = (source_tokenizer, target_tokenizer)
        self.decode, self.max_source_length, self.step = decode, max_source_length, step
        self.traced_answer = tf.function(self.answer_in_graph, input_signature=[_TEXT])

    def hypotheses(self, text, beam_size, num_hypotheses):
        """[N] strings to their source ids [N, S] and Hypotheses, token ids with their attention."""
        source, _ = source_ids(text, self.tokenizers[0], self.max_source_length)
        memory, state = self.model.start(self.model.encode(source))
        return source, search(
            self.model.step, state, memory, batch_size=tf.shape(source)[0], vocabulary_size=self.model.target_vocabulary_size,
            beam_size=beam_size, num_hypotheses=num_hypotheses, length_penalty=self.decode.length_penalty,
            max_length=self.decode.max_length, min_length=self.decode.min_length)

    def beam(self, text, num_hypotheses):
        """Beam search.

        Args:
            text: [N] strings.
            num_hypotheses: H, answers a source, at most the beam size.
        Returns:
            {"text": [N, H] strings, best first, "score": [N, H] float32, log-probability / length penalty}.
        """
        return self._strings(self.hypotheses(text, self.decode.beam_size, num_hypotheses)[1])

    def greedy(self, text):
        """The likeliest token at each step. Returns as `beam` with H = 1."""
        return self._strings(self.hypotheses(text, 1, 1)[1])

    def score(self, source, target):
        """log p(target | source), end token included, in nats.

        Args:
            source: [N] strings.
            target: [N] strings.
        Returns:
            {"log_probability": [N] float32}.
        """
        sources, _ = source_ids(source, self.tokenizers[0], self.max_source_length)
        labels, _ = source_ids(target, self.tokenizers[1], self.max_source_length)  # [N, T], ended by EOS
        inputs = tf.concat([tf.fill([tf.shape(labels)[0], 1], BOS), labels[:, :-1]], 1)
        logits = self.model({"source": sources, "target": inputs}, training=False)
        return {"log_probability": score_targets(logits, labels)}

    def answer_in_graph(self, text):
        """[N] strings to what `beam` gives, their source ids [N, S] and Hypotheses; traced as `traced_answer`."""
        source, hypotheses = self.hypotheses(text, self.decode.beam_size, self.decode.num_hypotheses)
        return self._strings(hypotheses), source, hypotheses

    def _strings(self, hypotheses: Hypotheses) -> dict[str, tf.Tensor]:
        shape = tf.shape(hypotheses.tokens)
        text = self.tokenizers[1].decode(tf.reshape(hypotheses.tokens, [-1, shape[2]]))
        return {"text": tf.reshape(text, shape[:2]), "score": hypotheses.scores}

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
        encoded = self.tokenizers[0].encode(tf.constant(lines, tf.string, shape=[len(lines)]))
        lengths = encoded.row_lengths().numpy() + 1
        cut = int((lengths > self.max_source_length).sum())
        lengths = np.minimum(lengths, self.max_source_length)
        budget = batch_tokens or self.decode.batch_tokens
        if at_least > 1:
            budget = min(budget, -(-int(lengths.sum()) // at_least))
        return inference_batches(lengths, budget), cut

    def answer_batch(self, lines: list[str]) -> list[list[Answer]]:
        """Hypotheses of each line, best first, decoded at once. Several threads may call it."""
        return to_answers(self.traced_answer(tf.constant(lines, tf.string, shape=[len(lines)]))[0])

    def attention(self, line: str) -> tuple[list[str], list[str], np.ndarray]:
        """Best hypothesis of one line with its attention.

        Returns:
            source tokens (S), target tokens (T) and weights [T, S].
        """
        _, source, found = self.traced_answer(tf.constant([line]))
        vocabularies = [tokenizer.vocabulary() for tokenizer in self.tokenizers]
        num_read = found.attention.shape[3]  # of several sources those beyond the last encoder are not
        source_tokens = [vocabularies[0][i] for i in source[0].numpy() if i != PAD][:num_read]
        ids = found.tokens[0, 0].numpy().tolist()
        ids = ids[: ids.index(EOS) + 1] if EOS in ids else ids
        weights = found.attention[0, 0].numpy()[: len(ids), : len(source_tokens)]
        return source_tokens, [vocabularies[1][i] for i in ids], weights


def to_answers(strings: dict[str, tf.Tensor]) -> list[list[Answer]]:
    """What `Generator.beam` gives as hypotheses of each line; those that do not exist are left out."""
    return [
        [
            Answer(text.decode("utf-8", "replace"), float(score))
            for text, score in zip(texts, scores, strict=True) if np.isfinite(score)]
        for texts, scores in zip(strings["text"].numpy(), strings["score"].numpy(), strict=True)]
