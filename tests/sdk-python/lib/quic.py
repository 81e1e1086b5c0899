"""A client on aioquic: the Protobuf framing on one QUIC stream, each message behind its length."""

import asyncio
import hashlib
import socket
import ssl

from aioquic.asyncio import QuicConnectionProtocol
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import ConnectionTerminated, StreamDataReceived, StreamReset
from centrifuge.protocol import client_pb2
from cryptography.hazmat.primitives.serialization import Encoding

from lib.client import Log
from lib.server import PATIENCE


def frame(message):
    """A message behind its length as a varint."""
    body = message.SerializeToString()
    length, head = len(body), bytearray()
    while length >= 0x80:
        head.append(length & 0x7F | 0x80)
        length >>= 7
    head.append(length)
    return bytes(head) + body


def cut_frames(buffer):
    """Takes the whole messages off the front of a bytearray."""
    bodies = []
    while True:
        length = shift = used = 0
        while used < len(buffer):
            byte = buffer[used]
            used += 1
            length |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        else:
            return bodies
        if len(buffer) - used < length:
            return bodies
        bodies.append(bytes(buffer[used : used + length]))
        del buffer[: used + length]


class Refused(Exception):
    """An error reply."""

    def __init__(self, error):
        super().__init__(f"{error.code}: {error.message}")
        self.code = error.code
        self.message = error.message
        self.temporary = error.temporary


class _Protocol(QuicConnectionProtocol):
    client = None
    # Says and hears nothing any more.
    gone = False

    def quic_event_received(self, event):
        self.client.saw(event)

    def datagram_received(self, data, addr):
        if not self.gone:
            super().datagram_received(data, addr)

    def transmit(self):
        if not self.gone:
            super().transmit()


class QuicClient:
    """One connection with one stream. Replies go to who asked, everything else into `log`."""

    def __init__(self, server, server_name=None):
        host, port = server.ready["quic"].rsplit(":", 1)
        self._address = (host, int(port))
        self._fingerprint = server.ready["quic_cert_sha256"]
        # The certificate is known by its fingerprint, which is compared below.
        self.configuration = QuicConfiguration(
            is_client=True, alpn_protocols=["gb6"], verify_mode=ssl.CERT_NONE, server_name=server_name
        )
        self.log = Log()
        self.answer_pings = True
        self._buffer = bytearray()
        self._asked = 0
        self._waiting = {}
        self._tasks = set()

    async def open(self):
        """The handshake, and the stream."""
        loop = asyncio.get_running_loop()
        connection = QuicConnection(configuration=self.configuration)

        def made():
            protocol = _Protocol(connection)
            protocol.client = self
            return protocol

        self._transport, self._protocol = await loop.create_datagram_endpoint(
            made, local_addr=("127.0.0.1", 0)
        )
        self._protocol.connect(self._address)
        await asyncio.wait_for(self._protocol.wait_connected(), PATIENCE)
        # aioquic gives the certificate to nobody.
        shown = connection.tls._peer_certificate.public_bytes(Encoding.DER)
        assert hashlib.sha256(shown).hexdigest() == self._fingerprint, "another certificate"
        self.stream = connection.get_next_available_stream_id()
        return self

    def saw(self, event):
        """What aioquic reports."""
        if isinstance(event, StreamDataReceived):
            self._buffer += event.data
            for body in cut_frames(self._buffer):
                self._reply(client_pb2.Reply.FromString(body))
            if event.end_stream:
                self._add("end", None)
        elif isinstance(event, StreamReset):
            self._add("reset", event.error_code)
        elif isinstance(event, ConnectionTerminated):
            self._add("closed", (event.error_code, event.reason_phrase))
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(ConnectionError(event.reason_phrase))

    def _reply(self, reply):
        if reply.id in self._waiting:
            waiting = self._waiting.pop(reply.id)
            if not waiting.done():
                waiting.set_result(reply)
        elif reply.ByteSize() == 0:
            if self.answer_pings:
                self.write(frame(client_pb2.Command()))
            self._add("ping", None)
        else:
            assert reply.HasField("push"), f"an answer to nobody: {reply}"
            kind = [field.name for field, _ in reply.push.ListFields() if field.message_type]
            self._add(kind[0], reply.push)

    def _add(self, kind, context):
        task = asyncio.ensure_future(self.log.add(kind, context))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def write(self, data, end=False):
        """Bytes on the stream, as they are."""
        self._protocol._quic.send_stream_data(self.stream, data, end)
        self._protocol.transmit()

    def begin(self, **command):
        """A command (`connect=…`, `publish=…`) and its future reply; its bytes are not yet sent."""
        self._asked += 1
        reply = asyncio.get_running_loop().create_future()
        # Who does not wait for it does not mind that none comes.
        reply.add_done_callback(lambda done: done.cancelled() or done.exception())
        self._waiting[self._asked] = reply
        return frame(client_pb2.Command(id=self._asked, **command)), reply

    async def ask(self, **command):
        """Sends a command and waits for its result."""
        data, reply = self.begin(**command)
        self.write(data)
        return await self.result(reply)

    async def result(self, reply):
        """The result in a reply; an error is raised."""
        reply = await asyncio.wait_for(reply, PATIENCE)
        if reply.HasField("error"):
            raise Refused(reply.error)
        [result] = [value for field, value in reply.ListFields() if field.message_type]
        return result

    async def move(self):
        """Goes on from another address, as a phone that leaves a network."""
        old = self._transport
        loop = asyncio.get_running_loop()
        moved = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        moved.bind(("127.0.0.1", 0))
        self._transport, _ = await loop.create_datagram_endpoint(lambda: self._protocol, sock=moved)
        old.close()

    def vanish(self):
        """Is gone without a word."""
        self._protocol.gone = True

    def close(self):
        self._protocol.close()
        self._protocol.gone = True
        self._transport.close()
