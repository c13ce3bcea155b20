"""What a client may ask of an exported model: plain names, known to export, server and client."""

from typing import NamedTuple

DEFAULT_MODEL = "tfseq2seq"

SERVING_DEFAULT = "serving_default"  # beam search; TensorFlow Serving's default when none is named
GREEDY = "greedy"
SCORE = "score"


class Signature(NamedTuple):
    """Names of a signature's tensors; dimension 0 of each is N, the rows of the request.

    Attributes:
        inputs: names of [N] string tensors.
        outputs: names of tensors: "text" [N, H] string and "score" [N, H] float32, or
            "log_probability" [N] float32, in nats.
    """

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


SIGNATURES = {
    SERVING_DEFAULT: Signature(("text",), ("text", "score")),
    GREEDY: Signature(("text",), ("text", "score")),
    SCORE: Signature(("source", "target"), ("log_probability",)),
}
