"""What stands between the layers of a recurrent stack."""

import keras

from tfseq2seq.layers.base import check_name
from tfseq2seq.layers.dropout import Dropout
from tfseq2seq.layers.normalization import NORMALIZATIONS


@keras.saving.register_keras_serializable("tfseq2seq")
class Stack(keras.layers.Layer):
    """Dropout before each layer, normalization and a residual after it, dropout at the end.

    x[i + 1] = x[i] + normalize(RNN(dropout(x[i]))), the residual (Wu et al., 2016, arXiv:1609.08144, eq. 6) only where
    both are equally wide.

    Args:
        layers: Number of layers.
        residual: Whether a layer's input is added to its output.
        residual_layers: How many of the highest layers that is done in; default all.
        normalization: "none", "layer" or "rms", of each layer's output.
        dropout: Share set to 0 in training, in [0, 1).
        dropout_per_sequence: Whether all steps share one mask (Gal & Ghahramani, 2016, arXiv:1512.05287).
    Raises:
        ValueError: an unknown normalization.
    """

    def __init__(
        self, layers, residual, normalization, dropout, dropout_per_sequence, residual_layers=None, **kwargs,
    ):
        super().__init__(**kwargs)
        check_name("Stack", "normalization", normalization, ("none", *NORMALIZATIONS))
        policy = self.dtype_policy
        self.layers, self.residual, self.normalization = layers, residual, normalization
        self.residual_layers = residual_layers
        self.dropout, self.dropout_per_sequence = dropout, dropout_per_sequence
        make = NORMALIZATIONS.get(normalization)
        self.normalize = [make(name=f"normalize_{i}", dtype=policy) for i in range(layers)] if make else []
        self.drop = [
            Dropout(dropout, dropout_per_sequence, name=f"drop_{i}", dtype=policy) for i in range(layers + 1)]
        self.built = True  # the parts build themselves when they are first used

    def before(self, i, inputs, training, noise=None):
        """What layer i reads; `noise`, if given, is multiplied instead of drawn."""
        return self.drop[i](inputs, training=training) if noise is None else inputs * noise

    def after(self, i, inputs, output):
        """What layer i + 1 starts from, given what layer i started from and its output."""
        if self.normalize:
            output = self.normalize[i](output)
        joined = self.residual and (self.residual_layers is None or i >= self.layers - self.residual_layers)
        return inputs + output if joined and inputs.shape[-1] == output.shape[-1] else output

    def finish(self, hidden, training, noise=None):
        """What the stack gives."""
        return self.before(self.layers, hidden, training, noise)

    def noises(self, widths, batch_size):
        """One noise a layer and one for the end, [batch_size, width] each, for a loop that must not draw its own."""
        return [drop.noise([batch_size, width]) for drop, width in zip(self.drop, widths, strict=True)]

    def settings(self):
        """The arguments that an encoder's or decoder's config repeats."""
        return {
            "residual": self.residual, "residual_layers": self.residual_layers, "normalization": self.normalization,
            "dropout": self.dropout, "dropout_per_sequence": self.dropout_per_sequence}

    def get_config(self):
        return {**super().get_config(), "layers": self.layers, **self.settings()}
