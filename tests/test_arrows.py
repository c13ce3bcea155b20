"""The import arrows of the packages: who may know whom."""

from pathlib import Path

import pytest

from tests.arrows import Import, cycles, loaded_by, read_tree, violations

CONTRACTS = ["tfseq2seq.config.*", "tfseq2seq.tokenizers.*", "tfseq2seq.structures", "tfseq2seq.files"]
LIBRARY = [
    *CONTRACTS,
    "tfseq2seq.layers.*",
    "tfseq2seq.encoders.*",
    "tfseq2seq.decoders.*",
    "tfseq2seq.model",
    "tfseq2seq.losses",
    "tfseq2seq.optimization",
    "tfseq2seq.distribution",
    "tfseq2seq.teacher_forcing",
    "tfseq2seq.decoding.*",
    "tfseq2seq.evaluation",
    "tfseq2seq.errors",
    "tfseq2seq.plots",
    "tfseq2seq.checkpoints",
]

# Module -> what it may import of ours. "name.*" is a package and all that lies in it.
ARROWS = {
    "tfseq2seq": [],  # public names load when they are asked for
    "tfseq2seq.config.*": [],
    "tfseq2seq.structures": [],
    "tfseq2seq.files": [],
    "tfseq2seq.errors": [],
    "tfseq2seq.plots": [],
    "tfseq2seq.alarms": [],
    "tfseq2seq.cpu": [],
    "tfseq2seq.quiet": [],
    "tfseq2seq.ports": [],
    "tfseq2seq.tokenizers.*": ["tfseq2seq.structures", "tfseq2seq.files"],
    "tfseq2seq.layers.*": ["tfseq2seq.structures"],
    "tfseq2seq.encoders.*": ["tfseq2seq.layers.*", "tfseq2seq.structures"],
    "tfseq2seq.decoders.*": ["tfseq2seq.layers.*", "tfseq2seq.structures"],
    "tfseq2seq.model": [
        "tfseq2seq.encoders.*",
        "tfseq2seq.decoders.*",
        "tfseq2seq.layers.*",
        "tfseq2seq.structures",
        "tfseq2seq.config.*",
        "tfseq2seq.distribution",
        "tfseq2seq.fit_functions",
        "tfseq2seq.losses",
        "tfseq2seq.teacher_forcing",
    ],
    "tfseq2seq.teacher_forcing": ["tfseq2seq.structures"],
    "tfseq2seq.distribution": ["tfseq2seq.errors"],
    "tfseq2seq.fit_functions": [],
    "tfseq2seq.losses": ["tfseq2seq.structures", "tfseq2seq.config.*"],
    "tfseq2seq.optimization": ["tfseq2seq.structures", "tfseq2seq.config.*"],
    "tfseq2seq.syntax": [],
    "tfseq2seq.likeness": [],
    "tfseq2seq.evaluation": [
        "tfseq2seq.structures", "tfseq2seq.config.*", "tfseq2seq.likeness", "tfseq2seq.syntax"],
    "tfseq2seq.decoding.*": ["tfseq2seq.structures"],  # it gets a step function, never the model
    # Joins model, tokenizers and search: strings in, strings out, the same graph in training and export.
    "tfseq2seq.generation": [
        *CONTRACTS,
        "tfseq2seq.model",
        "tfseq2seq.model_search",
        "tfseq2seq.decoding.*",
        "tfseq2seq.options",
        "tfseq2seq.alignment",
        "pipelines.text",
        "pipelines.audio",
        "pipelines.frames",
        "pipelines.recordings",
        "pipelines.wav",
        "pipelines.batching",
    ],
    "tfseq2seq.model_search": ["tfseq2seq.model", "tfseq2seq.decoding.*", "tfseq2seq.structures"],
    "tfseq2seq.options": ["tfseq2seq.config.*", "tfseq2seq.decoding.*", "tfseq2seq.structures", "pipelines.text"],
    "tfseq2seq.alignment": ["tfseq2seq.structures", "tfseq2seq.tokenizers.*"],
    "tfseq2seq.output": ["tfseq2seq.files", "tfseq2seq.generation"],
    "tfseq2seq.unknown": ["tfseq2seq.tokenizers.*", "tfseq2seq.structures"],
    # It is handed lines, of a file or a pipe.
    "tfseq2seq.prediction": ["tfseq2seq.generation", "tfseq2seq.output", "tfseq2seq.unknown"],
    "tfseq2seq.checkpoints": LIBRARY,
    "tfseq2seq.description": LIBRARY,
    "tfseq2seq.callbacks": [*LIBRARY, "tfseq2seq.generation", "tfseq2seq.console", "tfseq2seq.interruption"],
    "tfseq2seq.significance": ["tfseq2seq.evaluation"],
    "tfseq2seq.noise": ["tfseq2seq.structures"],
    "tfseq2seq.starting": ["tfseq2seq.model"],
    # A teacher is another run, which it opens.
    "tfseq2seq.distillation": [
        "tfseq2seq.checkpoints",
        "tfseq2seq.config.*",
        "tfseq2seq.layers.*",
        "tfseq2seq.losses",
        "tfseq2seq.model",
        "tfseq2seq.structures",
        "pipelines.prepare",
    ],
    "tfseq2seq.averaging": ["tfseq2seq.checkpoints"],
    "tfseq2seq.rate_control": ["tfseq2seq.callbacks", "tfseq2seq.distribution"],
    "tfseq2seq.watching": ["tfseq2seq.callbacks", "tfseq2seq.plots"],
    "tfseq2seq.hparams": ["tfseq2seq.config.*"],
    # It is handed prepared pairs: where they were obtained and how they were checked is not its business.
    "tfseq2seq.training": [
        *LIBRARY,
        "tfseq2seq.generation",
        "tfseq2seq.callbacks",
        "tfseq2seq.console",
        "tfseq2seq.averaging",
        "tfseq2seq.noise",
        "tfseq2seq.starting",
        "tfseq2seq.distillation",
        "tfseq2seq.rate_control",
        "pipelines.alignments",
        "tfseq2seq.alarms",
        "tfseq2seq.watching",
        "tfseq2seq.hparams",
        "pipelines.batching",
        "pipelines.feeding",
        "pipelines.prepare",
    ],
    "pipelines.*": [*CONTRACTS, "tfseq2seq.quiet", "tfseq2seq.ports"],  # never the model
    "serving.signatures": [],
    "serving.protocol": [],
    "serving": [],
    "serving.client.*": ["serving.signatures", "serving.protocol"],
    "serving.bench": ["serving.client.*", "serving.signatures"],
    "serving.folders": ["tfseq2seq.files"],
    "serving.checksums": ["serving.folders"],
    "serving.weights": [],
    "serving.replay": ["serving.signatures"],
    "serving.checking": [
        "serving.checksums", "serving.folders", "serving.replay", "serving.servables", "serving.signatures"],
    "serving.tensorflow_serving": [],
    "serving.tensorflow_serving.settings": ["serving.folders", "tfseq2seq.files"],
    "serving.starting": ["serving.errors", "serving.folders", "serving.settings", "tfseq2seq.ports"],
    # The embedded server, from the model to the ports.
    "serving.errors": [],
    "serving.settings": [],
    "serving.batching": ["serving.errors", "serving.settings"],
    "serving.servables": ["serving.batching", "serving.errors", "serving.folders", "serving.signatures"],
    "serving.versions": [
        "serving.batching", "serving.errors", "serving.folders", "serving.servables", "serving.settings"],
    "serving.workers": [],
    "serving.answers": [
        "serving.errors", "serving.folders", "serving.settings", "serving.signatures", "serving.versions"],
    "serving.records": ["serving.answers", "serving.errors"],
    "serving.security": ["serving.errors", "serving.settings"],
    "serving.health": [],
    "serving.grpc_services": [
        "serving.answers", "serving.errors", "serving.health", "serving.records", "serving.workers"],
    "serving.grpc_server": ["serving.grpc_services"],
    "serving.json_tensors": ["serving.errors"],
    "serving.http_server": [],
    "serving.rest": [
        "serving.answers", "serving.errors", "serving.http_server", "serving.json_tensors", "serving.records",
        "serving.settings", "serving.workers"],
    "serving.server": [
        "serving.answers", "serving.batching", "serving.errors", "serving.folders", "serving.grpc_server",
        "serving.grpc_services", "serving.http_server", "serving.records", "serving.rest", "serving.security",
        "serving.settings", "serving.signatures", "serving.starting", "serving.versions", "serving.workers"],
    "serving.export": [
        *LIBRARY,
        "tfseq2seq.generation",
        "pipelines.text",
        "pipelines.audio",
        "pipelines.wav",
        "serving.checksums",
        "serving.folders",
        "serving.replay",
        "serving.servables",
        "serving.signatures",
        "serving.weights",
    ],
    # Lines in, answers out, as `tfseq2seq.prediction` writes them.
    "serving.bulk": [
        "serving.folders",
        "serving.servables",
        "serving.signatures",
        "tfseq2seq.arguments",
        "tfseq2seq.generation",
        "tfseq2seq.output",
        "pipelines.batching",
        "pipelines.beam_files",
    ],
    # Other systems' models become runs, which are opened and compared.
    "tfseq2seq.converters": ["tfseq2seq.converters.*"],
    "tfseq2seq.converters.*": [
        *LIBRARY, "tfseq2seq.converters.*", "tfseq2seq.generation", "tfseq2seq.training", "pipelines.audio",
        "pipelines.frames", "pipelines.pairs", "pipelines.prepare", "pipelines.wav"],
    "tfseq2seq.console": [],
    "tfseq2seq.interruption": [],
    # What a command's arguments may be, without TensorFlow.
    "tfseq2seq.arguments": [
        "tfseq2seq.config.*",
        "tfseq2seq.evaluation",
        "pipelines.folders",
        "pipelines.origins",
        "pipelines.tasks.*",
    ],
    # What one does with a run's folder, and the commands around it, may know everything.
    "tfseq2seq.rounding": [
        "tfseq2seq.config.*", "tfseq2seq.console", "tfseq2seq.evaluation", "tfseq2seq.generation", "serving.weights"],
    "tfseq2seq.perplexity": [],
    "tfseq2seq.breakdown": ["tfseq2seq.evaluation", "tfseq2seq.likeness"],
    "tfseq2seq.assessment": ["tfseq2seq.*", "pipelines.*"],
    "tfseq2seq.charts": [],
    "tfseq2seq.report": [
        "tfseq2seq", "tfseq2seq.assessment", "tfseq2seq.breakdown", "tfseq2seq.charts", "tfseq2seq.evaluation",
        "tfseq2seq.plots", "tfseq2seq.significance"],
    "tfseq2seq.chat": ["tfseq2seq.*", "pipelines.*", "serving.client"],
    "tfseq2seq.runs": ["tfseq2seq.*", "pipelines.*", "serving.export"],
    "tfseq2seq.largest_batch": ["tfseq2seq.*", "pipelines.*"],
    "tfseq2seq.sequence_distillation": ["tfseq2seq.*", "pipelines.*"],
    "tfseq2seq.demo": ["tfseq2seq.*", "pipelines.*", "serving.*"],
    "tfseq2seq.cli": ["tfseq2seq.*", "pipelines.*", "serving.*"],
    "tfseq2seq.cli.*": ["tfseq2seq.*", "pipelines.*", "serving.*"],
}
TENSORFLOW = {"tensorflow", "tensorflow_text", "tensorflow_serving", "keras"}


