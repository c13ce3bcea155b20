"""Length ratio and repetition against counts by hand, regular expressions and sacreBLEU; when alarms are said."""

import dataclasses
import io
import itertools
import json
import re

import pytest
from rich.console import Console
from sacrebleu.metrics.bleu import BLEU

from tfseq2seq.alarms import Alarms, length_ratio, loops, repetition
from tfseq2seq.callbacks import Progress
from tfseq2seq.config import Decode

# Some 1 to 4 tokens of one letter, three times in a row.
LOOP = re.compile(r"(.{1,4})\1\1")


def test_an_answer_loops_where_a_regular_expression_finds_an_ngram_three_times_in_a_row():
    texts = ["".join(letters) for length in range(9) for letters in itertools.product("abc", repeat=length)]
    texts += ["x" + "abcd" * 3 + "y", "abcd" * 2 + "abc", "abcde" * 3, "aab" * 3]
    found = [text for text in texts if loops(list(text))]
    assert found == [text for text in texts if LOOP.search(text)]
    assert 100 < len(found) < len(texts) / 2


def test_the_length_ratio_is_that_of_sacrebleu_with_the_nearest_reference():
    answers = ["a b c", "a", "a b c d e f", ""]
    references = [["a b", "a b c d"], ["a b c", "a b"], ["a b c d e"], ["a"]]
    streams = [[line[min(i, len(line) - 1)] for line in references] for i in range(2)]
    found = BLEU(tokenize="none").corpus_score(answers, streams)
    assert length_ratio(answers, references) == pytest.approx(found.sys_len / found.ref_len) == 10 / 10
    assert length_ratio(["a b c d"], [["a b", "a b c"]]) == 4 / 3  # a sum of the first ones would be 2
    assert length_ratio(["a"], [[""]]) is None


def test_text_without_spaces_is_counted_in_characters():
    assert length_ratio(["今日は"], [["今日はいい天気"]]) == 3 / 7
    assert length_ratio(["one two"], [["one two three four"]]) == 2 / 4
    assert repetition(["天気天気天気", "天気"], [["いい天気"], ["天気"]]) == 0.5


def test_repetition_is_the_share_of_answers_that_loop_while_their_references_do_not():
    answers = ["no no no", "no no no", "a b a b a b", "a b a b", "so good"]
    references = [["no", "never"], ["oh no no no no", "no"], ["a b"], ["a b"], ["so good"]]
    assert repetition(answers, references) == 2 / 5


def said_at(evaluations, last=False, warmup_steps=0, resumed=()):
    """What is said at each evaluation of ten answers as long as given, of references of four tokens.

    Before the steps of `resumed` another process goes on from what the one before has saved.
    """
    said, progress = io.StringIO(), Progress()
    words = [str(i) for i in range(100)]
    told = []
    for step, (length, looping) in enumerate(evaluations, start=1):
        if step == 1 or step in resumed:
            progress = Progress(**json.loads(json.dumps(dataclasses.asdict(progress))))
            alarms = Alarms(
                Console(file=said, width=1000), Decode(length_penalty=0.25, max_length=77), progress, warmup_steps)
        answers = [" ".join(["ha"] * length if i < looping else words[:length]) for i in range(10)]
        figures = alarms(step, answers, answers, [["r s t u"]] * 10)
        assert figures == {"length_ratio": length / 4, "repetition": looping / 10}
        told.append(said.getvalue())
        said.seek(0)
        said.truncate()
    if last:
        alarms.say_last()
    return [*told, said.getvalue()]


def test_a_resumed_training_says_what_it_would_have_said():
    evaluations = [(1, 0), (2, 0), (1, 0), (4, 0), (1, 0), (8, 1), (8, 1), (8, 1)]
    assert said_at(evaluations, True, resumed=range(2, 9)) == said_at(evaluations, True)
    assert said_at([(1, 0), (1, 0)], True, resumed=[2])[1]


def test_a_finished_training_that_is_started_again_says_nothing():
    said = io.StringIO()
    progress = Progress(alarms={"length_ratio": "short"}, alarms_said={})
    Alarms(Console(file=said), Decode(), progress, 0).say_last()
    assert not said.getvalue()


def test_nothing_is_said_before_the_warm_up_has_ended():
    told = said_at([(1, 0)] * 4, warmup_steps=2)
    assert [bool(each) for each in told] == [False, False, True, False, False]
    assert said_at([(1, 0)] * 2, last=True, warmup_steps=9)[2]  # the last one in any case


def test_an_alarm_is_said_once_at_the_second_evaluation_that_gives_it_and_when_it_is_over():
    told = said_at([(1, 0), (2, 0), (1, 0), (4, 0), (1, 0), (4, 0), (8, 0), (8, 0)], last=True)
    assert [bool(each) for each in told] == [False, True, False, True, False, False, False, True, False]
    assert told[1].startswith("step 2: length_ratio is 0.50, below 0.8: the answers are much shorter than")
    assert told[1].endswith(
        "Received: decode.length_penalty = 0.25, decode.max_length = 77, decode.min_length_ratio = None.\n")
    assert told[3] == "step 4: length_ratio is 1.00, within its bounds again\n"
    assert told[7].startswith("step 8: length_ratio is 2.00, above 1.25: the answers are much longer")


def test_answers_that_go_from_too_short_to_too_long_are_a_new_alarm():
    told = said_at([(2, 0), (2, 0), (8, 0), (8, 0)])
    assert [text[:28] for text in told] == ["", "step 2: length_ratio is 0.50", "", "step 4: length_ratio is 2.00", ""]


def test_what_the_last_evaluation_gives_is_said_at_the_end():
    told = said_at([(4, 0), (4, 1)], last=True)
    assert told[:2] == ["", ""]
    assert told[2].startswith("step 2: repetition is 0.10, above 0.05: so large a share of the answers say the same 1")
    assert "decode.block_ngrams = 4" in told[2] and "Received: decode.block_ngrams = 0" in told[2]
    assert said_at([(4, 1), (4, 0)], last=True) == ["", "", ""]
