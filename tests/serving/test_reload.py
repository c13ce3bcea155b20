"""Versions and models that come and go while requests are answered."""

import contextlib
import gc
import shutil
import threading
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import grpc
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    get_model_status_pb2,
    model_management_pb2,
    model_service_pb2_grpc,
    prediction_service_pb2_grpc,
)

from serving import servables
from serving.answers import read_config_file
from serving.errors import RequestError, ServerError
from serving.folders import LABELS, change_labels
from serving.server import EmbeddedServer
from serving.settings import ServedModel
from tests.serving.small import MODEL, a_request, texts_of

CODE = grpc.StatusCode


class Asked:
    """A server whose folders are looked at when the test says so, and its stubs."""

    def __init__(self, folder, **settings):
        self.server = EmbeddedServer(folder, poll_seconds=0, **settings)

    def __enter__(self):
        self.server.start()
        self.channel = grpc.insecure_channel(self.server.address)
        self.prediction = prediction_service_pb2_grpc.PredictionServiceStub(self.channel)
        self.management = model_service_pb2_grpc.ModelServiceStub(self.channel)
        return self

    def __exit__(self, *_):
        self.channel.close()
        self.server.stop()

    def poll(self, times=2):
        for _ in range(times):
            self.server.models.poll()

    def answer(self, *texts, **spec):
        return texts_of(self.prediction.Predict(a_request(*texts, **spec), timeout=30))

    def states(self, model=MODEL):
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = model
        found = self.management.GetModelStatus(request, timeout=30).model_version_status
        names = get_model_status_pb2.ModelVersionStatus.State
        return {each.version: names.Name(each.state) for each in found}

    def reload(self, *models):
        request = model_management_pb2.ReloadConfigRequest()
        request.config.model_config_list.SetInParent()
        for each in models:
            model = request.config.model_config_list.config.add(model_platform="tensorflow")
            for field in ("name", "base_path", "model_platform"):
                if field in each:
                    setattr(model, field, str(each[field]))
            for version in each.get("specific", ()):
                model.model_version_policy.specific.versions.append(version)
            if each.get("all"):
                model.model_version_policy.all.SetInParent()
            if "latest" in each:
                model.model_version_policy.latest.num_versions = each["latest"]
            model.version_labels.update(each.get("labels", {}))
        return self.management.HandleReloadConfigRequest(request, timeout=60)

    def refused(self, *models):
        with pytest.raises(grpc.RpcError) as caught:
            self.reload(*models)
        return caught.value.code(), caught.value.details()


@pytest.fixture
def folder(small, tmp_path):
    """Version 1; `small` holds the 2 that may come."""
    shutil.copytree(small / "1", tmp_path / "1")
    return tmp_path


def publish(small, folder, version=2):
    shutil.copytree(small / str(version), folder / ".aside")
    (folder / ".aside").rename(folder / str(version))


def test_a_new_version_takes_over_and_no_request_is_lost_meanwhile(small, folder):
    with Asked(folder) as asked, ThreadPoolExecutor(4) as pool:
        stopping, answers, answered = threading.Event(), [], threading.Semaphore(0)

        def ask(caller):
            number = 0
            while not stopping.is_set():
                number += 1
                response = asked.prediction.Predict(a_request(f"{caller}.{number}"), timeout=30)
                answers.append((f"{caller}.{number}", texts_of(response)[0], response.model_spec.version.value))
                answered.release()
            return number

        callers = [pool.submit(ask, caller) for caller in range(4)]
        try:
            publish(small, folder)
            asked.poll()
            for _ in range(len(answers) + 40):  # some from after the change
                assert answered.acquire(timeout=60)
        finally:
            stopping.set()  # else the pool waits for ever for callers of a test that failed
        assert sum(each.result(30) for each in callers) == len(answers)
        assert all(text == f"{asked_for}@{version}" for asked_for, text, version in answers)
        assert [version for *_, version in answers][-8:] == [2] * 8
        assert {1, 2} == {version for *_, version in answers}
        assert asked.states() == {2: "AVAILABLE", 1: "END"}


