import json
import math

import pytest

from tfseq2seq.config import ConfigError, Run, load_recipe, override, parse_recipe, save_config

RECIPE = """
name = "words"
task = "pronunciation"

[data]
train = ["train.en", "train.fr"]

[data.source_tokenizer]
kind = "characters"

[model.encoder]
units = 64

[train]
learning_rate = 2

[decode]
beam_size = 8
"""


ALIGNED: dict = {"data": {"alignments": "train.align"}, "train": {"guided_alignment_weight": 0.5}}


def complaint(values):
    with pytest.raises(ConfigError) as error:
        parse_recipe(values, "recipe.toml")
    return str(error.value)


def recipe_file(folder, text=RECIPE, name="recipe.toml"):
    path = folder / name
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_a_recipe_overrides_the_defaults_it_names_and_no_others(tmp_path):
    run = load_recipe(recipe_file(tmp_path))
    assert (run.name, run.task, run.data.train) == ("words", "pronunciation", ["train.en", "train.fr"])
    assert (run.model.encoder.units, run.model.encoder.cell) == (64, "lstm")
    assert (run.data.source_tokenizer.kind, run.data.target_tokenizer.kind) == ("characters", "unigram")
    assert (run.train.learning_rate, run.decode.beam_size) == (2.0, 8)
    assert run.export == Run(name="defaults").export


def test_a_saved_config_holds_every_default_and_reads_back_as_the_same_run(tmp_path):
    run = load_recipe(recipe_file(tmp_path))
    save_config(run, tmp_path / "config.json")
    assert load_recipe(tmp_path / "config.json") == run
    saved = json.loads((tmp_path / "config.json").read_text(encoding="utf-8"))
    assert saved["train"]["label_smoothing"] == 0.1 and saved["train"]["max_minutes"] is None


def test_overrides_reach_into_tables_that_the_file_does_not_hold(tmp_path):
    run = load_recipe(recipe_file(tmp_path), {"train.steps": 7, "export.check_lines": 3, "name": "other"})
    assert (run.train.steps, run.train.learning_rate, run.export.check_lines) == (7, 2.0, 3)
    assert run.name == "other"


@pytest.mark.parametrize(
    ("beam_size", "given", "exported"), [(1, None, 1), (3, None, 3), (4, None, 4), (8, None, 4), (8, 6, 6), (1, 1, 1)])
def test_exported_hypotheses_follow_the_beam_unless_their_number_is_given(tmp_path, beam_size, given, exported):
    run = parse_recipe({"name": "words", "export": {} if given is None else {"num_hypotheses": given}, "decode": {
        "beam_size": max(beam_size, given or 1)}})
    save_config(run, tmp_path / "config.json")  # as a run keeps it
    run = override(load_recipe(tmp_path / "config.json"), {"decode.beam_size": beam_size}, ["decode", "export"])
    assert run.num_exported == exported


