"""Beginning and keeping a connection: tokens, expiry, refusals, pings."""

import asyncio
import ssl
import urllib.parse

import centrifuge

from lib.client import over_encodings
from lib.conformance import proves
from lib.token import forge, header, member, sign


@over_encodings("connect")
class Connecting:
    @proves("connect")
    async def test_connects_with_a_token_and_gets_a_client_id(self):
        alice = await self.connect("alice")
        connected = alice.log.all("connected")[0]
        self.assertGreater(len(connected.client), 0)
        self.assertEqual(alice.state, centrifuge.ClientState.CONNECTED)

    @proves("connect")
    async def test_the_tokens_of_the_ready_line_are_good(self):
        for token in self.server.ready["tokens"].values():
            await self.connect(None, token=token)

    @proves("renewal")
    async def test_an_expired_token_is_exchanged(self):
        asked = 0

        async def get_token():
            nonlocal asked
            asked += 1
            return sign(self.server, member("alice"))

        client = await self.connect(
            None, token=sign(self.server, member("alice", -60)), get_token=get_token
        )
        self.assertEqual(asked, 1)
        refused = client.log.all("error")[0].error
        self.assertEqual((refused.code, refused.temporary), (109, True))

    @proves("refresh")
    async def test_a_connection_outlives_its_token(self):
        asked = 0
        again = asyncio.Event()

        async def get_token():
            nonlocal asked
            asked += 1
            if asked == 2:
                again.set()
            return sign(self.server, member("alice", 2 if asked == 1 else 3600))

        token = sign(self.server, member("alice", 2))
        client = await self.connect(None, token=token, get_token=get_token)
        # Two refreshes: the first brought a short token again.
        await asyncio.wait_for(again.wait(), 20)
        await self.room_publish(client, self.fresh("refresh"), None, {})
        self.assertEqual([c.code for c in client.log.all("connecting")], [0])
        self.assertEqual(client.log.all("disconnected"), [])

    @proves("refresh-refused")
    async def test_a_refresh_with_an_expired_token_ends_with_3005_and_the_client_comes_back(self):
        asked = 0

        async def get_token():
            nonlocal asked
            asked += 1
            return sign(self.server, member("alice", -60 if asked == 1 else 3600))

        token = sign(self.server, member("alice", 4))
        client = await self.connect(None, token=token, get_token=get_token)
        lost = await client.log.next("connecting", lambda context: context.code != 0)
        self.assertEqual(lost.code, 3005)
        self.assertGreater(len(lost.reason), 0)
        await client.log.until("connected again", lambda: len(client.log.all("connected")) == 2)

    @proves("refresh-refused")
    async def test_a_refresh_as_somebody_else_is_refused(self):
        async def get_token():
            return sign(self.server, member("bob"))

        token = sign(self.server, member("alice", 4))
        client = await self.connect(None, token=token, get_token=get_token)
        ended = await client.log.next("disconnected")
        self.assertEqual(ended.code, 3500)
        self.assertGreater(len(ended.reason), 0)

    @proves("refusals")
    async def test_a_bad_token_ends_with_3500_for_good(self):
        kid = header(self.server.ready["tokens"]["alice"])["kid"]
        bad = {
            "signed with another secret": sign(self.server, member("alice"), secret="x" * 64),
            "with alg none": forge({"alg": "none", "kid": kid}, member("alice")),
            "of a key that nobody made": sign(
                self.server, member("alice"), secret="y" * 64, kid="other.0000"
            ),
            "that is garbage": "not.a.token",
        }
        for name, token in bad.items():
            with self.subTest(name):
                client = self.client(None, token=token)
                await client.connect()
                ended = await client.log.next("disconnected")
                self.assertEqual(ended.code, 3500)
                self.assertGreater(len(ended.reason), 0)
                self.assertEqual(client.log.all("connected"), [])

    @proves("refusals")
    async def test_no_token_at_all_ends_with_3501(self):
        client = self.client(None)
        await client.connect()
        ended = await client.log.next("disconnected")
        self.assertEqual(ended.code, 3501)
        self.assertGreater(len(ended.reason), 0)

    @proves("pings")
    async def test_an_idle_connection_stays_while_both_sides_ping(self):
        # The SDK leaves a server that is silent for the ping interval and 10 s; its WebSocket
        # library pings every 20 s, and leaves when nothing answers for 20 s.
        clients = [await self.connect("alice"), await self.connect("bob")]
        interval = clients[0]._ping_interval
        self.assertGreater(interval, 0)
        await asyncio.sleep(max(interval + 10, 20 + 20) + 2)
        for client in clients:
            self.assertEqual([c.code for c in client.log.all("connecting")], [0])
            self.assertEqual(client.log.all("disconnected"), [])
            # How long the last answered ping of the library took; 0 before the first answer.
            self.assertGreater(client._conn.latency, 0)
            await self.room_publish(client, self.fresh("idle"), None, {})




@over_encodings("tls")
class Tls:
    """The same over TLS 1.3, with the certificate that `gb6 dev --tls` makes."""

    arguments = ("--tls",)

    @proves("tls")
    async def test_connects_publishes_and_receives_over_tls(self):
        address = urllib.parse.urlparse(self.server.ws)
        self.assertEqual(address.scheme, "wss")
        shown = await asyncio.to_thread(
            ssl.get_server_certificate, (address.hostname, address.port)
        )
        trusting = ssl.create_default_context(cadata=shown)
        alice = await self.connect("alice", ssl_context=trusting)
        room = await self.room(alice, self.fresh("tls"))
        await room.sub.publish(self.encoding.encode({"n": 1}))
        await room.count(1)
        self.assertEqual(room.data, [{"n": 1}])

    @proves("tls")
    async def test_a_certificate_that_is_not_trusted_is_refused_by_the_client(self):
        client = self.client("alice")
        await client.connect()
        refused = await client.log.next("error")
        self.assertIsInstance(refused.error, ssl.SSLCertVerificationError)
