"""What `evaluate` tells beyond one number: parts of the lines, perplexity, and the page of HTML."""

import dataclasses
import html.parser
import json
import math
import re
import sys

import numpy as np
import pytest
import tensorflow as tf

from pipelines.tasks import TASKS
from tfseq2seq import assessment, cli, runs
from tfseq2seq.breakdown import by_length, by_novelty, metrics_of_parts, score_parts
from tfseq2seq.charts import bar_chart, nice_top
from tfseq2seq.perplexity import NgramModel, perplexity, target_log_probabilities
from tfseq2seq.report import render_report


def test_parts_by_length_hold_like_numbers_of_lines():
    sources = ["x" * length for length in (1, 9, 2, 2, 2, 3, 4, 4, 5, 9)]
    parts = by_length(sources, len, most=3)
    assert [part.label for part in parts] == ["1 to 2", "3 to 4", "5 to 9"]
    assert [part.rows for part in parts] == [[0, 2, 3, 4], [5, 6, 7], [1, 8, 9]]
    assert [(part.label, part.rows) for part in by_length(["ab", "cd"], len)] == [("2", [0, 1])]


def test_parts_by_novelty_ask_for_the_source_and_then_for_its_words():
    train = ["A red house.", "the dog"]
    sources = ["the dog", "The red dog.", "the cat", "A red house", "A red house."]
    found = {part.label: part.rows for part in by_novelty(sources, train)}
    assert found == {"source seen in training": [0, 4], "every word seen": [1, 3], "a word not seen": [2]}
    assert [part.label for part in by_novelty(["x y"], train)] == ["a word not seen"]


def test_each_part_is_scored_by_itself():
    sources, references = ["a", "bb", "cc"], [["A"], ["B"], ["C"]]
    systems = {"cheap": ["A", "x", "x"], "model": ["x", "B", "C"]}
    found = score_parts("by length", by_length(sources, len), ["exact_match"], sources, systems, references)
    assert found.as_dict() == [
        {"part": "1", "lines": 1, "cheap": {"exact_match": 100.0}, "model": {"exact_match": 0.0}},
        {"part": "2", "lines": 2, "cheap": {"exact_match": 0.0}, "model": {"exact_match": 100.0}}]
    assert metrics_of_parts(TASKS["dialogue"].metrics) == ["bleu", "word_f1"]


def test_ngrams_are_smoothed_as_witten_and_bell_say():
    # Lines a b, a b, a: after the start a 3 times; after a: b 2, end 1 (2 kinds); after b: end 2 (1 kind).
    a, b, end = 5, 6, 3
    model = NgramModel([[a, b], [a, b], [a]], vocabulary_size=10, end=end, order=2)
    # All tokens: a 3, b 2, end 3; 8 of them, 3 kinds.
    p_a, p_b, p_end = ((count + 3 / 10) / (8 + 3) for count in (3, 2, 3))
    first = (3 + 1 * p_a) / (3 + 1)
    expected = first * (2 + 2 * p_b) / (3 + 2) * (2 + 1 * p_end) / (2 + 1)
    assert model.log_probability([a, b]) == pytest.approx(math.log(expected))
    unseen = (0 + 1 * (0.3 / 11)) / (3 + 1)  # of another token: a tenth of the mass of the kinds
    assert model.log_probability([9]) == pytest.approx(math.log(unseen) + math.log(p_end))


def test_ngram_probabilities_sum_to_one():
    model = NgramModel([[5, 6, 5], [6, 6, 7], [5]], vocabulary_size=8, end=3)
    for before in ([], [5], [6, 6], [7, 4]):
        line = (-1, -1, *before)
        total = sum(model._probability((*line, token), len(line)) for token in range(8))
        assert total == pytest.approx(1)


@pytest.fixture(scope="module")
def opened(tiny_run):
    run, prepared = runs.open_run(tiny_run)
    return run, prepared, runs.best_generator(run, prepared, tiny_run)


def test_perplexity_is_that_of_keras_on_the_same_lines(opened):
    """Cross-entropy of the teacher-forced model by Keras' own loss, over tokens that are no padding."""
    _, prepared, generator = opened
    sources, targets = zip(*prepared.test)
    found = target_log_probabilities(generator, sources, targets)
    losses, tokens = 0.0, 0
    for source, target in zip(sources, targets):
        source_ids = [*prepared.source_tokenizer.encode([source])[0].numpy(), 3]
        labels = [*prepared.target_tokenizer.encode([target])[0].numpy(), 3]
        logits = generator.model({"source": tf.constant([source_ids]), "target": tf.constant([[2, *labels[:-1]]])})
        losses += float(tf.reduce_sum(tf.keras.losses.sparse_categorical_crossentropy(
            tf.constant([labels]), logits, from_logits=True)))
        tokens += len(labels)
    assert found[:, 1].sum() == tokens
    assert perplexity(found.sum(0)) == pytest.approx(math.exp(losses / tokens), rel=1e-5)


