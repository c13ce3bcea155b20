"""Files of any size are answered in order, by several workers, and go on where they were interrupted."""

import contextlib
import gzip
import io
import json
import os
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from rich.console import Console

from pipelines.batching import inference_batches
from tests.test_cli import run as run_command
from tfseq2seq import prediction, runs
from tfseq2seq.generation import Answer
from tfseq2seq.output import FileOutput, PredictionError, StreamOutput, Window, render
from tfseq2seq.prediction import Pace, answer_windows, predict
from tfseq2seq.training import load_generator

LINES = [("ab" * (1 + 7 * i % 13))[: 1 + 5 * i % 17] + f" {i}" for i in range(103)]
ANSWERS = "".join(line.upper() + "\n" for line in LINES)
FINGERPRINT = {"source": "lines.txt", "checkpoint step": 3}


class Uppercase:
    """Stands for a generator: answers in upper case, one token a letter, and slowest for the shortest lines."""

    def __init__(self, calls=None):
        self.calls, self.at_once, self.most_at_once = calls, 0, 0

    def batches(self, lines, batch_tokens, at_least):
        return inference_batches(np.array([len(line) for line in lines]), batch_tokens or 40), 1

    def answer_batch(self, lines):
        if lines and self.calls is not None:
            self.calls -= 1
            if self.calls < 0:
                raise KeyboardInterrupt
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        time.sleep(0.002 / max(map(len, lines), default=1))
        self.at_once -= 1
        return [[Answer(line.upper(), -float(len(line)))] for line in lines]


def in_memory(generator, lines, **settings):
    file = io.BytesIO()
    output = StreamOutput(file)
    predict(generator, lines, output, "text", **settings)
    return file.getvalue().decode(), output