@pytest.fixture(scope="module")
def tree():
    return read_tree(Path(__file__).resolve().parents[1])


def test_every_import_follows_the_arrows(tree):
    assert tree
    found = violations(tree, ARROWS)
    assert not found, "\n".join(found)


def test_no_imports_go_in_circles(tree):
    found = [" -> ".join(cycle) for cycle in cycles(tree)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    "module", ["serving.client", "serving.bench", "serving.starting", "tfseq2seq", "tfseq2seq.config"])
def test_light_modules_lead_to_no_tensorflow(tree, module):
    if module not in tree:
        pytest.skip(f"{module} is not part of this tree")
    assert not {name: chain for name, chain in loaded_by(module, tree).items() if name in TENSORFLOW}


@pytest.mark.parametrize(
    "module", ["tfseq2seq.cli", "tfseq2seq.arguments", "tfseq2seq.evaluation", "pipelines.origins", "pipelines.tasks"])
def test_what_judges_arguments_loads_tensorflow_inside_its_functions_alone(tree, module):
    if module not in tree:
        pytest.skip(f"{module} is not part of this tree")
    at_import = {name: [each for each in imports if not each.in_function] for name, imports in tree.items()}
    assert not TENSORFLOW & set(loaded_by(module, at_import))


# The checker itself, on small trees that break one rule each.

