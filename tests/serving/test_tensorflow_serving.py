"""What is written for TensorFlow Serving is read by its own protos and by the schemas of Compose and Kubernetes."""

import importlib.resources
import json
import os
import shlex
import shutil
import subprocess
import sys

import jsonschema
import pytest
import yaml
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format, wrappers_pb2
from tensorflow_serving.config import model_server_config_pb2

from serving.tensorflow_serving.settings import IMAGE, write_settings
from tests.serving.kubernetes_schema import KINDS
from tfseq2seq import cli

_Field = descriptor_pb2.FieldDescriptorProto


def message(name, fields):
    """A message of tensorflow-serving-api's sources that the package leaves out: name -> number, type or another's."""
    file = descriptor_pb2.FileDescriptorProto(
        name=f"tests/{name}.proto", package="tests", syntax="proto3", dependency=["google/protobuf/wrappers.proto"])
    for each, its_fields in fields.items():
        described = file.message_type.add(name=each)
        for field, (number, type_, repeated) in its_fields.items():
            added = described.field.add(
                name=field, number=number, label=_Field.LABEL_REPEATED if repeated else _Field.LABEL_OPTIONAL)
            if isinstance(type_, str):
                added.type, added.type_name = _Field.TYPE_MESSAGE, type_
            else:
                added.type = type_
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"tests.{name}"))


# tensorflow_serving/servables/tensorflow/session_bundle_config.proto, and config/monitoring_config.proto
INT64 = ".google.protobuf.Int64Value"
BATCHING = {"BatchingParameters": {
    "max_batch_size": (1, INT64, False), "batch_timeout_micros": (2, INT64, False),
    "max_enqueued_batches": (3, INT64, False), "num_batch_threads": (4, INT64, False),
    "thread_pool_name": (5, ".google.protobuf.StringValue", False),
    "allowed_batch_sizes": (6, _Field.TYPE_INT64, True)}}
MONITORING = {
    "PrometheusConfig": {"enable": (1, _Field.TYPE_BOOL, False), "path": (2, _Field.TYPE_STRING, False)},
    "MonitoringConfig": {"prometheus_config": (1, ".tests.PrometheusConfig", False)}}

# tensorflow_serving/model_servers/main.cc
FLAGS = {
    "port", "rest_api_port", "rest_api_num_threads", "model_config_file", "model_config_file_poll_wait_seconds",
    "allow_version_labels_for_unavailable_models", "enable_batching", "batching_parameters_file",
    "monitoring_config_file", "grpc_max_threads", "tensorflow_inter_op_parallelism", "tensorflow_intra_op_parallelism",
    "max_num_load_retries", "xla_cpu_compilation_enabled"}