# The order, the workers and the memory.


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("window", [1, 10, 103, 1000])
def test_answers_come_in_the_order_of_the_lines(workers, window):
    told = []
    text, output = in_memory(Uppercase(), LINES, workers=workers, window=window, on_lines=told.append)
    assert text == ANSWERS
    assert told[0] == 0 and told[-1] == len(LINES) and told == sorted(told)
    assert output.num_lines == len(LINES) and output.num_cut == -(-len(LINES) // window)  # one a window, says the fake


def test_several_batches_are_decoded_at_once():
    generator = Uppercase()
    in_memory(generator, LINES * 3, workers=3)
    assert generator.most_at_once > 1


def test_the_time_of_tracing_is_not_counted():
    class Traced(Uppercase):
        def answer_batch(self, lines):
            assert bool(lines) == bool(told)  # the pace is counted from the first number told
            return super().answer_batch(lines)

    told = []
    in_memory(Traced(), LINES, on_lines=told.append)
    assert told[0] == 0


def test_lines_of_like_length_are_decoded_together_longest_first():
    class Watched(Uppercase):
        batches_seen: list = []

        def answer_batch(self, lines):
            self.batches_seen.append([len(line) for line in lines])
            return super().answer_batch(lines)

    list(answer_windows(Watched(), ["a" * n for n in (3, 10, 9, 2, 30, 1)], batch_tokens=20))
    assert Watched.batches_seen == [[], [30], [9, 10], [1, 2, 3]]  # the first one traces


@pytest.mark.parametrize("read_ahead", [True, False])
def test_no_more_than_two_windows_are_in_memory(read_ahead):
    windows = [0, 0]  # read, and written

    def lines():
        for i in range(1000):
            windows[0] = i // 10 + 1
            assert windows[0] - windows[1] <= (2 if read_ahead else 1)
            yield f"line {i}"

    for _ in answer_windows(Uppercase(), lines(), window=10, workers=2, read_ahead=read_ahead):
        windows[1] += 1
    assert windows == [100, 100]


def test_a_window_of_very_long_lines_ends_early(monkeypatch):
    monkeypatch.setattr(prediction, "MOST_CHARACTERS", 50)
    windows = answer_windows(Uppercase(), ["a" * 20] * 7)
    assert [len(window.lines) for window in windows] == [3, 3, 1]


def test_what_a_worker_raises_ends_the_work():
    with pytest.raises(KeyboardInterrupt):
        in_memory(Uppercase(calls=2), LINES, workers=2, window=10)


def test_ctrl_c_does_not_wait_for_the_batch_under_way(tmp_path):
    class Endless(Uppercase):
        started, released, ended = threading.Event(), threading.Event(), threading.Event()

        def answer_batch(self, lines):
            if not lines or len(lines[0]) < 20:
                return super().answer_batch(lines)
            self.started.set()
            self.released.wait(60)
            self.ended.set()
            return super().answer_batch(lines)

    class Watched(FileOutput):
        written = threading.Event()

        def append(self, *arguments):
            super().append(*arguments)
            self.written.set()

    def interrupt_after_a_window():
        if Endless.started.wait(60) and Watched.written.wait(60):
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    path, lines = tmp_path / "out.txt", LINES[:10] + ["a" * 20] + LINES[10:]
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background has none
    interrupt = threading.Thread(target=interrupt_after_a_window)
    interrupt.start()
    with contextlib.closing(Watched(path, FINGERPRINT)) as output, pytest.raises(KeyboardInterrupt):
        predict(Endless(), lines, output, "text", window=10)
    signal.signal(signal.SIGINT, before)
    assert not Endless.ended.is_set()
    Endless.released.set()
    interrupt.join()
    with contextlib.closing(FileOutput(path, FINGERPRINT)) as output:
        assert output.num_lines == 10  # the whole window before
        predict(Uppercase(), lines, output, "text", window=10)
    assert path.read_text() == "".join(line.upper() + "\n" for line in lines)


# What is written.


def window_of(lines, answers):
    return Window(lines, answers, 0, 0)


HARD = window_of(["süß", "", "c"], [
    [Answer("a\tb\\n\nc\r", -0.123456789), Answer("é\u2028", -2.0)], [Answer("", -1.5)], []])


def test_text_has_a_line_for_every_line():
    assert render("text", 1, HARD) == "a\tb\\n c \n\n\n"


def test_tsv_has_number_score_and_escaped_text():
    assert render("tsv", 41, HARD) == "41\t-0.1235\ta\\tb\\\\n\\nc\\r\n41\t-2.0000\té\u2028\n42\t-1.5000\t\n"


def test_jsonl_has_an_object_for_every_line():
    rows = [json.loads(row) for row in render("jsonl", 41, HARD).split("\n")[:-1]]
    assert rows == [
        {"line": 41, "source": "süß", "hypotheses": [
            {"text": "a\tb\\n\nc\r", "score": -0.123457}, {"text": "é\u2028", "score": -2.0}]},
        {"line": 42, "source": "", "hypotheses": [{"text": "", "score": -1.5}]},
        {"line": 43, "source": "c", "hypotheses": []}]


def test_pace_tells_lines_a_second_and_time_left():
    pace = Pace(1000)
    assert pace.tell(100, 50.0) == ""  # the first hundred were there before
    assert pace.tell(300, 60.0) == "20.0 lines/s, 0:00:35 left"  # 200 lines in 10 s; 700 are left
    assert pace.tell(1000, 3660.0) == "0.2 lines/s, 0:00:00 left"
    assert pace.summary() == "900 lines in 1:00:10, 0.2 lines/s"
    assert Pace(None).tell(0, 0.0) == "" and Pace(None).summary().startswith("0 lines")


def test_pace_without_a_total_tells_no_time_left():
    pace = Pace(None)
    pace.tell(0, 0.0)
    assert pace.tell(3, 2.0) == "1.5 lines/s"


def test_without_a_terminal_progress_is_a_line_now_and_then(monkeypatch):
    monkeypatch.setattr(prediction, "TELL_EVERY", 0.0)
    file = io.StringIO()
    with prediction.show_pace(Console(file=file, width=200), 2000) as on_lines:
        on_lines(1000)
        on_lines(1500)
    told = file.getvalue().splitlines()
    assert told[0].startswith("1,000 of 2,000 lines") and told[1].startswith("1,500 of 2,000 lines, ")
    assert "lines/s" in told[1] and told[2].startswith("500 lines in 0:00:00")


# Files that are interrupted.


def to_file(path, generator, restart=False, fingerprint=FINGERPRINT):
    with contextlib.closing(FileOutput(path, fingerprint, restart)) as output:
        predict(generator, LINES, output, "text", window=10, workers=2)


@pytest.mark.parametrize("name", ["out.txt", "out.txt.gz"])
@pytest.mark.parametrize("calls", [0, 1, 7, 20])
def test_an_interrupted_file_is_gone_on_with_byte_for_byte(tmp_path, name, calls):
    whole, path = tmp_path / f"whole.{name}", tmp_path / name
    to_file(whole, Uppercase())
    with pytest.raises(KeyboardInterrupt):
        to_file(path, Uppercase(calls))
    assert not path.exists()
    state = tmp_path / f"{name}.part.json"
    if calls >= 7:  # 10 lines of at most 20 letters are at most 7 batches of 40
        assert json.loads(state.read_text())["lines"] % 10 == 0
    for generator in (Uppercase(25), Uppercase()):
        with open(tmp_path / f"{name}.part", "ab") as file:
            file.write(b"half a window")
        with contextlib.suppress(KeyboardInterrupt):
            to_file(path, generator)
    assert path.read_bytes() == whole.read_bytes()
    text = gzip.decompress(path.read_bytes()) if name.endswith(".gz") else path.read_bytes()
    assert text.decode() == ANSWERS
    assert {each.name for each in tmp_path.iterdir()} == {name, whole.name}


def test_lines_that_are_written_are_not_decoded_again(tmp_path):
    path, resumed, seen, told = tmp_path / "out.txt", Uppercase(), [], []
    with pytest.raises(KeyboardInterrupt):
        to_file(path, Uppercase(calls=30))
    done = json.loads((tmp_path / "out.txt.part.json").read_text())["lines"]
    assert done
    resumed.answer_batch = lambda lines: seen.extend(lines) or [[Answer(line.upper(), 0.0)] for line in lines]
    with contextlib.closing(FileOutput(path, FINGERPRINT)) as output:
        predict(resumed, LINES, output, "text", window=10, on_lines=told.append)
    assert sorted(seen) == sorted(LINES[done:])
    assert told[0] == done and told[-1] == output.num_lines == len(LINES)
    assert output.num_cut == 11  # one of each window of 10, says the fake; those of the first call too


@pytest.fixture
def interrupted(tmp_path):
    """The path of an output whose making was interrupted after some windows."""
    with pytest.raises(KeyboardInterrupt):
        to_file(tmp_path / "out.txt", Uppercase(calls=30))
    return tmp_path / "out.txt"


@pytest.mark.parametrize("fingerprint, told", [
    ({**FINGERPRINT, "checkpoint step": 4}, "checkpoint step was 3, is 4"),
    ({**FINGERPRINT, "window": 5}, "window was None, is 5"),
    (None, "source was 'lines.txt', is 'no file'"),
])
def test_a_file_of_another_command_is_not_gone_on_with(interrupted, fingerprint, told):
    part = interrupted.with_name("out.txt.part")
    before = part.read_bytes()
    with pytest.raises(PredictionError, match="--restart.*Received: .*" + told):
        to_file(interrupted, Uppercase(), fingerprint=fingerprint)
    assert part.read_bytes() == before
    to_file(interrupted, Uppercase(), fingerprint=fingerprint, restart=True)
    assert interrupted.read_text() == ANSWERS


@pytest.mark.parametrize("content", ["", "[1]", '{"lines": 3}'])
def test_a_broken_state_is_told(interrupted, content):
    interrupted.with_name("out.txt.part.json").write_text(content)
    with pytest.raises(PredictionError, match="part.json: cannot be read; give --restart"):
        to_file(interrupted, Uppercase())


def test_a_part_that_lost_bytes_is_told(interrupted):
    os.truncate(interrupted.with_name("out.txt.part"), 3)
    with pytest.raises(PredictionError, match="shorter than out.txt.part.json says; give --restart"):
        to_file(interrupted, Uppercase())


def test_two_processes_do_not_write_one_file(tmp_path):
    with contextlib.closing(FileOutput(tmp_path / "out.txt", FINGERPRINT)):
        with pytest.raises(PredictionError, match="another process is writing"):
            FileOutput(tmp_path / "out.txt", FINGERPRINT)


def test_no_lines_make_an_empty_file(tmp_path):
    for name in ("a.txt", "a.txt.gz"):
        (tmp_path / f"{name}.part").write_bytes(b"of a call that was killed in its first window")
        with contextlib.closing(FileOutput(tmp_path / name, FINGERPRINT)) as output:
            predict(Uppercase(), [], output, "text")
    assert (tmp_path / "a.txt").read_bytes() == b""
    assert gzip.decompress((tmp_path / "a.txt.gz").read_bytes()) == b"" != (tmp_path / "a.txt.gz").read_bytes()


# The command, on a trained run.

SOURCES = ["abca", "", "d" * 50, "dab é", "cc", "d" * 32]  # 32 tokens, the end included, are read
QUIET = Console(quiet=True)


@pytest.fixture(scope="module")
def opened(tiny_run):
    return runs.open_run(tiny_run)


@pytest.fixture(scope="module")
def generator(opened, tiny_run):
    return load_generator(*opened, tiny_run)


def test_batches_are_shared_among_workers_and_cut_lines_counted(generator):
    batches, num_cut = generator.batches(SOURCES, None, 3)
    assert sorted(sum(batches, [])) == list(range(6)) and len(batches) >= 3 and num_cut == 2
    assert len(generator.batches(SOURCES)[0]) == 1
    assert generator.batches([], None, 3) == ([], 0)


def test_predict_packs_and_unpacks_and_keeps_every_line(monkeypatch, capsys, tiny_run, generator, tmp_path):
    source, output = tmp_path / "in.txt.gz", tmp_path / "out.jsonl.gz"
    source.write_bytes(gzip.compress(("\ufeff" + "\r\n".join(SOURCES)).encode()))  # no last line end
    arguments = ("--n-best", 2, "--workers", 2, "--window", 4, "--output", output)
    assert run_command(monkeypatch, "predict", tiny_run, source, "--format", "jsonl", *arguments) == 0
    rows = [json.loads(row) for row in gzip.decompress(output.read_bytes()).decode().splitlines()]
    assert [row["source"] for row in rows] == SOURCES and [row["line"] for row in rows] == [1, 2, 3, 4, 5, 6]
    for row, expected in zip(rows, generator.beam(SOURCES, 2)["text"].numpy(), strict=True):
        assert [each["text"].encode() for each in row["hypotheses"]] == expected.tolist()
        assert row["hypotheses"][0]["score"] >= row["hypotheses"][1]["score"]
    told = capsys.readouterr().err
    assert "2 lines were longer than export.max_source_length = 32 tokens and were cut" in told
    assert "6 lines in 0:00:" in told and "lines/s" in told
    assert "unknown to the model" not in told
    assert {each.name for each in tmp_path.iterdir()} == {"in.txt.gz", "out.jsonl.gz"}


def test_predict_answers_standard_input(monkeypatch, capsys, tiny_run, generator):
    sources = [*SOURCES, *["ABCABC"] * 9]
    text = "".join(line + "\n" for line in sources).encode()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(io.BytesIO(text))))
    assert run_command(monkeypatch, "predict", tiny_run, "-") == 0
    expected = [answers[0].text for answers in generator.answer(sources)]
    answered = capsys.readouterr()
    assert answered.out.split("\n") == [*expected, ""]
    assert "unknown to the model" in answered.err and "as in 'ABCABC'. In lower case" in answered.err