def test_the_folder_is_watched(small, folder):
    with EmbeddedServer(folder, poll_seconds=0.02) as server:
        stub = prediction_service_pb2_grpc.PredictionServiceStub(grpc.insecure_channel(server.address))
        publish(small, folder)
        answers = (texts_of(stub.Predict(a_request("a"), timeout=30)) for _ in range(100_000))
        assert next(answer for answer in answers if answer != ["a@1"]) == ["a@2"]


def test_a_version_that_is_being_written_is_not_loaded(small, folder):
    with Asked(folder) as asked:
        (folder / "2").mkdir()
        for name in ("fingerprint.pb", "saved_model.pb", "variables"):  # the weights come last
            source = small / "2" / name
            (shutil.copytree if source.is_dir() else shutil.copy)(source, folder / "2" / name)
            asked.poll(1)
            assert asked.states() == {1: "AVAILABLE"}
        asked.poll(1)
        assert asked.states() == {2: "AVAILABLE", 1: "END"}


def test_a_broken_version_leaves_the_old_one_and_is_tried_again_when_it_changes(small, folder):
    with Asked(folder) as asked:
        (folder / "2").mkdir()
        (folder / "2" / "saved_model.pb").write_bytes(b"broken")
        asked.poll()
        request = get_model_status_pb2.GetModelStatusRequest()
        request.model_spec.name = MODEL
        status = asked.management.GetModelStatus(request, timeout=30).model_version_status[0]
        assert (status.version, status.state, status.status.error_code) == (2, 50, 2)  # END, UNKNOWN
        assert "not a SavedModel that can be loaded" in status.status.error_message
        assert asked.states() == {2: "END", 1: "AVAILABLE"}
        assert asked.answer("a") == ["a@1"]
        shutil.rmtree(folder / "2")
        publish(small, folder)
        asked.poll()
        assert asked.answer("a") == ["a@2"]


@pytest.mark.parametrize("name", ["saved_model.pb", "assets.extra/tf_serving_warmup_requests"])
def test_whatever_a_broken_version_raises_other_models_get_their_new_ones(small, tmp_path, name):
    for model in ("one", "two"):
        (tmp_path / model).mkdir()
        shutil.copytree(small / "1", tmp_path / model / "1")
    models = [ServedModel(name=model, folder=tmp_path / model) for model in ("one", "two")]
    with Asked(None, models=models) as asked:
        publish(small, tmp_path / "one")
        broken = tmp_path / "one" / "2" / name
        broken.parent.mkdir(exist_ok=True)
        with tf.io.TFRecordWriter(str(broken)) as writer:  # fine as a file, and no message
            writer.write(b"\xff\xff")
        publish(small, tmp_path / "two")
        asked.poll(3)
        assert asked.states("one") == {2: "END", 1: "AVAILABLE"}
        assert (asked.answer("a", model="one"), asked.answer("a", model="two")) == (["a@1"], ["a@2"])


def test_a_label_that_moves_costs_no_request(small, folder):
    publish(small, folder)
    change_labels(folder, {"stable": 1})
    with Asked(folder) as asked, ThreadPoolExecutor(2) as pool:
        stopping = threading.Event()

        def ask():
            texts = set()
            while not stopping.is_set():
                spec = a_request(label="stable").model_spec
                with asked.server.models.hold(spec) as servable:
                    texts.add(servable.version)
            return texts

        asking = [pool.submit(ask) for _ in range(2)]
        try:
            for version in (2, 1, 2):
                change_labels(folder, {"stable": version})
                asked.poll()
        finally:
            stopping.set()
        assert set.union(*(each.result(30) for each in asking)) >= {2}


def test_a_broken_version_is_not_loaded_again_and_again(folder, monkeypatch):
    with Asked(folder) as asked:
        (folder / "2").mkdir()
        (folder / "2" / "saved_model.pb").write_bytes(b"broken")
        tried, load = [], servables.load
        monkeypatch.setattr(servables, "load", lambda *args: tried.append(args[0]) or load(*args))
        asked.poll(5)
        assert tried == [2]


def test_a_version_that_vanishes_from_the_disk_is_served_on(folder):
    with Asked(folder) as asked:
        shutil.rmtree(folder / "1")
        asked.poll()
        assert asked.answer("a") == ["a@1"]


