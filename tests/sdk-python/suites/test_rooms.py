"""What an application does in rooms: publish, read, look who is there, leave."""

import asyncio
import time

import centrifuge

from lib.client import Json, Protobuf, Room, over_encodings
from lib.conformance import proves
from lib.token import member, sign


@over_encodings("rooms")
class Rooms:
    @proves("publish")
    async def test_publishes_and_receives_in_order(self):
        channel = self.fresh("publish")
        clients = [await self.connect("alice"), await self.connect("bob")]
        rooms = [await self.room(client, channel) for client in clients]
        subscribed = rooms[0].log.all("subscribed")[0]
        self.assertEqual(
            (subscribed.recoverable, subscribed.positioned, subscribed.was_recovering),
            (True, True, False),
        )
        self.assertEqual(subscribed.stream_position.offset, 0)
        self.assertGreater(len(subscribed.stream_position.epoch), 0)
        for n in range(1, 21):
            await rooms[n % 2].sub.publish(self.encoding.encode({"n": n}))
        for room in rooms:
            await room.count(20)
            self.assertEqual(room.data, [{"n": n} for n in range(1, 21)])
            self.assertEqual(room.offsets, list(range(1, 21)))
            self.assertEqual({pub.info.user for pub in room.publications}, {"alice", "bob"})
            self.assertTrue(all(pub.info.client for pub in room.publications))

    @proves("durable-publish")
    async def test_room_publish_answers_a_retry_with_the_first_offset(self):
        channel = self.fresh("durable")
        alice, bob = await self.connect("alice"), await self.connect("bob")
        room = await self.room(bob, channel)
        began = time.time() * 1000
        first = await self.room_publish(alice, channel, "m1", {"text": "ä"})
        self.assertEqual((first["offset"], first["duplicate"]), (1, False))
        self.assertLess(abs(first["time"] - began), 60_000)
        again = await self.room_publish(alice, channel, "m1", {"text": "ä"})
        self.assertEqual((again["offset"], again["duplicate"]), (1, True))
        self.assertEqual(again["epoch"], first["epoch"])
        # The id belongs to the user: another one's is another message.
        other = await self.room_publish(bob, channel, "m1", {"text": "b"})
        self.assertEqual((other["offset"], other["duplicate"]), (2, False))
        await room.count(2)
        self.assertEqual(room.data, [{"text": "ä"}, {"text": "b"}])
        self.assertEqual([pub.tags.get("id") for pub in room.publications], ["m1", "m1"])

    @proves("history")
    async def test_history_is_paged_both_ways(self):
        channel = self.fresh("history")
        alice = await self.connect("alice")
        for n in range(1, 26):
            await self.room_publish(alice, channel, f"m{n}", {"n": n})

        async def numbers(**options):
            page = await alice.history(channel, **options)
            return [self.encoding.decode(pub.data)["n"] for pub in page.publications]

        top = await alice.history(channel, limit=0)
        self.assertEqual((top.publications, top.offset), ([], 25))

        def since(offset, epoch=top.epoch):
            return centrifuge.StreamPosition(offset=offset, epoch=epoch)

        page = await alice.history(channel, limit=10)
        self.assertEqual([pub.offset for pub in page.publications], list(range(1, 11)))
        self.assertTrue(all(pub.info.user == "alice" for pub in page.publications))
        self.assertTrue(all(pub.tags["id"].startswith("m") for pub in page.publications))
        self.assertEqual(await numbers(limit=3, since=since(10)), [11, 12, 13])
        self.assertEqual(await numbers(limit=3, reverse=True), [25, 24, 23])
        self.assertEqual(await numbers(limit=3, reverse=True, since=since(23)), [22, 21, 20])
        self.assertEqual(await numbers(limit=-1), list(range(1, 26)))
        self.assertEqual(await numbers(limit=10, since=since(25)), [])
        self.assertEqual(await numbers(limit=10, since=since(24, "")), [25])
        await self.refused(112, alice.history(channel, limit=10, since=since(1, "other")))

    @proves("presence", "join-leave")
    async def test_presence_its_statistics_joins_and_leaves(self):
        channel = self.fresh("presence")
        alice = await self.connect("alice")
        room = await self.room(alice, channel)
        bobs = [await self.connect("bob"), await self.connect("bob")]
        theirs = [await self.room(bob, channel) for bob in bobs]

        def of_bob(kind):
            return [c for c in room.log.all(kind) if c.info.user == "bob"]

        await room.log.until("two joins of bob", lambda: len(of_bob("join")) == 2)
        present = (await room.sub.presence()).clients
        self.assertEqual(sorted(i.user for i in present.values()), ["alice", "bob", "bob"])
        for client, info in present.items():
            self.assertEqual(info.client, client)
        stats = await room.sub.presence_stats()
        self.assertEqual((stats.num_clients, stats.num_users), (3, 2))
        await bobs[0].disconnect()
        await room.log.until("a leave of bob", lambda: len(of_bob("leave")) == 1)
        self.assertEqual((await room.sub.presence_stats()).num_clients, 2)
        await theirs[1].sub.unsubscribe()
        await room.log.until("two leaves of bob", lambda: len(of_bob("leave")) == 2)
        self.assertEqual((await room.sub.presence_stats()).num_users, 1)

    @proves("unsubscribe")
    async def test_after_unsubscribing_nothing_comes(self):
        channel = self.fresh("unsubscribe")
        alice = await self.connect("alice")
        room = await self.room(alice, channel)
        await self.room_publish(alice, channel, None, {"n": 1})
        await room.count(1)
        await room.sub.unsubscribe()
        self.assertEqual((await room.log.next("unsubscribed")).code, 0)
        await self.room_publish(alice, channel, None, {"n": 2})
        fresh = await self.room(await self.connect("bob"), channel)
        self.assertEqual(fresh.log.all("subscribed")[0].stream_position.offset, 2)
        await self.room_publish(alice, channel, None, {"n": 3})
        await fresh.count(1)
        self.assertEqual(fresh.data, [{"n": 3}])
        self.assertEqual(len(room.publications), 1)

    @proves("errors")
    async def test_errors_have_codes_and_words(self):
        encode = self.encoding.encode
        alice = await self.connect("alice")
        large = {"text": "x" * 66_000}
        calls = [
            (104, lambda: alice.rpc("no.such.method", encode({}))),
            (107, lambda: alice.rpc("room.publish", encode({"room": ""}))),
            (107, lambda: self.room_publish(alice, self.fresh("id"), "x" * 129, {})),
            (107, lambda: self.room_publish(alice, self.fresh("size"), "x", large)),
            (107, lambda: alice.publish(self.fresh("size"), encode(large))),
            (107, lambda: alice.publish("room:" + "x" * 300, encode({}))),
            (102, lambda: alice.publish("nowhere:a", encode({}))),
            (102, lambda: alice.history("nowhere:a", limit=1)),
        ]
        for index, (code, call) in enumerate(calls):
            with self.subTest(index=index, code=code):
                error = await self.refused(code, call())
                self.assertFalse(error.temporary)

    @proves("capabilities")
    async def test_a_token_without_the_capability_is_refused_with_103(self):
        encode = self.encoding.encode
        caps = [{"channels": ["room:open-*"], "match": "wildcard", "allow": ["sub"]}]
        token = sign(self.server, member("carol", caps=caps))
        carol = await self.connect(None, token=token)
        room = await self.room(carol, self.fresh("open").replace("room:open", "room:open-"))
        await self.refused(103, room.sub.publish(encode({})))
        await self.refused(103, self.room_publish(carol, room.channel, "a", {}))
        await self.refused(103, room.sub.history(limit=1))
        await self.refused(103, room.sub.presence())
        closed = Room(carol, self.encoding, self.fresh("closed"))
        await closed.sub.subscribe()
        ended = await closed.log.next("unsubscribed")
        self.assertEqual(ended.code, 103)
        self.assertGreater(len(ended.reason), 0)

    @proves("limits")
    async def test_a_subscription_beyond_1024_is_refused_with_106(self):
        alice = await self.connect("alice")
        name = self.fresh("limit")
        rooms = [Room(alice, self.encoding, f"{name}-{n}") for n in range(1024)]
        await asyncio.gather(*(room.subscribe() for room in rooms))
        beyond = Room(alice, self.encoding, f"{name}-beyond")
        await beyond.sub.subscribe()
        self.assertEqual((await beyond.log.next("unsubscribed")).code, 106)
        # And one that ends makes room for another.
        await rooms[0].sub.unsubscribe()
        await beyond.subscribe()


