"""The paired bootstrap."""

import io
import json

import numpy as np
import pytest
from rich.console import Console
from sacrebleu.metrics.bleu import BLEU

from tfseq2seq import assessment, cli, runs
from tfseq2seq.evaluation import evaluate
from tfseq2seq.significance import compare, render_comparison

REFERENCES = [[f"the cat number {i} sat on mat {i % 7} of the house"] for i in range(60)]


def spoiled(share, seed):
    """The references with so large a share of the lines wrong."""
    random = np.random.default_rng(seed)
    return [line.replace("cat", "dog").replace("mat", "rug") if random.random() < share else line
            for (line,) in REFERENCES]


def test_scores_are_those_of_evaluate_and_a_system_is_no_better_than_itself():
    names = ["bleu", "exact_match", "token_error_rate"]
    systems = {"one": spoiled(0.5, 1), "same": spoiled(0.5, 1), "good": spoiled(0.1, 2)}
    found = compare(names, systems, REFERENCES, samples=200)
    for system, hypotheses in systems.items():
        for name, score in evaluate(names, hypotheses, hypotheses, REFERENCES).items():
            assert found[system][name].value == pytest.approx(score.value)
    for name in names:
        assert found["one"][name].p_value is None
        assert found["same"][name].p_value == 1
        assert found["good"][name].p_value < 0.02
        assert found["one"][name].interval > 1
    assert "bs:200" in found["one"]["bleu"].signature and found["one"]["exact_match"].signature is None


def test_the_share_of_samples_is_that_of_a_direct_computation():
    right = np.array([[1] * 30 + [0] * 30, [1] * 34 + [0] * 26])
    systems = {
        name: [line if ok else "no" for (line,), ok in zip(REFERENCES, row)] for name, row in zip("ab", right)}
    found = compare(["exact_match"], systems, REFERENCES, samples=20_000)["b"]["exact_match"]
    # Of 60 lines drawn, those that only b has right are binomial with 4 / 60; d = 400 / 60.
    random = np.random.default_rng(7)
    differences = 100 / 60 * random.binomial(60, 4 / 60, 200_000)
    expected = (differences - differences.mean() > 400 / 60).mean()
    assert found.p_value == pytest.approx(expected, abs=4 * np.sqrt(expected / 20_000))
    # The 95 % interval of a share of 34 / 60.
    assert found.interval == pytest.approx(196 * np.sqrt(34 / 60 * 26 / 60 / 60), rel=0.1)


def test_sacrebleus_own_test_says_the_same():
    from sacrebleu.significance import PairedTest

    systems = {"one": spoiled(0.3, 1), "two": spoiled(0.2, 2)}
    ours = compare(["bleu"], systems, REFERENCES)["two"]["bleu"]
    streams = [[line for (line,) in REFERENCES]]
    _, theirs = PairedTest(list(systems.items()), {"BLEU": BLEU()}, streams, test_type="bs")()
    assert (ours.value, ours.p_value) == (theirs["BLEU"][1].score, theirs["BLEU"][1].p_value)


def test_one_system_is_not_compared():
    with pytest.raises(ValueError, match="at least two systems. Received: one"):
        compare(["bleu"], {"one": spoiled(0, 1)}, REFERENCES)


def test_the_table_marks_what_is_not_chance():
    found = compare(["exact_match"], {"one": spoiled(0.5, 1), "two": spoiled(0.1, 2)}, REFERENCES, samples=100)
    file = io.StringIO()
    Console(file=file, width=120).print(render_comparison(found))
    assert "exact_match ↑" in file.getvalue() and "(p = 0.010) *" in file.getvalue()


def test_two_runs_are_compared_on_their_held_out_lines(tiny_run, tmp_path, capsys, monkeypatch):
    other = tmp_path / "mean"
    runs.average_run(tiny_run, other, last=2)
    monkeypatch.setattr("sys.argv", ["tfseq2seq", "compare", str(tiny_run), str(other), "--json", "--samples", "50"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert not ended.value.code
    found = json.loads(capsys.readouterr().out)
    assert list(found) == [str(tiny_run), str(other)]
    run, prepared = runs.open_run(tiny_run)
    scores = assessment.evaluate_run(run, prepared, tiny_run, "test", 1000, lambda *_: None)
    for name, score in scores[run.name].items():
        assert found[str(tiny_run)][name]["value"] == pytest.approx(score.value)
        assert found[str(other)][name]["p_value"] > 0


def test_runs_that_were_asked_other_things_are_not_compared(tiny_run, tmp_path):
    with pytest.raises(ValueError, match="at least two runs"):
        assessment.compare_runs([tiny_run, tiny_run], "test", lambda *_: None)
    other = tmp_path / "other"
    runs.average_run(tiny_run, other, last=1)
    (other / "data" / "test.jsonl.gz").write_bytes((other / "data" / "valid.jsonl.gz").read_bytes())
    with pytest.raises(ValueError, match="whose test pairs differ"):
        assessment.compare_runs([tiny_run, other], "test", lambda *_: None)