def test_a_run_cannot_be_changed_after_it_was_checked():
    with pytest.raises(ValueError, match="frozen"):
        Run(name="words").name = "others"


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({"modle": {}}, "unknown key 'modle'. Did you mean 'model'? Known here: name, task, data, model,"),
        (
            {"model": {"encoder": {"unit": 3}}},
            "unknown key 'model.encoder.unit'. Did you mean 'units'? Known here: kind, preset, units, cell, layers,",
        ),
        ({"decode": {"zebra": 1}}, "unknown key 'decode.zebra'. Known here: method, beam_size, num_hypotheses,"),
        (
            {"data": {"target_tokenizer": {"vocabulary": 9}}},
            "unknown key 'data.target_tokenizer.vocabulary'. Did you mean 'vocabulary_size'? Known here: ",
        ),
    ],
)
def test_an_unknown_key_is_met_with_its_file_and_the_nearest_name(values, text):
    message = complaint({"name": "words", **values})
    assert message.startswith(f"recipe.toml: {text}")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"train": {"steps": "many"}}, "'train.steps': Input should be a valid integer"),
        ({"train": {"steps": 12.5}}, "'train.steps': Input should be a valid integer"),
        ({"train": {"steps": True}}, "'train.steps': Input should be a valid integer"),
        ({"train": {"steps": "12"}}, "'train.steps': Input should be a valid integer"),
        ({"train": {"max_minutes": [1]}}, "'train.max_minutes': Input should be a valid number"),
        ({"task": 3}, "'task': Input should be a valid string"),
        ({"model": 3}, "'model' must be a table"),
        ({"model": {"encoder": "lstm"}}, "'model.encoder' must be a table"),
        ({"data": {"train": 3}}, "'data.train' must be of type str or list[str]"),
        ({"data": {"train": ["a", 3]}}, "'data.train' must be of type str or list[str]"),
        ({"train": {"optimizer_options": {"exclude_layers": [3]}}},
         "'train.optimizer_options.exclude_layers' must be of type bool or int or float or list[str]"),
    ],
)
def test_a_wrong_type_is_one_line_with_key_and_value(values, line):
    message = complaint({"name": "words", **values})
    received = values
    while isinstance(received, dict):
        received = next(iter(received.values()))
    assert message.startswith(f"recipe.toml: {line}")
    assert message.endswith(f" Received: {received!r}.")
    assert "\n" not in message


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"train": {"steps": 0}}, "'train.steps': Input should be greater than or equal to 1. Received: 0."),
        ({"train": {"profile_steps": [9]}}, "'train': profile_steps needs two steps, the first and the last"),
        ({"train": {"profile_steps": [9, 8]}}, "'train': profile_steps needs two steps, the first and the last"),
        ({"train": {"profile_steps": [0, 8]}}, "'train.profile_steps.0': Input should be greater than or equal to 1."),
        ({"train": {"label_smoothing": 1}}, "'train.label_smoothing': Input should be less than 1."),
        ({"decode": {"beam_size": 257}}, "'decode.beam_size': Input should be less than or equal to 256."),
        ({"train": {"learning_rate": math.nan}}, "'train.learning_rate': Input should be a finite number"),
        ({"train": {"learning_rate": math.inf}}, "'train.learning_rate': Input should be a finite number"),
        ({"decode": {"length_penalty": -1}}, "'decode.length_penalty': Input should be greater than or"),
        ({"decode": {"coverage_penalty": -1}}, "'decode.coverage_penalty': Input should be greater than or"),
        ({"decode": {"max_length_ratio": 0}}, "'decode.max_length_ratio': Input should be greater than 0."),
        ({"decode": {"repetition_penalty": 0}}, "'decode.repetition_penalty': Input should be greater than 0."),
        ({"decode": {"block_ngrams": -1}}, "'decode.block_ngrams': Input should be greater than or equal to 0."),
        ({"decode": {"top_p": 0}}, "'decode.top_p': Input should be greater than 0."),
        ({"decode": {"top_p": 1.5}}, "'decode.top_p': Input should be less than or equal to 1."),
        ({"decode": {"min_p": 1}}, "'decode.min_p': Input should be less than 1."),
        ({"decode": {"top_k": -1}}, "'decode.top_k': Input should be greater than or equal to 0."),
        ({"decode": {"num_groups": 0}}, "'decode.num_groups': Input should be greater than or equal to 1."),
        ({"decode": {"method": "beem"}}, "'decode.method' must be one of beam, sample. Did you mean 'beam'?"),
        ({"decode": {"minimum_risk": "ter"}}, "'decode.minimum_risk' must be one of chrf, bleu."),
        ({"name": "../up"}, "'name': String should match pattern"),
    ],
)
def test_a_value_out_of_range_is_refused(values, line):
    message = complaint({"name": "words", **values})
    assert message.startswith(f"recipe.toml: {line}")
    assert "\n" not in message


def test_what_was_received_is_shown_as_it_was():
    assert complaint({"name": "../up"}).endswith("Received: '../up'.")


def test_a_word_that_is_no_choice_is_met_with_the_nearest_choice():
    assert complaint({"name": "words", "model": {"decoder": {"cell": "lsmt"}}}) == (
        "recipe.toml: 'model.decoder.cell' must be one of lstm, gru, gru_reset_before, layer_norm_lstm. "
        "Did you mean 'lstm'? Received: 'lsmt'."
    )
    assert complaint({"name": "words", "data": {"source_tokenizer": {"kind": 7}}}) == (
        "recipe.toml: 'data.source_tokenizer.kind' must be one of unigram, bpe, characters, bytes, words. "
        "Received: 7."
    )


def test_a_missing_name_is_asked_for():
    assert complaint({"task": "translation"}) == "recipe.toml: 'name' is needed: add it. Received: no value."


