"""Coming back: positions, recovery of what was missed, its bounds, and servers that die."""

import asyncio

import centrifuge

from lib.client import Room, over_encodings
from lib.conformance import proves


def up_to(n):
    return list(range(1, n + 1))


@over_encodings("recovery")
class Recovery:
    @proves("recovery")
    async def test_what_was_missed_while_away_is_recovered(self):
        channel = self.fresh("away")
        alice, bob = await self.connect("alice"), await self.connect("bob")
        room = await self.room(bob, channel)
        for n in up_to(5):
            await self.room_publish(alice, channel, None, {"n": n})
        await room.count(5)
        await bob.disconnect()
        for n in range(6, 31):
            await self.room_publish(alice, channel, None, {"n": n})
        await bob.connect()
        await room.count(30)
        again = room.log.all("subscribed")[-1]
        self.assertEqual((again.was_recovering, again.recovered), (True, True))
        await self.room_publish(alice, channel, None, {"n": 31})
        await room.count(31)
        self.assertEqual(room.offsets, up_to(31))
        self.assertEqual(room.data, [{"n": n} for n in up_to(31)])

    @proves("cut")
    async def test_a_cut_link_under_load_loses_and_doubles_nothing(self):
        channel = self.fresh("cut")
        alice, bob = await self.connect("alice"), await self.connect("bob")
        room = await self.room(bob, channel)
        sent = 0
        stop = False

        async def publish():
            nonlocal sent
            while not stop:
                sent += 1
                await self.room_publish(alice, channel, f"m{sent}", {"n": sent})

        publisher = asyncio.create_task(publish())
        for cut in up_to(5):
            await room.count(len(room.publications) + 20)
            # As if the network were gone: no closing handshake.
            bob._conn.transport.abort()
            await bob.log.until("back", lambda: len(bob.log.all("connected")) == cut + 1)
        await room.count(len(room.publications) + 20)
        stop = True
        await publisher
        await room.count(sent)
        self.assertEqual(room.offsets, up_to(sent))
        subscribed = room.log.all("subscribed")[1:]
        self.assertEqual(len(subscribed), 5)
        self.assertTrue(all(s.was_recovering and s.recovered for s in subscribed))

    @proves("recovery")
    async def test_nothing_missed_is_recovered_too(self):
        channel = self.fresh("nothing")
        bob = await self.connect("bob")
        room = await self.room(bob, channel)
        await bob.disconnect()
        await bob.connect()
        await room.log.until("subscribed again", lambda: len(room.log.all("subscribed")) == 2)
        again = room.log.all("subscribed")[1]
        self.assertEqual((again.was_recovering, again.recovered), (True, True))

    @proves("unrecoverable")
    async def test_beyond_the_bound_of_bytes_nothing_is_skipped_in_silence(self):
        channel = self.fresh("bound")
        alice, bob = await self.connect("alice"), await self.connect("bob")
        room = await self.room(bob, channel)
        await alice.publish(channel, self.encoding.encode({"n": 0}))
        await room.count(1)
        await bob.disconnect()
        for n in up_to(12):
            await alice.publish(channel, self.encoding.encode({"n": n, "filling": "x" * 60_000}))
        await bob.connect()
        await room.log.until("subscribed again", lambda: len(room.log.all("subscribed")) == 2)
        again = room.log.all("subscribed")[1]
        self.assertEqual((again.was_recovering, again.recovered), (True, False))
        self.assertEqual(again.stream_position.offset, 13)
        # The application pages.
        missed = []
        since = centrifuge.StreamPosition(offset=1, epoch=again.stream_position.epoch)
        while since.offset < 13:
            page = await room.sub.history(limit=300, since=since)
            self.assertGreater(len(page.publications), 0)
            missed += [pub.offset for pub in page.publications]
            since = centrifuge.StreamPosition(offset=missed[-1], epoch=since.epoch)
        self.assertEqual(missed, list(range(2, 14)))
        self.assertEqual(room.offsets, [1])

    @proves("position")
    async def test_a_position_from_the_application_is_recovered_from(self):
        channel = self.fresh("since")
        alice = await self.connect("alice")
        epoch = (await self.room_publish(alice, channel, None, {"n": 1}))["epoch"]
        for n in range(2, 6):
            await self.room_publish(alice, channel, None, {"n": n})

        async def get_state(_):
            return centrifuge.StreamPosition(offset=2, epoch=epoch)

        room = await self.room(alice, channel, get_state=get_state)
        await room.count(3)
        self.assertEqual(room.offsets, [3, 4, 5])

    @proves("unrecoverable")
    async def test_a_wrong_epoch_answers_112_and_the_application_is_asked_again(self):
        channel = self.fresh("epoch")
        alice = await self.connect("alice")
        epoch = (await self.room_publish(alice, channel, None, {"n": 1}))["epoch"]
        positions = iter([(0, "other"), (0, epoch)])
        asked = []

        async def get_state(_):
            offset, of = next(positions)
            asked.append(of)
            return centrifuge.StreamPosition(offset=offset, epoch=of)

        room = await self.room(alice, channel, get_state=get_state)
        await room.count(1)
        self.assertEqual(asked, ["other", epoch])
        self.assertEqual(room.offsets, [1])

    @proves("many-rooms")
    async def test_400_rooms_are_recovered_by_one_reconnection(self):
        alice, bob = await self.connect("alice"), await self.connect("bob")
        name = self.fresh("all")
        rooms = [
            Room(bob, self.encoding, f"{name}-{n}", recoverable=True, positioned=True)
            for n in range(400)
        ]
        await asyncio.gather(*(room.subscribe() for room in rooms))
        await bob.disconnect()
        encode = self.encoding.encode
        for room in rooms:
            await alice.publish(room.channel, encode({"of": room.channel}))
        await bob.connect()
        await asyncio.gather(*(room.count(1) for room in rooms))
        for room in rooms:
            self.assertEqual(room.data, [{"of": room.channel}])
            self.assertTrue(room.log.all("subscribed")[-1].recovered)


