"""The cheap answers of the tasks, on pairs where the right ones are known."""

import collections
import math
import re

import pytest

from pipelines.tasks.dialogue import join_turns, split_turns
from pipelines.tasks.inflection import longest_ending
from pipelines.tasks.neighbours import nearest_neighbour
from pipelines.tasks.summarization import lead
from tfseq2seq.config import parse_recipe


def by_formula(train, source):
    """The nearest neighbour, by cosines of dictionaries."""
    bags = [collections.Counter(re.findall(r"\w+|[^\w\s]", text.lower())) for text in [*(s for s, _ in train), source]]
    seen = collections.Counter(token for bag in bags[:-1] for token in bag)
    vectors = [
        {token: count * (math.log(len(train) / seen[token]) + 1) for token, count in bag.items() if seen[token]}
        for bag in bags]
    asked = vectors.pop()

    def cosine(vector):
        norm = math.sqrt(sum(value**2 for value in vector.values()))
        return sum(value * asked.get(token, 0) for token, value in vector.items()) / norm

    return train[max(range(len(train)), key=lambda row: (cosine(vectors[row]), -row))][1]


def test_the_nearest_neighbour_has_the_largest_cosine():
    train = [
        ("list all files", "ls -a"), ("list all files in the home folder", "ls ~"), ("remove all files", "rm *"),
        ("remove the folder", "rmdir x"), ("list, list and list again", "watch ls"), ("the the the", "yes")]
    asked = ["Remove all files!", "list", "list the files in the home folder", "folder", "the"]
    found = nearest_neighbour(train, asked)
    assert found == [by_formula(train, source) for source in asked]
    assert found[:3] == ["rm *", "watch ls", "ls ~"]


def test_the_nearest_neighbour_takes_anything():
    assert nearest_neighbour([("a", "A"), ("a", "B")], ["a", "unknown", ""]) == ["A", "A", "A"]
    assert nearest_neighbour([], ["a"]) == [""]


def test_the_lead_is_as_long_as_the_median_target():
    train = [("x", "a"), ("x", "a b"), ("x", "a b c d e")]
    assert lead(train, ["The quick  brown fox.", "one", ""]) == ["The quick", "one", ""]
    assert lead([], ["a b"]) == [""]


def test_words_are_inflected_like_those_with_the_longest_like_end():
    train = [
        ("walk V;PST", "walked"), ("talk V;PST", "talked"), ("bake V;PST", "baked"), ("try V;PST", "tried"),
        ("play V;PST", "played"), ("walk V;3", "walks"), ("machen V;PTCP", "gemacht"), ("sagen V;PTCP", "gesagt")]
    asked = ["stalk V;PST", "make V;PST", "cry V;PST", "stay V;PST", "play V;3", "lachen V;PTCP", "x UNKNOWN", "y"]
    assert longest_ending(train, asked) == [
        "stalked", "maked", "cried", "stayed", "plays", "gelacht", "x", ""]


def test_the_most_frequent_change_of_an_end_is_taken():
    train = [("aq F", "ar"), ("bq F", "bs"), ("cq F", "cs")]
    assert longest_ending(train, ["dq F"]) == ["ds"]
    assert longest_ending(train, ["aq F"]) == ["ar"]  # the longer end knows better
    assert longest_ending([("aq F", "ar"), ("bq F", "bs")], ["dq F"]) == ["dr"]  # as often: by alphabet


def test_turns_are_joined_and_cut_again():
    turns = ["hi", "how are  you?", "fine"]
    assert join_turns(turns) == "hi <turn> how are you? <turn> fine"
    assert split_turns(join_turns(turns)) == ["hi", "how are you?", "fine"]
    assert split_turns(join_turns(["I say <turn>!", "ok"])) == ["I say !", "ok"]  # no turn can be smuggled in


@pytest.mark.parametrize("kind", ["unigram", "bpe", "words"])
def test_the_separator_of_turns_is_one_token(tmp_path, kind):
    from pipelines.prepare import prepare

    pairs = [(join_turns([f"hello number {i}", f"yes my friend {i * 7}"]), f"fine {i}") for i in range(120)]
    for name, part in (("train", pairs[:100]), ("valid", pairs[100:])):
        (tmp_path / f"{name}.tsv").write_text("".join(f"{s}\t{t}\n" for s, t in part))
    run = parse_recipe({
        "name": "talk", "task": "dialogue", "data": {
            "folder": str(tmp_path), **{
                f"{side}_tokenizer": {"kind": kind, "vocabulary_size": 320} for side in ("source", "target")}}})
    tokenizer = prepare(run, tmp_path / "run", lambda *_: None).source_tokenizer
    ids = tokenizer.encode(["hello <turn> friend"])[0].numpy().tolist()
    assert ids.count(tokenizer.vocabulary().index("<turn>")) == 1