@pytest.mark.parametrize(
    ("values", "line"),
    [
        (
            {"decode": {"beam_size": 2, "num_hypotheses": 3}},
            "'decode': num_hypotheses must be at most beam_size. Received: num_hypotheses=3, beam_size=2.",
        ),
        (
            {"decode": {"min_length": 9, "max_length": 8}},
            "'decode': min_length must be at most max_length. Received: min_length=9, max_length=8.",
        ),
        (
            {"decode": {"beam_size": 4, "num_groups": 3}},
            "'decode': num_groups must divide beam_size. Received: num_groups=3, beam_size=4.",
        ),
        (
            {"decode": {"method": "sample", "stop": "first"}},
            "'decode': finish, stop and wait_for belong to method = \"beam\": each draw ends by itself. "
            "Received: finish=\"all\", stop=\"first\", wait_for=None.",
        ),
        (
            {"model": {"encoder": {"merge_states": True}, "decoder": {"kind": "transformer"}}},
            "'model': merge_states would learn nothing, as no decoder reads the last states: leave it out. "
            "Received: decoder.kind = \"transformer\", bridge = \"zero\".",
        ),
        (
            {"data": {"alignments": "train.align"}},
            "data.alignments and train.guided_alignment_weight belong together: set both or none. Received: "
            "alignments='train.align', guided_alignment_weight=0.0.",
        ),
        (
            {**ALIGNED, "model": {"decoder": {"kind": "recurrent"}}},
            "train.guided_alignment_weight needs a decoder with attention: \"attentional\" or \"transformer\". "
            "Received: guided_alignment_weight=0.5, decoder.kind = \"recurrent\".",
        ),
        (
            {**ALIGNED, "train": {**ALIGNED["train"], "teacher_forcing_ratio": 0.5}},
            "train.guided_alignment_weight needs the true tokens, whose alignment is known: set "
            "teacher_forcing_ratio = 1. Received: teacher_forcing_ratio=0.5.",
        ),
        (
            {"data": {**ALIGNED["data"], "source_separator": "|||"}, "train": ALIGNED["train"],
             "model": {"encoder": {"kind": "parallel", "encoders": [{"units": 8}, {"units": 8}]}}},
            "data.alignments needs lines of one source: leave out data.source_separator. Received: "
            "source_separator='|||'.",
        ),
        (
            {"decode": {"coverage_penalty": 0.2}, "model": {"decoder": {"kind": "recurrent"}}},
            "decode.coverage_penalty needs a decoder with attention: \"attentional\" or \"transformer\". Received: "
            "coverage_penalty=0.2, decoder.kind = \"recurrent\".",
        ),
        (
            {"decode": {"method": "sample", "num_groups": 2}},
            "'decode': num_groups belongs to method = \"beam\": draws are independent of each other. "
            "Received: num_groups=2.",
        ),
        (
            {"decode": {"minimum_risk": "chrf"}},
            "'decode': minimum_risk needs method = \"sample\": it compares draws. "
            "Received: minimum_risk=\"chrf\", method=\"beam\".",
        ),
        (
            {"decode": {"temperature": 0.5, "top_k": 3}},
            "'decode': temperature, top_k, top_p and min_p need method = \"sample\"; a beam search draws nothing. "
            "Received: temperature=0.5, top_k=3, top_p=1.0, min_p=0.0.",
        ),
        (
            {"decode": {"beam_size": 2}, "export": {"num_hypotheses": 3}},
            "export.num_hypotheses must be at most decode.beam_size; set both, or leave it out to follow the beam. "
            "Received: export.num_hypotheses=3, decode.beam_size=2.",
        ),
        (
            {"model": {"share_embeddings": "all"}},
            'model.share_embeddings = "all" needs data.share_tokenizer = true: one table can only serve one '
            "vocabulary. Received: share_tokenizer = false.",
        ),
    ],
)
def test_settings_that_contradict_each_other_are_refused(values, line):
    assert complaint({"name": "words", **values}) == f"recipe.toml: {line}"


