"""All clients behind one face, so that a test holds for each."""

import asyncio

from serving.client import AsyncClient, AsyncRestClient, Client, RestClient

CLIENTS = {"grpc": Client, "grpc-async": AsyncClient, "rest": RestClient, "rest-async": AsyncRestClient}


class Caller:
    """A client whose methods are called as those of `Client`, also where they are coroutines."""

    def __init__(self, kind, address, *args, **settings):
        self.kind = kind
        self._runner = asyncio.Runner()
        self._client = CLIENTS[kind](address, *args, **settings)

    def __getattr__(self, name):
        attribute = getattr(self._client, name)
        if not callable(attribute):
            return attribute

        def method(*args, **kwargs):
            result = attribute(*args, **kwargs)
            return self._runner.run(result) if asyncio.iscoroutine(result) else result

        return method

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
        self._runner.close()
