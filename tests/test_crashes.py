"""Kill -9 at any moment, a full disk, a damaged file: the same command ends with the weights of an undisturbed run.

The slow ones last passed on 2026-11-28 at commit e76c774: 20 kills for each
family, 18 minutes on 2 cores beside other work.
"""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import tensorflow as tf

from tfseq2seq import checkpoints

COMMAND = [sys.executable, "-c", "from tfseq2seq.cli import main; main()"]
NUMBERS = ["one", "two", "three", "four", "five", "six", "seven", "eight"]
WORDS = ["un", "deux", "trois", "quatre", "cinq", "six", "sept", "huit"]
STEPS = 24

# Everything that draws, or that is left between two steps.
RECIPE = """
name = "run"

[data]
folder = {folder}
source_tokenizer = {{ kind = "unigram", vocabulary_size = 320 }}
target_tokenizer = {{ kind = "bpe", vocabulary_size = 300 }}
batch_tokens = 256
num_lengths = 1

[model]
embedding_units = 12
{layers}

[train]
steps = {steps}
evaluate_every = 12
checkpoint_every = 3
valid_lines = 4
learning_rate = 1e-2
warmup_steps = 4
teacher_forcing_schedule = "linear"
teacher_forcing_ratio = 0.2
teacher_forcing_k = 0.01
source_subword_alpha = 0.2
target_subword_alpha = 0.1
source_word_dropout = 0.1
target_token_noise = 0.1
accumulation_steps = 2
average_decay = 0.9

[decode]
max_length = 16
"""
LAYERS = {
    "recurrent": """
encoder = { kind = "recurrent", units = 8, dropout = 0.1 }
decoder = { kind = "attentional", units = 16, dropout = 0.1 }""",
    "transformer": """
encoder = { kind = "transformer", layers = 2, units = 16, heads = 2, feed_forward_units = 32, dropout = 0.1 }
decoder = { kind = "transformer", layers = 2, units = 16, heads = 2, feed_forward_units = 32, layer_drop = 0.2 }""",
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("numbers")
    pairs = [
        (f"{NUMBERS[i]} and {NUMBERS[j]}.", f"{WORDS[i]} et {WORDS[j]}.") for i in range(8) for j in range(8) if i != j]
    for name, part in (("train", pairs[:50]), ("valid", pairs[50:])):
        (folder / f"{name}.tsv").write_text("".join(f"{s}\t{t}\n" for s, t in part), encoding="utf-8")
    return folder


@pytest.fixture(scope="module", params=LAYERS)
def recipe(request, data, tmp_path_factory):
    path = tmp_path_factory.mktemp(request.param) / "recipe.toml"
    path.write_text(RECIPE.format(folder=json.dumps(str(data)), layers=LAYERS[request.param], steps=STEPS))
    return path


@pytest.fixture(scope="module")
def undisturbed(recipe):
    """The last checkpoint of a run that nothing happened to, and the seconds it took."""
    started = time.monotonic()
    finish(start(recipe, recipe.parent / "undisturbed"))
    return recipe.parent / "undisturbed" / "run" / "checkpoints" / f"step-{STEPS:08d}", time.monotonic() - started


def start(recipe, folder, **options):
    """The command line in a process of its own."""
    command = [*COMMAND, "train", str(recipe), "--runs", str(folder)]
    environment = {**os.environ, "PYTHONPATH": os.getcwd(), "COLUMNS": "200"}
    return subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
        env=environment, **options)


def finish(process, code=0):
    _, told = process.communicate(timeout=300)
    assert process.returncode == code, told
    return told


def contents(checkpoint):
    """Every variable of a checkpoint by its name, and its state."""
    reader = tf.train.load_checkpoint(str(checkpoint / "weights"))
    names = [name for name in reader.get_variable_to_shape_map() if not name.startswith("_CHECKPOINTABLE")]
    state = json.loads((checkpoint / "state.json").read_text())
    del state["seconds"]
    # Read off sums that begin with `fit`, which rounds otherwise; it serves to see a divergence alone.
    state["lowest_loss"] = pytest.approx(state["lowest_loss"], rel=1e-5)
    return {name: reader.get_tensor(name) for name in names}, state