def test_every_wrong_key_gets_its_own_line():
    message = complaint({"name": "words", "train": {"steps": 0, "stepz": 1}, "decode": {"beam": 2}})
    keys = [line.split("'")[1] for line in message.splitlines()]
    assert keys == ["train.steps", "train.stepz", "decode.beam"]


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("broken.toml", "name = \n", r"broken\.toml: not valid TOML: .*line 1"),
        ("twice.toml", 'name = "a"\nname = "b"\n', r"twice\.toml: not valid TOML: .*line 2"),
        ("broken.json", '{"name": ', r"broken\.json: not valid JSON: .*line 1"),
        ("list.json", "[1]", r"list\.json: 'recipe' must be a table. Received: \[1\]\."),
        ("latin.toml", b'name = "caf\xe9"', r"latin\.toml: cannot read the recipe: .*utf-8.*position 11"),
        ("empty.toml", "", r"empty\.toml: 'name' is needed"),
    ],
)
def test_a_file_that_is_no_recipe_is_named(tmp_path, name, content, text):
    with pytest.raises(ConfigError, match=text):
        load_recipe(recipe_file(tmp_path, content, name), {"train.steps": 5})


def test_a_file_that_cannot_be_opened_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"absent\.toml: cannot read the recipe: No such file or directory$") as error:
        load_recipe(tmp_path / "absent.toml")
    assert str(error.value).count("absent.toml") == 1
    with pytest.raises(ConfigError, match="cannot read the recipe: Is a directory$"):
        load_recipe(tmp_path)


