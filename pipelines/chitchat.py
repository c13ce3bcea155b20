"""Conversations of the chitchat dataset: replies with the turns before them."""

import json
from pathlib import Path

from pipelines.held_out import side
from pipelines.pairs import Splits
from pipelines.tasks.dialogue import join_turns

MOST_TURNS = 4  # before a reply
MOST_CONTEXT, MOST_REPLY = 80, 40  # words


def read_chitchat(path: Path, pair: str | None = None) -> Splits:
    """Each turn but the first of a conversation, with up to 4 turns before it, of at most 80 words together.

    What someone sends before the other one answers is one turn. A turn of more than 40 words is no reply, though it may
    be a context. About 3.5 % of the conversations are valid and 4 % test.
    """
    splits = Splits([], [], [])
    conversations = json.loads(path.read_text(encoding="utf-8"))
    for name, conversation in sorted(conversations.items()):
        turns = [" ".join(" ".join(message["text"] for message in block).split()) for block in conversation["messages"]]
        turns = [turn for turn in turns if turn]
        chosen = side(splits, name, valid=0.035, test=0.04)
        for place in range(1, len(turns)):
            if len(turns[place].split()) <= MOST_REPLY and (context := _context(turns[:place])):
                chosen.append((context, join_turns([turns[place]])))
    return splits


def _context(turns: list[str]) -> str:
    """The source of the last turns; "" where the last one alone is too long."""
    kept: list[str] = []
    for turn in turns[: -MOST_TURNS - 1 : -1]:
        if sum(len(each.split()) for each in (*kept, turn)) > MOST_CONTEXT:
            break
        kept.insert(0, turn)
    return join_turns(kept)
