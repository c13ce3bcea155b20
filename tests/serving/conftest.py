import contextlib

import pytest
import trustme

from serving.client import Client
from serving.export import export
from serving.server import EmbeddedServer
from tests.serving.callers import CLIENTS
from tests.serving.fake import FakeGenerator
from tests.serving.real import BACKENDS, real_server
from tests.serving.small import write_small


def write_fake(folder):
    """Exports the fake model with two hypotheses a row; returns the version's folder."""
    return export(
        FakeGenerator(),
        folder,
        config_json='{"name": "fake"}',
        check_sources=["one", "three"],
        check_targets=["un", "trois"],
        num_hypotheses=2,
        about={"scores": {"bleu": 12.5}},
    )


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """A folder with version 1 of the fake model."""
    return write_fake(tmp_path_factory.mktemp("exported")).parent


@pytest.fixture(scope="session")
def server(exported):
    with EmbeddedServer(exported, workers=4, rest_port=0) as running:
        yield running


@pytest.fixture(scope="session")
def client(server):
    with Client(server.address, timeout=30, rows=4) as connected:
        yield connected


@pytest.fixture(scope="session", params=BACKENDS)
def addresses(request, server, exported):
    """Of the embedded server, and of TensorFlow Serving where there is one, for each kind of client; and "version"."""
    with contextlib.ExitStack() as stack:
        if request.param == "embedded":
            grpc_address, rest_address, version = server.address, server.rest_address, 1
        else:
            grpc_address, rest_address, version = stack.enter_context(real_server(exported, write_fake))
        yield {"version": version} | {
            kind: rest_address if kind.startswith("rest") else grpc_address for kind in CLIENTS}


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    """A folder with versions 1 and 2 of the small model. Tests must not change it."""
    folder = tmp_path_factory.mktemp("small")
    return write_small(write_small(folder, 1), 2)


@pytest.fixture(scope="session")
def certificates(tmp_path_factory):
    """A folder with ca.pem, and NAME.pem and NAME.key of "server" (127.0.0.1), "elsewhere" (model.test), "client"."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(folder / "ca.pem"))
    for name, owner in (("server", "127.0.0.1"), ("elsewhere", "model.test"), ("client", "someone@example.org")):
        certificate = authority.issue_cert(owner)
        certificate.private_key_pem.write_to_path(str(folder / f"{name}.key"))
        certificate.cert_chain_pems[0].write_to_path(str(folder / f"{name}.pem"))
    return folder
