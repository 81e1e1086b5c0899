"""Whose channels are whose: subscriptions by token and by the server, private and personal channels,
people without a token, and namespaces with options of their own."""

import asyncio
import time

import centrifuge

from lib.client import Room, over_encodings
from lib.conformance import proves
from lib.server import PATIENCE, ROOT
from lib.token import member, sign


def in_seconds(n):
    return int(time.time()) + n


@over_encodings("channels")
class Channels:
    arguments = ("--config", ROOT / "tests/conformance/channels.toml")

    def in_namespace(self, name):
        return self.fresh("c").replace("room:", f"{name}:")

    def subscription(self, user, channel, **more):
        """A token for a subscription."""
        claims = {"sub": user, "channel": channel, "exp": in_seconds(3600), **more}
        return sign(self.server, claims)

    async def enter(self, user, **claims):
        """A client that is connected with these claims more."""
        return await self.connect(None, token=sign(self.server, member(user, **claims)))

    async def ended(self, client, channel, **options):
        """How a subscription ends that must be refused."""
        room = Room(client, self.encoding, channel, **options)
        await room.sub.subscribe()
        ended = await room.log.next("unsubscribed")
        self.assertGreater(len(ended.reason), 0)
        return ended.code

    @proves("sub-token")
    async def test_a_token_lets_into_a_guarded_channel_with_info_and_data(self):
        encode, decode = self.encoding.encode, self.encoding.decode
        channel = self.in_namespace("guarded")
        alice, bob = await self.enter("alice"), await self.enter("bob")
        token = self.subscription("alice", channel, info={"role": "host"}, data={"topic": "ä"})
        room = await self.room(alice, channel, token=token)
        self.assertEqual(decode(room.log.all("subscribed")[0].data), {"topic": "ä"})
        asked = []

        async def get_token(of):
            asked.append(of)
            return self.subscription("bob", channel, info={"role": "guest"})

        theirs = await self.room(bob, channel, get_token=get_token)
        self.assertEqual(asked, [channel])
        join = await room.log.next("join", lambda context: context.info.user == "bob")
        self.assertEqual(decode(join.info.chan_info), {"role": "guest"})
        await room.sub.publish(encode({"n": 1}))
        await theirs.count(1)
        self.assertEqual(decode(theirs.publications[0].info.chan_info), {"role": "host"})
        present = (await theirs.sub.presence()).clients.values()
        self.assertEqual(sorted(decode(i.chan_info)["role"] for i in present), ["guest", "host"])
        # Who has none is refused, in all that the channel is for.
        carol = await self.enter("carol")
        self.assertEqual(await self.ended(carol, channel), 103)
        await self.refused(103, carol.publish(channel, encode({})))
        await self.refused(103, carol.history(channel, limit=1))
        await self.refused(103, carol.presence(channel))

    @proves("sub-token-refused")
    async def test_a_bad_token_is_refused_an_expired_one_renewed_a_foreign_one_ends_it(self):
        channel = self.in_namespace("guarded")
        alice = await self.enter("alice")
        claims = {"sub": "alice", "channel": channel, "exp": in_seconds(60)}
        bad = sign(self.server, claims, secret="x" * 64)
        self.assertEqual(await self.ended(alice, channel, token=bad), 103)
        asked = 0

        async def get_token(of):
            nonlocal asked
            asked += 1
            return self.subscription("alice", of)

        other = self.in_namespace("guarded")
        expired = self.subscription("alice", other, exp=in_seconds(-60))
        await self.room(alice, other, token=expired, get_token=get_token)
        self.assertEqual(asked, 1)
        mine, others = self.in_namespace("guarded"), self.in_namespace("guarded")
        for token in (self.subscription("bob", mine), self.subscription("alice", others)):
            client = await self.enter("alice")
            room = Room(client, self.encoding, mine, token=token)
            await room.sub.subscribe()
            ended = await client.log.next("disconnected")
            self.assertEqual(ended.code, 3500)
            self.assertGreater(len(ended.reason), 0)

    @proves("sub-refresh")
    async def test_a_subscription_outlives_its_token(self):
        channel = self.in_namespace("guarded")
        alice = await self.enter("alice")
        asked = 0
        again = asyncio.Event()

        async def get_token(_):
            nonlocal asked
            asked += 1
            if asked == 3:
                again.set()
            return self.subscription("alice", channel, exp=in_seconds(2 if asked < 3 else 3600))

        room = await self.room(alice, channel, get_token=get_token)
        await asyncio.wait_for(again.wait(), PATIENCE)
        await room.sub.publish(self.encoding.encode({"n": 1}))
        await room.count(1)
        self.assertEqual(len(room.log.all("subscribed")), 1)

    @proves("server-subs")
    async def test_the_server_subscribes_and_what_was_missed_is_recovered(self):
        decode = self.encoding.decode
        one, two = self.in_namespace("room"), self.in_namespace("room")
        alice = await self.enter("alice")
        subs = {two: {"data": {"topic": "x"}, "info": {"role": "r"}}}
        bob = await self.enter("bob", channels=[one], subs=subs)

        def begun(channel):
            return [c for c in bob.log.all("subscribed") if c.channel == channel]

        def seen(channel):
            return [c.pub for c in bob.log.all("publication") if c.channel == channel]

        for channel in (one, two):
            await bob.log.until(f"subscribed to {channel}", lambda: len(begun(channel)) == 1)
        self.assertEqual(decode(begun(two)[0].data), {"topic": "x"})
        self.assertEqual((begun(two)[0].recoverable, begun(two)[0].stream_position.offset), (True, 0))
        [info] = (await alice.presence(two)).clients.values()
        self.assertEqual((info.user, decode(info.chan_info)), ("bob", {"role": "r"}))
        await self.room_publish(alice, one, None, {"n": 1})
        await bob.log.until("the first publication", lambda: len(seen(one)) == 1)
        # Cut off, so that the client comes back by itself.
        bob._conn.transport.abort()
        for n, channel in ((2, one), (3, two), (4, one)):
            await self.room_publish(alice, channel, None, {"n": n})
        await bob.log.until("subscribed again", lambda: len(begun(two)) == 2)
        self.assertEqual((begun(two)[1].was_recovering, begun(two)[1].recovered), (True, True))
        await bob.log.until("everything", lambda: (len(seen(one)), len(seen(two))) == (3, 1))
        self.assertEqual([decode(pub.data)["n"] for pub in seen(one)], [1, 2, 4])
        self.assertEqual([pub.offset for pub in seen(one)], [1, 2, 3])
        self.assertEqual([decode(pub.data)["n"] for pub in seen(two)], [3])

    @proves("personal")
    async def test_everybody_has_a_channel_of_their_own(self):
        encode = self.encoding.encode
        user = f"u-{self.encoding.name}"
        # Without capabilities, what any member may.
        clients = [await self.enter(user, caps=None) for _ in range(2)]
        for client in clients:
            await client.log.next("subscribed", lambda context: context.channel == f"#{user}")
        await clients[0].publish(f"#{user}", encode({"n": 1}))
        for client in clients:
            context = await client.log.next("publication")
            self.assertEqual(context.channel, f"#{user}")
            self.assertEqual(self.encoding.decode(context.pub.data), {"n": 1})
        stranger = await self.enter("stranger", caps=None)
        await self.refused(103, stranger.publish(f"#{user}", encode({})))
        await self.refused(103, stranger.history(f"#{user}", limit=1))

    @proves("channel-names")
    async def test_lists_of_users_and_private_channels_keep_others_out(self):
        listed = f"{self.in_namespace('room')}#alice,bob"
        hidden = self.in_namespace("room").replace("room:", "$room:")
        alice, carol = await self.enter("alice"), await self.enter("carol")
        await self.room(alice, listed)
        await self.room(alice, hidden, token=self.subscription("alice", hidden))
        for channel in (listed, hidden, "!system"):
            with self.subTest(channel):
                self.assertEqual(await self.ended(carol, channel), 103)
                await self.refused(103, carol.publish(channel, self.encoding.encode({})))

    @proves("anonymous")
    async def test_who_has_no_token_may_do_what_anyone_may(self):
        nobody = await self.connect(None)
        channel = self.in_namespace("news")
        await self.room(nobody, channel)
        await self.refused(103, nobody.publish(channel, self.encoding.encode({})))
        self.assertEqual(await self.ended(nobody, self.in_namespace("room")), 103)

    @proves("cache")
    async def test_a_channel_with_cache_recovery_gives_the_newest_publication(self):
        channel = self.in_namespace("price")
        alice, bob = await self.enter("alice", caps=None), await self.enter("bob", caps=None)
        for n in range(1, 6):
            await alice.publish(channel, self.encoding.encode({"n": n}))
        epoch = (await alice.history(channel, limit=0)).epoch

        async def get_state(_):
            return centrifuge.StreamPosition(offset=1, epoch=epoch)

        room = await self.room(bob, channel, get_state=get_state)
        await room.count(1)
        self.assertEqual((room.data, room.offsets), ([{"n": 5}], [5]))
        # Who has it gets nothing, and is recovered all the same.
        bob._conn.transport.abort()
        await room.log.until("subscribed again", lambda: len(room.log.all("subscribed")) == 2)
        self.assertTrue(all(context.recovered for context in room.log.all("subscribed")))
        self.assertEqual(len(room.publications), 1)

    @proves("dedupe-field")
    async def test_a_message_id_in_the_data_is_written_once(self):
        channel = self.in_namespace("orders")
        alice = await self.enter("alice", caps=None)
        room = await self.room(alice, channel)
        for id in ("order-17", "order-17", 17, "order-18"):
            await alice.publish(channel, self.encoding.encode({"id": id}))
        await room.count(3)
        self.assertEqual([data["id"] for data in room.data], ["order-17", 17, "order-18"])
