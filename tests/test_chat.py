"""A talk keeps its turns, as many of the last ones as the model can read."""

import io

from rich.console import Console

from tfseq2seq.chat import Conversation, reader, talk, trained_turns


class Echo:
    """Reads at most `most` words of a source, the separator not counted, and answers with their number."""

    def __init__(self, most=100):
        self.most, self.asked = most, []

    def fits(self, source):
        return len(source.replace("<turn>", " ").split()) <= self.most

    def reply(self, source):
        self.asked.append(source)
        return f"reply {len(self.asked)}"


def test_each_turn_is_told_with_those_before_it():
    conversation = Conversation(Echo(), most_turns=3)
    assert [conversation.say(text) for text in ("hello", "how are you", "and now")] == ["reply 1", "reply 2", "reply 3"]
    assert conversation._partner.asked == [
        "hello", "hello <turn> reply 1 <turn> how are you", "how are you <turn> reply 2 <turn> and now"]
    assert conversation.turns == ["hello", "reply 1", "how are you", "reply 2", "and now", "reply 3"]


def test_the_oldest_turns_are_left_out_where_not_all_can_be_read():
    conversation = Conversation(Echo(most=6), most_turns=9)
    for text in ("one two three", "four", "five six seven eight nine ten eleven"):
        conversation.say(text)
    assert conversation._partner.asked == [
        "one two three", "one two three <turn> reply 1 <turn> four",
        "five six seven eight nine ten eleven"]  # too long by itself: sent all the same


def test_a_turn_cannot_hold_the_separator():
    conversation = Conversation(Echo(), most_turns=2)
    conversation.say("a <turn> b")
    assert conversation._partner.asked == ["a b"]


def test_the_turns_of_training_are_counted():
    assert trained_turns(["a", "a <turn> b <turn> c", "a <turn> b"]) == 3
    assert trained_turns([]) == 1


def run(text, monkeypatch):
    show = Console(file=io.StringIO(), width=40)
    partner = Echo()
    monkeypatch.setattr("sys.stdin", io.StringIO(text))
    talk(Conversation(partner, 9), show, reader(show))
    return show.file.getvalue(), partner.asked


def test_a_piped_talk_can_be_begun_anew_and_ended(monkeypatch):
    told, asked = run("hi [bold]\n\n  there \n/reset\nnew\n/quit\nnever\n", monkeypatch)
    assert told == "reply 1\nreply 2\n(a new talk)\nreply 3\n"
    assert asked == ["hi [bold]", "hi [bold] <turn> reply 1 <turn> there", "new"]


def test_a_piped_talk_ends_with_its_pipe_and_knows_its_commands(monkeypatch):
    told, asked = run("/what is\nlast", monkeypatch)
    assert "no command /what;" in " ".join(told.split()) and "/reset" in told and "/quit" in told
    assert asked == ["last"]


def test_replies_are_shown_as_they_are(monkeypatch):
    monkeypatch.setattr(Echo, "reply", lambda self, source: "[red]not markup[/red] " + "x" * 60)
    assert run("a\n", monkeypatch)[0] == "[red]not markup[/red] " + "x" * 60 + "\n"


def test_a_person_is_asked_after_a_prompt(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    show = Console(file=io.StringIO(), width=40)
    monkeypatch.setattr("sys.stdin", Terminal("hello\n"))
    monkeypatch.setattr("sys.stdout", show.file)
    talk(Conversation(Echo(), 9), show, reader(show))
    assert show.file.getvalue().count("you ›") == 2 and "reply 1" in show.file.getvalue()