@pytest.mark.parametrize("options, told", [
    ({"num_hypotheses": 2}, "--format text holds one hypothesis a line; give tsv or jsonl.*--n-best 2"),
    ({"num_hypotheses": 5}, "--n-best must be from 1 to .* 4. Received: 5"),
    ({"output_format": "xml"}, "--format must be one of text, tsv, jsonl. Received: 'xml'"),
    ({"workers": 2, "replicas": 2}, "leave one of them out. Received: --workers 2 --replicas 2"),
    ({"replicas": 2}, "--replicas 2 needs as many devices. Received: 1"),
    ({"output": "nowhere/out.txt"}, "nowhere: no such folder for the output"),
    ({"output": "."}, "the output must be a file"),
    ({"output": "in.txt"}, "in.txt: is the source too"),
    ({"source": "missing.txt"}, "missing.txt: no such file"),
    ({"source": "."}, "not a file"),
    ({"source": "latin.txt"}, "latin.txt:3: not UTF-8.*byte 0xe9"),
])
def test_a_wrong_call_is_told_before_anything_is_decoded(opened, tiny_run, tmp_path, options, told):
    (tmp_path / "in.txt").write_text("ab\n")
    (tmp_path / "latin.txt").write_bytes(b"ab\nc\nd\xe9\n")
    source, output = (tmp_path / options.pop(name, default) for name, default in (
        ("source", "in.txt"), ("output", "out.txt")))
    with pytest.raises(ValueError, match=told):
        runs.predict_file(*opened, tiny_run, source, output, console=QUIET, **options)
    assert {each.name for each in tmp_path.iterdir()} == {"in.txt", "latin.txt"}