def make_export(folder, versions, labels=None, compiled=(), weights="float32", size=1000):
    for version in versions:
        path = folder / str(version)
        (path / "assets.extra").mkdir(parents=True)
        (path / "saved_model.pb").write_bytes(b"x" * size)
        config = {"decode": {"jit_compile": version in compiled}}
        (path / "assets.extra" / "config.json").write_text(json.dumps(config))
        (path / "assets.extra" / "export.json").write_text(json.dumps({"weights": weights}))
    if labels:
        (folder / "labels.json").write_text(json.dumps(labels))
    return folder


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Of two models, one with labels, below a folder whose name asks for quotes."""
    folder = tmp_path_factory.mktemp("kit") / "it's $HOME"
    exports = {
        "translation": make_export(folder / "one", [1, 2, 7], {"stable": 1, "canary": 7}),
        "Spelling_2": make_export(folder / "two", [3, 12])}
    output = folder / "settings"
    write_settings(exports, output, name="words", cores=6, max_batch_size=16, replicas=3)
    return folder, output


def parsed(text, of):
    return text_format.Parse(text, of)


@pytest.mark.parametrize("where", ["models.config", "models.container.config"])
def test_models_config_is_read_by_the_servers_proto(written, where):
    folder, output = written
    config = parsed((output / where).read_text("utf-8"), model_server_config_pb2.ModelServerConfig())
    labelled, plain = config.model_config_list.config
    assert (labelled.name, plain.name) == ("translation", "Spelling_2")
    assert labelled.model_platform == plain.model_platform == "tensorflow"
    paths = [f"{folder}/one", f"{folder}/two"] if where == "models.config" else [
        "/models/translation", "/models/Spelling_2"]
    assert [labelled.base_path, plain.base_path] == paths
    assert list(labelled.model_version_policy.specific.versions) == [1, 7]
    assert dict(labelled.version_labels) == {"stable": 1, "canary": 7}
    assert plain.model_version_policy.latest.num_versions == 1 and not plain.version_labels


def test_the_highest_version_is_served_beside_those_with_a_label(tmp_path):
    write_settings({"m": make_export(tmp_path / "m", [1, 2, 3], {"stable": 2})}, tmp_path)
    config = parsed((tmp_path / "models.config").read_text(), model_server_config_pb2.ModelServerConfig())
    assert list(config.model_config_list.config[0].model_version_policy.specific.versions) == [2, 3]


def test_batching_and_monitoring_are_read_by_the_servers_protos(written):
    batching = parsed((written[1] / "batching_parameters.pbtxt").read_text(), message("BatchingParameters", BATCHING)())
    assert (batching.max_batch_size.value, batching.batch_timeout_micros.value) == (16, 2000)
    assert (batching.num_batch_threads.value, batching.max_enqueued_batches.value) == (3, 100)
    assert not batching.allowed_batch_sizes
    monitoring = parsed((written[1] / "monitoring.config").read_text(), message("MonitoringConfig", MONITORING)())
    assert monitoring.prometheus_config.enable
    assert monitoring.prometheus_config.path == "/monitoring/prometheus/metrics"


def as_flags(arguments):
    found = dict(argument.removeprefix("--").split("=", 1) for argument in arguments)
    assert len(found) == len(arguments) and set(found) <= FLAGS
    return found


def test_the_start_command_runs_the_server_with_its_files(written, tmp_path):
    server = tmp_path / "tensorflow_model_server"
    server.write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    server.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    ran = subprocess.run(
        [str(written[1] / "start.sh"), "--port=9000"], env=environment, capture_output=True, text=True, check=True)
    *arguments, last = ran.stdout.splitlines()
    flags = as_flags(arguments)
    assert last == "--port=9000"  # of two, the server takes the later
    for name in ("model_config_file", "batching_parameters_file", "monitoring_config_file"):
        assert os.path.isfile(flags[name])
    assert flags["model_config_file"] == str(written[1] / "models.config")
    assert (flags["grpc_max_threads"], flags["max_num_load_retries"]) == ("64", "0")
    assert flags["tensorflow_inter_op_parallelism"] == "6" and flags["tensorflow_intra_op_parallelism"] == "2"
    assert "xla_cpu_compilation_enabled" not in flags


@pytest.mark.skipif(shutil.which("tensorflow_model_server") is None, reason="tensorflow_model_server is not on PATH")
def test_the_server_knows_its_flags():
    told = subprocess.run(["tensorflow_model_server", "--help"], capture_output=True, text=True, check=False)
    assert all(f"--{flag}=" in told.stdout + told.stderr for flag in FLAGS)


def test_xla_is_turned_on_where_a_served_version_needs_it(tmp_path):
    for name, compiled, labels, expected in (
            ("new", [2], None, True), ("old", [1], None, False), ("labelled", [1], {"stable": 1}, True)):
        write_settings(
            {"m": make_export(tmp_path / name, [1, 2], labels, compiled)}, tmp_path / f"{name} settings")
        start = (tmp_path / f"{name} settings" / "start.sh").read_text()
        assert ("--xla_cpu_compilation_enabled=true" in start) == expected


def test_the_compose_file_keeps_to_the_compose_specification(written):
    folder, output = written
    composed = yaml.safe_load((output / "docker-compose.yaml").read_text("utf-8"))
    schema = importlib.resources.files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    jsonschema.validate(composed, json.loads(schema.read_text()))
    service = composed["services"]["tensorflow-serving"]
    flags = as_flags(service["command"])
    sources = {each["target"]: each["source"].replace("$$", "$") for each in service["volumes"]}
    assert sources == {
        "/config": ".", "/models/translation": f"{folder}/one", "/models/Spelling_2": f"{folder}/two"}
    assert flags["model_config_file"] == "/config/models.container.config" and service["image"] == IMAGE
    assert all(each["read_only"] for each in service["volumes"])
    assert (output / "models.container.config").is_file()
    check = service["healthcheck"]["test"][-1]
    subprocess.run(["bash", "-n", "-c", check], check=True)
    assert "GET /v1/models/translation HTTP/1.0\\r\\n\\r\\n" in check and len(shlex.split(check)) > 5


def manifests(output):
    return {path.name: yaml.safe_load(path.read_text("utf-8")) for path in sorted((output / "kubernetes").iterdir())}


def test_the_manifests_keep_to_the_kubernetes_api(written):
    found = manifests(written[1])
    assert sorted(each["kind"] for each in found.values()) == sorted(KINDS)
    for each in found.values():
        jsonschema.validate(each, KINDS[each["kind"]])


def test_the_whole_schemas_of_kubernetes_take_the_manifests(written):
    kubernetes_validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    for each in manifests(written[1]).values():
        kubernetes_validate.validate(each, "1.32", strict=True)


def test_the_manifests_speak_of_each_other(written):
    found = {each["kind"]: each for each in manifests(written[1]).values()}
    assert {each["metadata"]["name"] for each in found.values()} == {"words", "words-models"}
    pod = found["Deployment"]["spec"]["template"]
    labels = pod["metadata"]["labels"]
    assert found["Deployment"]["spec"]["selector"]["matchLabels"] == labels == found["Service"]["spec"]["selector"]
    assert found["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"] == {
        "apiVersion": "apps/v1", "kind": "Deployment", "name": "words"}
    assert found["HorizontalPodAutoscaler"]["spec"]["minReplicas"] == 3
    (container,) = pod["spec"]["containers"]
    ports = {each["name"]: str(each["containerPort"]) for each in container["ports"]}
    flags = as_flags(container["args"])
    assert ports == {"grpc": flags["port"], "rest": flags["rest_api_port"]}
    assert {each["targetPort"] for each in found["Service"]["spec"]["ports"]} == set(ports)
    for probe in ("startupProbe", "readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] in ports
        assert container[probe]["httpGet"]["path"].startswith("/v1/models/translation")
    mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
    volumes = {each.pop("name"): each for each in pod["spec"]["volumes"]}
    assert set(mounts) == set(volumes)
    assert volumes["config"]["configMap"]["name"] == found["ConfigMap"]["metadata"]["name"]
    claim = volumes["models"]["persistentVolumeClaim"]["claimName"]
    assert claim == found["PersistentVolumeClaim"]["metadata"]["name"]
    files = [flags[name] for name in ("model_config_file", "batching_parameters_file", "monitoring_config_file")]
    assert sorted(files) == sorted(f"{mounts['config']}/{name}" for name in found["ConfigMap"]["data"])


def test_the_config_map_holds_the_files_as_they_are(written):
    for name, text in manifests(written[1])["configuration.yaml"]["data"].items():
        assert text == (written[1] / name).read_text("utf-8")


def test_memory_has_room_for_the_weights_as_they_are_computed_with(tmp_path):
    size = 2**20
    requests = {}
    for weights in ("float32", "float16", "int8"):
        exported = make_export(tmp_path / weights, [1], weights=weights, size=size)
        write_settings({"m": exported}, tmp_path / f"{weights} settings")
        container = manifests(tmp_path / f"{weights} settings")["deployment.yaml"]["spec"]["template"]["spec"][
            "containers"][0]
        requests[weights] = int(container["resources"]["requests"]["memory"].removesuffix("Mi")) - 1024
    assert requests == {"float32": 3, "float16": 5, "int8": 9}  # twice, rounded up, as settings are written too


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"cores": -1}, "needs cores >= 1. Received: -1"),
        ({"max_batch_size": 0}, "needs max_batch_size >= 1"),
        ({"replicas": 0}, "needs replicas >= 1"),
        ({"name": "My_model"}, "lower-case letters, digits and '-', a letter first. Received: 'My_model'"),
        ({"exports": {}}, "at least one export"),
        ({"exports": {"a/b": "x"}}, "needs models named by letters"),
        ({"exports": {"a": "nowhere"}}, "nowhere: a server needs a folder"),
    ])
def test_what_cannot_be_served_is_refused_before_anything_is_written(tmp_path, changes, text):
    settings = {"exports": {"m": make_export(tmp_path / "m", [1])}, **changes}
    with pytest.raises(ValueError, match=text):
        write_settings(settings.pop("exports"), tmp_path / "out", **settings)
    assert not (tmp_path / "out").exists()


def test_the_command_names_models_and_files(tmp_path, monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["tfseq2seq", "serving-config", *map(str, arguments)])
        with pytest.raises(SystemExit) as stopped:
            cli.main()
        return stopped.value.code or 0

    one, two = make_export(tmp_path / "one", [1]), make_export(tmp_path / "two", [1])
    assert run(one, "--output", tmp_path / "single") == 0
    files = {path for path in (tmp_path / "single").rglob("*") if path.is_file()}
    assert set(capsys.readouterr().out.splitlines()) == {str(path) for path in files}
    assert 'name: "tfseq2seq"' in (tmp_path / "single" / "models.config").read_text()
    assert run(f"a={one}", f"b={two}", "--output", tmp_path / "both") == 0
    assert (tmp_path / "both" / "models.config").read_text().count("name:") == 2
    assert run(one, two, "--output", tmp_path / "both") == 2
    assert run(f"a={one}", f"a={two}", "--output", tmp_path / "both") == 2
