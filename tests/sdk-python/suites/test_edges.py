"""Two edges of one mesh: commands of the server API about people at the other edge, and edges that are
drained under load."""

import asyncio
import time

import cent
import centrifuge

from lib import conformance
from lib.client import Case, Json, Protobuf
from lib.conformance import proves
from lib.mesh import API_KEY, Balancer, Mesh
from lib.server import PATIENCE
from lib.token import member


class Edges(Case):
    suite = "edges"

    @classmethod
    def setUpClass(cls):
        cls.mesh = Mesh(f"sdk-python-{cls.suite}")
        cls.addClassCleanup(cls.mesh.stop)
        cls.addClassCleanup(conformance.write, cls.suite)
        cls.server = None

    def client(self, user, encoding=None, at=None, token=None, **options):
        """A client that connects to this address."""
        self.server = self
        self.ws = f"ws://{at}/connection/websocket"
        token = token or self.mesh.token(member(user))
        return super().client(None, encoding, token=token, **options)

    async def until(self, ask, is_so):
        """Asks until the answer is so."""
        until = time.monotonic() + PATIENCE
        while not is_so(answer := await ask()):
            self.assertLess(time.monotonic(), until, answer)
            await asyncio.sleep(0.02)
        return answer


class ServerApi(Edges):
    """The backend asks the one edge; who is meant is connected to the other."""

    sdk = "cent"
    transport = "http"
    encoding = Json
    suite = "edges_api"

    async def asyncSetUp(self):
        await super().asyncSetUp()
        self.asked, self.other = self.mesh.edges
        self.api = cent.AsyncClient(f"http://{self.asked.admin}/api", API_KEY, timeout=PATIENCE)
        self.addAsyncCleanup(self.api.close)
        await self.edges_meet()

    async def edges_meet(self):
        """Until the edges know of each other, commands for the other go nowhere."""

        async def nodes():
            return (await self.api.info(cent.InfoRequest())).nodes

        await self.until(nodes, lambda nodes: len(nodes) == 2)

    async def enter(self, user, encoding=Json, **more):
        return await self.connect(user, encoding, at=self.other.http, **more)

    async def connections(self, user):
        return (await self.api.connections(cent.ConnectionsRequest(user=user, expression=""))).connections

    async def present(self, channel):
        return (await self.api.presence(cent.PresenceRequest(channel=channel))).presence

    @proves("api-edges")
    async def test_a_user_of_the_other_edge_is_subscribed_unsubscribed_and_seen(self):
        channel, user = self.fresh("across"), "across"
        clients = [await self.enter(user, encoding) for encoding in (Json, Protobuf)]
        for client in clients:
            client.log.events.clear()
        await self.api.subscribe(cent.SubscribeRequest(user=user, channel=channel, info={"by": "api"}))
        people = await self.until(lambda: self.present(channel), lambda people: len(people) == 2)
        self.assertEqual([p.chan_info for p in people.values()], [{"by": "api"}] * 2)
        found = (await self.api.channels(cent.ChannelsRequest(pattern=channel))).channels
        self.assertEqual({name: info.num_clients for name, info in found.items()}, {channel: 2})
        await self.api.publish(cent.PublishRequest(channel=channel, data=1))
        for client in clients:
            await client.log.next("publication", lambda told: told.channel == channel)
        await self.api.unsubscribe(cent.UnsubscribeRequest(user=user, channel=channel))
        for client in clients:
            await client.log.next("unsubscribed", lambda told: told.channel == channel)
        await self.until(lambda: self.present(channel), lambda people: not people)

    @proves("api-edges")
    async def test_one_client_and_one_session_of_the_other_edge_are_meant(self):
        user = "one-of-three"
        clients = [await self.enter(user) for _ in range(3)]
        named = await self.until(lambda: self.connections(user), lambda named: len(named) == 3)
        self.assertEqual({info.user for info in named.values()}, {user})
        ids = [client.log.all("connected")[0].client for client in clients]
        self.assertEqual(set(named), set(ids))
        ended = cent.Disconnect(code=4501, reason="moved away")
        await self.api.disconnect(cent.DisconnectRequest(user=user, client=ids[0], disconnect=ended))
        told = await clients[0].log.next("disconnected")
        self.assertEqual((told.code, told.reason), (4501, "moved away"))
        # All but one, and then all.
        await self.api.disconnect(cent.DisconnectRequest(user=user, whitelist=[ids[1]], disconnect=ended))
        await clients[2].log.next("disconnected")
        left = await self.until(lambda: self.connections(user), lambda left: len(left) == 1)
        self.assertEqual(list(left), [ids[1]])
        await self.api.disconnect(cent.DisconnectRequest(user=user, disconnect=ended))
        self.assertEqual((await clients[1].log.next("disconnected")).code, 4501)

    @proves("api-edges")
    async def test_a_user_of_the_other_edge_is_refreshed(self):
        client = await self.enter("refreshed")
        later = int(time.time()) + 3600
        await self.api.refresh(cent.RefreshRequest(user="refreshed", expire_at=later))
        await self.api.refresh(cent.RefreshRequest(user="refreshed", expired=True))
        await client.log.next("connecting", lambda told: told.code == 3005)

    @proves("api-edges")
    async def test_revocations_reach_the_other_edge_within_a_second(self):
        now = int(time.time())
        bystander = await self.enter("bystander")
        # A machine that stands still for a moment does not do so three times.
        for n in range(3):
            took = []
            token = self.mesh.token(member("revoked", jti=f"t{n}"))
            old = self.mesh.token(member(f"older{n}", iat=now - 100))
            blocked = self.mesh.token(member(f"blocked{n}"))
            invalid = cent.InvalidateUserTokensRequest(user=f"older{n}", issued_before=now - 50)
            for bad, method, request in (
                (token, self.api.revoke_token, cent.RevokeTokenRequest(uid=f"t{n}")),
                (old, self.api.invalidate_user_tokens, invalid),
                (blocked, self.api.block_user, cent.BlockUserRequest(user=f"blocked{n}")),
            ):
                client = await self.enter(None, token=bad)
                began = time.monotonic()
                await method(request)
                self.assertEqual((await client.log.next("disconnected")).code, 3500)
                took.append(time.monotonic() - began)
            if max(took) < 1:
                break
        self.assertLess(max(took), 1)
        # They are kept out everywhere.
        for edge in self.mesh.edges:
            for bad in (token, old, blocked):
                client = self.client(None, at=edge.http, token=bad)
                await client.connect()
                self.assertEqual((await client.log.next("disconnected")).code, 3500)
        await self.api.unblock_user(cent.UnblockUserRequest(user=f"blocked{n}"))

        async def may_enter():
            client = self.client(f"blocked{n}", at=self.other.http)
            await client.connect()
            return await self.settled(client)

        await self.until(may_enter, lambda state: state == centrifuge.ClientState.CONNECTED)
        self.assertEqual(bystander.log.all("disconnected"), [])

    @staticmethod
    async def settled(client):
        """CONNECTED or DISCONNECTED, once it is known which."""
        done = (centrifuge.ClientState.CONNECTED, centrifuge.ClientState.DISCONNECTED)
        await client.log.until("it is known", lambda: client.state in done)
        return client.state


