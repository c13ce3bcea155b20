"""Which token the decoder reads at each step of training: the true one, or what the model finds itself."""

import tensorflow as tf

from tfseq2seq.structures import PAD


class TeacherForcing:
    """The share of true tokens at each step of training (Bengio et al., 2015, arXiv:1506.03099, section 2.4).

    With i the optimizer steps done: "constant": least; "linear": max(least, 1 - k i); "exponential": max(least, k^i);
    "inverse_sigmoid": max(least, k / (k + exp(i / k))).

    Args:
        schedule: One of the names above.
        least: In [0, 1]; with "constant" the share itself.
        k: Of the formulas: above 0; at most 1 for "exponential", at least 1 for "inverse_sigmoid".
    Call arguments:
        step: Scalar, optimizer steps done.
    Returns:
        Scalar float32 in [0, 1].
    Raises:
        ValueError: an unknown schedule, or a number out of range.
    """

    SCHEDULES = ("constant", "linear", "exponential", "inverse_sigmoid")

    def __init__(self, schedule="constant", least=1.0, k=None):
        if schedule not in self.SCHEDULES:
            raise ValueError(
                f"TeacherForcing needs a schedule of {', '.join(self.SCHEDULES)}. Received: schedule={schedule!r}.")
        if not 0 <= least <= 1:
            raise ValueError(f"TeacherForcing needs 0 <= least <= 1. Received: least={least}.")
        in_range = {
            "constant": lambda: k is None, "linear": lambda: k is not None and k > 0,
            "exponential": lambda: k is not None and 0 < k <= 1, "inverse_sigmoid": lambda: k is not None and k >= 1}
        if not in_range[schedule]():
            raise ValueError(
                "TeacherForcing needs k above 0 for \"linear\", at most 1 for \"exponential\", at least 1 for "
                f"\"inverse_sigmoid\", and none for \"constant\". Received: schedule={schedule!r}, k={k}.")
        self.schedule, self.least, self.k = schedule, least, k

    @property
    def always(self):
        """Whether every token is the true one."""
        return self.least == 1

    def __call__(self, step):
        step = tf.cast(step, tf.float32)
        share = {
            "constant": lambda: tf.zeros_like(step),
            "linear": lambda: 1.0 - self.k * step,
            "exponential": lambda: tf.pow(self.k, step),
            # k / (k + exp(i / k)), which overflows nowhere.
            "inverse_sigmoid": lambda: tf.sigmoid(tf.math.log(self.k) - step / self.k),
        }[self.schedule]()
        return tf.maximum(share, self.least)


def decode_in_steps(model, inputs, coins, training):
    """A recurrent decoder that reads its own likeliest token where a coin says so.

    (Scheduled sampling, Bengio et al., 2015, section 2.3, with the likeliest token, not a drawn one. No gradient
    goes through the choice.)

    Args:
        model: `Seq2Seq`.
        inputs: {"source": [B, S] int32, "target": [B, T] int32}.
        coins: [T, B] bool, or [T] for all rows, True where the true token is read; the first step reads BOS in any
            case.
        training: Whether dropout is on.
    Returns:
        [B, T, V] float32 logits.
    """
    memory, state = model.start(model.encode(inputs["source"], training))
    target = tf.transpose(inputs["target"])  # [T, B]
    num_steps = tf.shape(target)[0]
    noises = model.decoder.noises(tf.shape(target)[1], training)
    found = tf.TensorArray(tf.float32, num_steps, element_shape=[None, model.target_vocabulary_size])

    def body(t, guess, state, found):
        tokens = tf.where(tf.logical_or(t == 0, coins[t]), target[t], guess)
        logits, state, _ = model.step(tokens, state, memory, training, noises=noises)
        return t + 1, tf.argmax(logits, -1, output_type=tf.int32), state, found.write(t, logits)

    *_, found = tf.while_loop(
        lambda t, *_: t < num_steps, body, (tf.constant(0), target[0], state, found), maximum_iterations=num_steps)
    return tf.transpose(found.stack(), [1, 0, 2])


def decode_in_two_passes(model, inputs, coins, training):
    """A decoder that goes over all steps at once, and once more over what it found likeliest in the first pass.

    (Scheduled sampling for the Transformer, Mihaylova & Martins, 2019, arXiv:1906.07651. The gradient is that of the
    second pass alone.)

    Args and returns as of `decode_in_steps`.
    """
    memory, state = model.start(model.encode(inputs["source"], training))
    target = inputs["target"]
    likeliest = tf.argmax(model.decode(target, state, memory, training), -1, output_type=tf.int32)
    found = tf.concat([target[:, :1], likeliest[:, :-1]], 1)  # what each step would have read
    read = tf.where(tf.transpose(coins) | (target == PAD), target, found)
    return model.decode(read, state, memory, training)