MADE_UP = {
    "tfseq2seq/__init__.py": "",
    "tfseq2seq/structures.py": "import tensorflow as tf",
    "tfseq2seq/layers/__init__.py": "from tfseq2seq.layers.bridge import Bridge",
    "tfseq2seq/layers/bridge.py": "from ..structures import PAD",
    "tfseq2seq/decoding/__init__.py": "from tfseq2seq.decoding.beam import search",
    "tfseq2seq/decoding/beam.py": "from tfseq2seq import structures",
    "tfseq2seq/model.py": "from tfseq2seq.layers import Bridge",
    "pipelines/__init__.py": "",
    "pipelines/text.py": "from tfseq2seq.structures import PAD",
    "serving/__init__.py": "",
    "serving/signatures.py": "NAMES = ()",
    "serving/client.py": "import grpc\nfrom serving import signatures",
}


def made_up(folder, changes):
    for name, text in (MADE_UP | changes).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return read_tree(folder)


def test_a_lawful_tree_passes(tmp_path):
    tree = made_up(tmp_path, {})
    assert not violations(tree, ARROWS)
    assert not cycles(tree)
    assert not TENSORFLOW & set(loaded_by("serving.client", tree))


@pytest.mark.parametrize(
    ("changes", "violation"),
    [
        (
            {"tfseq2seq/decoding/beam.py": "import tfseq2seq.model"},
            "tfseq2seq.decoding.beam:1 must not import tfseq2seq.model.",
        ),
        (
            {"tfseq2seq/decoding/beam.py": "def search():\n    from tfseq2seq.model import Seq2Seq"},
            "tfseq2seq.decoding.beam:2 must not import tfseq2seq.model.",
        ),
        (
            {"tfseq2seq/layers/bridge.py": "from .. import model"},
            "tfseq2seq.layers.bridge:1 must not import tfseq2seq.model.",
        ),
        (
            {"pipelines/text.py": "import importlib\nmodel = importlib.import_module('tfseq2seq.model')"},
            "pipelines.text:2 must not import tfseq2seq.model.",
        ),
        (
            {"tfseq2seq/model.py": "class Seq2Seq:\n    def data(self):\n        import pipelines.text"},
            "tfseq2seq.model:3 must not import pipelines.text.",
        ),
        (  # a module that this tree does not hold, but the arrows name
            {"tfseq2seq/losses.py": "from tfseq2seq import training"},
            "tfseq2seq.losses:1 must not import tfseq2seq.training.",
        ),
        (
            {"tfseq2seq/layers/bridge.py": "from tfseq2seq import *"},
            "tfseq2seq.layers.bridge:1 must not import tfseq2seq.",
        ),
        ({"tfseq2seq/oddments.py": ""}, "tfseq2seq.oddments has no place among the arrows; give it one."),
    ],
)
def test_an_import_against_the_arrows_is_found(tmp_path, changes, violation):
    assert violations(made_up(tmp_path, changes), ARROWS) == [violation]