class Drain:
    @proves("drain-edges")
    async def test_whoever_is_at_a_drained_edge_goes_on_at_the_other_without_loss(self):
        first, second = self.mesh.edges
        balancer = await Balancer([first, second]).start()
        witness_by = await Balancer([second, first]).start()
        for leads in (balancer, witness_by):
            self.addAsyncCleanup(leads.stop)
        at = balancer.address
        channels = [self.fresh(f"drain{n}") for n in range(3)]
        readers = [await self.connect(f"reader{n}", at=at) for n in range(8)]
        rooms = [[await self.room(client, channel) for channel in channels] for client in readers]
        # Somebody who begins at the other edge, and comes here when that one goes.
        witness = await self.connect("witness", at=witness_by.address)
        seen = [await self.room(witness, channel) for channel in channels]
        writers = [await self.connect(f"writer{n}", at=at) for n in range(len(channels))]
        stop = False
        acknowledged = {channel: [] for channel in channels}

        async def write(client, channel):
            n = 0
            while not stop:
                n += 1
                while True:
                    try:
                        answer = await self.room_publish(client, channel, f"m{n}", {"n": n})
                        acknowledged[channel].append(answer["offset"])
                        break
                    except centrifuge.CentrifugeError:
                        # With the same id again: whether it was written is not known.
                        await asyncio.sleep(0.02)

        writing = [asyncio.create_task(write(*pair)) for pair in zip(writers, channels)]
        everyone = [room for own in rooms for room in own] + seen
        for drained, other in ((first, second), (second, first)):
            # Who is at the drained edge comes back to the other, which is ready alone.
            balancer.edges = [drained, other]
            await asyncio.gather(*(room.count(len(room.publications) + 20) for room in everyone))
            before = [len(client.log.all("connected")) for client in readers + writers]
            drained.terminate()
            for client, times in zip(readers + writers, before):
                await client.log.until("back", lambda: len(client.log.all("connected")) > times)  # noqa: B023
                lost = [told.code for told in client.log.all("connecting") if told.code >= 3000]
                self.assertLessEqual(set(lost), {3001})
            self.assertEqual(await asyncio.to_thread(drained.ended), 0)
            await asyncio.gather(*(room.count(len(room.publications) + 20) for room in everyone))
            await asyncio.to_thread(drained.start)
        stop = True
        await asyncio.gather(*writing)
        moved = {len(client.log.all("connected")) for client in readers + writers}
        self.assertEqual((moved, len(witness.log.all("connected"))), ({3}, 2))
        for own in [*rooms, seen]:
            for channel, room in zip(channels, own):
                offsets = acknowledged[channel]
                await room.count(len(offsets))
                self.assertEqual(offsets, list(range(1, len(offsets) + 1)))
                self.assertEqual(room.offsets, offsets)
                self.assertEqual(room.data, [{"n": n} for n in offsets])
                again = [told.recovered for told in room.log.all("subscribed")[1:]]
                self.assertTrue(all(again))


for encoding in (Json, Protobuf):
    name = f"Drain{encoding.__name__}"
    globals()[name] = type(name, (Drain, Edges), {"encoding": encoding, "suite": "edges_drain"})