@over_encodings("mixed")
class Mixed:
    """Clients of both encodings in one room."""

    async def both(self, channel):
        other = Protobuf if self.encoding is Json else Json
        pairs = [(self.encoding, "alice"), (other, "bob")]
        clients = [(await self.connect(user, encoding), encoding) for encoding, user in pairs]
        return [(client, await self.room(client, channel, encoding)) for client, encoding in clients]

    @proves("text")
    async def test_json_data_is_the_same_for_both(self):
        channel = self.fresh("text")
        both = await self.both(channel)
        values = [{"text": "ä€😀\n", "n": 1.5, "list": [None, True]}, "text", 7, [], {"b64": "no"}]
        for n, value in enumerate(values):
            _, room = both[n % 2]
            await room.sub.publish(room.encoding.encode(value))
        for _, room in both:
            await room.count(len(values))
            self.assertEqual(room.data, values)

    @proves("binary")
    async def test_bytes_that_are_not_json_reach_a_json_client_as_b64(self):
        channel = self.fresh("bytes")
        both = await self.both(channel)
        [writer] = [room for _, room in both if room.encoding is Protobuf]
        [reader] = [room for _, room in both if room.encoding is Json]
        data = [bytes([0, 255, 1, 254]), b"{", b"plain words"]
        shown = [{"b64": "AP8B/g=="}, {"b64": "ew=="}, {"b64": "cGxhaW4gd29yZHM="}]
        for value in data:
            await writer.sub.publish(value)
        await writer.count(len(data))
        await reader.count(len(data))
        self.assertEqual([pub.data for pub in writer.publications], data)
        self.assertEqual(reader.data, shown)
        page = await reader.sub.history(limit=10)
        self.assertEqual([pub.data for pub in page.publications], shown)