COMMAND = [sys.executable, "-c", "from tfseq2seq.cli import main; main()", "predict"]


def test_a_killed_command_goes_on_and_writes_what_it_would_have(tiny_run, tmp_path):
    source = tmp_path / "in.txt"
    source.write_text("".join("abcd"[i % 4] * (1 + i % 29) + "\n" for i in range(500)))
    state = tmp_path / "killed.tsv.gz.part.json"

    def command(name):
        return [*COMMAND, str(tiny_run), str(source), "--window", "20", "--scores", "-o", str(tmp_path / name)]

    with subprocess.Popen(command("killed.tsv.gz"), stderr=subprocess.PIPE) as killed:
        while not state.exists() and killed.poll() is None:
            time.sleep(0.01)
        killed.send_signal(signal.SIGKILL)
        assert killed.wait() == -signal.SIGKILL
    assert 0 < json.loads(state.read_text())["lines"] < 500
    for name in ("killed.tsv.gz", "whole.tsv.gz"):
        done = subprocess.run(command(name), capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-3000:]
        assert ("going on after line" in done.stderr) == (name == "killed.tsv.gz")
    killed_bytes, whole_bytes = ((tmp_path / name).read_bytes() for name in ("killed.tsv.gz", "whole.tsv.gz"))
    assert killed_bytes == whole_bytes
    assert len(gzip.decompress(whole_bytes).splitlines()) == 500


