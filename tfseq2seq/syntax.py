"""Whether a line of code is well formed. Nothing that is asked about is ever run."""

import ast
import functools
import shutil
import subprocess
import warnings

SECONDS = 5.0  # that bash may take to read a line


def is_bash(text: str) -> bool:
    """Whether bash can parse the text.

    `bash -n` reads commands and runs none of them. It gets the text on its standard input, so that no word of it is an
    argument, no variable of the environment, so that none names a file to be read or a function, and the root folder
    to work in. What is not read in 5 seconds, and what holds no command at all, is no bash.

    Raises:
        ValueError: bash is not on the PATH.
    """
    if not text.strip() or "\0" in text:
        return False
    try:
        read = subprocess.run(
            [_bash(), "--noprofile", "--norc", "-n"], input=text.encode("utf-8", "surrogatepass") + b"\n", env={},
            cwd="/", timeout=SECONDS, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    except subprocess.TimeoutExpired:
        return False
    return read.returncode == 0


@functools.cache
def _bash() -> str:
    path = shutil.which("bash")
    if path is None:
        raise ValueError("bash_syntax needs bash, which parses and runs nothing: install it, or put it on the PATH.")
    return path


def is_python(text: str) -> bool:
    """Whether `ast.parse` takes the text, a line of Python that may be cut out of its block.

    What such a line needs is put around it: a body after a colon, `if` before `else` and `elif`, `try` before `except`
    and `finally`, a function below a decorator.
    """
    text = text.strip()
    if not text:
        return False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of escapes and comparisons that are allowed but odd
            ast.parse(_completed(text))
    except (SyntaxError, ValueError, RecursionError, MemoryError):  # the last two where brackets nest too deep
        return False
    return True


def _completed(line: str) -> str:
    first = line.split(maxsplit=1)[0].rstrip(":")
    body = f"{line} pass" if line.endswith(":") else line
    if first in ("elif", "else"):
        return f"if 0: pass\n{body}"
    if first in ("except", "finally"):
        return f"try: pass\n{body}"
    if first == "try":
        return f"{body}\nfinally: pass"
    if first.startswith("@"):
        return f"{body}\ndef decorated(): pass"
    return body
