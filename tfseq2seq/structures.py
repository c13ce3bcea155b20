"""What the stages hand on to each other.

Letters in shapes: B batch, S source steps, T target steps, K beam, V vocabulary, E encoder units,
D decoder units, N = B * K hypotheses in one decoding step.
"""

from typing import Any, NamedTuple

import tensorflow as tf

# The first ids of every vocabulary, whatever the tokenizer.
PAD, UNK, BOS, EOS = 0, 1, 2, 3
SPECIAL_TOKENS = ("<pad>", "<unk>", "<s>", "</s>")


def source_mask(source):
    """What of a source is real, [B, S] bool: all ids [B, S] but PAD; of features [B, S, F + 1] the last one says it."""
    source = tf.convert_to_tensor(source)
    return source[:, :, -1] > 0 if source.shape.rank == 3 else source != PAD


class EncoderOutput(NamedTuple):
    """What a decoder may look at.

    Attributes:
        memory: [B, S', E] float, one vector a source step; 0 on padding.
        mask: [B, S'] bool, True on real steps.
        final_state: nested tuple of [B, units] float tensors, last states of the encoder, or ().
        context: [B, C] float, the whole source in one vector: the last hidden state, or the pooled memory.
        source: [B, S'] int32, the ids that were read, where a decoder may copy them; else ().
    """

    memory: tf.Tensor
    mask: tf.Tensor
    final_state: Any
    context: tf.Tensor
    source: Any = ()


class RecurrentState(NamedTuple):
    """What a recurrent decoder carries from one step to the next: every leaf has N = B * K as dimension 0.

    Attributes:
        recurrent: nested tuple of [N, D] float tensors.
        feed: [N, D] float, the attentional vector fed to the next input, or ().
        attended: [N, S] float32, what the attention remembers of where it looked, or ().
    """

    recurrent: Any
    feed: Any
    attended: Any = ()


class Shared(NamedTuple):
    """A part of a decoder's state that the K hypotheses of a source have in common.

    Attributes:
        part: nest of [B, ...] tensors, which a search neither repeats for each hypothesis nor brings into their order.
    """

    part: Any


class Cache(NamedTuple):
    """What a Transformer decoder carries from one step to the next, t steps so far.

    The K hypotheses of a source keep what each of them has seen in one place, C = t * K entries: number k of step i is
    entry i * K + k. Nothing there is moved when hypotheses go on from others; each knows which entries are its past.

    Attributes:
        keys: Shared tuple of [B, heads, C, D] float, one a layer.
        values: Shared tuple of [B, heads, C, D] float, one a layer.
        ancestors: [N, C] bool, True on the entries that a hypothesis goes on from.
    """

    keys: Any
    values: Any
    ancestors: Any


class FixedCache(NamedTuple):
    """As `Cache`, with room for L * K entries from the start: XLA knows no shape that grows.

    Attributes:
        keys: Shared tuple of [B, heads, L * K, D] float, one a layer; 0 from step t on.
        values: Shared tuple of [B, heads, L * K, D] float, one a layer; likewise.
        ancestors: [N, L * K] bool; False from step t on.
        length: Shared [B] int32, t everywhere.
    """

    keys: Any
    values: Any
    ancestors: Any
    length: Any


class Hypotheses(NamedTuple):
    """Answers of a search, best first; H hypotheses a source.

    Attributes:
        tokens: [B, H, T] int32, ended by EOS, then PAD; BOS is not part of it.
        scores: [B, H] float32, log-probability (nats; where a reshaper changed the distribution, of that one) divided
            by the length penalty, plus the coverage penalty;
            the rank; -inf where fewer than H hypotheses exist.
        log_probabilities: [B, H] float32, sum over the tokens, EOS included, in nats.
        lengths: [B, H] int32, tokens, EOS included; 0 where no hypothesis exists.
        attention: [B, H, T, S] float32, weights over the source for each token; 0 after the end.
            A search asked for no attention gives S = 0.
        token_log_probabilities: [B, H, T] float32, of each token, in nats; 0 after the end.
    """

    tokens: tf.Tensor
    scores: tf.Tensor
    log_probabilities: tf.Tensor
    lengths: tf.Tensor
    attention: tf.Tensor
    token_log_probabilities: tf.Tensor


class AttentionMemory(NamedTuple):
    """What a decoder needs of the source at every step, computed once; never tiled over the beam.

    Attributes:
        keys: [B, S, D] or [B, heads, S, D] float, projected encoder states; for a Transformer a tuple, one a layer.
        values: [B, S, E] or [B, heads, S, D] float, encoder states or their projection; likewise.
        mask: [B, S] bool, True on real steps.
    """

    keys: Any
    values: Any
    mask: tf.Tensor
