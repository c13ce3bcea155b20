"""A list of answers as a tree of tokens, in the graph."""

import numpy as np
import tensorflow as tf

from tfseq2seq.structures import EOS


class Trie:
    """The beginnings of a list of answers; node 0 is the empty one. It is part of the graph that uses it.

    Args:
        answers: token ids of each, without BOS and EOS, at least one answer.
    Raises:
        ValueError: there is no answer.
    """

    def __init__(self, answers):
        children: list[dict[int, int]] = [{}]
        for answer in answers:
            node = 0
            for token in [*answer, EOS]:
                if token not in children[node]:
                    children[node][token] = len(children)
                    children.append({})
                node = children[node][token]
        if len(children) == 1:
            raise ValueError("Trie needs at least one answer. Received: none.")
        lengths = [len(each) for each in children]
        ordered = [sorted(each.items()) for each in children]
        pairs = np.array([pair for each in ordered for pair in each], np.int32).reshape(-1, 2)
        # Edges in the order of (node, token): those of node n are first[n] to first[n + 1].
        self.first = np.cumsum([0, *lengths]).astype(np.int32)
        self.tokens, self.nodes = pairs[:, 0].copy(), pairs[:, 1].copy()

    def allowed(self, nodes, vocabulary_size):
        """[N] nodes, -1 for none, to [N, V] bool: which tokens lead on."""
        rows, edges = self._edges(nodes)
        places = tf.stack([rows, tf.gather(self.tokens, edges)], -1)
        shape = [tf.shape(nodes)[0], vocabulary_size]
        return tf.scatter_nd(places, tf.ones_like(rows), shape) > 0

    def step(self, nodes, tokens):
        """[N] nodes and the tokens [N] that follow them to [N] nodes; -1 where the tree ends."""
        rows, edges = self._edges(nodes)
        found = tf.gather(self.tokens, edges) == tf.gather(tokens, rows)
        children = tf.where(found, tf.gather(self.nodes, edges), -1)
        return tf.tensor_scatter_nd_max(tf.zeros_like(nodes) - 1, rows[:, None], children)

    def _edges(self, nodes):
        """Row among the nodes, and place among the edges, of every edge of every node."""
        first, there = tf.constant(self.first), nodes >= 0
        safe = tf.where(there, nodes, 0)
        start, end = tf.gather(first, safe), tf.where(there, tf.gather(first, safe + 1), tf.gather(first, safe))
        ranges = tf.ragged.range(start, end, row_splits_dtype=tf.int32)
        return tf.cast(ranges.value_rowids(), tf.int32), ranges.flat_values
