"""Many connections to one server, in several small pools.

A pool of `httpcore2` looks at each of its connections whenever a request begins or ends, so that with 64 connections a
third of the client's time went there. Pools of a few connections cost next to nothing.
"""

from __future__ import annotations

import urllib.request

import httpx2
import openai

POOL_SIZE = 8  # connections


class ManyPools(httpx2.AsyncBaseTransport):
    """Sends each request through the pool that has the fewest under way; together they hold ``connections``."""

    def __init__(self, connections: int) -> None:
        sizes = [min(POOL_SIZE, connections - start) for start in range(0, connections, POOL_SIZE)]
        certificates = httpx2.create_ssl_context()  # one for all: reading the certificates takes 0.1 s
        self.pools = [
            httpx2.AsyncHTTPTransport(
                verify=certificates, limits=httpx2.Limits(max_connections=None, max_keepalive_connections=size)
            )
            for size in sizes
        ]
        self.under_way = [0] * len(sizes)

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        pool = min(range(len(self.pools)), key=self.under_way.__getitem__)
        self.under_way[pool] += 1
        try:
            response = await self.pools[pool].handle_async_request(request)
            # Read here, while the pool counts as busy: a connection is free again once its response has been read.
            await response.aread()
            return response
        finally:
            self.under_way[pool] -= 1

    async def aclose(self) -> None:
        for pool in self.pools:
            await pool.aclose()


def http_client(connections: int) -> httpx2.AsyncClient:
    """A client for the openai package; behind a proxy, which the environment names, the ordinary one."""
    if urllib.request.getproxies():
        limits = httpx2.Limits(max_connections=connections, max_keepalive_connections=connections)
        return openai.DefaultAsyncHttpxClient(limits=limits)
    return openai.DefaultAsyncHttpxClient(transport=ManyPools(connections))
