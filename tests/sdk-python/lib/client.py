"""The unmodified SDK in both encodings, and waiting for what it reports."""

import asyncio
import json
import os
import unittest

import centrifuge

from lib import conformance
from lib.server import PATIENCE, Server
from lib.token import member, sign


class Json:
    """Data is what JSON can say."""

    name = "json"
    protobuf = False

    @staticmethod
    def encode(value):
        return value

    @staticmethod
    def decode(data):
        return data


class Protobuf:
    """Data is bytes; these tests put JSON into them."""

    name = "protobuf"
    protobuf = True

    @staticmethod
    def encode(value):
        return json.dumps(value).encode()

    @staticmethod
    def decode(data):
        return json.loads(data)


class Log:
    """What happened, in order, and a way to wait for it."""

    def __init__(self):
        self.events = []
        self._news = asyncio.Condition()

    async def add(self, kind, context):
        self.events.append((kind, context))
        async with self._news:
            self._news.notify_all()

    def all(self, kind):
        """The contexts of every event of this kind."""
        return [context for name, context in self.events if name == kind]

    async def until(self, what, is_so, seconds=PATIENCE):
        """Waits until `is_so()` holds; it is looked at on each event."""
        try:
            async with asyncio.timeout(seconds):
                async with self._news:
                    await self._news.wait_for(is_so)
        except TimeoutError:
            raise AssertionError(f"{what}: not within {seconds} s; seen: {self.events}") from None

    async def next(self, kind, is_it=lambda context: True, seconds=PATIENCE):
        """The first event of this kind for which `is_it` holds, also one of before."""

        def found():
            return [context for context in self.all(kind) if is_it(context)]

        await self.until(f"an event {kind}", lambda: len(found()) > 0, seconds)
        return found()[0]


def _events_into(log, base, kinds):
    """An event handler of the SDK that writes all of its events into a log."""

    def write(kind):
        async def handler(self, context):
            await log.add(kind, context)

        return handler

    return type("Events", (base,), {f"on_{kind}": write(kind) for kind in kinds})()


CONNECTION = "connecting connected disconnected error subscribing subscribed unsubscribed publication join leave"
SUBSCRIPTION = "subscribing subscribed unsubscribed publication join leave error"


class Room:
    """A subscription with everything that came of it."""

    def __init__(self, client, encoding, channel, **options):
        self.encoding = encoding
        self.channel = channel
        self.log = Log()
        events = _events_into(self.log, centrifuge.SubscriptionEventHandler, SUBSCRIPTION.split())
        self.sub = client.new_subscription(channel, events=events, **options)

    async def subscribe(self):
        """Subscribes and waits until it is so."""
        await self.sub.subscribe()
        await self.log.next("subscribed")
        return self

    @property
    def publications(self):
        return [context.pub for context in self.log.all("publication")]

    @property
    def data(self):
        return [self.encoding.decode(pub.data) for pub in self.publications]

    @property
    def offsets(self):
        return [pub.offset for pub in self.publications]

    async def count(self, n, seconds=PATIENCE):
        """Waits until there are so many publications."""
        await self.log.until(
            f"{n} publications in {self.channel}", lambda: len(self.publications) >= n, seconds
        )


class Case(unittest.IsolatedAsyncioTestCase):
    """Tests of one server with clients of one encoding."""

    sdk = "centrifuge-python"
    transport = "websocket"
    encoding = Json
    suite = ""
    # What `gb6 dev` is started with, beside the defaults.
    arguments = ()
    _rooms = 0

    @classmethod
    def setUpClass(cls):
        cls.server = Server(f"sdk-python-{cls.suite}", cls.arguments)
        cls.addClassCleanup(cls.server.stop)
        cls.addClassCleanup(conformance.write, cls.suite)

    async def asyncSetUp(self):
        # A loaded machine is no finding.
        asyncio.get_running_loop().slow_callback_duration = PATIENCE
        self.clients = []
        self.addAsyncCleanup(self.disconnect_all)

    async def disconnect_all(self):
        for client in self.clients:
            await client.disconnect()

    def client(self, user, encoding=None, **options):
        """An SDK client that is not yet connected; its events are in `client.log`."""
        encoding = encoding or self.encoding
        log = Log()
        if user is not None:
            options.setdefault("token", sign(self.server, member(user)))
        client = centrifuge.Client(
            self.server.ws,
            events=_events_into(log, centrifuge.ClientEventHandler, CONNECTION.split()),
            use_protobuf=encoding.protobuf,
            min_reconnect_delay=0.05,
            max_reconnect_delay=0.4,
            # The machine's proxy is not for loopback.
            proxy=None,
            **options,
        )
        client.log = log
        self.clients.append(client)
        return client

    async def connect(self, user, encoding=None, **options):
        """A connected client."""
        client = self.client(user, encoding, **options)
        await client.connect()
        await client.log.next("connected")
        return client

    async def room(self, client, channel, encoding=None, **options):
        """A subscribed room, with all that the SDK can ask for."""
        options = {"positioned": True, "recoverable": True, "join_leave": True, **options}
        return await Room(client, encoding or self.encoding, channel, **options).subscribe()

    def fresh(self, name):
        """A room that no other test uses."""
        Case._rooms += 1
        return f"room:{name}-{os.getpid()}-{Case._rooms}"

    async def room_publish(self, client, room, id, data, encoding=None):
        """`room.publish`: the durable publish."""
        encoding = encoding or self.encoding
        request = {"room": room, "data": data}
        if id is not None:
            request["id"] = id
        result = await client.rpc("room.publish", encoding.encode(request))
        return encoding.decode(result.data)

    async def refused(self, code, call):
        """Awaits a call that must fail with this code, and some words."""
        with self.assertRaises(centrifuge.ReplyError) as caught:
            await call
        self.assertEqual(caught.exception.code, code, caught.exception.message)
        self.assertGreater(len(caught.exception.message), 0)
        return caught.exception


def over_encodings(suite):
    """Runs the tests of the decorated class in JSON and in Protobuf, each as a class of its own."""

    def expand(template):
        space = __import__(template.__module__, fromlist=["*"])
        for encoding in (Json, Protobuf):
            name = f"{template.__name__}{encoding.__name__}"
            made = type(name, (template, Case), {"encoding": encoding, "suite": suite})
            made.__module__ = template.__module__
            setattr(space, name, made)
        return template

    return expand
