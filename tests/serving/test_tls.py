"""Certificates and tokens, with servers of gRPC's and the standard library's own."""

import grpc
import pytest

from serving.client import Hypothesis, Retry, ServingError, Tls
from tests.serving.callers import CLIENTS, Caller
from tests.serving.scripted import Script, scripted_server, secured

ONCE = Retry(tries=1)


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_token_goes_over_tls(kind, certificates):
    script = Script(token="secret")
    tls = Tls(certificates / "ca.pem")
    with scripted_server(kind, script, **secured(kind, certificates)) as address:
        with Caller(kind, address, tls=tls, token="secret") as client:
            assert client.predict(["ab"]) == [[Hypothesis("AB", 2.0)]]
        for wrong in ({}, {"token": "other"}):
            with Caller(kind, address, tls=tls, **wrong) as client, pytest.raises(ServingError) as caught:
                client.predict(["ab"])
            assert caught.value.code == grpc.StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_server_that_asks_for_a_certificate_gets_it(kind, certificates):
    both = Tls(certificates / "ca.pem", certificates / "client.pem", certificates / "client.key")
    with scripted_server(kind, Script(), **secured(kind, certificates, mutual=True)) as address:
        with Caller(kind, address, tls=both) as client:
            assert client.predict(["ab"]) == [[Hypothesis("AB", 2.0)]]
        with (
            Caller(kind, address, tls=Tls(certificates / "ca.pem"), retry=ONCE) as client,
            pytest.raises(ServingError) as caught,
        ):
            client.predict(["ab"])
        assert caught.value.code == grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_server_that_cannot_prove_itself_is_not_asked(kind, certificates):
    script = Script()
    with scripted_server(kind, script, **secured(kind, certificates, "elsewhere")) as address:
        for tls in (Tls(certificates / "ca.pem"), Tls(certificates / "client.pem", server_name="model.test"), Tls()):
            with Caller(kind, address, tls=tls, retry=ONCE, timeout=10) as client, pytest.raises(ServingError):
                client.predict(["ab"])
        assert not script.seen
        named = Tls(certificates / "ca.pem", server_name="model.test")
        with Caller(kind, address, tls=named) as client:
            assert client.predict(["ab"]) == [[Hypothesis("AB", 2.0)]]


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_file_that_is_not_there_is_named(kind, tmp_path):
    address = "https://host" if kind.startswith("rest") else "host:1"
    with pytest.raises(FileNotFoundError):
        Caller(kind, address, tls=Tls(tmp_path / "none.pem"))