@over_encodings("restart")
class Restart:
    @proves("restart")
    async def test_a_killed_server_loses_and_doubles_nothing(self):
        channel = self.fresh("crash")
        alice = await self.connect("alice")
        bob = await self.connect("bob")
        room = await self.room(bob, channel)
        acknowledged = []
        stop = False

        async def publish():
            n = 0
            while not stop:
                n += 1
                while True:
                    try:
                        answer = await self.room_publish(alice, channel, f"m{n}", {"n": n})
                        acknowledged.append(answer["offset"])
                        break
                    except centrifuge.CentrifugeError:
                        # With the same id again: whether it was written is not known.
                        await asyncio.sleep(0.02)

        publisher = asyncio.create_task(publish())
        for kill in up_to(3):
            await room.count(len(room.publications) + 20)
            await asyncio.to_thread(self.server.kill)
            await asyncio.to_thread(self.server.restart)
            await bob.log.until("back", lambda: len(bob.log.all("connected")) == kill + 1)
        await room.count(len(room.publications) + 20)
        stop = True
        await publisher
        await room.count(len(acknowledged))
        self.assertEqual(acknowledged, up_to(len(acknowledged)))
        self.assertEqual(room.offsets, acknowledged)
        self.assertEqual(room.data, [{"n": n} for n in acknowledged])

    @proves("drain")
    async def test_a_drained_server_tells_clients_to_come_back_and_they_do(self):
        alice = await self.connect("alice")
        self.server.terminate()
        lost = await alice.log.next("connecting", lambda context: context.code != 0)
        self.assertEqual(lost.code, 3001)
        self.assertGreater(len(lost.reason), 0)
        self.assertEqual(await asyncio.to_thread(self.server.ended), 0)
        await asyncio.to_thread(self.server.restart)
        await alice.log.until("back", lambda: len(alice.log.all("connected")) == 2)