def test_an_override_below_a_plain_value_is_refused(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot set 'name\.first': 'name' is not a table.*'words'"):
        load_recipe(recipe_file(tmp_path), {"name.first": "a"})


def test_an_override_is_checked_like_the_file(tmp_path):
    with pytest.raises(ConfigError, match=r"recipe\.toml: unknown key 'train\.step'. Did you mean 'steps'"):
        load_recipe(recipe_file(tmp_path), {"train.step": 5})


@pytest.mark.parametrize("key, near", [
    ("decod.beam_size", "decode.beam_size"), ("beam_size", "decode.beam_size"), ("decode.beam_siz", "beam_size"),
    ("beamsize", "decode.beam_size"), ("check_lines", "export.check_lines")])
def test_a_mistyped_override_of_a_trained_run_is_met_with_the_nearest_key(key, near):
    with pytest.raises(ConfigError, match=f"Did you mean '{near}'") as error:
        override(Run(name="words"), {key: 3}, ["decode", "export"])
    assert key in str(error.value)


def test_an_override_of_a_table_that_trained_weights_rest_on_gets_no_hint():
    with pytest.raises(ConfigError, match=r"--set can change decode\.\* and .* trained. Received: train.seed"):
        override(Run(name="words"), {"train.seed": 3}, ["decode", "export"])


@pytest.mark.parametrize("key, near", [("steps", "train.steps"), ("model.beam_size", "decode.beam_size")])
def test_a_key_without_its_table_is_met_with_both(tmp_path, key, near):
    with pytest.raises(ConfigError, match=f"unknown key '{key}'. Did you mean '{near}'"):
        load_recipe(recipe_file(tmp_path), {key: 5})


RECURRENT, TRANSFORMER = {"kind": "recurrent", "units": 8}, {"kind": "transformer", "units": 16, "heads": 2}


def parallel(encoders, **decoder):
    return {
        "name": "words", "data": {"source_separator": "|||"},
        "model": {"encoder": {"kind": "parallel", "encoders": encoders}, "decoder": decoder}}


def test_states_of_parallel_encoders_are_copied_as_so_many_layers():
    decoder = {"bridge": "copy", "units": 16}
    assert parse_recipe(parallel([RECURRENT, RECURRENT], layers=2, **decoder))
    assert "needs the same cell, layers and width" in complaint(parallel([RECURRENT, RECURRENT], layers=1, **decoder))
    assert parse_recipe(parallel([RECURRENT, TRANSFORMER], bridge="dense"))


def test_a_learned_pooling_that_nothing_reads_is_refused():
    pooled = {**TRANSFORMER, "pooling": "attentive"}
    assert "would learn nothing" in complaint(parallel([RECURRENT, pooled], kind="attentional"))
    assert parse_recipe(parallel([RECURRENT, pooled], kind="attentional", bridge="pooled"))
    assert parse_recipe({"name": "words", "model": {"encoder": pooled, "decoder": {"kind": "recurrent"}}})


@pytest.mark.parametrize(
    ("model", "text"),
    [
        ({"encoder": {"kind": "transfomer"}}, "'model.encoder.kind' must be one of recurrent, convolutional, tr"),
        ({"encoder": {**TRANSFORMER, "heads": 3}}, "units must be a multiple of heads. Received: units=16, heads=3."),
        ({"encoder": {"kind": "convolutional", "kernel_size": 4}}, "kernel_size must be odd"),
        ({"encoder": {"kind": "convolutional", "max_positions": 64}}, "max_positions must reach the longest encoder"),
        # Long enough for answers, not for targets to score.
        ({"decoder": {"kind": "transformer", "positions": "learned", "max_positions": 128}},
         "max_positions must reach the longest decoder input, 256 tokens"),
        ({"encoder": {"merge_states": True, "bidirectional": False}}, "merge_states needs two directions"),
        ({"encoder": {"kind": "sequence", "encoders": [TRANSFORMER, {"unit": 3}]}},
         "unknown key 'model.encoder.encoders.1.unit'. Did you mean 'units'?"),
        ({"encoder": {"kind": "parallel", "encoders": [TRANSFORMER, TRANSFORMER]}}, "belong together"),
        ({"decoder": {"attention": "multi_head", "heads": 3}}, "units that are a multiple of heads"),
        ({"encoder": TRANSFORMER, "decoder": {"bridge": "dense"}}, "needs an encoder with a last state"),
    ],
)
def test_a_network_that_cannot_be_is_refused_with_the_key(model, text):
    assert text in complaint({"name": "words", "model": model})


def test_a_preset_sets_the_sizes_that_the_recipe_does_not():
    table = {"preset": "base", "encoder": {"kind": "transformer", "layers": 2}, "decoder": {"kind": "transformer"}}
    model = parse_recipe({"name": "words", "model": table}).model
    assert (model.embedding_units, model.encoder.units, model.decoder.feed_forward_units) == (512, 512, 2048)
    assert (model.encoder.layers, model.decoder.layers) == (2, 6)
    assert parse_recipe({"name": "words", "model": {"decoder": {"preset": "tiny"}}}).model.decoder.units == 128


@pytest.mark.parametrize("train, text", [
    ({"teacher_forcing_schedule": "linear", "teacher_forcing_ratio": 0.2}, "teacher_forcing_k is at most 1"),
    ({"teacher_forcing_schedule": "exponential", "teacher_forcing_ratio": 0, "teacher_forcing_k": 2}, "k=2.0"),
    ({"teacher_forcing_schedule": "inverse_sigmoid", "teacher_forcing_ratio": 0, "teacher_forcing_k": 0.5}, "k=0.5"),
    ({"teacher_forcing_k": 0.5}, "not for \"constant\""),
    ({"teacher_forcing_schedule": "linear", "teacher_forcing_k": 0.1}, "set it below 1"),
])
def test_a_schedule_of_teacher_forcing_needs_its_numbers(train, text):
    assert text in complaint({"name": "words", "train": train})


def test_xla_cannot_sample_step_by_step():
    train = {"teacher_forcing_ratio": 0.5, "jit_compile": True}
    assert "by step, as XLA needs" in complaint({"name": "words", "train": train})
    assert parse_recipe({"name": "words", "train": train, "model": {"decoder": TRANSFORMER}}).train.jit_compile


def test_a_schedule_of_teacher_forcing_goes_with_any_decoder():
    train = {"teacher_forcing_schedule": "linear", "teacher_forcing_ratio": 0.2, "teacher_forcing_k": 1e-4}
    for decoder in ({}, TRANSFORMER):
        run = parse_recipe({"name": "words", "train": train, "model": {"decoder": decoder}})
        assert (run.train.teacher_forcing_ratio, run.train.teacher_forcing_k) == (0.2, 1e-4)


def test_settings_of_draws_go_with_draws():
    draws = {"method": "sample", "temperature": 0.5, "top_k": 3, "top_p": 0.9, "min_p": 0.1, "minimum_risk": "bleu"}
    decode = parse_recipe({"name": "words", "decode": draws}).decode
    assert {name: getattr(decode, name) for name in draws} == draws
    groups = parse_recipe({"name": "words", "decode": {"beam_size": 6, "num_groups": 3}}).decode
    assert (groups.num_groups, groups.diversity_strength) == (3, 0.5)
