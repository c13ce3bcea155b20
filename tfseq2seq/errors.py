"""What is told of an error."""


def first_line(error: BaseException) -> str:
    """Of its message, or its type where it has none."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