@pytest.mark.parametrize(
    ("changes", "cycle"),
    [
        (
            {"tfseq2seq/layers/bridge.py": "from tfseq2seq.layers.attention import A",
             "tfseq2seq/layers/attention.py": "def attend():\n    from tfseq2seq.layers import bridge"},
            ["tfseq2seq.layers.bridge", "tfseq2seq.layers.attention", "tfseq2seq.layers.bridge"],
        ),
        (  # through a package's own names
            {"tfseq2seq/layers/bridge.py": "from tfseq2seq.layers import Bridge"},
            ["tfseq2seq.layers", "tfseq2seq.layers.bridge", "tfseq2seq.layers"],
        ),
        (  # importing serving.client runs serving/__init__.py first
            {"serving/__init__.py": "import pipelines.text", "pipelines/text.py": "import serving.client"},
            ["pipelines.text", "serving", "pipelines.text"],
        ),
    ],
)
def test_a_circle_is_found(tmp_path, changes, cycle):
    found = cycles(made_up(tmp_path, changes))
    assert len(found) == 1
    turns = [[*cycle[i:-1], *cycle[:i], cycle[i]] for i in range(len(cycle) - 1)]
    assert found[0] in turns


def test_tensorflow_behind_a_chain_of_imports_is_found(tmp_path):
    tree = made_up(
        tmp_path, {"serving/signatures.py": "def dtype():\n    from tfseq2seq.structures import PAD"}
    )
    assert loaded_by("serving.client", tree)["tensorflow"] == [
        "serving.client",
        "serving.signatures",
        "tfseq2seq.structures",
    ]


def test_tensorflow_in_the_package_of_a_module_is_found(tmp_path):
    tree = made_up(tmp_path, {"serving/__init__.py": "import tensorflow"})
    assert loaded_by("serving.client", tree)["tensorflow"] == ["serving"]


def test_imports_know_whether_they_stand_in_a_function(tmp_path):
    text = "import a\nif True:\n    import b.c\ndef f():\n    with x:\n        from d import e, g as h"
    tree = made_up(tmp_path, {"tfseq2seq/cli.py": text})
    assert tree["tfseq2seq.cli"] == [
        Import("a", 1, False),
        Import("b.c", 3, False),
        Import("d.e", 6, True),
        Import("d.g", 6, True),
    ]
