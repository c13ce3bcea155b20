"""Learning rates and optimizers."""

import inspect
import math
from typing import Any

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable("tfseq2seq")
class WarmupSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """A linear rise to the peak, then a decay.

    With s = step + 1, w = warmup_steps, n = total_steps, p = peak:
    - "noam": p * units^-0.5 * min(s^-0.5, s * w^-1.5) (Vaswani et al., 2017, arXiv:1706.03762, eq. 3);
    - all others rise as p * s / w while s < w, and then
      "constant" and "plateau": p; "inverse_square_root": p * (w / s)^0.5 (Ott et al., 2018, arXiv:1806.00187);
      "linear": p * (n - s) / (n - w); "cosine": p * (1 + cos(pi (s - w) / (n - w))) / 2
      (Loshchilov & Hutter, 2017, arXiv:1608.03983, eq. 5).
    All of it times `scale`.

    Args:
        kind: One of the names above.
        peak: Highest rate; for noam the factor.
        warmup_steps: Steps of rise; noam and inverse_square_root need at least 1.
        total_steps: Step at which linear and cosine reach 0.
        units: Width of the model, for noam.
    Attributes:
        scale: Variable, 1 at first; what lowers it lies outside, as the callbacks of "plateau".
    Raises:
        ValueError: an unknown kind, or a decay without room.
    """

    KINDS = ("constant", "inverse_square_root", "noam", "linear", "cosine", "plateau")

    def __init__(self, kind, peak, warmup_steps=0, total_steps=1, units=1):
        super().__init__()
        if kind not in self.KINDS:
            raise ValueError(f"WarmupSchedule needs kind in {', '.join(self.KINDS)}. Received: kind={kind!r}.")
        if kind in ("noam", "inverse_square_root") and warmup_steps < 1:
            raise ValueError(f"The schedule {kind} needs warmup_steps >= 1. Received: warmup_steps={warmup_steps}.")
        if kind in ("linear", "cosine") and total_steps <= warmup_steps:
            raise ValueError(
                f"The schedule {kind} needs more steps than warm-up steps. "
                f"Received: total_steps={total_steps}, warmup_steps={warmup_steps}.")
        self.kind, self.peak, self.warmup_steps = kind, peak, warmup_steps
        self.total_steps, self.units = total_steps, units
        self.scale = tf.Variable(1.0, trainable=False, name="rate_scale")

    def __call__(self, step):
        return self.scale * self._rate(tf.cast(step, tf.float32) + 1.0)

    def _rate(self, step):
        warmup, total = float(self.warmup_steps), float(self.total_steps)
        if self.kind == "noam":
            return self.peak * self.units**-0.5 * tf.minimum(step**-0.5, step * warmup**-1.5)
        progress = tf.clip_by_value((step - warmup) / max(total - warmup, 1.0), 0.0, 1.0)
        decay = {
            "inverse_square_root": lambda: tf.sqrt(warmup / step),
            "linear": lambda: 1.0 - progress,
            "cosine": lambda: 0.5 * (1.0 + tf.cos(math.pi * progress)),
        }.get(self.kind, lambda: tf.ones_like(step))()
        return self.peak * tf.where(step < warmup, step / max(warmup, 1.0), decay)

    def get_config(self):
        return {
            "kind": self.kind, "peak": self.peak, "warmup_steps": self.warmup_steps,
            "total_steps": self.total_steps, "units": self.units}


@keras.saving.register_keras_serializable("tfseq2seq")
class Adam(keras.optimizers.Adam):
    """Adam (Kingma & Ba, 2015, arXiv:1412.6980, the end of section 2), each update in one operation.

    As `keras.optimizers.Adam`, whose dozen operations a variable read and write it as often: for 60 million parameters
    half a second a step on two cores.
    """

    def update_step(self, gradient, variable, learning_rate):
        index = self._get_variable_index(variable)
        momentum, velocity = (getattr(part, "value", part) for part in (
            self._momentums[index], self._velocities[index]))
        dtype = variable.dtype
        step = tf.cast(self.iterations + 1, dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle, m=momentum.handle, v=velocity.handle, grad=tf.cast(gradient, dtype),
            beta1_power=tf.cast(self.beta_1, dtype) ** step, beta2_power=tf.cast(self.beta_2, dtype) ** step,
            lr=tf.cast(learning_rate, dtype), beta1=tf.cast(self.beta_1, dtype), beta2=tf.cast(self.beta_2, dtype),
            epsilon=tf.cast(self.epsilon, dtype))


