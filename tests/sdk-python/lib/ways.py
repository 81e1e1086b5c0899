"""Bare clients over every transport: they say commands as they are given and tell what comes, word for
word. For what no SDK does."""

import asyncio
import base64
import json
import ssl
import urllib.parse

import websockets
from aioquic.h3.connection import H3Connection
from aioquic.h3.events import HeadersReceived
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.events import ConnectionTerminated, StreamDataReceived
from centrifuge.protocol import client_pb2
from google.protobuf.json_format import MessageToDict, ParseDict
from websockets.asyncio.client import connect as websocket

from lib.quic import QuicClient, cut_frames, frame
from lib.server import PATIENCE


class JsonForm:
    """Messages as text, a line each."""

    name = "json"

    @staticmethod
    def say(command):
        return json.dumps(command).encode()

    @staticmethod
    def connect(request):
        return json.dumps(request).encode()

    @staticmethod
    def cut(buffer, bare):
        """Takes the whole messages off the front of a bytearray."""
        *lines, rest = bytes(buffer).split(b"\n")
        buffer[:] = rest
        return [json.loads(line) for line in lines if line]


class ProtobufForm:
    """Messages as bytes, each behind its length. They are given and told in the form of JSON."""

    name = "protobuf"

    @staticmethod
    def say(command):
        return frame(ParseDict(_data_as_bytes(command), client_pb2.Command()))

    @staticmethod
    def connect(request):
        return ParseDict(request, client_pb2.ConnectRequest()).SerializeToString()

    @staticmethod
    def cut(buffer, bare):
        kind = client_pb2.Push if bare else client_pb2.Reply
        bodies = [kind.FromString(body) for body in cut_frames(buffer)]
        return [_data_as_json(MessageToDict(m, preserving_proto_field_name=True)) for m in bodies]


def _data_as_bytes(value):
    if not isinstance(value, dict):
        return value
    return {
        name: base64.b64encode(json.dumps(inner).encode()).decode()
        if name == "data"
        else _data_as_bytes(inner)
        for name, inner in value.items()
    }


def _data_as_json(value):
    if isinstance(value, list):
        return [_data_as_json(inner) for inner in value]
    if not isinstance(value, dict):
        return value
    return {
        name: json.loads(base64.b64decode(inner) or b"null")
        if name == "data" and isinstance(inner, str)
        else _data_as_json(inner)
        for name, inner in value.items()
    }


class Way:
    """One connection. `connected` is the answer to its connect."""

    # Nothing can be said behind the connect, and what comes are bare pushes.
    one_way = False

    def __init__(self, server, host, form):
        self.server = server
        self.host = host
        self.form = form
        self.address = server.http.removeprefix("http://")
        self.pushes = []
        self._asked = 0
        self._buffer = bytearray()
        self._replies = asyncio.Queue()
        self._reading = None
        self._answer = None

    @classmethod
    async def open(cls, server, host, form, connect):
        """A connection that has said its connect, at a host name."""
        way = cls(server, host, form)
        await way.begin(connect)
        way.connected = await way.reply(way._asked)
        return way

    def first(self, connect):
        """The bytes of the connect."""
        if self.one_way:
            return self.form.connect(connect)
        self._asked += 1
        return self.form.say({"id": self._asked, "connect": connect})

    async def ask(self, command):
        """Says a command and gives its answer, without its id, or the end of the connection."""
        self._asked += 1
        await self.say(self.form.say({"id": self._asked, **command}))
        return await self.reply(self._asked)

    async def reply(self, asked):
        while True:
            reply = await asyncio.wait_for(self._replies.get(), PATIENCE)
            if "end" in reply:
                # Whoever asks again is told the same.
                self._replies.put_nowait(reply)
                return reply
            if reply.get("id") == asked or self.one_way:
                return {name: value for name, value in reply.items() if name != "id"}

    def take(self, data):
        """Bytes that came."""
        self._buffer += data
        for message in self.form.cut(self._buffer, self.one_way):
            self.took(message)

    def took(self, message):
        push = message if self.one_way else message.get("push")
        if push and "disconnect" in push:
            push = push["disconnect"]
            self.ended(push["code"], push["reason"])
        elif push and "connect" not in push:
            self.pushes.append(push)
        elif message:
            self._replies.put_nowait(message)
        elif not self.one_way:
            self._answer = asyncio.ensure_future(self._pong())

    async def _pong(self):
        """Answers a ping. Whether the connection has ended, who reads sees."""
        try:
            await self.say(self.form.say({}))
        except (websockets.ConnectionClosed, OSError, AssertionError):
            pass

    def ended(self, code, reason):
        self._replies.put_nowait({"end": [code, reason]})

    def read_by(self, reading):
        self._reading = asyncio.ensure_future(reading)

    def close(self):
        for task in (self._reading, self._answer):
            if task is not None:
                task.cancel()


