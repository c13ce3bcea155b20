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
