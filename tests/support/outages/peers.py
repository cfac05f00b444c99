"""Servers in Python for the clients that need no database: plain lines, HTTP, WebSocket, AMQP.

A script of its own, so that it can crash, freeze and stop as a real process does. It appends a line to the file of
records for each record that a client writes, before it answers, and serves a second port with TLS.

``python -I peers.py KIND HOST PORT TLS_PORT DIRECTORY``; the directory has ``cert.pem`` and ``key.pem``.
"""

import asyncio
import http.server
import os
import ssl
import sys
import threading
from pathlib import Path


def record(key):
    with open(RECORDS, "ab", buffering=0) as file:
        file.write(key.strip() + b"\n")


async def lines(reader, writer):
    """Answer "ping", and record any other line."""
    while line := await reader.readline():
        if line != b"ping\n":
            record(line)
        writer.write(b"ok\n")


async def amqp(reader, writer):
    """Be a broker as far as `pika` needs one to publish. Refusals are RabbitMQ's."""
    from pika import frame, spec

    def send(channel, method):
        writer.write(frame.Method(channel, method).marshal())

    if await reader.read(8) != b"AMQP\x00\x00\x09\x01":
        return
    told = {"capabilities": {"authentication_failure_close": True, "publisher_confirms": True, "basic.nack": True}}
    send(0, spec.Connection.Start(server_properties=told, mechanisms=b"PLAIN", locales=b"en_US"))
    replies = {
        spec.Connection.StartOk: lambda: spec.Connection.Tune(channel_max=10, frame_max=131072, heartbeat=0),
        spec.Connection.Open: spec.Connection.OpenOk,
        spec.Connection.Close: spec.Connection.CloseOk,
        spec.Channel.Open: spec.Channel.OpenOk,
        spec.Channel.Close: spec.Channel.CloseOk,
        spec.Confirm.Select: spec.Confirm.SelectOk,
    }
    pending = b""
    while data := await reader.read(65536):
        pending += data
        while (decoded := frame.decode_frame(pending))[0]:
            consumed, one = decoded
            pending = pending[consumed:]
            method = getattr(one, "method", None)
            if isinstance(method, spec.Connection.StartOk) and "wrong" in str(method.response):
                send(0, spec.Connection.Close(403, "ACCESS_REFUSED - Login was refused", 0, 0))
            elif isinstance(method, spec.Connection.Open) and method.virtual_host != "/":
                send(0, spec.Connection.Close(530, "NOT_ALLOWED - vhost not found", 0, 0))
            elif reply := replies.get(type(method)):
                send(one.channel_number, reply())
            elif isinstance(one, frame.Body):
                record(one.fragment)
                send(one.channel_number, spec.Basic.Ack(1))


async def websocket(connection):
    async for message in connection:
        record(message.encode())
        await connection.send("ok")


class Handler(http.server.BaseHTTPRequestHandler):
    """GET answers, POST records the path."""

    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.rfile.read(int(self.headers.get("content-length") or 0))
        if self.command == "POST":
            record(self.path.strip("/").encode())
        self.send_response(200)
        self.send_header("content-length", "2")
        self.end_headers()
        self.wfile.write(b"ok")

    do_POST = do_GET  # noqa: N815  # the name is http.server's

    def log_message(self, *args):
        pass


class WebServer(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def server_bind(self):
        http.server.socketserver.TCPServer.server_bind(self)  # HTTPServer.server_bind() asks the name server

    def finish_request(self, request, client_address):
        if self.server_port == TLS_PORT:
            request = TLS.wrap_socket(request, server_side=True)
        super().finish_request(request, client_address)

    def handle_error(self, request, client_address):
        pass


def serve_http():
    servers = [WebServer((HOST, port), Handler, bind_and_activate=False) for port in (TLS_PORT, PORT)]
    for server in servers:
        server.server_bind()
        server.server_port = server.server_address[1]
        server.server_activate()
    threading.Thread(target=servers[0].serve_forever).start()
    servers[1].serve_forever()  # here: once the main thread has ended, Python 3.12 starts no threads


async def serve(handle):
    async def closing(reader, writer):
        try:
            await handle(reader, writer)
        finally:
            writer.close()

    for port, tls in ((TLS_PORT, TLS), (PORT, None)):
        await asyncio.start_server(closing, HOST, port, ssl=tls)
    await asyncio.Event().wait()


async def serve_websockets():
    from websockets.asyncio.server import serve

    for port, tls in ((TLS_PORT, TLS), (PORT, None)):
        await serve(websocket, HOST, port, ssl=tls)
    await asyncio.Event().wait()


if __name__ == "__main__":
    kind, HOST, *ports, directory = sys.argv[1:]
    PORT, TLS_PORT = map(int, ports)
    RECORDS = Path(directory, "records")
    TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    TLS.load_cert_chain(Path(directory, "cert.pem"), Path(directory, "key.pem"))
    os.chdir("/")
    if kind == "http":
        serve_http()
    else:
        asyncio.run(serve_websockets() if kind == "websocket" else serve({"lines": lines, "amqp": amqp}[kind]))
