import io
import json
import math

import pytest
from rich.console import Console

from tfseq2seq.evaluation import (
    METRICS,
    Score,
    as_dict,
    evaluate,
    group_references,
    maximizes,
    order_metrics,
    render_table,
)


def value(metric, hypotheses, references):
    return evaluate([metric], hypotheses, hypotheses, references)[metric].value


def test_bleu_is_the_geometric_mean_of_clipped_precisions():
    # Of "the cat sat on the mat" the reference has 5 of 6 words ("the" once), 3 of 5, 2 of 4, 1 of 3 n-grams.
    expected = 100 * (5 / 6 * 3 / 5 * 2 / 4 * 1 / 3) ** (1 / 4)
    assert value("bleu", ["the cat sat on the mat"], [["the cat sat on a mat"]]) == pytest.approx(expected)


def test_bleu_punishes_short_answers_over_the_whole_corpus():
    # 4 + 5 words against 6 + 5: every n-gram is right, the brevity penalty is exp(1 - 11 / 9).
    hypotheses = ["the cat sat on", "we saw a red house"]
    references = [["the cat sat on a mat"], ["we saw a red house"]]
    assert value("bleu", hypotheses, references) == pytest.approx(100 * math.exp(1 - 11 / 9))


def test_chrf_is_f2_of_averaged_character_ngrams():
    # "abc" against "abd": 2 of 3, 1 of 2, 0 of 1 n-grams on both sides; longer ones do not exist.
    assert value("chrf", ["abc"], [["abd"]]) == pytest.approx(100 * (2 / 3 + 1 / 2 + 0) / 3)


def test_chrf_weighs_recall_over_precision():
    # "ab" against "abcd": precision 1 for n = 1, 2; recall 2/4 and 1/3; orders above 2 have no hypothesis.
    precision, recall = 1.0, (2 / 4 + 1 / 3) / 2
    expected = 100 * 5 * precision * recall / (4 * precision + recall)
    assert value("chrf", ["ab"], [["abcd"]]) == pytest.approx(expected)


def test_ter_counts_a_moved_phrase_as_one_edit():
    # Moving "yesterday" is one shift for TER (1 / 5), but a deletion and an insertion as token edits (2 / 5).
    hypothesis, reference = ["yesterday we saw the house"], [["we saw the house yesterday"]]
    assert value("ter", hypothesis, reference) == pytest.approx(20.0)
    assert value("token_error_rate", hypothesis, reference) == pytest.approx(40.0)


@pytest.mark.parametrize("metric", ["bleu", "chrf", "ter"])
def test_a_match_with_any_reference_is_perfect_when_lines_have_different_numbers_of_them(metric):
    hypotheses = ["we saw a red house", "the cat sat on the mat"]
    references = [["another line of some words", "we saw a red house"], ["the cat sat on the mat"]]
    assert value(metric, hypotheses, references) == pytest.approx(100.0 if METRICS[metric].maximize else 0.0)


@pytest.mark.parametrize("metric", ["bleu", "chrf", "ter"])
def test_sacrebleu_metrics_carry_their_signature(metric):
    one = evaluate([metric], ["a b c d"], ["a b c d"], [["a b c d"]])[metric].signature
    varying = evaluate([metric], ["a", "b"], ["a", "b"], [["a", "c"], ["b"]])[metric].signature
    assert one.startswith("nrefs:1|") and "version:" in one
    assert varying.startswith("nrefs:var|")


def test_a_word_is_wrong_when_its_whole_pronunciation_matches_no_reference():
    hypotheses = ["AH B IY", "K AE T", "D AO G", " F IH  SH"]
    references = [["AE B IY", "AH B IY"], ["K AH T"], ["D AO G Z"], ["F IH SH"]]
    assert value("word_error_rate", hypotheses, references) == 50.0


def test_exact_match_minds_every_character():
    assert value("exact_match", ["a b", "a  b", "c", ""], [["a b"], ["a b"], ["d", "c"], [""]]) == 75.0


def test_phoneme_errors_are_counted_against_the_closest_reference():
    # Line 1: the second reference is one substitution away, of 3. Line 2: an insertion and a deletion, of 4.
    hypotheses = ["AH B IY", "S K UW L Z"]
    references = [["T R IH P", "AE B IY"], ["K UW L IY Z"]]
    assert value("phoneme_error_rate", hypotheses, references) == pytest.approx(100 * (1 + 2) / (3 + 5))


def test_error_rates_are_over_the_corpus_and_may_pass_a_hundred():
    # 3 insertions over 1 token, nothing wrong in 3: (3 + 0) / (1 + 3), not the mean of 300 and 0.
    assert value("token_error_rate", ["a b c d", "e f g"], [["a"], ["e f g"]]) == pytest.approx(75.0)
    assert value("token_error_rate", ["a b c d"], [["a"]]) == pytest.approx(300.0)


