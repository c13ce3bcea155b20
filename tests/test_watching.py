"""What a training leaves for TensorBoard, read back by TensorBoard's own readers, and the same as JSON lines."""

import json
import types

import numpy as np
import pytest
import tensorflow as tf
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata
from tensorflow.tsl.profiler.protobuf import xplane_pb2

from pipelines.prepare import make_batches
from tfseq2seq import callbacks, checkpoints, runs
from tfseq2seq.callbacks import Progress
from tfseq2seq.config import load_recipe
from tfseq2seq.hparams import write_hparams
from tfseq2seq.training import load_generator
from tfseq2seq.watching import Log, Profile, WriteTraces

QUIET = Console(quiet=True)


def read(folder):
    events = EventAccumulator(str(folder / "logs"), size_guidance={"tensors": 0})
    events.Reload()
    return events


def rows_of(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def hparams_in(events):
    """The recipe's keys, and the tags of the metrics, as TensorBoard's HPARAMS tab reads them."""
    contents = events.PluginTagToContent(metadata.PLUGIN_NAME)
    start = metadata.parse_session_start_info_plugin_data(contents[metadata.SESSION_START_INFO_TAG])
    experiment = metadata.parse_experiment_plugin_data(contents[metadata.EXPERIMENT_TAG])
    assert set(start.hparams) <= {info.name for info in experiment.hparam_infos}
    first = [info.name for info in experiment.hparam_infos if info.differs]
    return start.hparams, [info.name.tag for info in experiment.metric_infos], first


def steps_in(folder):
    """For each profile that was written, the steps that are marked in it, and how many other events there are."""
    found = []
    for path in sorted(folder.glob("logs/plugins/profile/*/*.xplane.pb")):
        space, steps, others = xplane_pb2.XSpace.FromString(path.read_bytes()), set(), 0
        for plane in space.planes:
            for event in (event for line in plane.lines for event in line.events):
                if plane.event_metadata[event.metadata_id].name != "train":
                    others += 1
                    continue
                stats = {plane.stat_metadata[stat.metadata_id].name: stat for stat in event.stats}
                steps.add(stats["step_num"].int64_value or int(stats["step_num"].uint64_value))
        found.append((sorted(steps), others))
    return found


@pytest.fixture(scope="module")
def watched(tiny_recipe, tmp_path_factory):
    """The tiny run once more, resumed after 12 of its 24 steps, with a profile of 11 to 14."""
    folder = tmp_path_factory.mktemp("watched") / "run"
    for steps in (12, 24):
        run = load_recipe(tiny_recipe, {"train.steps": steps, "train.profile_steps": [11, 14]})
        runs.train_run(run, folder, QUIET)
    return folder


def test_the_recipe_and_the_metrics_are_there_to_be_compared(tiny_run, tiny_recipe):
    events = read(tiny_run)
    values, tags, first = hparams_in(events)
    assert values["train.learning_rate"].number_value == 0.02
    assert values["model.encoder.kind"].string_value == "recurrent"
    assert values["data.filter"].bool_value is True
    assert values["train.freeze"].string_value == "[]"
    assert "train.patience" not in values and "name" not in values  # None; changes nothing
    assert {"train.learning_rate", "model.encoder.units"} <= set(first)
    assert not {"train.label_smoothing", "data.batch_tokens"} & set(first)
    assert tags[:2] == ["valid/best_word_error_rate", "valid/word_error_rate"]
    written = set(events.Tags()["tensors"])
    assert set(tags) <= written and not {"valid/bleu", "valid/best_bleu"} & written


def test_the_best_metric_is_that_of_the_evaluations_so_far(tiny_run):
    best = read(tiny_run).Tensors("valid/best_word_error_rate")[-1]
    rates = [row["valid_word_error_rate"] for row in rows_of(tiny_run) if "valid_loss" in row]
    assert float(tf.make_ndarray(best.tensor_proto)) == pytest.approx(min(rates))

    stop, written = types.SimpleNamespace(agree=lambda: None, received=None), []
    evaluate = callbacks.Evaluate(
        Progress(), None, [], [], ("word_error_rate",), "word_error_rate", None, None, 0, stop, QUIET, [])
    evaluate.set_model(types.SimpleNamespace(moving_average=None))
    for value in (60.0, 40.0, 50.0, 30.0):
        def found(value=value):
            evaluate._keep_best(value)
            return {"loss": 1.0}, {"word_error_rate": value}, {}

        evaluate._evaluate, logs = found, {}
        evaluate.progress.step += 1
        evaluate.on_epoch_end(0, logs)
        written.append(logs["valid_best_word_error_rate"])
    assert written == [60, 40, 40, 30]


def test_a_resumed_run_is_one_session_with_the_keys_that_it_now_has(tiny_recipe, tmp_path):
    def write(**overrides):
        run = load_recipe(tiny_recipe, {f"train.{name}": value for name, value in overrides.items()})
        write_hparams(run, ["valid/loss"], tmp_path / "logs")
        (path,) = (tmp_path / "logs").iterdir()
        return path, path.read_bytes()

    first, again, longer = write(), write(), write(steps=48)
    assert first == again and longer[0] != first[0]
    values, tags, _ = hparams_in(read(tmp_path))
    assert (values["train.steps"].number_value, tags) == (48, ["valid/loss"])


def test_length_ratio_and_repetition_are_those_of_the_answers(tiny_run):
    run, prepared = runs.open_run(tiny_run)
    best = checkpoints.best_step(tiny_run / "checkpoints")
    lines = [source for source, _ in prepared.valid]
    answers = [answer[0].text.split() for answer in load_generator(run, prepared, tiny_run).answer(lines)]
    ratio = sum(map(len, answers)) / sum(len(target.split()) for _, target in prepared.valid)
    (row,) = [row for row in rows_of(tiny_run) if row["step"] == best and "valid_loss" in row]
    assert row["valid_length_ratio"] == pytest.approx(ratio)
    assert 0 <= row["valid_repetition"] <= 1
    events = read(tiny_run)
    found = {event.step: float(tf.make_ndarray(event.tensor_proto)) for event in events.Tensors("valid/length_ratio")}
    assert found[best] == pytest.approx(ratio)
    assert "valid/repetition" in events.Tags()["tensors"]


def test_a_profile_holds_its_steps_on_both_sides_of_an_evaluation_and_of_a_resumption(watched):
    found = steps_in(watched)
    assert [steps for steps, _ in found] == [[11, 12], [13, 14]]
    assert all(others > 100 for _, others in found)


def test_a_profile_and_a_resumption_change_no_weight(watched, tiny_run):
    def weights(folder):
        reader = tf.train.load_checkpoint(str(folder / "checkpoints" / "step-00000024" / "weights"))
        names = [name for name in reader.get_variable_to_shape_map() if name.startswith("weights/")]
        return {name: reader.get_tensor(name) for name in names}

    one, two = weights(watched), weights(tiny_run)
    assert one.keys() == two.keys() and len(one) > 5
    for name in one:
        np.testing.assert_array_equal(one[name], two[name])


def test_a_resumed_run_compares_as_one(watched):
    assert len(list((watched / "logs").glob("*.hparams"))) == 1
    values, _, _ = hparams_in(read(watched))
    assert values["train.steps"].number_value == 24


def test_the_batch_that_was_traced_is_named_at_its_step(watched):
    run, prepared = runs.open_run(watched)
    batches = make_batches(prepared, prepared.train, 1)
    rows = [row for row in rows_of(watched) if "trace_shape" in row]
    # One process traced at step 1, the resumed one at 13; lengths may vary from then on.
    assert [row["step"] for row in rows] == [1, 13]
    for row in rows:
        inputs = next(iter(batches.dataset(row["step"] - 1)))[0]
        assert row == {
            "step": row["step"], "traces": 1, "traced_for": "[?, ?] -> [?, ?]",
            "trace_shape": f"{list(inputs['source'].shape)} -> {list(inputs['target'].shape)}"}
    events = read(watched)
    texts = events.Tensors("train/trace_shape")
    assert [event.tensor_proto.string_val[0].decode() for event in texts] == [f"`{r['trace_shape']}`" for r in rows]


def test_xla_names_each_shape_when_it_comes_first_and_parts_the_rows_they_are_traced_for(tiny_recipe, tmp_path):
    settings = {"steps": 3, "evaluate_every": 3, "valid_lines": 2, "jit_compile": True, "accumulation_steps": 2}
    run = load_recipe(tiny_recipe, {f"train.{name}": value for name, value in settings.items()})
    runs.train_run(run, tmp_path / "run", QUIET)
    _, prepared = runs.open_run(tmp_path / "run")
    data = make_batches(prepared, prepared.train, 1).dataset()
    seen, expected = [], {}
    for step, (inputs, _, _) in enumerate(data.take(3), start=1):
        if (shape := f"{list(inputs['source'].shape)} -> {list(inputs['target'].shape)}") not in seen:
            seen.append(shape)
            expected[step] = shape
    rows = rows_of(tmp_path / "run")
    assert {row["step"]: row["compiled_shape"] for row in rows if "compiled_shape" in row} == expected
    assert len(expected) > 1
    traced = [row for row in rows if "trace_shape" in row]
    half = -(-int(seen[0][1 : seen[0].index(",")]) // 2)
    assert traced[0]["traced_for"].startswith(f"[{half}, ") and "?" in traced[-1]["traced_for"]
    assert {row["trace_shape"] for row in traced} <= set(seen)


def test_a_row_is_written_where_the_number_of_traces_grows(tmp_path):
    writer = tf.summary.create_file_writer(str(tmp_path / "logs"))
    progress = Progress()
    watch = WriteTraces(progress, Log(writer, tmp_path / "metrics.jsonl"), lambda step: (8, 5 + step, 3), 9)
    model = types.SimpleNamespace(jit_compile=False, num_traces=0, traced_for="[4, ?] -> [4, ?]")
    watch.set_model(model)
    for traces in (1, 1, 2, 2):
        progress.step, model.num_traces = progress.step + 1, traces
        watch.on_train_batch_end(0)
    assert [(row["step"], row["traces"], row["trace_shape"]) for row in rows_of(tmp_path)] == [
        (1, 1, "[8, 5] -> [8, 3]"), (3, 2, "[8, 7] -> [8, 3]")]


def test_an_interrupted_training_leaves_the_profile_of_its_steps(tiny_recipe, tmp_path, monkeypatch):
    count = callbacks.CountSteps.on_train_batch_end

    def interrupt(self, batch, logs=None):
        count(self, batch, logs)
        if self.progress.step == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(callbacks.CountSteps, "on_train_batch_end", interrupt)
    with pytest.raises(KeyboardInterrupt):
        runs.train_run(load_recipe(tiny_recipe, {"train.profile_steps": [2, 9]}), tmp_path / "run", QUIET)
    assert [steps for steps, _ in steps_in(tmp_path / "run")] == [[2, 3]]
    tf.profiler.experimental.start(str(tmp_path / "other"))  # fails while another one is on
    tf.profiler.experimental.stop()


def test_a_training_that_goes_back_profiles_no_step_twice(tmp_path, monkeypatch):
    calls = []
    monkeypatch.setattr(tf.profiler.experimental, "start", lambda folder: calls.append("start"))
    monkeypatch.setattr(tf.profiler.experimental, "stop", lambda: calls.append("stop"))
    progress = Progress(step=4)
    profile = Profile(progress, [6, 9], tmp_path)
    profile.set_model(types.SimpleNamespace(gradient_norm=1.0))

    def fit(until):
        profile.on_train_begin()
        while progress.step < until:
            profile.on_train_batch_begin(0)
            calls.append(progress.step + 1)
            profile.on_train_batch_end(0)
            progress.step += 1

    fit(8)  # where it diverges
    progress.step = 4
    fit(11)
    profile.stop()
    assert calls == [5, "start", 6, 7, 8, "stop", 5, 6, 7, 8, "start", 9, "stop", 10, 11]
