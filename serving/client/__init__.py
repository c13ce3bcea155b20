"""Asks a server that speaks TensorFlow Serving's protocols; needs no TensorFlow.

- `Client`, `AsyncClient`: gRPC.                     - `RestClient`, `AsyncRestClient`: HTTP and JSON.
- `Hypothesis`, `ServingError` ...: what they hand back.     - `Tls`, `Retry`: how they connect and try again.

All ask alike (`questions`), with the same checks (`settings`), and get the same answers (`results`).
"""

from typing import Any

from serving.client.grpc_clients import AsyncClient, Client
from serving.client.rest_clients import AsyncRestClient, RestClient
from serving.client.results import Hypothesis, ServingError, SignatureInfo, TensorInfo, Tokens, VersionStatus
from serving.client.settings import Retry, Tls

__all__ = [
    "AsyncClient", "AsyncRestClient", "Client", "Hypothesis", "RestClient", "Retry", "ServingError", "SignatureInfo",
    "TensorInfo", "Tls", "Tokens", "VersionStatus", "connect", "connect_async"]


def connect(address: str, *args: Any, rest: bool = False, **settings: Any) -> Client | RestClient:
    """A client for an address: a `RestClient` with http:// or https:// before it or with `rest`, else a `Client`.

    Args and errors as `Client`.
    """
    address, rest = _scheme(address, rest, settings.get("tls"))
    return (RestClient if rest else Client)(address, *args, **settings)


def connect_async(address: str, *args: Any, rest: bool = False, **settings: Any) -> AsyncClient | AsyncRestClient:
    """As `connect`, with asyncio."""
    address, rest = _scheme(address, rest, settings.get("tls"))
    return (AsyncRestClient if rest else AsyncClient)(address, *args, **settings)


def _scheme(address: str, rest: bool, tls: Tls | None) -> tuple[str, bool]:
    if address.startswith(("http://", "https://")):
        return address, True
    return (f"{'http' if tls is None else 'https'}://{address}", True) if rest else (address, False)
