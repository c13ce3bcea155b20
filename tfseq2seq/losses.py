"""The training loss: cross-entropy per real target token, the same on any number of replicas."""

import keras
import tensorflow as tf

from tfseq2seq.structures import PAD


@tf.custom_gradient
def smoothed_cross_entropy(logits, labels, smoothing):
    """Cross-entropy against the one-hot label mixed with the uniform distribution over V.

    loss = -(1 - eps) log p[label] - eps / V * sum over v of log p[v] (Szegedy et al., 2016,
    arXiv:1512.00567, section 7). The gradient softmax(logits) - target is written out: autodiff would
    keep three more arrays as large as the logits, and pass over them twice as often, which is what all of this costs.

    Args:
        logits: [N, V] float32.
        labels: [N] int32.
        smoothing: eps, scalar float in [0, 1).
    Returns:
        loss [N] float32, nats; -log p[label] [N] float32, nats; [N] bool, whether no other label is likelier. Only
        the loss has a gradient.
    """
    found, largest = tf.gather(logits, labels, batch_dims=1), tf.reduce_max(logits, -1)
    probabilities = tf.nn.softmax(logits)
    # The largest probability is at least 1 / V, so that its logarithm is exact; the label's may be 0.
    logsumexp = largest - tf.math.log(tf.reduce_max(probabilities, -1))
    loss = logsumexp - (1.0 - smoothing) * found - smoothing * tf.reduce_mean(logits, -1)

    def gradient(upstream, *unused):
        size = tf.shape(logits)[-1]
        uniform = smoothing / tf.cast(size, logits.dtype)
        towards = upstream[:, None] * probabilities - (upstream * uniform)[:, None]
        places = tf.stack([tf.range(tf.shape(labels)[0]), labels], 1)
        return tf.tensor_scatter_nd_sub(towards, places, (1.0 - smoothing) * upstream), None, None

    return (loss, logsumexp - found, found >= largest), gradient


def symmetric_divergence(logits, weights):
    """How far two passes over the same tokens are apart (R-Drop, Wu et al., 2021, arXiv:2106.14448, eq. 2).

    sum over tokens of weight * (KL(p1 || p2) + KL(p2 || p1)) / 2, in nats. The paper's loss is -log p1 - log p2 plus
    alpha times that; training takes half of it, which is the mean loss of the two passes plus alpha / 2 times that.

    Args:
        logits: [2 R, V] float32, of R tokens in the first pass, then in the second.
        weights: [2 R] float32, those of the second half as of the first.
    Returns:
        Scalar float32.
    """
    one, two = tf.split(tf.nn.log_softmax(logits), 2)
    # KL(p1 || p2) + KL(p2 || p1) = sum of (p1 - p2) (log p1 - log p2)
    apart = tf.reduce_sum((tf.exp(one) - tf.exp(two)) * (one - two), -1)
    return 0.5 * tf.reduce_sum(apart * tf.split(weights, 2)[0])


@tf.custom_gradient
def teacher_cross_entropy(logits, teacher_logits, temperature):
    """Cross-entropy with a teacher's distribution, both of them softened.

    loss = -tau^2 * sum over v of q[v] log p[v], p = softmax(logits / tau), q = softmax(teacher_logits / tau): with
    tau = 1 a token's part of L_WORD-KD (Kim & Rush, 2016, arXiv:1606.07947, section 3.1); tau and its square, which
    keeps the gradient as large, are those of Hinton et al., 2015, arXiv:1503.02531, section 2. The gradient
    tau (p - q) is written out: autodiff would keep p, q and log p, where p - q does.

    Args:
        logits: [C, R, V] float32, C passes over the same R tokens.
        teacher_logits: [R, V] float32; no gradient reaches them.
        temperature: tau, scalar float above 0.
    Returns:
        [C, R] float32, nats.
    """
    softened = logits / temperature
    probabilities, wanted = tf.nn.softmax(softened), tf.nn.softmax(teacher_logits / temperature)
    # The largest probability is at least 1 / V, so that its logarithm is exact.
    logsumexp = tf.reduce_max(softened, -1) - tf.math.log(tf.reduce_max(probabilities, -1))
    loss = temperature**2 * (logsumexp - tf.reduce_sum(wanted * softened, -1))
    apart = probabilities - wanted

    def gradient(upstream):
        return (temperature * upstream)[..., None] * apart, None, None

    return loss, gradient


def alignment_cross_entropy(log_attention, alignment, weights):
    """Cross-entropy between alignments and attention (guided alignment, Chen et al., 2016, arXiv:1607.01628).

    -sum over target tokens t of weight[t] * sum over s of alignment[t, s] log attention[t, s]: tokens that are aligned
    with nothing count nothing.

    Args:
        log_attention: [B, T, S] float32, logarithms of the decoder's weights on the source, see
            `layers.multihead.weights_in_logarithms`; also -inf where there is no alignment.
        alignment: [B, T, S] float32; each [b, t] sums to 1, or is 0.
        weights: [B, T] float32, 1 / (real tokens of the global batch), 0 on padding.
    Returns:
        Scalar float32, nats.
    Raises:
        ValueError: the decoder has no attention.
    """
    if log_attention.shape[-1] == 0:
        raise ValueError(
            "Guided alignment needs a decoder with attention: \"attentional\" or \"transformer\". Received: attention "
            f"of shape {tuple(log_attention.shape)}.")
    return -tf.reduce_sum(weights[:, :, None] * alignment * tf.where(alignment > 0, log_attention, 0.0))