def assert_equal(checkpoint, expected):
    (variables, state), (expected_variables, expected_state) = contents(checkpoint), contents(expected)
    assert variables.keys() == expected_variables.keys() and len(variables) > 20
    for name, value in variables.items():
        np.testing.assert_array_equal(value, expected_variables[name], err_msg=name)
    assert state == expected_state


def newest(folder):
    return max(checkpoints.steps(folder / "run" / "checkpoints"), default=0)


def start_and_wait(recipe, folder):
    """A process that has just written a checkpoint beyond those that there were, or is about to end."""
    before, process = newest(folder), start(recipe, folder)
    while process.poll() is None and newest(folder) <= before:
        time.sleep(0.02)
    return process


def kill(process):
    process.kill()
    process.communicate()


@pytest.mark.parametrize("recipe", ["transformer"], indirect=True)
def test_killed_a_run_ends_with_the_same_weights(recipe, undisturbed, tmp_path):
    process = start_and_wait(recipe, tmp_path)
    time.sleep(random.Random(recipe.parent.name).uniform(0, 1.0))
    kill(process)
    finish(start(recipe, tmp_path))
    assert_equal(tmp_path / "run" / "checkpoints" / undisturbed[0].name, undisturbed[0])


@pytest.mark.parametrize("recipe", ["recurrent"], indirect=True)
def test_kill_sigterm_a_full_disk_and_damage_cost_nothing(recipe, undisturbed, tmp_path):
    folder = tmp_path / "run" / "checkpoints"
    kill(start_and_wait(recipe, tmp_path))
    process = start_and_wait(recipe, tmp_path)
    process.send_signal(signal.SIGTERM)
    told = finish(process, code=128 + signal.SIGTERM)
    assert "SIGTERM: saved; to go on: tfseq2seq train" in told and "Traceback" not in told

    before = checkpoints.steps(folder)
    largest = max(file.stat().st_size for file in (folder / f"step-{before[-1]:08d}").iterdir())

    def allow_half():  # of a checkpoint's largest file; what is written beyond fails, as on a full disk
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest // 2, largest // 2))

    told = finish(start(recipe, tmp_path, preexec_fn=allow_half), code=1)
    assert f"going on from step {before[-1]} " in told
    assert f"error: cannot write a checkpoint to {folder}: " in told and "File too large" in told
    assert "Traceback" not in told
    assert checkpoints.steps(folder) == before and not list(folder.glob(".writing*"))

    train_file = tmp_path / "run" / "data" / "train.jsonl.gz"
    whole = train_file.read_bytes()
    train_file.write_bytes(whole[: len(whole) // 2])
    told = finish(start(recipe, tmp_path), code=1)
    assert f"error: {train_file}: not a whole .gz file" in told and f"remove {tmp_path / 'run'} to begin" in told
    assert "Traceback" not in told
    assert checkpoints.steps(folder) == before
    train_file.write_bytes(whole)

    if len(before) > 1:
        index = folder / f"step-{before[-1]:08d}" / "weights.index"
        index.write_bytes(index.read_bytes()[:100])
        told = finish(start(recipe, tmp_path))
        assert "is damaged and passed over" in told and f"going on from step {before[-2]} " in told
    else:
        finish(start(recipe, tmp_path))
    assert_equal(folder / undisturbed[0].name, undisturbed[0])


@pytest.mark.slow
def test_killed_twenty_times_at_any_moment_a_run_ends_with_the_same_weights(recipe, undisturbed, tmp_path):
    moments = random.Random(recipe.parent.name)
    for _ in range(20):
        process = start(recipe, tmp_path)
        time.sleep(moments.uniform(0, 1.2 * undisturbed[1]))  # also before the first checkpoint, and after the end
        kill(process)
    finish(start(recipe, tmp_path))
    assert_equal(tmp_path / "run" / "checkpoints" / undisturbed[0].name, undisturbed[0])