class WebSocketWay(Way):
    """A WebSocket."""

    name = "WebSocket"
    path = "/connection/websocket"

    async def begin(self, connect):
        host, port = self.address.split(":")
        query = "?cf_protocol=protobuf" if self.form is ProtobufForm else ""
        self._socket = await websocket(
            f"ws://{self.host}{self.path}{query}",
            host=host,
            port=int(port),
            proxy=None,
            compression=None,
            ping_interval=None,
        )
        self.read_by(self._read())
        await self.say(self.first(connect))

    async def say(self, data):
        await self._socket.send(data.decode() if self.form is JsonForm else data)

    async def _read(self):
        try:
            async for message in self._socket:
                if self.form is JsonForm:
                    self.take(message.encode() + b"\n")
                else:
                    self.take(message)
        except websockets.ConnectionClosed:
            pass
        self.ended(self._socket.close_code, self._socket.close_reason)

    def close(self):
        super().close()
        self._socket.transport.abort()


class OneWayWebSocket(WebSocketWay):
    """A WebSocket of which only the first message is heard."""

    name = "unidirectional WebSocket"
    path = "/connection/uni_websocket"
    one_way = True


async def post(server, host, path, headers, body):
    """The whole answer to a POST, except for its date."""
    address, port = server.http.removeprefix("http://").split(":")
    reader, writer = await asyncio.open_connection(address, int(port))
    try:
        lines = [f"POST {path} HTTP/1.1", f"Host: {host}", "Connection: close"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        lines += [f"Content-Length: {len(body)}", "", ""]
        writer.write("\r\n".join(lines).encode() + body)
        answer = await asyncio.wait_for(reader.read(), PATIENCE)
    finally:
        writer.close()
    head, _, body = answer.decode().partition("\r\n\r\n")
    status, *rest = head.split("\r\n")
    rest = [line for line in rest if not line.lower().startswith("date:")]
    return int(status.split()[1]), rest, body


class HttpWay(Way):
    """An answer that does not end, and commands by `/emulation`."""

    def request(self, connect):
        kind = "application/json" if self.form is JsonForm else "application/octet-stream"
        body = self.first(connect)
        head = f"POST {self.path} HTTP/1.1\r\nHost: {self.host}\r\nContent-Type: {kind}\r\n"
        return f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body

    async def begin(self, connect):
        host, port = self.address.split(":")
        reader, self._writer = await asyncio.open_connection(host, int(port))
        self._writer.write(self.request(connect))
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
        assert head.startswith(b"HTTP/1.1 200 "), head
        self.read_by(self._read(reader))

    async def _read(self, reader):
        while data := await reader.read(65536):
            self.take(data)
        self.ended(0, "")

    async def say(self, data):
        session, node = (self.connected["connect"][name] for name in ("session", "node"))
        if self.form is JsonForm:
            body = json.dumps({"session": session, "node": node, "data": data.decode()}).encode()
            kind = "application/json"
        else:
            request = client_pb2.EmulationRequest(session=session, node=node, data=data)
            body, kind = request.SerializeToString(), "application/octet-stream"
        answer = await post(self.server, self.host, "/emulation", {"Content-Type": kind}, body)
        assert answer[0] == 204, answer

    def close(self):
        super().close()
        self._writer.close()


class HttpStreamWay(HttpWay):
    """HTTP streaming."""

    name = "HTTP streaming"
    path = "/connection/http_stream"


class OneWayHttpStream(HttpStreamWay):
    """HTTP streaming of pushes."""

    name = "unidirectional HTTP streaming"
    path = "/connection/uni_http_stream"
    one_way = True


class SseWay(HttpWay):
    """An event stream."""

    name = "SSE"
    path = "/connection/sse"

    def request(self, connect):
        query = urllib.parse.quote(self.first(connect), safe="")
        return f"GET {self.path}?cf_connect={query} HTTP/1.1\r\nHost: {self.host}\r\n\r\n".encode()

    def take(self, data):
        # An event has one line of data and an empty one behind it.
        super().take(data.replace(b"data: ", b""))


class OneWaySse(SseWay):
    """An event stream of pushes."""

    name = "unidirectional SSE"
    path = "/connection/uni_sse"
    one_way = True


class _Quic(QuicClient):
    """The connection below; what comes goes to its way."""

    way = None

    def saw(self, event):
        if isinstance(event, ConnectionTerminated):
            self.way.ended(event.error_code, event.reason_phrase)
        else:
            self.way.saw(event)


class QuicWay(Way):
    """A stream of a QUIC connection."""

    name = "QUIC"

    async def begin(self, connect):
        self._client = _Quic(self.server, self.host)
        self._client.way = self
        await self._client.open()
        await self.say(self.first(connect))

    async def say(self, data):
        self._client.write(data)

    def saw(self, event):
        if isinstance(event, StreamDataReceived):
            self.take(event.data)

    def close(self):
        super().close()
        self._client.close()


class WebTransportWay(QuicWay):
    """The stream of a WebTransport session."""

    name = "WebTransport"

    async def begin(self, connect):
        self._client = _Quic(self.server, self.host)
        self._client.way = self
        self._client.configuration = QuicConfiguration(
            is_client=True,
            alpn_protocols=["h3"],
            verify_mode=ssl.CERT_NONE,
            server_name=self.host,
            max_datagram_frame_size=65536,
        )
        self._stream = None
        self._http = None
        self._answered = asyncio.get_running_loop().create_future()
        await self._client.open()
        quic = self._client._protocol._quic
        self._http = H3Connection(quic, enable_webtransport=True)
        session = quic.get_next_available_stream_id()
        query = "?cf_protocol=protobuf" if self.form is ProtobufForm else ""
        self._http.send_headers(
            session,
            [
                (b":method", b"CONNECT"),
                (b":scheme", b"https"),
                (b":authority", self.host.encode()),
                (b":path", f"/connection/webtransport{query}".encode()),
                (b":protocol", b"webtransport"),
            ],
        )
        self._client._protocol.transmit()
        assert await asyncio.wait_for(self._answered, PATIENCE) == b"200"
        self._stream = self._http.create_webtransport_stream(session)
        self._client.stream = self._stream
        await self.say(self.first(connect))

    async def say(self, data):
        await super().say(data + b"\n" if self.form is JsonForm else data)

    def saw(self, event):
        if isinstance(event, StreamDataReceived) and event.stream_id == self._stream:
            self.take(event.data)
            return
        for seen in self._http.handle_event(event) if self._http else ():
            if isinstance(seen, HeadersReceived):
                self._answered.set_result(dict(seen.headers)[b":status"])


# Every transport in every encoding that it has.
TWO_WAY = [
    (WebSocketWay, JsonForm),
    (WebSocketWay, ProtobufForm),
    (HttpStreamWay, JsonForm),
    (HttpStreamWay, ProtobufForm),
    (SseWay, JsonForm),
    (QuicWay, ProtobufForm),
    (WebTransportWay, JsonForm),
    (WebTransportWay, ProtobufForm),
]
ONE_WAY = [
    (OneWayWebSocket, JsonForm),
    (OneWayWebSocket, ProtobufForm),
    (OneWayHttpStream, JsonForm),
    (OneWayHttpStream, ProtobufForm),
    (OneWaySse, JsonForm),
]