def coverage_loss(attention, weights):
    """How much attention falls where it fell before (See et al., 2017, arXiv:1704.04368, eq. 10 and 12).

    sum over target tokens t of weight[t] * sum over s of min(a[t, s], c[t, s]), with the coverage c[t] the sum of
    a[t'] over all t' before t.

    Args:
        attention: [B, T, S] float32, the decoder's weights on the source.
        weights: [B, T] float32, 1 / (real tokens of the global batch), 0 on padding.
    Returns:
        Scalar float32.
    Raises:
        ValueError: the decoder has no attention.
    """
    if attention.shape[-1] == 0:
        raise ValueError(
            "A coverage loss needs a decoder with attention: \"attentional\" or \"transformer\". Received: attention "
            f"of shape {tuple(attention.shape)}.")
    coverage = tf.cumsum(attention, axis=1, exclusive=True)
    return tf.reduce_sum(weights[:, :, None] * tf.minimum(attention, coverage))


def ctc_loss(logits, mask, labels, weights):
    """-log p(labels | source) by connectionist temporal classification (Graves et al., 2006), PAD being the blank.

    p is the sum over all ways to put the labels, EOS not among them, in their order on the source steps, repeated and
    with blanks between. Mixed with the decoder's loss it makes attention go forward (Watanabe et al., 2017, "Hybrid
    CTC/attention", eq. 14).

    Args:
        logits: [B, S, V] float32, of each source step.
        mask: [B, S] bool, True on real steps, which come first.
        labels: [B, T] int32, ended by EOS, then PAD. Those that do not fit into the source steps count nothing.
        weights: [B, T] float32, of each label; a row's first one is that of the whole row.
    Returns:
        Scalar float32: the sum over rows, in nats.
    """
    steps = tf.reduce_sum(tf.cast(mask, tf.int32), 1)
    lengths = tf.maximum(tf.reduce_sum(tf.cast(labels != PAD, tf.int32), 1) - 1, 0)
    inside = tf.sequence_mask(lengths - 1, tf.shape(labels)[1] - 1)
    repeats = tf.reduce_sum(tf.cast((labels[:, 1:] == labels[:, :-1]) & inside, tf.int32), 1)
    fits = lengths + repeats <= steps  # two equal labels need a blank between
    found = tf.nn.ctc_loss(
        labels, logits, tf.where(fits, lengths, 0), tf.maximum(steps, 1), logits_time_major=False, blank_index=PAD)
    return tf.reduce_sum(tf.where(fits & (steps > 0), found, 0.0) * weights[:, 0])


@keras.saving.register_keras_serializable("tfseq2seq")
class TokenCrossEntropy(keras.losses.Loss):
    """Label-smoothed cross-entropy, summed over real tokens.

    The sum is the mean per token when `sample_weight` holds 1 / (real tokens of the global batch), as
    the pipelines give it and `Seq2Seq.train_step` makes it where it is missing. Keras' own reductions
    divide per replica and count padding.

    Args:
        label_smoothing: eps in [0, 1).
    Call arguments:
        y_true: [B, T] int labels; PAD counts nothing.
        y_pred: [B, T, V] float logits.
    """

    def __init__(self, label_smoothing=0.0, name="token_cross_entropy", **kwargs):
        kwargs.pop("reduction", None)
        super().__init__(name=name, reduction="sum", **kwargs)
        if not 0 <= label_smoothing < 1:
            raise ValueError(
                f"TokenCrossEntropy needs 0 <= label_smoothing < 1. Received: label_smoothing={label_smoothing}.")
        self.label_smoothing = label_smoothing

    def call(self, y_true, y_pred):
        return self.per_token(y_true, y_pred)[0]

    def per_token(self, labels, logits):
        """Loss, -log p(label) without smoothing, both in nats, and whether the label was the likeliest.

        Each [B, T] float32, 0 on padding.
        """
        labels, logits = tf.cast(labels, tf.int32), tf.cast(logits, tf.float32)
        rows = tf.reshape(logits, [-1, logits.shape[-1]])
        results = smoothed_cross_entropy(rows, tf.reshape(labels, [-1]), tf.constant(self.label_smoothing))
        real = tf.cast(labels != PAD, tf.float32)
        return tuple(tf.reshape(tf.cast(part, tf.float32), tf.shape(labels)) * real for part in results)

    def get_config(self):
        return {"name": self.name, "label_smoothing": self.label_smoothing}
