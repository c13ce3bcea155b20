"""Each of the five applications, by its recipe made small: trained, exported, served, asked over gRPC.

Of real data, a few hundred pairs; what is learned of them says nothing, so what counts is that the server answers as
the run does.
"""

import os
from pathlib import Path

import pytest
from rich.console import Console

import pipelines
from serving.client import Client
from serving.server import EmbeddedServer
from tfseq2seq import runs
from tfseq2seq.config import load_recipe

DATA = os.environ.get("TFSEQ2SEQ_DATA")
pytestmark = pytest.mark.skipif(DATA is None, reason="set TFSEQ2SEQ_DATA to the folder of the real data")

SMALL = {
    "train.steps": 2, "train.evaluate_every": 2, "train.warmup_steps": 0, "train.valid_lines": 4,
    "decode.max_length": 12, "decode.beam_size": 2, "export.num_hypotheses": 1, "export.check_lines": 2,
    "data.num_lengths": 1}
TRANSFORMER = {
    f"model.{side}.{key}": value for side in ("encoder", "decoder")
    for key, value in {"layers": 1, "units": 16, "heads": 2, "feed_forward_units": 16}.items()}
SUBWORDS = {f"data.{side}_tokenizer.vocabulary_size": 400 for side in ("source", "target")}
# Subwords so few are short, and lines of them long.
TEXT = TRANSFORMER | SUBWORDS | {
    "model.embedding_units": 16, "data.max_source_length": 600, "data.max_target_length": 300}
# Application -> recipe, data, what makes the network small.
APPLICATIONS = {
    "translation": ("multi30k_transformer", "mt_multi30k_en_de", TEXT),
    "dialogue": ("dialogue_chitchat", "dialogue_chitchat", TEXT | {
        "decode.method": "beam", "decode.temperature": 1.0, "decode.top_p": 1.0}),
    "summarization": ("summarization_debian", "summarization_debian", TEXT | {"model.copying": True}),
    "speech": ("spoken_digits", "asr_fsdd", {"model.embedding_units": 8, "model.decoder.units": 16, "model.encoder": {
        "kind": "sequence", "encoders": [
            {"kind": "subsampling", "layers": 2, "units": 8},
            {"kind": "conformer", "layers": 1, "units": 8, "heads": 2, "feed_forward_units": 8}]}}),
    "code": ("nl2bash", "code_nl2bash", TEXT)}


def few_pairs(application, folder):
    """The first pairs of each split; paths of recordings lead to where they are."""
    for split, count in (("train", 200), ("valid", 8), ("test", 4)):
        lines = (Path(DATA) / APPLICATIONS[application][1] / f"{split}.tsv").read_text("utf-8").splitlines()[:count]
        if application == "speech":
            lines = [f"{Path(DATA) / path}\t{text}" for path, text, *_ in (line.split("\t") for line in lines)]
        (folder / f"{split}.tsv").write_text("\n".join(lines) + "\n", "utf-8")


@pytest.mark.parametrize("application", APPLICATIONS)
def test_it_is_trained_exported_served_and_answers_over_grpc_as_the_run_does(application, tmp_path):
    recipe, _, smaller = APPLICATIONS[application]
    (tmp_path / "data").mkdir()
    few_pairs(application, tmp_path / "data")
    path = Path(pipelines.__file__).parent / "recipes" / f"{recipe}.toml"
    run = load_recipe(path, SMALL | smaller | {"data.corpus": None, "data.folder": str(tmp_path / "data")})
    folder = tmp_path / "run"
    runs.train_run(run, folder, Console(quiet=True))
    run, prepared = runs.open_run(folder)
    runs.export_run(run, prepared, folder, folder / "export", None, lambda *_: None)
    sources = [source for source, _ in prepared.test[:4]]
    expected = [row[0].text for row in runs.predict_lines(run, prepared, folder, sources, 1, lambda *_: None)]
    contents = [Path(source).read_bytes() for source in sources] if application == "speech" else sources
    with EmbeddedServer(folder / "export", poll_seconds=0) as server, Client(server.address) as client:
        assert [hypotheses[0].text for hypotheses in client.predict(contents)] == expected
