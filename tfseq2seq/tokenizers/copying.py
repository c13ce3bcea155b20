"""Ids for the unknown words of each source, so that a model can copy them."""

import tensorflow as tf

from tfseq2seq.structures import UNK
from tfseq2seq.tokenizers.base import SPACE, Tokenizer
from tfseq2seq.tokenizers.simple import ListTokenizer


class CopyingTokenizer(Tokenizer):
    """A tokenizer of both sides whose unknown tokens have ids of their own in each source.

    (The extended vocabulary of See et al., 2017, arXiv:1704.04368, section 2.2.) With V ids of the vocabulary, the
    distinct unknown tokens of a source are V, V + 1, ... in the order in which they first stand there, as many as there
    are slots; later ones stay UNK. The same token of its target has the same id. The last id of all stands for nothing.

    Args:
        tokenizer: of both sides.
        num_slots: ids beyond the vocabulary that can be copied, at least 0.
    """

    def __init__(self, tokenizer: Tokenizer, num_slots: int):
        super().__init__(tokenizer.kind, "keep")
        self.of_known, self._num_slots = tokenizer, num_slots

    def content(self) -> bytes:
        return self.of_known.content()

    @property
    def vocabulary_size(self) -> int:
        """Number of ids, those of copies and the one that stands for nothing included."""
        return self.of_known.vocabulary_size + self._num_slots + 1

    def vocabulary(self) -> list[str]:
        return [*self.of_known.vocabulary(), *(f"<copy {slot}>" for slot in range(self._num_slots)), "<nothing>"]

    def save(self, folder):
        """Writes the tokenizer of what is known; the number of slots is the recipe's."""
        self.of_known.save(folder)

    def pieces(self, strings):
        return self.of_known.pieces(strings)

    def surfaces(self, strings):
        return self.of_known.surfaces(strings)

    def labels(self, strings):
        return self.of_known.labels(strings)

    def names_beside(self, ids, copies):
        slot = ids - self.of_known.vocabulary_size
        copied = tf.gather(tf.pad(copies, [[0, 0], [0, 1]]), tf.maximum(slot, 0), batch_dims=1)
        return tf.where(slot < 0, self.names(ids), tf.strings.regex_replace(copied, " ", SPACE))

    def copies(self, sources):
        return self._number(sources)[1]

    def encode_beside(self, strings, copies):
        ids, pieces = self.of_known.encode(strings), self.of_known.pieces(strings)
        unknown = tf.where(ids.flat_values == UNK)[:, 0]
        offered = tf.gather(copies, tf.gather(ids.value_rowids(), unknown))  # [U, slots]
        equal = offered == tf.gather(pieces.flat_values, unknown)[:, None]
        # The last column is for what stands in no slot.
        slot = tf.argmax(tf.pad(tf.cast(equal, tf.int32) * 2, [[0, 0], [0, 1]], constant_values=1), 1, tf.int32)
        found = tf.where(slot < self._num_slots, self.of_known.vocabulary_size + slot, UNK)
        return ids.with_flat_values(tf.tensor_scatter_nd_update(ids.flat_values, unknown[:, None], found))

    def decode_beside(self, ids, copies):
        ids = self.before_end(ids)
        rows, slot = ids.value_rowids(), ids.flat_values - self.of_known.vocabulary_size
        known = ids.with_flat_values(tf.where(slot < 0, ids.flat_values, UNK))
        if not isinstance(self.of_known, ListTokenizer):  # all others can spell any text, and know no unknown token
            return self.of_known.decode(known)
        # One more slot for the id that stands for nothing.
        offered = tf.pad(copies, [[0, 0], [0, 1]])
        copied = tf.gather_nd(offered, tf.stack([tf.cast(rows, tf.int32), tf.maximum(slot, 0)], 1))
        return self.of_known.join(tf.where(slot < 0, self.of_known.texts_of(known.flat_values), copied), known)

    def _encode(self, strings):
        return self._number(strings)[0]

    def _decode(self, ids):
        known = tf.where(ids.flat_values < self.of_known.vocabulary_size, ids.flat_values, UNK)
        return self.of_known.decode(ids.with_flat_values(known))

    def _number(self, strings):
        """Ids [N, (S)], and what their slots hold, [N, slots] string, "" for nothing."""
        ids, pieces = self.of_known.encode(strings), self.of_known.pieces(strings)
        unknown = tf.where(ids.flat_values == UNK)[:, 0]
        rows, texts = tf.gather(ids.value_rowids(), unknown), tf.gather(pieces.flat_values, unknown)  # [U]
        # Distinct texts come in the order in which they first stand there, hence those of a row side by side.
        keys, distinct = tf.unique(tf.strings.join([tf.strings.as_string(rows), texts], " "))
        num_distinct = tf.size(keys)
        places = tf.range(tf.size(unknown))
        first = tf.math.unsorted_segment_min(places, distinct, num_distinct)  # [D], place of each among the unknown
        of_distinct = tf.RaggedTensor.from_value_rowids(tf.gather(texts, first), tf.gather(rows, first), ids.nrows())
        start = tf.cast(of_distinct.row_starts(), tf.int32)  # [N]
        slot = distinct - tf.gather(start, rows)
        found = tf.where(slot < self._num_slots, self.of_known.vocabulary_size + slot, UNK)
        held = of_distinct[:, : self._num_slots].to_tensor("", shape=[None, self._num_slots])
        return ids.with_flat_values(tf.tensor_scatter_nd_update(ids.flat_values, unknown[:, None], found)), held