def make_schedule(train, units):
    """The `WarmupSchedule` of a `[train]` table for a model of this width."""
    return WarmupSchedule(train.schedule, train.learning_rate, train.warmup_steps, train.steps, units)


# beta_2 and epsilon as in Vaswani et al., 2017, section 5.3: the default 0.999 is slow to forget.
_ADAM = {"beta_1": 0.9, "beta_2": 0.98, "epsilon": 1e-9}

# By the name in a recipe: the class, and what differs from its own defaults. Those of Keras but the ones whose weights
# are to be changed before an evaluation (ScheduleFreeAdamW) or that only wrap others.
OPTIMIZERS: dict[str, tuple[Any, dict[str, Any]]] = {
    "adadelta": (keras.optimizers.Adadelta, {}),
    "adafactor": (keras.optimizers.Adafactor, {"relative_step": False}),  # the rate is the schedule's
    "adagrad": (keras.optimizers.Adagrad, {}),
    "adam": (Adam, _ADAM),
    "adamax": (keras.optimizers.Adamax, {}),
    "adamw": (keras.optimizers.AdamW, {"weight_decay": 0.01, **_ADAM}),
    "ftrl": (keras.optimizers.Ftrl, {}),
    "lamb": (keras.optimizers.Lamb, {}),
    "lion": (keras.optimizers.Lion, {}),
    "muon": (keras.optimizers.Muon, {}),
    "nadam": (keras.optimizers.Nadam, _ADAM),
    "rmsprop": (keras.optimizers.RMSprop, {}),
    "sgd": (keras.optimizers.SGD, {}),
}

# Arguments of the constructors that `[train]` has keys of its own for, or that would change what a step is.
_TAKEN = {
    "learning_rate", "name", "kwargs", "clipnorm", "clipvalue", "global_clipnorm", "use_ema", "ema_momentum",
    "ema_overwrite_frequency", "loss_scale_factor", "gradient_accumulation_steps"}


# What options may be; of those that are not named here, numbers are at least 0.
_SHARES = {"beta_1", "beta_2", "adam_beta_1", "adam_beta_2", "rho", "momentum"}
_AT_MOST_0 = {"beta_2_decay", "learning_rate_power"}
_ANY_NUMBER = {"muon_a", "muon_b", "muon_c"}


def check_optimizer(train):
    """Raises ValueError where `[train]` has options that its optimizer does not know, or values that it cannot use.

    It makes no optimizer, so that it can be called before several hosts meet.
    """
    kind, _ = OPTIMIZERS[train.optimizer]
    parameters = inspect.signature((keras.optimizers.Adam if kind is Adam else kind).__init__).parameters
    taken = _TAKEN | {"self"} | ({"amsgrad"} if kind is Adam else set())
    known = {name: parameter.default for name, parameter in parameters.items() if name not in taken}
    for name, value in train.optimizer_options.items():
        if name not in known:
            raise ValueError(
                f"train.optimizer_options of \"{train.optimizer}\" are {', '.join(known)}. Received: {name}.")
        needed = _needed(train.optimizer, name, value, known[name])
        if needed:
            raise ValueError(f"train.optimizer_options.{name} must be {needed}. Received: {value!r}.")


def _needed(optimizer, name, value, default):
    """What an option must be, where its value is something else."""
    if name == "exclude_layers":
        return None if isinstance(value, list) else "a list of names"
    if isinstance(default, bool):
        return None if isinstance(value, bool) else "true or false"
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if name == "ns_steps":
        return None if number and value == int(value) and value >= 1 else "a whole number of at least 1"
    if name in _SHARES:
        above_0 = (optimizer, name) == ("lion", "beta_1")  # Keras refuses 0 there
        fits = number and 0 <= value < 1 and not (above_0 and value == 0)
        return None if fits else f"{'above' if above_0 else 'at least'} 0 and below 1"
    if name in _AT_MOST_0:
        return None if number and value <= 0 else "a number of at most 0"
    if name in _ANY_NUMBER:
        return None if number else "a number"
    return None if number and value >= 0 else "a number of at least 0"


def make_optimizer(train, rate):
    """The optimizer of a `[train]` table; clipping is done by `Seq2Seq.update`, across replicas.

    Args:
        train: `tfseq2seq.config.Train`.
        rate: From `make_schedule`.
    Raises:
        ValueError: an option that the optimizer does not know, or cannot use.
    """
    check_optimizer(train)
    kind, defaults = OPTIMIZERS[train.optimizer]
    # Keras takes 0 for no float.
    options = {
        name: float(value) if type(value) is int and name != "ns_steps" else value
        for name, value in train.optimizer_options.items()}
    return kind(rate, **(defaults | options))
