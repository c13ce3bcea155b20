"""TLS, certificates of clients, and the bearer token, on both ports."""

import http.client
import json
import ssl

import grpc
import pytest
import trustme
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc
from tensorflow_serving.apis import prediction_service_pb2_grpc

from serving.errors import ServerError
from serving.security import TOKEN_VARIABLE, is_allowed, read_token
from serving.server import EmbeddedServer
from serving.settings import Security
from tests.serving.small import a_request, texts_of

CODE = grpc.StatusCode
TOKEN = "a long secret"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Of a certificate authority, the server's certificate, and a client's."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    for name, certificate in (
        ("server", authority.issue_cert("127.0.0.1")), ("client", authority.issue_cert("someone@example.org")),
        ("stranger", trustme.CA().issue_cert("someone@example.org")),
    ):
        certificate.private_key_pem.write_to_path(str(folder / f"{name}.key"))
        certificate.cert_chain_pems[0].write_to_path(str(folder / f"{name}.pem"))
    return folder


@pytest.fixture(scope="module")
def server(small, files):
    security = Security(
        certificate=files / "server.pem", key=files / "server.key", client_ca=files / "ca.pem", token=TOKEN)
    with EmbeddedServer(small, poll_seconds=0, rest_port=0, security=security) as running:
        yield running


def channel_to(server, files, client="client"):
    client_files = [] if client is None else [(files / f"{client}.{end}").read_bytes() for end in ("key", "pem")]
    return grpc.secure_channel(
        server.address, grpc.ssl_channel_credentials((files / "ca.pem").read_bytes(), *client_files))


def predict(channel, **metadata):
    stub = prediction_service_pb2_grpc.PredictionServiceStub(channel)
    return texts_of(stub.Predict(a_request("a"), timeout=30, metadata=list(metadata.items())))


def test_grpc_needs_the_certificate_of_a_client_and_the_token(server, files):
    with channel_to(server, files) as channel:
        assert predict(channel, authorization=f"Bearer {TOKEN}") == ["a@2"]
        for metadata in ({}, {"authorization": "Bearer no"}, {"authorization": f"Basic {TOKEN}"}):
            with pytest.raises(grpc.RpcError) as caught:
                predict(channel, **metadata)
            assert caught.value.code() == CODE.UNAUTHENTICATED
    for client in (None, "stranger"):
        with channel_to(server, files, client) as channel, pytest.raises(grpc.RpcError) as caught:
            predict(channel, authorization=f"Bearer {TOKEN}")
        assert caught.value.code() == CODE.UNAVAILABLE
    with grpc.insecure_channel(server.address) as channel, pytest.raises(grpc.RpcError):
        predict(channel, authorization=f"Bearer {TOKEN}")


def test_health_needs_no_token_and_reflection_does(server, files):
    with channel_to(server, files) as channel:
        check = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=30)
        assert check.status == health_pb2.HealthCheckResponse.SERVING
        stub = reflection_pb2_grpc.ServerReflectionStub(channel)
        asked = [reflection_pb2.ServerReflectionRequest(list_services="")]
        with pytest.raises(grpc.RpcError) as caught:
            list(stub.ServerReflectionInfo(iter(asked), timeout=30))
        assert caught.value.code() == CODE.UNAUTHENTICATED
        metadata = [("authorization", f"Bearer {TOKEN}")]
        assert list(stub.ServerReflectionInfo(iter(asked), timeout=30, metadata=metadata))


def rest(server, files, path, client="client", body=None, **headers):
    context = ssl.create_default_context(cafile=files / "ca.pem")
    if client is not None:
        context.load_cert_chain(files / f"{client}.pem", files / f"{client}.key")
    connection = http.client.HTTPSConnection("127.0.0.1", server.rest_port, timeout=30, context=context)
    try:
        connection.request("POST" if body else "GET", path, body, headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def test_rest_needs_the_certificate_of_a_client_and_the_token(server, files):
    path, body = "/v1/models/tfseq2seq:predict", json.dumps({"instances": ["a"]})
    status, answer = rest(server, files, path, body=body, Authorization=f"bearer {TOKEN}")
    assert (status, json.loads(answer)["predictions"][0]["text"]) == (200, ["a@2"])
    for path_ in (path, "/monitoring/prometheus/metrics", "/v1/models/tfseq2seq"):
        status, answer = rest(server, files, path_, body=body if path_ == path else None)
        assert (status, json.loads(answer)) == (401, {"error": "A valid bearer token is needed."})
    assert rest(server, files, "/healthz")[0] == 200
    for client in (None, "stranger"):
        with pytest.raises((ssl.SSLError, ConnectionError)):
            rest(server, files, "/healthz", client)
    connection = http.client.HTTPConnection("127.0.0.1", server.rest_port, timeout=30)
    connection.request("GET", "/healthz")
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        connection.getresponse()


def test_without_a_token_everyone_is_let_in():
    assert is_allowed(Security(), "")
    assert not is_allowed(Security(token="a"), "") and not is_allowed(Security(token="a"), "Bearer \x80")
    assert is_allowed(Security(token="a"), "Bearer a")


def test_the_token_comes_from_a_file_or_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv(TOKEN_VARIABLE, raising=False)
    assert read_token(None) is None
    monkeypatch.setenv(TOKEN_VARIABLE, "from there")
    assert read_token(None) == "from there"
    file = tmp_path / "token"
    file.write_text("from here\n")
    assert read_token(file) == "from here"
    file.write_text("\n")
    with pytest.raises(ValueError, match="needs to hold the bearer token. Received: nothing"):
        read_token(file)
    with pytest.raises(ValueError, match="the bearer token cannot be read"):
        read_token(tmp_path / "missing")


def test_a_token_does_not_show():
    assert TOKEN not in repr(Security(token=TOKEN))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"certificate": "a.pem"}, "certificate and key together"),
        ({"client_ca": "a.pem"}, "a certificate beside client_ca"),
        ({"token": "ä"}, "printable ASCII"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Security(**settings)


def test_files_that_are_no_certificates_are_one_clear_line(small, files):
    security = Security(certificate=files / "server.pem", key=files / "client.key")  # of another
    with pytest.raises(ServerError, match="PEM files that belong together") as caught:
        EmbeddedServer(small, poll_seconds=0, security=security).start()
    assert "\n" not in str(caught.value)
