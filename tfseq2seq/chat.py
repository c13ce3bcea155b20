"""`tfseq2seq chat`: a talk, of which a model sees as many of the last turns as it can read."""

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

from rich.console import Console
from rich.text import Text

from pipelines.tasks.dialogue import TURN, join_turns

MOST_TURNS = 4  # where nobody says how many the model was trained on
COMMANDS = {"/reset": "begins anew", "/quit": "ends (so does Ctrl-D)"}


class Partner(Protocol):
    """Whom one talks to."""

    def fits(self, source: str) -> bool:
        """Whether the whole source is read, not cut."""
        ...

    def reply(self, source: str) -> str:
        """An answer; "" where there is none."""
        ...


class Conversation:
    """Turns, oldest first, and the partner's replies to them.

    Args:
        partner: whom one talks to.
        most_turns: that are sent at most, at least 1.
    Attributes:
        turns: all that was said.
    """

    def __init__(self, partner: Partner, most_turns: int):
        self.turns: list[str] = []
        self._partner, self._most_turns = partner, most_turns

    def say(self, text: str) -> str:
        """Adds a turn and the reply to it, which it returns."""
        self.turns.append(text)
        reply = self._partner.reply(self.source())
        self.turns.append(reply)
        return reply

    def source(self) -> str:
        """The last turns, as many as the partner reads whole; the last one always, even if it is cut."""
        sent = self.turns[-self._most_turns :]
        while len(sent) > 1 and not self._partner.fits(join_turns(sent)):
            sent = sent[1:]
        return join_turns(sent)


class RunPartner:
    """The best checkpoint of a run.

    Args:
        generator: `Generator`.
    """

    def __init__(self, generator: Any):
        self._generator = generator

    def fits(self, source: str) -> bool:
        return len(self._generator.tokenizers[0].encode([source])[0]) + 1 <= self._generator.max_source_length

    def reply(self, source: str) -> str:
        answers = self._generator.answer([source])[0]
        return answers[0].text if answers else ""


class ServedPartner:
    """A model behind a server.

    It tells by its attention how many source tokens it reads: as many as it can at most, and then some may be cut. One
    without attention is sent all turns.

    Args:
        client: `serving.client.Client`.
    """

    def __init__(self, client: Any):
        self._client = client
        shape = client.metadata()["beam"].outputs["attention"].shape
        self._max_source_length = shape[-1] if shape else None

    def fits(self, source: str) -> bool:
        row = self._client.predict([source], min_length=1, max_length=1, attention=True)[0]
        if not row or self._max_source_length is None:
            return True
        return row[0].attention.shape[1] < self._max_source_length

    def reply(self, source: str) -> str:
        row = self._client.predict([source])[0]
        return row[0].text if row else ""


def trained_turns(train_sources: Sequence[str]) -> int:
    """The most turns that a train source has."""
    return 1 + max((source.count(TURN) for source in train_sources), default=0)


def open_partner(name: str, model_name: str, overrides: dict[str, Any]) -> tuple[Partner, int]:
    """Whom a run folder or an address stands for, and how many turns it knows.

    A run of another task than dialogue knows one: it is told each line by itself.

    Raises:
        ValueError: there is neither such a folder nor is it an address, or `overrides` are for a server.
    """
    if Path(name).is_dir():
        from tfseq2seq.runs import best_generator, open_run

        run, prepared = open_run(Path(name), overrides)
        turns = trained_turns([source for source, _ in prepared.train]) if prepared.task.symbols else 1
        return RunPartner(best_generator(run, prepared, Path(name))), turns
    host, colon, port = name.rpartition(":")
    if not (host and colon and port.isdigit()):
        raise ValueError(f"chat needs a run folder, or host:port of a server. Received: {name!r}, which is neither.")
    if overrides:
        raise ValueError("--set changes how a run answers; a server answers as it was exported. Leave --set out.")
    from serving.client import Client

    return ServedPartner(Client(name, model=model_name)), MOST_TURNS


def talk(conversation: Conversation, show: Console, read: Callable[[], str | None]) -> None:
    """Answers lines until there are no more, or one is /quit.

    Args:
        conversation: what is gone on with.
        show: where replies go, a line each.
        read: gives the next line; None where there is none.
    """
    while (line := read()) is not None:
        text = " ".join(line.split())
        if text == "/quit":
            return
        if text == "/reset":
            conversation.turns.clear()
            show.print(Text("(a new talk)", "dim"))
        elif text.startswith("/"):
            known = ", ".join(f"{command} {what}" for command, what in COMMANDS.items())
            show.print(Text(f"(no command {text.split()[0]}; {known})", "dim"))
        elif text:
            show.print(Text(conversation.say(text)), soft_wrap=True)


def reader(show: Console) -> Callable[[], str | None]:
    """Reads lines of standard input, after a prompt where somebody sits there."""
    def read() -> str | None:
        if not sys.stdin.isatty():
            return sys.stdin.readline() or None
        try:
            return show.input("[bold cyan]you ›[/] ")
        except EOFError:
            show.print()
            return None

    return read
