"""What several test files share: a tiny run, trained once."""

import json
from pathlib import Path

import pytest
from rich.console import Console

from tfseq2seq import cpu

cpu.prepare()  # as the command line does, before anything imports TensorFlow


def pytest_xdist_auto_num_workers(config):
    """Two processes where everything is tested; a test or two begin sooner in this one."""
    return 2 if config.args == config.getini("testpaths") or config.args == [str(config.rootpath)] else 0


TINY = """
name = "tiny"
task = "pronunciation"

[data]
folder = {folder}
source_tokenizer = {{ kind = "characters", vocabulary_size = 16 }}
target_tokenizer = {{ kind = "words", vocabulary_size = 16 }}
batch_tokens = 64
num_lengths = 2

[model]
embedding_units = 12
encoder = {{ kind = "recurrent", units = 8, dropout = 0.1 }}
decoder = {{ kind = "attentional", units = 16, dropout = 0.1 }}

[train]
steps = 24
evaluate_every = 12
valid_lines = 20
learning_rate = 2e-2
schedule = "constant"
warmup_steps = 0

[decode]
beam_size = 4
max_length = 12

[export]
num_hypotheses = 3
max_source_length = 32
check_lines = 8
"""


def spell(number: int) -> tuple[str, str]:
    """A pair that can be learned: letters, and each of them as a word in upper case, in reverse."""
    letters = ""
    while number:
        number, digit = divmod(number, 4)
        letters += "abcd"[digit]
    return letters, " ".join(letters[::-1].upper())


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory) -> Path:
    """A recipe over 220 made-up pairs; its data folder lies beside it."""
    folder = tmp_path_factory.mktemp("tiny")
    pairs = [spell(number) for number in range(5, 225)]
    for name, part in (("train", pairs[:180]), ("valid", pairs[180:200]), ("test", pairs[200:])):
        (folder / f"{name}.tsv").write_text("".join(f"{s}\t{t}\n" for s, t in part), encoding="utf-8")
    recipe = folder / "tiny.toml"
    recipe.write_text(TINY.format(folder=json.dumps(str(folder))), encoding="utf-8")
    return recipe


@pytest.fixture(scope="session")
def tiny_run(tiny_recipe, tmp_path_factory) -> Path:
    """The folder of a finished run of the tiny recipe. Tests must not change it."""
    from tfseq2seq import runs
    from tfseq2seq.config import load_recipe

    folder = tmp_path_factory.mktemp("runs") / "tiny"
    runs.train_run(load_recipe(tiny_recipe), folder, Console(quiet=True))
    return folder