class Page(html.parser.HTMLParser):
    """Reads a page; every element must be closed in its order."""

    VOID = {"meta", "img", "br", "link", "rect", "line"}

    def __init__(self, text):
        super().__init__()
        self.open, self.seen, self.attributes, self.texts = [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.seen.append(tag)
        self.attributes += attrs
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


@pytest.fixture(scope="module")
def assessed(opened):
    """A dialogue's metrics over the tiny run's lines, with texts that would break a page."""
    run, prepared, generator = opened
    evil = '<script>alert("x")</script>\x07 & \'"'
    sources = [source for source, _ in prepared.test]
    references = [[target] for _, target in prepared.test]
    answers = [evil, *(target for _, target in prepared.test[1:])]
    systems = {"<b>cheap</b>": ["A"] * len(sources), run.name: answers}
    names = ["exact_match", "bleu", "distinct_1", "length"]
    task = dataclasses.replace(prepared.task, metrics=("perplexity", *names), baseline_name="<b>cheap</b>")
    random = np.random.default_rng(0)
    return assessment.Assessment(
        name="tiny", run=run, prepared=dataclasses.replace(prepared, task=task), split="test", generator=generator,
        sources=sources, references=references, systems=systems,
        scores={system: assessment.evaluate(names, sources, lines, references) for system, lines in systems.items()},
        log_probabilities={
            system: np.stack([-random.uniform(1, 9, len(sources)), np.full(len(sources), 3.0)], 1)
            for system in systems})


def test_the_page_holds_all_and_nothing_of_the_data_becomes_html(assessed):
    text = render_report(assessed, assessed.breakdowns())
    page = Page(text)
    assert "script" not in page.seen and "b" not in page.seen
    words = "".join(page.texts)
    assert '<script>alert("x")</script>␇ & \'"' in words and "<b>cheap</b>" in words
    for name, value in page.attributes:  # nothing from elsewhere, and nothing that runs
        assert not name.startswith("on")
        assert name not in ("href", "src") or re.match("#|data:image/png;base64,", value)
    assert page.seen.count("img") >= 3 and page.seen.count("svg") == 4
    identities = [value for name, value in page.attributes if name == "id"]
    assert len(identities) == len(set(identities))
    for name, value in page.attributes:
        if name == "aria-labelledby":
            assert set(value.split()) <= set(identities)
    found = assessed.comparisons()["tiny"]
    for name in ("perplexity", "exact_match", "bleu"):
        assert f"{found[name].value:.2f} ± {found[name].interval:.2f}" in words
    assert f"{found['distinct_1'].value:.2f}" in words
    expected = float(perplexity(assessed.log_probabilities["tiny"].sum(0)))
    assert found["perplexity"].value == pytest.approx(expected)


def test_bars_are_as_long_as_their_values_and_are_told(assessed):
    chart = bar_chart("c", "t <", ["one", "two & more"], {"a": [10.0, 0.0], "b": [5.0, 40.0]})
    widths = [float(width) for width in re.findall(r'<rect class="bar-\d" .*? width="([\d.]+)"', chart)]
    assert widths[0] == pytest.approx(widths[3] / 4, abs=0.1) and widths[1] == pytest.approx(widths[0] / 2, abs=0.1)
    assert widths[2] == 0
    assert "one: a 10.00, b 5.00; two &amp; more: a 0.00, b 40.00" in chart and "t &lt;" in chart
    assert [nice_top(value) for value in (0, 0.3, 1, 7, 20, 21, 99, 100, 101)] == [
        1, 0.5, 1, 10, 20, 25, 100, 100, 200]


def test_the_command_writes_the_page_and_prints_the_parts(tiny_run, tmp_path, monkeypatch, capsys):
    page = tmp_path / "page.html"
    monkeypatch.setattr(sys, "argv", ["tfseq2seq", "evaluate", str(tiny_run), "--report", str(page), "--json",
                                      "--lines", "12"])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert not stopped.value.code
    told = json.loads(capsys.readouterr().out)
    assert sum(part["lines"] for part in told["parts"]["by length of the source, in letters"]) == 12
    assert sum(part["lines"] for part in told["parts"]["by what training has seen"]) == 12
    assert "tiny on test" in "".join(Page(page.read_text(encoding="utf-8")).texts)


def test_a_report_needs_a_folder(tiny_run, tmp_path, monkeypatch, capsys):
    page = tmp_path / "no" / "page.html"
    monkeypatch.setattr(sys, "argv", ["tfseq2seq", "evaluate", str(tiny_run), "--report", str(page)])
    with pytest.raises(SystemExit) as stopped:
        cli.main()
    assert stopped.value.code == 1 and "no such folder for the report" in " ".join(capsys.readouterr().err.split())
