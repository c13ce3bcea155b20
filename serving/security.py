"""Certificates and tokens of the embedded server."""

import hmac
import os
import ssl
from pathlib import Path

import grpc

from serving.errors import ServerError
from serving.settings import Security

TOKEN_VARIABLE = "TFSEQ2SEQ_TOKEN"


def read_token(file: Path | None) -> str | None:
    """The bearer token: the content of `file`, or of the environment variable `TOKEN_VARIABLE`, or none.

    Raises:
        ValueError: the file cannot be read, or one of them is empty.
    """
    if file is None:
        token = os.environ.get(TOKEN_VARIABLE)
        where = TOKEN_VARIABLE
    else:
        where = str(file)
        try:
            token = file.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise ValueError(f"{file}: the bearer token cannot be read. Received: {error}.") from error
    if token is not None and not token.strip():
        raise ValueError(f"{where} needs to hold the bearer token. Received: nothing.")
    return token.strip() if token is not None else None


def is_allowed(security: Security, authorization: str) -> bool:
    """Whether the value of "authorization" lets a request in; takes the same time for any wrong one."""
    if security.token is None:
        return True
    kind, _, token = authorization.partition(" ")
    return kind.lower() == "bearer" and hmac.compare_digest(token.strip().encode(), security.token.encode())


def grpc_credentials(security: Security) -> grpc.ServerCredentials | None:
    """For the gRPC port; None without TLS. Raises ServerError."""
    if security.certificate is None or security.key is None:
        return None
    rest_context(security)  # gRPC would say nothing of a file that is no certificate
    return grpc.ssl_server_credentials(
        [(security.key.read_bytes(), security.certificate.read_bytes())],
        root_certificates=security.client_ca.read_bytes() if security.client_ca else None,
        require_client_auth=security.client_ca is not None)


def rest_context(security: Security) -> ssl.SSLContext | None:
    """For the REST port; None without TLS. Raises ServerError."""
    if security.certificate is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(security.certificate, security.key, password=lambda: "")  # asks nobody for one
        if security.client_ca is not None:
            context.load_verify_locations(security.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as error:
        raise ServerError(
            f"TLS needs PEM files that belong together. Received: certificate {security.certificate}, key "
            f"{security.key}, client CA {security.client_ca}: {error}.") from error
    return context
