"""In which form publications come: as differences, chosen by tags, under numbers, without one's own,
kept nowhere."""

import centrifuge

from lib.client import Json, over_encodings
from lib.conformance import proves
from lib.token import member, sign


def state(n):
    """A state of 2 kB with text whose characters share their first bytes; three fields change."""
    players = [
        {"id": id, "name": f"Игрок {id} из Köln 漢字😀", "team": "blue", "score": n if id == 7 else id * 31}
        for id in range(20)
    ]
    return {"minute": n % 90, "word": "жзийклм"[n % 7], "players": players}


@over_encodings("delivery")
class Delivery:
    @proves("delta")
    async def test_differences_make_the_same_data_also_after_a_cut(self):
        channel = self.fresh("delta")
        alice, bob = await self.connect("alice", Json), await self.connect("bob")
        room = await self.room(bob, channel, delta=centrifuge.DeltaType.FOSSIL)
        self.assertTrue(room.sub._delta_negotiated)
        values = [1, "ä", None, {"text": '"\\\n\t€'}, [], *(state(n) for n in range(20))]
        for value in values:
            await self.room_publish(alice, channel, None, value, Json)
        await room.count(len(values))
        self.assertEqual(room.data, values)
        # While it is away and after it has come back.
        bob._conn.transport.abort()
        for n in (20, 21):
            await self.room_publish(alice, channel, None, state(n), Json)
        await room.count(len(values) + 2)
        for n in (22, 23):
            await self.room_publish(alice, channel, None, state(n), Json)
        await room.count(len(values) + 4)
        self.assertEqual(room.data[-4:], [state(n) for n in range(20, 24)])
        self.assertEqual(room.offsets, list(range(1, len(values) + 5)))
        self.assertTrue(room.log.all("subscribed")[-1].recovered)

    @proves("tags-filter")
    async def test_a_filter_chooses_by_tags_live_and_in_recovery(self):
        channel = self.fresh("filter")
        alice, bob = await self.connect("alice"), await self.connect("bob")
        chosen = centrifuge.Filter.any(
            centrifuge.Filter.is_in("id", ["m2", "m9"]),
            centrifuge.Filter.all(
                centrifuge.Filter.starts_with("id", "m"), centrifuge.Filter.ends_with("id", "5")
            ),
        )
        room = await self.room(bob, channel, tags_filter=chosen)
        for n in range(1, 7):
            await self.room_publish(alice, channel, f"m{n}", {"n": n})
        await room.count(2)
        bob._conn.transport.abort()
        for n in range(7, 16):
            await self.room_publish(alice, channel, f"m{n}", {"n": n})
        await room.count(4)
        self.assertEqual([data["n"] for data in room.data], [2, 5, 9, 15])

    @proves("compaction")
    async def test_pushes_carry_a_number_in_place_of_the_channel(self):
        channel = self.fresh("compact")
        alice, bob = await self.connect("alice"), await self.connect("bob")
        rooms = [await self.room(bob, channel), await self.room(bob, self.fresh("compact"))]
        numbers = [room.sub._push_id for room in rooms]
        self.assertTrue(0 < numbers[0] != numbers[1] > 0, numbers)
        mine = await self.room(alice, channel)
        for n in (1, 2):
            await mine.sub.publish(self.encoding.encode({"n": n}))
        await rooms[1].sub.publish(self.encoding.encode({"n": 3}))
        await mine.sub.unsubscribe()
        await rooms[0].log.next("join", lambda context: context.info.user == "alice")
        await rooms[0].log.next("leave", lambda context: context.info.user == "alice")
        await rooms[1].count(1)
        self.assertEqual([room.data for room in rooms], [[{"n": 1}, {"n": 2}], [{"n": 3}]])

    @proves("exclude-own")
    async def test_a_connection_that_does_not_want_its_own_gets_everybody_elses(self):
        channel = self.fresh("own")
        data = self.encoding.encode({"gb6": {"exclude_own": True}, "app": 1})
        rooms = [
            await self.room(await self.connect("alice", data=data), channel),
            await self.room(await self.connect("bob"), channel),
        ]
        for n in range(1, 5):
            await rooms[n % 2].sub.publish(self.encoding.encode({"n": n}))
        await rooms[0].count(2)
        await rooms[1].count(4)
        numbers = [[data["n"] for data in room.data] for room in rooms]
        self.assertEqual(numbers, [[1, 3], [1, 2, 3, 4]])

    @proves("signals")
    async def test_signals_reach_who_is_there_and_are_kept_nowhere(self):
        channel = self.fresh("order").replace("room:", "signal:")
        allow = ["sub", "pub", "prs", "hst"]
        caps = [{"channels": ["signal:*"], "match": "wildcard", "allow": allow}]
        clients = [
            await self.connect(None, token=sign(self.server, member(user, caps=caps)))
            for user in ("alice", "bob")
        ]
        rooms = [await self.room(client, channel) for client in clients]
        for room in rooms:
            subscribed = room.log.all("subscribed")[0]
            self.assertEqual((subscribed.recoverable, subscribed.positioned), (False, False))
        values = [{"n": n, "word": "ж€漢"[n % 3]} for n in range(30)]
        for value in values:
            await rooms[0].sub.publish(self.encoding.encode(value))
        for room in rooms:
            await room.count(30)
            self.assertEqual(room.data, values)
            self.assertEqual({pub.offset for pub in room.publications}, {0})
        await self.refused(108, rooms[0].sub.history(limit=1))
        self.assertEqual((await rooms[0].sub.presence_stats()).num_clients, 2)
        # Who was away misses what came meanwhile, and gets what comes then.
        await clients[1].disconnect()
        await rooms[0].sub.publish(self.encoding.encode({"n": 30}))
        await clients[1].connect()
        log = rooms[1].log
        await log.until("it is back", lambda: len(log.all("subscribed")) == 2)
        await rooms[0].sub.publish(self.encoding.encode({"n": 31}))
        await rooms[1].count(31)
        self.assertEqual(rooms[1].data[30:], [{"n": 31}])