def test_silence_misses_every_token_and_words_over_silence_are_all_wrong():
    assert value("token_error_rate", ["", "x y"], [["a b c"], [""]]) == pytest.approx(100 * (3 + 2) / 3)


def test_error_rates_need_a_reference_token():
    with pytest.raises(ValueError, match="leave out lines with an empty target.*Received: 2 lines"):
        value("token_error_rate", ["", "x"], [[""], [" "]])


def test_scores_keep_the_order_asked_for_and_say_which_way_is_better():
    scores = evaluate(["word_error_rate", "bleu"], ["s"], ["a"], [["a"]])
    assert list(scores) == ["word_error_rate", "bleu"]
    assert scores["word_error_rate"] == Score(0.0, None, False)
    assert scores["bleu"].maximize


def test_an_unknown_metric_is_met_with_the_nearest_name():
    with pytest.raises(ValueError, match="Unknown metric 'blue'. Did you mean 'bleu'. Known: bleu, chrf"):
        evaluate(["blue"], ["s"], ["a"], [["a"]])


@pytest.mark.parametrize(
    ("sources", "hypotheses", "references", "text"),
    [
        (["s", "t"], ["a"], [["a"], ["b"]], "one hypothesis.*2 sources, 1 hypotheses, 2 lists"),
        (["s"], ["a"], [["a"], ["b"]], "1 sources, 1 hypotheses, 2 lists"),
        ([], [], [], "at least one line to score. Received: 0 lines"),
        (["s", "t"], ["a", "b"], [["a"], []], "at least one reference.*none for line 2, 't'"),
        (["s"], ["a"], ["a"], "in its own list. Received: the string 'a' for line 1"),
    ],
)
def test_what_cannot_be_scored_is_refused(sources, hypotheses, references, text):
    with pytest.raises(ValueError, match=text):
        evaluate(["exact_match"], sources, hypotheses, references)


def test_repeated_sources_are_asked_once_with_all_their_answers():
    pairs = [("READ", "R IY D"), ("A", "AH"), ("READ", "R EH D"), ("READ", "R IY D"), ("A", "EY")]
    assert group_references(pairs) == (["READ", "A"], [["R IY D", "R EH D"], ["AH", "EY"]])


def test_pairs_stay_apart_when_a_source_has_one_reference():
    pairs = [("yes", "oui"), ("no", "non"), ("yes", "si")]
    sources, references = group_references(pairs, multiple_references=False)
    assert (sources, references) == (["yes", "no", "yes"], [["oui"], ["non"], ["si"]])


def rendered(systems):
    console = Console(file=io.StringIO(), width=120, force_terminal=True, color_system="standard")
    console.print(render_table(systems))
    return console.file.getvalue()


def test_the_table_shows_systems_side_by_side_and_marks_the_better():
    model = {"bleu": Score(31.25, "nrefs:1|case:mixed", True), "ter": Score(40.0, None, False)}
    baseline = {"bleu": Score(7.3, "nrefs:1|case:mixed", True), "ter": Score(90.5, None, False)}
    text = rendered({"model": model, "copy": baseline})
    assert "\x1b[1m31.25\x1b[0m" in text and "\x1b[1m40.00\x1b[0m" in text
    assert "7.30" in text and "\x1b[1m7.30" not in text
    assert "bleu ↑" in text and "ter ↓" in text and "bleu: nrefs:1|case:mixed" in text


def test_the_table_leaves_a_gap_where_a_system_was_not_scored():
    text = rendered({"model": {"bleu": Score(31.25, None, True)}, "other": {"chrf": Score(50.0, None, True)}})
    assert text.count("–") == 2 and "\x1b[1m31.25" not in text


def test_scores_turn_into_json():
    scores = {"bleu": Score(31.25, "nrefs:1", True), "word_error_rate": Score(24.5, None, False)}
    assert json.loads(json.dumps(as_dict(scores))) == {
        "bleu": {"value": 31.25, "signature": "nrefs:1", "maximize": True},
        "word_error_rate": {"value": 24.5, "signature": None, "maximize": False},
    }


def test_a_chosen_metric_comes_first():
    names = ("bleu", "chrf", "ter")
    assert order_metrics(names) == order_metrics(names, "bleu") == names
    assert order_metrics(names, "ter") == ("ter", "bleu", "chrf")
    assert order_metrics(names, "exact_match") == ("exact_match", *names)
    assert order_metrics(names, "loss") == ("loss", *names)
    assert [maximizes(name) for name in ("bleu", "ter", "loss", "token_accuracy")] == [True, False, False, True]
    with pytest.raises(ValueError, match=r"train.metric: .* Did you mean 'bleu'.* Or one of loss, perplexity"):
        order_metrics(names, "blue")
