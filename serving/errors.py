"""What a server may answer instead of an answer, and why it may not start."""

# As in gRPC, in absl::Status and in tf.errors.
CANCELLED, UNKNOWN, INVALID_ARGUMENT, DEADLINE_EXCEEDED, NOT_FOUND = 1, 2, 3, 4, 5
RESOURCE_EXHAUSTED, FAILED_PRECONDITION, UNIMPLEMENTED, INTERNAL, UNAVAILABLE = 8, 9, 12, 13, 14
UNAUTHENTICATED = 16


class RequestError(Exception):
    """A request cannot be answered.

    Attributes:
        code: gRPC's number.
        message: one line for the client.
    """

    def __init__(self, code: int, message: str):
        super().__init__(message)
        self.code, self.message = code, message


class ServerError(RuntimeError):
    """The server cannot start; the text says why in one line."""
