"""What every layer here shares."""

import keras


class Layer(keras.layers.Layer):
    """A layer to which masks are arguments: Keras' own, which it would hang on tensors unseen, end here."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True

    def compute_mask(self, inputs, previous_mask=None):
        """None, whatever mask the inputs carry."""
        return None


def check_name(layer, argument, value, known):
    """Raises ValueError where the value is no name of `known`."""
    if value not in known:
        raise ValueError(f"{layer} needs {argument} to be one of {', '.join(known)}. Received: {argument}={value!r}.")


def check_heads(layer, units, heads):
    """Raises ValueError where heads would not be equally wide."""
    if heads < 1 or units % heads:
        raise ValueError(f"{layer} needs units that are a multiple of heads. Received: units={units}, heads={heads}.")
