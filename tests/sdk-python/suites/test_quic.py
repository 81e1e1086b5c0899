"""A QUIC client that others wrote: aioquic, with the messages of the Python SDK's own schema."""

import asyncio
import json
import time

from centrifuge.protocol import client_pb2

from lib.client import Case, Json, Protobuf
from lib.conformance import proves
from lib.quic import QuicClient, Refused, frame
from lib.server import PATIENCE
from lib.token import member, sign


class Quic(Case):
    sdk = "aioquic"
    transport = "quic"
    encoding = Protobuf
    suite = "quic"

    def make(self):
        client = QuicClient(self.server)
        self.addCleanup(client.close)
        return client

    async def enter(self, user, seconds=3600, **more):
        """A client on which a user is signed in."""
        client = await self.make().open()
        token = sign(self.server, member(user, seconds, **more))
        client.connected = await client.ask(connect=client_pb2.ConnectRequest(token=token))
        return client

    async def subscribe(self, client, channel, **more):
        request = client_pb2.SubscribeRequest(channel=channel, join_leave=True, **more)
        return await client.ask(subscribe=request)

    async def publish(self, client, channel, data):
        request = client_pb2.PublishRequest(channel=channel, data=data)
        return await client.ask(publish=request)

    async def durable(self, client, room, id, data):
        text = json.dumps({"room": room, "id": id, "data": data}).encode()
        result = await client.ask(rpc=client_pb2.RPCRequest(method="room.publish", data=text))
        return json.loads(result.data)

    async def refusal(self, code, call):
        with self.assertRaises(Refused) as caught:
            await call
        self.assertEqual(caught.exception.code, code, caught.exception)
        self.assertGreater(len(caught.exception.message), 0)

    async def ends(self, client, code):
        """Requires a Disconnect push, the end of the stream and a close, all of one mind."""
        push = (await client.log.next("disconnect")).disconnect
        self.assertEqual(push.code, code)
        self.assertGreater(len(push.reason), 0)
        await client.log.next("end")
        self.assertEqual(await client.log.next("closed"), (code, push.reason))
        kinds = [kind for kind, _ in client.log.events if kind in ("disconnect", "end", "closed")]
        self.assertEqual(kinds, ["disconnect", "end", "closed"])

    @staticmethod
    async def publications(client, count):
        await client.log.until(
            f"{count} publications", lambda: len(client.log.all("pub")) >= count
        )
        return [push.pub for push in client.log.all("pub")]

    @proves("connect", "tls")
    async def test_connects_with_a_token_and_gets_a_client_id(self):
        alice = await self.enter("alice")
        self.assertGreater(len(alice.connected.client), 0)
        self.assertGreater(alice.connected.ping, 0)
        self.assertTrue(alice.connected.pong)

    @proves("refusals")
    async def test_a_bad_token_ends_with_3500_and_none_with_3501(self):
        for token, code in (
            (sign(self.server, member("alice"), secret="x" * 64), 3500),
            ("not.a.token", 3500),
            ("", 3501),
        ):
            client = await self.make().open()
            data, _ = client.begin(connect=client_pb2.ConnectRequest(token=token))
            client.write(data)
            await self.ends(client, code)

    @proves("renewal")
    async def test_an_expired_token_is_refused_with_109(self):
        client = await self.make().open()
        token = sign(self.server, member("alice", -60))
        request = client_pb2.ConnectRequest(token=token)
        await self.refusal(109, client.ask(connect=request))
        await self.enter("alice")

    @proves("refresh")
    async def test_a_connection_outlives_its_token_by_refresh(self):
        alice = await self.enter("alice", seconds=4)
        self.assertTrue(alice.connected.expires)
        self.assertLessEqual(alice.connected.ttl, 4)
        token = sign(self.server, member("alice"))
        result = await alice.ask(refresh=client_pb2.RefreshRequest(token=token))
        self.assertTrue(result.expires)
        self.assertGreater(result.ttl, 3000)

    @proves("refresh-refused")
    async def test_a_refused_refresh_ends_the_connection(self):
        for user, seconds, code in (("alice", -60, 3005), ("bob", 3600, 3500)):
            client = await self.enter("alice")
            token = sign(self.server, member(user, seconds))
            data, _ = client.begin(refresh=client_pb2.RefreshRequest(token=token))
            client.write(data)
            await self.ends(client, code)

    @proves("pings")
    async def test_an_idle_connection_stays_while_pings_are_answered_and_ends_when_not(self):
        alice, silent = await self.enter("alice"), await self.enter("bob")
        silent.answer_pings = False
        interval = alice.connected.ping
        await silent.log.next("disconnect", seconds=interval + 15)
        await self.ends(silent, 3012)
        await alice.log.until("two pings", lambda: len(alice.log.all("ping")) == 2, interval + 5)
        await self.durable(alice, self.fresh("idle"), "m", {})
        self.assertEqual(alice.log.all("closed"), [])

    @proves("one-frame")
    async def test_connect_and_400_subscribes_in_one_write(self):
        client = await self.make().open()
        token = sign(self.server, member("alice"))
        name = self.fresh("many")
        commands = [client.begin(connect=client_pb2.ConnectRequest(token=token))]
        for n in range(400):
            request = client_pb2.SubscribeRequest(channel=f"{name}-{n}")
            commands.append(client.begin(subscribe=request))
        client.write(b"".join(data for data, _ in commands))
        for _, reply in commands:
            await client.result(reply)

    @proves("batching")
    async def test_a_batch_of_commands_is_answered_each(self):
        alice = await self.enter("alice")
        channel = self.fresh("batch")
        commands = [
            alice.begin(publish=client_pb2.PublishRequest(channel=channel, data=b"1")),
            alice.begin(presence_stats=client_pb2.PresenceStatsRequest(channel=channel)),
            alice.begin(history=client_pb2.HistoryRequest(channel=channel, limit=0)),
            alice.begin(rpc=client_pb2.RPCRequest(method="no.such.method", data=b"{}")),
        ]
        alice.write(b"".join(data for data, _ in commands))
        await alice.result(commands[0][1])
        self.assertEqual((await alice.result(commands[1][1])).num_clients, 0)
        self.assertLessEqual((await alice.result(commands[2][1])).offset, 1)
        await self.refusal(104, alice.result(commands[3][1]))

    @proves("publish", "text")
    async def test_publishes_and_receives_in_order(self):
        channel = self.fresh("publish")
        clients = [await self.enter("alice"), await self.enter("bob")]
        for client in clients:
            result = await self.subscribe(client, channel)
            self.assertEqual((result.recoverable, result.positioned, result.offset), (True, True, 0))
            self.assertGreater(len(result.epoch), 0)
        # And one that speaks JSON over a WebSocket.
        carol = await self.connect("carol", Json)
        room = await self.room(carol, channel, Json)
        for n in range(20):
            await self.publish(clients[n % 2], channel, json.dumps({"ä€😀": n}).encode())
        for client in clients:
            seen = await self.publications(client, 20)
            self.assertEqual([pub.offset for pub in seen], list(range(1, 21)))
            self.assertEqual([json.loads(pub.data)["ä€😀"] for pub in seen], list(range(20)))
            self.assertEqual([pub.info.user for pub in seen[:2]], ["alice", "bob"])
        await room.count(20)
        self.assertEqual(room.data, [{"ä€😀": n} for n in range(20)])

    @proves("durable-publish")
    async def test_room_publish_answers_a_retry_with_the_first_offset(self):
        channel = self.fresh("durable")
        alice = await self.enter("alice")
        first = await self.durable(alice, channel, "m1", {"n": 1})
        self.assertEqual((first["offset"], first["duplicate"]), (1, False))
        self.assertLess(abs(first["time"] - time.time() * 1000), 60_000)
        # Also over another connection.
        again = await self.durable(await self.enter("alice"), channel, "m1", {"n": 1})
        self.assertEqual((again["offset"], again["duplicate"]), (1, True))

    @proves("history")
    async def test_history_is_paged_both_ways(self):
        channel = self.fresh("history")
        alice = await self.enter("alice")
        for n in range(1, 26):
            await self.durable(alice, channel, f"m{n}", n)

        async def offsets(since=None, **more):
            request = client_pb2.HistoryRequest(channel=channel, **more)
            if since is not None:
                request.since.offset = since
            result = await alice.ask(history=request)
            return [pub.offset for pub in result.publications]

        self.assertEqual(await offsets(limit=10), list(range(1, 11)))
        self.assertEqual(await offsets(limit=3, since=10), [11, 12, 13])
        self.assertEqual(await offsets(limit=3, reverse=True), [25, 24, 23])
        self.assertEqual(await offsets(limit=3, reverse=True, since=23), [22, 21, 20])
        self.assertEqual(await offsets(limit=-1), list(range(1, 26)))

    @proves("presence", "join-leave", "unsubscribe")
    async def test_who_is_there_is_seen(self):
        channel = self.fresh("presence")
        alice, bob = await self.enter("alice"), await self.enter("bob")
        await self.subscribe(alice, channel)
        await self.subscribe(bob, channel)
        await alice.log.next("join", lambda push: push.join.info.user == "bob")
        result = await alice.ask(presence=client_pb2.PresenceRequest(channel=channel))
        self.assertEqual(
            {client: info.user for client, info in result.presence.items()},
            {alice.connected.client: "alice", bob.connected.client: "bob"},
        )
        await bob.ask(unsubscribe=client_pb2.UnsubscribeRequest(channel=channel))
        await alice.log.next("leave", lambda push: push.leave.info.user == "bob")
        stats = await alice.ask(presence_stats=client_pb2.PresenceStatsRequest(channel=channel))
        self.assertEqual((stats.num_clients, stats.num_users), (1, 1))
        await self.publish(alice, channel, b"1")
        await self.publications(alice, 1)
        self.assertEqual(bob.log.all("pub"), [])

    @proves("errors", "capabilities")
    async def test_errors_have_codes_and_words(self):
        caps = [{"channels": ["room:open-*"], "match": "wildcard", "allow": ["sub"]}]
        carol = await self.enter("carol", caps=caps)
        channel = self.fresh("open-x")
        await self.subscribe(carol, channel)
        await self.refusal(103, self.publish(carol, channel, b"1"))
        await self.refusal(103, self.durable(carol, channel, "a", 1))
        await self.refusal(103, self.subscribe(carol, self.fresh("closed")))
        alice = await self.enter("alice")
        await self.refusal(102, self.publish(alice, "nowhere:a", b"1"))
        await self.refusal(107, self.publish(alice, self.fresh("size"), b"x" * 66_000))
        await self.refusal(105, asyncio.wait_for(self._twice(alice), PATIENCE))

    async def _twice(self, client):
        channel = self.fresh("twice")
        await self.subscribe(client, channel)
        await self.subscribe(client, channel)

    @proves("limits")
    async def test_a_command_beyond_the_bound_ends_the_connection(self):
        alice = await self.enter("alice")
        # Announced, and never sent: 80 KiB and one byte.
        alice.write(b"\x81\x80\x05")
        await self.ends(alice, 3501)
        # A first command that is none.
        client = await self.make().open()
        client.write(frame(client_pb2.Command(id=1, publish=client_pb2.PublishRequest())))
        await self.ends(client, 3501)

    @proves("binary")
    async def test_bytes_that_are_not_json_arrive_as_they_are(self):
        channel = self.fresh("bytes")
        alice = await self.enter("alice")
        await self.subscribe(alice, channel)
        for data in (bytes([0, 255, 1]), b"{", b"plain"):
            await self.publish(alice, channel, data)
        seen = await self.publications(alice, 3)
        self.assertEqual([pub.data for pub in seen], [bytes([0, 255, 1]), b"{", b"plain"])

    @proves("recovery", "position", "unrecoverable")
    async def test_what_was_missed_is_recovered_from_a_position(self):
        channel = self.fresh("away")
        alice = await self.enter("alice")
        for n in range(1, 11):
            await self.durable(alice, channel, f"m{n}", n)
        bob = await self.enter("bob")
        result = await self.subscribe(bob, channel, recover=True, offset=4)
        self.assertEqual((result.was_recovering, result.recovered), (True, True))
        self.assertEqual([pub.offset for pub in result.publications], list(range(5, 11)))
        carol = await self.enter("carol")
        result = await self.subscribe(carol, channel, recover=True, offset=4, epoch="other")
        self.assertEqual((result.was_recovering, result.recovered), (True, False))
        self.assertEqual((len(result.publications), result.offset), (0, 10))
        request = {"recover": True, "offset": 4, "epoch": "other", "flag": 2}
        await self.refusal(112, self.subscribe(await self.enter("dave"), channel, **request))

    @proves("migration")
    async def test_a_client_that_changes_its_address_goes_on(self):
        channel = self.fresh("moves")
        alice, bob = await self.enter("alice"), await self.enter("bob")
        await self.subscribe(bob, channel)
        for n in range(1, 16):
            if n % 5 == 0:
                await bob.move()
            await self.durable(alice, channel, f"m{n}", n)
            # It has to speak first from where it is now.
            await bob.ask(presence_stats=client_pb2.PresenceStatsRequest(channel=channel))
        seen = await self.publications(bob, 15)
        self.assertEqual([pub.offset for pub in seen], list(range(1, 16)))
        self.assertEqual(bob.log.all("closed"), [])

    async def come_back(self, user, channel, offset, epoch):
        """Connects and recovers, again and again until there is a server."""
        while True:
            client = self.make()
            try:
                await client.open()
                token = sign(self.server, member(user))
                await client.ask(connect=client_pb2.ConnectRequest(token=token))
                request = {"recover": True, "offset": offset, "epoch": epoch}
                return client, await self.subscribe(client, channel, **request)
            except ConnectionError:
                await asyncio.sleep(0.05)

    async def breaks(self, break_it):
        """Breaks something several times under load: a reader sees every message once."""
        channel = self.fresh("breaks")
        alice, bob = await self.enter("alice"), await self.enter("bob")
        epoch = (await self.subscribe(bob, channel)).epoch
        seen, count = [], 0
        for _ in range(4):
            for _ in range(20):
                count += 1
                await self.durable(alice, channel, f"m{count}", count)
            at = len(seen)
            seen += [pub.offset for pub in (await self.publications(bob, 5))]
            await break_it(bob)
            for _ in range(20):
                count += 1
                alice = await self.retried(alice, channel, count)
            bob, result = await self.come_back("bob", channel, seen[-1], epoch)
            self.assertTrue(result.recovered, at)
            seen += [pub.offset for pub in result.publications]
        self.assertEqual(seen, list(range(1, count + 1)))

    async def retried(self, client, channel, n):
        """Publishes until it is acknowledged, over another connection if need be."""
        while True:
            try:
                # The server may have been killed, which nobody tells a QUIC client.
                await asyncio.wait_for(self.durable(client, channel, f"m{n}", n), 2)
                return client
            except (ConnectionError, Refused, TimeoutError):
                client, _ = await self.come_back("alice", self.fresh("unused"), 0, "")

    @proves("cut")
    async def test_a_client_that_vanishes_and_comes_back_misses_nothing(self):
        async def vanish(client):
            client.vanish()

        await self.breaks(vanish)

    @proves("restart")
    async def test_a_killed_server_loses_and_doubles_nothing(self):
        async def kill(_):
            await asyncio.to_thread(self.server.kill)
            await asyncio.to_thread(self.server.restart)

        await self.breaks(kill)

    @proves("many-rooms")
    async def test_400_rooms_are_recovered_by_one_connection(self):
        alice, bob = await self.enter("alice"), await self.enter("bob")
        name = self.fresh("all")
        for n in range(400):
            await self.publish(alice, f"{name}-{n}", b"1")
        commands = []
        for n in range(400):
            request = client_pb2.SubscribeRequest(channel=f"{name}-{n}", recover=True)
            commands.append(bob.begin(subscribe=request))
        bob.write(b"".join(data for data, _ in commands))
        for _, reply in commands:
            result = await bob.result(reply)
            self.assertEqual((result.recovered, len(result.publications)), (True, 1))

    @proves("drain")
    async def test_a_drained_server_says_when_to_come_back(self):
        alice = await self.enter("alice")
        self.server.terminate()
        await self.ends(alice, 3001)
        self.assertEqual(await asyncio.to_thread(self.server.ended), 0)
        await asyncio.to_thread(self.server.restart)
        await self.enter("alice")