def test_an_old_version_is_unloaded_when_the_last_request_that_holds_it_ends(small, folder, monkeypatch):
    entered, go_on, predict = threading.Event(), threading.Event(), servables.Servable.predict

    def slow(self, request):
        if request.inputs["text"].string_val[0] == b"slow":
            entered.set()
            assert go_on.wait(30)
        return predict(self, request)

    gc.disable()  # else Python's own collection, at whatever time, may do it
    with Asked(folder) as asked, ThreadPoolExecutor(1) as pool, contextlib.ExitStack() as after:
        after.callback(gc.enable)
        monkeypatch.setattr(servables.Servable, "predict", slow)
        with asked.server.models.hold(a_request().model_spec) as servable:
            alive = weakref.ref(servable.model)
        del servable
        late = pool.submit(asked.answer, "slow")
        assert entered.wait(30)
        publish(small, folder)
        asked.poll()
        assert asked.states() == {2: "AVAILABLE", 1: "UNLOADING"}
        assert asked.answer("a") == ["a@2"]
        assert alive() is not None
        go_on.set()
        assert late.result(30) == ["slow@1"]
        deadline = time.monotonic() + 60
        while asked.states()[1] != "END":  # set after the late one was answered
            assert time.monotonic() < deadline
        while alive() is not None:  # its variables are given back
            assert time.monotonic() < deadline
            time.sleep(0.01)


def test_labels_versions_and_several_models_by_a_new_config(small):
    both = {"name": MODEL, "base_path": small, "specific": [1, 2]}
    with Asked(small) as asked:
        assert asked.answer("a") == ["a@2"]
        response = asked.reload(both)
        assert response.status.error_code == 0
        assert asked.states() == {1: "AVAILABLE", 2: "AVAILABLE"}
        asked.reload(both | {"labels": {"stable": 1, "canary": 2}})
        assert [asked.answer("a", label=label) for label in ("stable", "canary")] == [["a@1"], ["a@2"]]
        assert asked.answer("a") == ["a@2"]
        asked.reload(both, {"name": "other", "base_path": small, "specific": [1]})
        assert asked.answer("a", model="other") == ["a@1"]
        with pytest.raises(grpc.RpcError, match="Unrecognized servable version label: stable"):
            asked.answer("a", label="stable")
        asked.reload({"name": "other", "base_path": small, "all": True})
        assert asked.states("other") == {1: "AVAILABLE", 2: "AVAILABLE"}
        with pytest.raises(grpc.RpcError, match="NOT_FOUND"):
            asked.answer("a")
        asked.reload({"name": "other", "base_path": small, "latest": 1})
        assert asked.states("other") == {1: "END", 2: "AVAILABLE"}


def test_labels_beside_the_versions_are_followed_and_what_they_name_is_served(small, folder):
    publish(small, folder)
    change_labels(folder, {"stable": 1})
    with Asked(folder) as asked:
        assert asked.states() == {1: "AVAILABLE", 2: "AVAILABLE"}
        assert (asked.answer("a"), asked.answer("a", label="stable")) == (["a@2"], ["a@1"])
        (folder / "3").mkdir()
        (folder / "3" / "saved_model.pb").write_bytes(b"broken")
        change_labels(folder, {"stable": 3})
        asked.poll()
        assert asked.answer("a", label="stable") == ["a@1"]  # until what it names is there
        change_labels(folder, {"stable": 2, "new": 2})
        asked.poll()
        assert (asked.answer("a", label="stable"), asked.answer("a", label="new")) == (["a@2"], ["a@2"])
        assert asked.states() == {1: "END", 2: "AVAILABLE", 3: "END"}
        (folder / LABELS).write_text("broken")
        asked.poll()
        assert asked.answer("a", label="stable") == ["a@2"]
        (folder / LABELS).unlink()
        asked.poll()
        with pytest.raises(grpc.RpcError, match="Unrecognized servable version label: stable"):
            asked.answer("a", label="stable")