REPLICAS = """
import sys
from pathlib import Path
import tensorflow as tf
cpu = tf.config.list_physical_devices("CPU")[0]
tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
from tfseq2seq import runs
folder, source, *outputs = map(Path, sys.argv[1:])
for replicas, output in enumerate(outputs, start=1):
    runs.predict_file(
        *runs.open_run(folder), folder, source, output, output_format="jsonl", batch_tokens=64, replicas=replicas)
"""


def test_two_replicas_answer_as_one_device(tiny_run, tmp_path):
    source, *outputs = (tmp_path / name for name in ("in.txt", "one.jsonl", "two.jsonl"))
    source.write_text("".join("abcd"[i % 4] * (1 + i % 9) + "\n" for i in range(61)))
    done = subprocess.run(
        [sys.executable, "-c", REPLICAS, *map(str, (tiny_run, source, *outputs))], capture_output=True, text=True,
        timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = ([json.loads(row) for row in path.read_text().splitlines()] for path in outputs)
    assert len(one) == 61
    for expected, row in zip(one, two, strict=True):
        assert (row["line"], row["source"]) == (expected["line"], expected["source"])
        assert [each["text"] for each in row["hypotheses"]] == [each["text"] for each in expected["hypotheses"]]
        np.testing.assert_allclose(row["hypotheses"][0]["score"], expected["hypotheses"][0]["score"], atol=1e-5)
