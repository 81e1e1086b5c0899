"""The server SDK, PyPI `cent`, unmodified: an application's backend beside clients of the other SDK."""

import asyncio
import base64
import json
import time
import urllib.request

import cent
import centrifuge

from lib.client import Case, Json, Protobuf
from lib.conformance import proves
from lib.server import PATIENCE
from lib.token import member, sign


class ServerApi(Case):
    sdk = "cent"
    transport = "http"
    encoding = Json
    suite = "server_api"

    async def asyncSetUp(self):
        await super().asyncSetUp()
        self.api = self.backend(self.server.ready["api_key"])

    def backend(self, key):
        made = cent.AsyncClient(f"{self.server.http}/api", key, timeout=PATIENCE)
        self.addAsyncCleanup(made.close)
        return made

    async def failing(self, code, call):
        """Awaits a call that must fail with this code, and some words."""
        with self.assertRaises(cent.CentApiResponseError) as caught:
            await call
        self.assertEqual(caught.exception.code, code, caught.exception)
        self.assertGreater(len(caught.exception.message), 0)

    async def readers(self, channel):
        """A subscriber of each encoding."""
        rooms = []
        for encoding in (Json, Protobuf):
            client = await self.connect(f"reader-{encoding.name}", encoding)
            rooms.append(await self.room(client, channel, encoding))
        return rooms

    @proves("api-publish")
    async def test_publishes_json_bytes_and_tags(self):
        channel = self.fresh("api")
        rooms = await self.readers(channel)
        first = await self.api.publish(
            cent.PublishRequest(channel=channel, data={"text": "ä€"}, tags={"kind": "order"})
        )
        self.assertEqual(first.offset, 1)
        self.assertGreater(len(first.epoch), 0)
        data = base64.b64encode(bytes([0, 255])).decode()
        second = await self.api.publish(
            cent.PublishRequest(channel=channel, data=None, b64data=data)
        )
        self.assertEqual((second.offset, second.epoch), (2, first.epoch))
        for room in rooms:
            await room.count(2)
            self.assertEqual(room.data[0] if room.encoding is Json else json.loads(room.publications[0].data), {"text": "ä€"})
            self.assertEqual(room.publications[0].tags, {"kind": "order"})
            # Nobody's connection published it.
            self.assertIsNone(room.publications[0].info)
            self.assertEqual(room.offsets, [1, 2])
        self.assertEqual(rooms[0].publications[1].data, {"b64": data})
        self.assertEqual(rooms[1].publications[1].data, bytes([0, 255]))

    @proves("api-idempotency")
    async def test_an_idempotency_key_is_written_once(self):
        channel = self.fresh("api-once")
        request = cent.PublishRequest(channel=channel, data=1, idempotency_key="order-17")
        first = await self.api.publish(request)
        again = await self.api.publish(request)
        self.assertEqual((again.offset, again.epoch), (first.offset, first.epoch))
        at_once = [self.api.publish(request) for _ in range(10)]
        self.assertEqual({result.offset for result in await asyncio.gather(*at_once)}, {1})
        # A client's message id is another thing.
        alice = await self.connect("alice")
        self.assertEqual((await self.room_publish(alice, channel, "order-17", 2))["offset"], 2)
        # Also after the server was killed.
        await asyncio.to_thread(self.server.kill)
        await asyncio.to_thread(self.server.restart)
        self.assertEqual((await self.api.publish(request)).offset, 1)

    @proves("api-version")
    async def test_an_older_version_is_not_written(self):
        channel = self.fresh("api-version")
        [room] = [await self.room(await self.connect("reader"), channel)]

        async def publish(version, **more):
            request = cent.PublishRequest(channel=channel, data=version, version=version, **more)
            return (await self.api.publish(request)).offset

        self.assertEqual(await publish(5), 1)
        self.assertEqual(await publish(4), 1)
        self.assertEqual(await publish(5), 1)
        self.assertEqual(await publish(6), 2)
        self.assertEqual(await publish(1, version_epoch="second"), 3)
        await room.count(3)
        self.assertEqual(room.data, [5, 6, 1])

    @proves("api-skip-history")
    async def test_skip_history_reaches_who_is_there_and_is_kept_nowhere(self):
        channel = self.fresh("api-skip")
        rooms = await self.readers(channel)
        kept = await self.api.publish(cent.PublishRequest(channel=channel, data="kept"))
        skip = {"data": "typing", "skip_history": True}
        result = await self.api.publish(cent.PublishRequest(channel=channel, **skip))
        self.assertEqual((result.offset, result.epoch), (0, ""))
        request = cent.BroadcastRequest(channels=[channel, "nowhere:b"], **skip)
        responses = (await self.api.broadcast(request)).responses
        self.assertEqual([r.result and r.result.offset for r in responses], [0, None])
        again = await self.api.publish(cent.PublishRequest(channel=channel, data="again"))
        self.assertEqual((again.offset, again.epoch), (2, kept.epoch))
        for room in rooms:
            await room.count(4)
            self.assertEqual(room.data, ["kept", "typing", "typing", "again"])
            self.assertEqual([offset or 0 for offset in room.offsets], [1, 0, 0, 2])
        page = await self.api.history(cent.HistoryRequest(channel=channel, limit=-1))
        self.assertEqual([(p.offset, p.data) for p in page.publications], [(1, "kept"), (2, "again")])
        for remembered in ({"idempotency_key": "k"}, {"version": 1}):
            request = cent.PublishRequest(channel=channel, **skip, **remembered)
            await self.failing(108, self.api.publish(request))

    @proves("api-broadcast")
    async def test_broadcast_answers_for_each_channel(self):
        channels = [self.fresh("api-a"), "nowhere:b", self.fresh("api-c")]
        rooms = [await self.room(await self.connect("reader"), channels[0])]
        rooms.append(await self.room(await self.connect("reader"), channels[2]))
        request = cent.BroadcastRequest(channels=channels, data={"n": 1}, idempotency_key="b1")
        for _ in range(2):
            result = await self.api.broadcast(request)
            self.assertEqual([r.result and r.result.offset for r in result.responses], [1, None, 1])
            self.assertEqual([r.error and r.error.code for r in result.responses], [None, 102, None])
        for room in rooms:
            await room.count(1)
            self.assertEqual(room.data, [{"n": 1}])

    @proves("api-history")
    async def test_history_is_paged_both_ways(self):
        channel = self.fresh("api-history")
        alice = await self.connect("alice")
        await self.room_publish(alice, channel, "m1", 1)
        for n in range(2, 11):
            await self.api.publish(cent.PublishRequest(channel=channel, data=n))
        position = await self.api.history(cent.HistoryRequest(channel=channel))
        self.assertEqual((position.publications, position.offset), ([], 10))

        async def numbers(since=None, epoch=position.epoch, **more):
            if since is not None:
                more["since"] = cent.StreamPosition(offset=since, epoch=epoch)
            page = await self.api.history(cent.HistoryRequest(channel=channel, **more))
            return [publication.data for publication in page.publications]

        self.assertEqual(await numbers(limit=-1), list(range(1, 11)))
        self.assertEqual(await numbers(limit=2, since=4), [5, 6])
        self.assertEqual(await numbers(limit=2, reverse=True), [10, 9])
        self.assertEqual(await numbers(limit=2, reverse=True, since=9), [8, 7])
        page = await self.api.history(cent.HistoryRequest(channel=channel, limit=2))
        self.assertEqual([p.info and p.info.user for p in page.publications], ["alice", None])
        self.assertEqual(page.publications[0].tags, {"id": "m1"})
        await self.failing(112, numbers(limit=1, since=1, epoch="other"))

    @proves("api-history-remove")
    async def test_history_remove_keeps_the_offsets(self):
        channel = self.fresh("api-remove")
        room = await self.room(await self.connect("reader"), channel)
        for n in range(3):
            await self.api.publish(cent.PublishRequest(channel=channel, data=n))
        before = await self.api.history(cent.HistoryRequest(channel=channel, limit=-1))
        self.assertEqual(len(before.publications), 3)
        await self.api.history_remove(cent.HistoryRemoveRequest(channel=channel))
        for _ in range(2):
            after = await self.api.history(cent.HistoryRequest(channel=channel, limit=-1))
            self.assertEqual((after.publications, after.offset), ([], 3))
            self.assertEqual(after.epoch, before.epoch)
            await asyncio.to_thread(self.server.kill)
            await asyncio.to_thread(self.server.restart)
        published = await self.api.publish(cent.PublishRequest(channel=channel, data=3))
        self.assertEqual(published.offset, 4)
        # A subscriber from before goes on; one that was away behind the gap is told so.
        await room.count(4)
        self.assertEqual(room.offsets, [1, 2, 3, 4])
        since = cent.StreamPosition(offset=1, epoch=before.epoch)
        request = cent.HistoryRequest(channel=channel, limit=10, since=since)
        await self.failing(112, self.api.history(request))

    @proves("api-presence")
    async def test_presence_and_its_statistics(self):
        channel = self.fresh("api-presence")
        empty = await self.api.presence(cent.PresenceRequest(channel=channel))
        self.assertEqual(empty.presence, {})
        for user in ("alice", "bob", "bob"):
            await self.room(await self.connect(user), channel)
        result = await self.api.presence(cent.PresenceRequest(channel=channel))
        self.assertEqual(sorted(i.user for i in result.presence.values()), ["alice", "bob", "bob"])
        self.assertTrue(all(client == info.client for client, info in result.presence.items()))
        stats = await self.api.presence_stats(cent.PresenceStatsRequest(channel=channel))
        self.assertEqual((stats.num_clients, stats.num_users), (3, 2))

    @proves("api-people")
    async def test_people_are_subscribed_unsubscribed_and_disconnected(self):
        channel = self.fresh("api-people")
        user = self.fresh("user")
        clients = [await self.connect(user, encoding) for encoding in (Json, Protobuf)]
        other = await self.connect(self.fresh("other"))
        data = {"hello": "ä"}
        await self.api.publish(cent.PublishRequest(channel=channel, data=1))
        await self.api.subscribe(
            cent.SubscribeRequest(
                user=user,
                channel=channel,
                data=data,
                info={"role": "admin"},
                recover_since=cent.StreamPosition(offset=0, epoch=""),
                override=cent.ChannelOptionsOverride(presence=cent.BoolValue(value=True)),
            )
        )
        await self.until(lambda: self.present(channel), lambda people: len(people) == 2)
        people = await self.present(channel)
        self.assertEqual([p.chan_info for p in people.values()], [{"role": "admin"}] * 2)
        found = await self.api.channels(cent.ChannelsRequest(pattern=f"{channel}*"))
        self.assertEqual({c: i.num_clients for c, i in found.channels.items()}, {channel: 2})
        await self.api.unsubscribe(cent.UnsubscribeRequest(user=user, channel=channel))
        await self.until(lambda: self.present(channel), lambda people: not people)

        named = await self.api.connections(cent.ConnectionsRequest(user=user, expression=""))
        self.assertEqual(
            sorted((c.transport, c.protocol, c.user) for c in named.connections.values()),
            [("websocket", "json", user), ("websocket", "protobuf", user)],
        )
        kept = next(c for c, i in named.connections.items() if i.protocol == "protobuf")
        ended = cent.Disconnect(code=4501, reason="moved away")
        await self.api.disconnect(
            cent.DisconnectRequest(user=user, whitelist=[kept], disconnect=ended)
        )

        async def connections():
            request = cent.ConnectionsRequest(user=user, expression="")
            return (await self.api.connections(request)).connections

        left = await self.until(connections, lambda left: len(left) == 1)
        self.assertEqual(list(left), [kept])
        await self.api.disconnect(cent.DisconnectRequest(user=user, client=kept, disconnect=ended))
        await self.until(connections, lambda left: not left)
        for client in clients:
            told = await client.log.next("disconnected")
            self.assertEqual((told.code, told.reason), (4501, "moved away"))
        self.assertEqual(other.state, centrifuge.ClientState.CONNECTED)
        # Whom nobody knows is a success.
        await self.api.disconnect(cent.DisconnectRequest(user=self.fresh("nobody")))

    @proves("api-refresh")
    async def test_a_users_time_is_changed(self):
        user = self.fresh("refreshed")
        client = await self.connect(user)
        later = int(time.time()) + 3600
        await self.api.refresh(cent.RefreshRequest(user=user, expire_at=later))
        await self.api.refresh(cent.RefreshRequest(user=user, expired=True))
        # The SDK is told to come back.
        await client.log.next("connecting", lambda told: told.code == 3005)

    @proves("api-info")
    async def test_nodes_say_what_they_serve(self):
        await self.room(await self.connect(self.fresh("seen")), self.fresh("api-info"))
        [node] = (await self.api.info(cent.InfoRequest())).nodes
        self.assertGreaterEqual(node.num_clients, 1)
        self.assertGreaterEqual(node.num_channels, 1)
        self.assertGreater(len(node.uid) * len(node.name) * len(node.version), 0)

    async def present(self, channel):
        return (await self.api.presence(cent.PresenceRequest(channel=channel))).presence

    async def until(self, ask, is_so):
        """Asks until the answer is so."""
        until = time.monotonic() + PATIENCE
        while not is_so(answer := await ask()):
            self.assertLess(time.monotonic(), until, answer)
            await asyncio.sleep(0.02)
        return answer

    async def kept_out(self, **options):
        """Requires that a connection is refused for good."""
        client = self.client(None, **options)
        await client.connect()
        self.assertEqual((await client.log.next("disconnected")).code, 3500)

    @proves("api-block")
    async def test_a_blocked_user_is_cut_off_and_kept_out_until_unblocked(self):
        for encoding in (Json, Protobuf):
            other = await self.connect("bystander", encoding)
            # A machine that stands still for a moment does not do so three times.
            for n in range(3):
                user = f"blocked-{encoding.name}-{n}"
                clients = [await self.connect(user, encoding) for _ in range(2)]
                began = time.monotonic()
                await self.api.block_user(cent.BlockUserRequest(user=user))
                for client in clients:
                    ended = await client.log.next("disconnected")
                    self.assertEqual(ended.code, 3500)
                    self.assertGreater(len(ended.reason), 0)
                took = time.monotonic() - began
                if took < 1:
                    break
            self.assertLess(took, 1)
            await self.kept_out(token=sign(self.server, member(user)))
            self.assertEqual(other.log.all("disconnected"), [])
            # Also after the server was killed.
            await asyncio.to_thread(self.server.kill)
            await asyncio.to_thread(self.server.restart)
            await self.kept_out(token=sign(self.server, member(user)))
            await self.api.unblock_user(cent.UnblockUserRequest(user=user))
            await self.connect(user, encoding)

    async def states(self, *users):
        """What users say of themselves, which this SDK has no field for."""
        key = {"X-API-Key": self.server.ready["api_key"]}
        body = json.dumps({"users": users}).encode()
        request = urllib.request.Request(f"{self.server.http}/api/get_user_status", body, key)

        def ask():
            with urllib.request.urlopen(request, timeout=PATIENCE) as answer:
                return json.load(answer)["result"]["statuses"]

        return [status.get("state") for status in await asyncio.to_thread(ask)]

    @proves("api-status")
    async def test_statuses_of_users_are_said_read_and_forgotten(self):
        began = int(time.time())
        for encoding in (Json, Protobuf):
            user, silent = f"status-{encoding.name}", f"silent-{encoding.name}"
            of = cent.GetUserStatusRequest(users=[silent, user])

            async def statuses():
                found = (await self.api.get_user_status(of)).statuses
                self.assertEqual([status.user for status in found], [silent, user])
                return found

            for status in await statuses():
                self.assertEqual((status.active, status.online), (0, 0))
            caps = [{"channels": ["status:*"], "match": "wildcard", "allow": ["sub"]}]
            token = sign(self.server, member("watcher", caps=caps))
            watching = await self.connect(None, encoding, token=token)
            watcher = await self.room(watching, f"status:{user}", encoding)
            client = await self.connect(user, encoding)
            await watcher.count(1)
            data = {"state": "busy"} if encoding is Json else b'{"state":"busy"}'
            done = await client.rpc("update_user_status", data)
            self.assertEqual(done.data if encoding is Json else json.loads(done.data), {})
            nothing, busy = await statuses()
            self.assertEqual((nothing.active, nothing.online), (0, 0))
            for moment in (busy.active, busy.online):
                self.assertTrue(began <= moment <= time.time() + 1, busy)
            self.assertEqual(await self.states(silent, user), [None, "busy"])
            # Who watches has been told, at once.
            await watcher.count(2)
            told = [json.loads(data) if isinstance(data, (bytes, str)) else data for data in watcher.data]
            self.assertEqual(told, [{"user": user, "online": True}, {"user": user, "online": True, "state": "busy"}])
            # The application's server may say it too, also of somebody who is away.
            await self.api.update_user_status(cent.UpdateUserStatusRequest(users=[silent]))
            away, _ = await statuses()
            self.assertGreaterEqual(away.active, began)
            self.assertEqual(away.online, 0)
            await self.api.delete_user_status(cent.DeleteUserStatusRequest(users=[silent, user]))
            nothing, online = await statuses()
            self.assertEqual((nothing.active, online.active), (0, 0))
            self.assertGreaterEqual(online.online, began, "it is connected still")
            self.assertEqual(await self.states(silent, user), [None, None])
        await self.failing(107, self.api.get_user_status(cent.GetUserStatusRequest(users=[])))

    @proves("api-revoke")
    async def test_a_revoked_token_ends_its_connections_and_no_others(self):
        tokens = [sign(self.server, member("alice", jti=f"t{n}")) for n in range(2)]
        clients = [await self.connect(None, token=token) for token in tokens]
        await self.api.revoke_token(cent.RevokeTokenRequest(uid="t0"))
        self.assertEqual((await clients[0].log.next("disconnected")).code, 3500)
        await self.kept_out(token=tokens[0])
        await self.connect(None, token=tokens[1])
        self.assertEqual(clients[1].log.all("disconnected"), [])

    @proves("api-invalidate")
    async def test_tokens_of_before_are_invalid_and_later_ones_good(self):
        now = int(time.time())
        old = sign(self.server, member("dave", iat=now - 100))
        new = sign(self.server, member("dave", iat=now))
        clients = [await self.connect(None, token=token) for token in (old, new)]
        request = cent.InvalidateUserTokensRequest(user="dave", issued_before=now - 50)
        await self.api.invalidate_user_tokens(request)
        self.assertEqual((await clients[0].log.next("disconnected")).code, 3500)
        await self.kept_out(token=old)
        await self.connect(None, token=new)
        self.assertEqual(clients[1].log.all("disconnected"), [])

    @proves("api-batch")
    async def test_a_batch_is_answered_in_its_order(self):
        for parallel in (False, True):
            channel = self.fresh("api-batch")
            requests = [
                cent.PublishRequest(channel=channel, data=1),
                cent.PublishRequest(channel=self.fresh("api-other"), data=2),
                cent.HistoryRequest(channel=self.fresh("api-none"), limit=1),
                cent.PresenceStatsRequest(channel=channel),
            ]
            batch = cent.BatchRequest(requests=requests, parallel=parallel)
            replies = (await self.api.batch(batch)).replies
            self.assertEqual([type(reply) for reply in replies], [
                cent.PublishResult,
                cent.PublishResult,
                cent.HistoryResult,
                cent.PresenceStatsResult,
            ])
            self.assertEqual([reply.offset for reply in replies[:3]], [1, 1, 0])

    @proves("api-errors")
    async def test_errors_have_codes_and_words(self):
        await self.failing(102, self.api.publish(cent.PublishRequest(channel="nowhere:a", data=1)))
        await self.failing(107, self.api.publish(cent.PublishRequest(channel="", data=1)))
        large = cent.PublishRequest(channel=self.fresh("api-large"), data="x" * 66_000)
        await self.failing(107, self.api.publish(large))
        await self.failing(107, self.api.publish(cent.PublishRequest(channel="!own", data=1)))
        devices = cent.DeviceListRequest(filter=cent.DeviceFilter(users=["a"]))
        await self.failing(108, self.api.device_list(devices))

    @proves("api-keys")
    async def test_who_has_no_key_is_unauthorized(self):
        key = self.server.ready["api_key"]
        _, instance, _ = key.split("_", 2)
        made_up = f"gb6_{instance}_{'0' * 64}"
        for wrong in ("", "x", key[:-1], key + "0", made_up, key.replace(instance, "other")):
            with self.subTest(wrong):
                with self.assertRaises(cent.CentUnauthorizedError):
                    await self.backend(wrong).publish(cent.PublishRequest(channel="room:a", data=1))

    @proves("api-sync")
    async def test_the_client_without_asyncio_does_the_same(self):
        channel = self.fresh("api-sync")

        def use():
            client = cent.Client(f"{self.server.http}/api", self.server.ready["api_key"])
            published = client.publish(cent.PublishRequest(channel=channel, data=1))
            page = client.history(cent.HistoryRequest(channel=channel, limit=1))
            client.close()
            return published.offset, [publication.data for publication in page.publications]

        self.assertEqual(await asyncio.to_thread(use), (1, [1]))