def test_a_config_that_cannot_be_served_is_refused_and_changes_nothing(small, tmp_path):
    good = {"name": MODEL, "base_path": small}
    (tmp_path / "1").mkdir()
    (tmp_path / "1" / "saved_model.pb").write_bytes(b"broken")
    with Asked(small) as asked:
        for models, code, details in (
            ([good, good], CODE.INVALID_ARGUMENT, f"Illegal to list model {MODEL} multiple times in config list"),
            (
                [good | {"model_platform": "pytorch"}],
                CODE.INVALID_ARGUMENT,
                f"Model {MODEL} requests unsupported platform pytorch",
            ),
            ([good | {"model_platform": ""}], CODE.INVALID_ARGUMENT, "Illegal setting neither ModelServerConfig"),
            ([good | {"base_path": "a/b"}], CODE.INVALID_ARGUMENT, "to have an absolute path or URI"),
            ([good | {"base_path": "/no/where"}], CODE.INVALID_ARGUMENT, "Could not find base path /no/where"),
            (
                [good | {"labels": {"stable": 1}}],
                CODE.FAILED_PRECONDITION,
                f"Request to assign label to version 1 of model {MODEL}, which is not currently available for "
                "inference",
            ),
        ):
            found = asked.refused(*models)
            assert (found[0], details) == (code, details) and details in found[1]
            assert asked.states() == {2: "AVAILABLE"}
        with pytest.raises(grpc.RpcError, match="ServerModelConfig type not supported"):
            asked.management.HandleReloadConfigRequest(model_management_pb2.ReloadConfigRequest(), timeout=30)
        code, details = asked.refused(good, {"name": "bad", "base_path": tmp_path})
        assert (code, details) == (CODE.UNKNOWN, "Some models did not become available: {bad}")
        assert (asked.answer("a"), asked.states("bad")) == (["a@2"], {1: "END"})


def test_several_models_from_the_start(small):
    models = [
        ServedModel(name="one", folder=small, versions=(1,), labels={"stable": 1}),
        ServedModel(name="two", folder=small),
    ]
    with Asked(None, models=models) as asked:
        assert asked.answer("a", model="one", label="stable") == ["a@1"]
        assert asked.answer("a", model="two") == ["a@2"]
    with pytest.raises(ServerError, match="Label 'old' of model one names version 1, which is not loaded"):
        EmbeddedServer(models=[ServedModel(name="one", folder=small, labels={"old": 1})]).start()
    with pytest.raises(ValueError, match="another name for each model"):
        EmbeddedServer(models=models * 2)
    with pytest.raises(ValueError, match="needs a folder or models"):
        EmbeddedServer(small, models=models)


def test_a_file_of_models_is_read_as_tensorflow_serving_reads_it(small, tmp_path):
    file = tmp_path / "models.config"
    specific = "model_version_policy { specific { versions: 1 } } version_labels { key: 'stable' value: 1 }"
    models = [
        f'config {{ name: "{name}" base_path: "{small}" model_platform: "tensorflow" {more} }}\n'
        for name, more in (("one", specific), ("two", ""))]
    file.write_text(f"model_config_list {{ {''.join(models)} }}")
    assert read_config_file(file) == [
        ServedModel(name="one", folder=small, versions=(1,), labels={"stable": 1}),
        ServedModel(name="two", folder=small, versions=1)]
    for text, message in (
        ("model_config_list {", "not a ModelServerConfig"), ("", "at least one config"),
        ('model_config_list { config { name: "a" base_path: "b" } }', "neither ModelServerConfig::model_type"),
    ):
        file.write_text(text)
        with pytest.raises(ValueError, match=message):
            read_config_file(file)
    with pytest.raises(ValueError, match="No such file"):
        read_config_file(tmp_path / "missing")


def test_so_many_of_the_latest_are_chosen(small):
    versions = dict.fromkeys(range(1, 6), small)
    assert list(ServedModel(name="a", folder=small, versions=3).choose(versions)) == [3, 4, 5]
    assert list(ServedModel(name="a", folder=small, versions="all").choose(versions)) == [1, 2, 3, 4, 5]
    assert list(ServedModel(name="a", folder=small, versions=(9, 2)).choose(versions)) == [2]
    with pytest.raises(ValueError, match="at least 1 of the latest"):
        ServedModel(name="a", folder=small, versions=0)


def test_a_spec_without_a_loaded_version_is_refused(small):
    hold = EmbeddedServer(small).models.hold(a_request().model_spec)  # not started
    with pytest.raises(RequestError, match="Servable not found for request: Latest"), hold:
        pass
