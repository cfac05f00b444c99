"""The rows of sockets and streams, and of pika."""

import asyncio
import contextlib
import socket

import pika

import safedial
from tests.support.outages.rows import CONNECT, FACTORY, Row, close, trusting


def with_tls(place, sock):
    if not place.ca:
        return sock
    try:
        return trusting(place).wrap_socket(sock, server_hostname=place.host)
    except BaseException:
        sock.close()
        raise


def safe_connect(place):
    sock = safedial.safe_connect((place.host, place.port), timeout=CONNECT, policy=place.policy)
    return with_tls(place, sock)


def socket_factory(place):
    def connect():
        sock = with_tls(place, socket.create_connection((place.host, place.port), timeout=CONNECT))
        try:
            tell(sock, "ping")
        except BaseException:
            sock.close()
            raise
        return sock

    return safedial.wrap(connect, policy=place.policy)()


def tell(sock, line):
    sock.sendall(f"{line}\n".encode())
    if sock.recv(100) != b"ok\n":
        raise EOFError("the server hung up")


async def open_connection(place):
    options = {"timeout": CONNECT, "policy": place.policy, **tls_options(place)}
    return await safedial.open_connection(place.host, place.port, **options)


def tls_options(place):
    return {"ssl": trusting(place), "ssl_handshake_timeout": CONNECT} if place.ca else {}


async def streams_factory(place):
    async def connect():
        async with asyncio.timeout(CONNECT):
            streams = await asyncio.open_connection(place.host, place.port, ssl=trusting(place))
            try:
                await tell_streams(streams, "ping")
            except BaseException:
                streams[1].close()
                raise
            return streams

    return await safedial.wrap(connect, policy=place.policy)()


async def tell_streams(streams, line):
    reader, writer = streams
    writer.write(f"{line}\n".encode())
    await reader.readuntil(b"ok\n")


async def close_streams(streams):
    streams[1].close()
    with contextlib.suppress(OSError):
        await streams[1].wait_closed()


# `connections`, whose blocks tell the server one thing.


def itself(place):
    return place


def nothing(place):
    pass


def tell_in_loop(place, key):
    for connection in safedial.connections((place.host, place.port), timeout=CONNECT, policy=place.policy):
        with connection as sock, with_tls(place, sock) as tls:
            tell(tls, key)
            break


async def tell_in_async_loop(place, key):
    options = {"timeout": CONNECT, "policy": place.policy, **tls_options(place)}
    async for connection in safedial.connections((place.host, place.port), **options):
        async with connection as streams:
            await tell_streams(streams, key)
            break


def pika_(place):
    tls = {"ssl_options": pika.SSLOptions(trusting(place), place.host)} if place.ca else {}
    login = pika.PlainCredentials(place.user or "guest", place.password or "guest")
    parameters = pika.ConnectionParameters(
        *(place.host, place.port, place.database or "/", login),
        **{"socket_timeout": CONNECT, "stack_timeout": CONNECT, **tls},
    )
    return safedial.wrap(pika.BlockingConnection, policy=place.policy)(parameters)


def publish(connection, key):
    channel = connection.channel()
    channel.confirm_delivery()  # basic_publish() then waits for the broker's ack
    channel.basic_publish("", "records", key.encode())


LOOP = "{} … in connections(address, policy=…)"
ROWS = [
    Row("socket", "safe_connect(…, policy=…)", "lines", safe_connect, tell, close, covers="dial"),
    Row("socket", LOOP.format("for"), "lines", itself, tell_in_loop, nothing),
    Row("socket", FACTORY, "lines", socket_factory, tell, close),
    Row(
        "asyncio",
        "open_connection(…, policy=…)",
        "lines",
        open_connection,
        tell_streams,
        close_streams,
        covers="TLS",
    ),
    Row("asyncio", LOOP.format("async for"), "lines", itself, tell_in_async_loop, nothing),
    Row("asyncio", FACTORY, "lines", streams_factory, tell_streams, close_streams),
    Row("pika", "wrap(pika.BlockingConnection, policy=…)", "AMQP", pika_, publish, close),
]
