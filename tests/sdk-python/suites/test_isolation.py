"""Everything that one may say, over every transport, with what another instance has: its names, tokens,
positions and ids. The answer is, word for word, the one about what nobody has."""

import asyncio
import json
import os
import re
import statistics
import time
import unittest

from centrifuge.protocol import client_pb2

from lib import two
from lib.server import PATIENCE, ROOT
from lib.token import sign_with
from lib.two import API_KEYS, SECRETS, Provider, channel_token, claims, token
from lib.ways import ONE_WAY, TWO_WAY, JsonForm, WebSocketWay, post

MADE_UP = "x" * 40
# What differs from one room, connection or moment to the next.
VARYING = {"epoch", "time", "ttl", "shard", "shard_epoch", "sync_us", "batch", "session", "uptime"}
UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
DOCUMENT = ROOT / "docs" / "isolation.md"
TIMED = 200

# Where acme's alice says it, in each of these cells: the command, what of the other instance is in it,
# the command with what the other has, the same with what nobody has, and the answer to both. `their`
# and `never` are rooms, in the one of which shop has three publications and a subscriber; `epoch` is
# that room's.
OK = "as in a room in which nothing ever happened"


def _named(make):
    """A command about a room of both names, and about one in a namespace that only the other has."""
    return [
        ("a room", lambda c: make(c.their), lambda c: make(c.never)),
        ("a namespace", lambda _: make("secret:plans"), lambda _: make("nobody:plans")),
    ]


def _rpc(method, **more):
    return lambda room: {"rpc": {"method": method, "data": {"room": room, **more}}}


def _says(user):
    # Of whom it is said is not the client's to choose.
    return {"rpc": {"method": "update_user_status", "data": {"state": "acme", "users": [user], "user": user}}}


def _since(channel, epoch):
    return {"history": {"channel": channel, "limit": 10, "since": {"offset": 1, "epoch": epoch}}}


def _recover(channel, epoch):
    return {"subscribe": {"channel": channel, "recover": True, "offset": 1, "epoch": epoch}}


def _with_token(command, secret, kid):
    def make(c):
        channel = c.held if command == "sub_refresh" else c.never
        return {command: {"channel": channel, "token": channel_token(secret, kid, "alice", channel)}}

    return make


def _refresh(make):
    return lambda c: {"refresh": {"token": make(c)}}


TOKENS = [
    # What it is, the token, and one that is made up.
    (
        "a secret, under one's own key id",
        lambda c: sign_with(SECRETS["shop"], {"kid": "acme.main"}, claims("alice")),
        lambda c: sign_with(MADE_UP, {"kid": "acme.main"}, claims("alice")),
    ),
    (
        "a key id",
        lambda c: sign_with(MADE_UP, {"kid": "shop.main"}, claims("alice")),
        lambda c: sign_with(MADE_UP, {"kid": "nobody.main"}, claims("alice")),
    ),
    (
        "a token without a key id",
        lambda c: sign_with(SECRETS["shop"], {}, claims("alice")),
        lambda c: sign_with(MADE_UP, {}, claims("alice")),
    ),
    (
        "a secret, with oneself as issuer",
        lambda c: sign_with(SECRETS["shop"], {}, claims("alice", iss="acme.main")),
        lambda c: sign_with(MADE_UP, {}, claims("alice", iss="acme.main")),
    ),
    (
        "its key set, which claims one's own key id",
        lambda c: c.provider.sign("acme.main", claims("alice")),
        lambda c: c.stranger.sign("acme.main", claims("alice")),
    ),
    (
        "its key set",
        lambda c: c.provider.sign("plain", claims("alice")),
        lambda c: c.stranger.sign("plain", claims("alice")),
    ),
]


def _cells():
    def of_rooms(command, make, in_room, in_namespace="102"):
        for (what, theirs, nobodys), answer in zip(_named(make), (in_room, in_namespace)):
            yield command, what, theirs, nobodys, answer

    yield from of_rooms("subscribe", lambda c: {"subscribe": {"channel": c}}, OK)
    yield from of_rooms("subscribe to a prefix", lambda c: {"subscribe": {"channel": f"{c}*"}}, OK)
    yield "subscribe", "a position", lambda c: _recover(c.never, c.epoch), lambda c: _recover(c.never, "made-up"), "nothing recovered"
    yield "subscribe", "a token", _with_token("subscribe", SECRETS["shop"], "shop.main"), _with_token("subscribe", MADE_UP, "nobody.main"), "103"
    yield "subscribe", "a secret, under one's own key id", _with_token("subscribe", SECRETS["shop"], "acme.main"), _with_token("subscribe", MADE_UP, "acme.main"), "103"
    yield from of_rooms("unsubscribe", lambda c: {"unsubscribe": {"channel": c}}, "{}", "{}")
    yield from of_rooms("publish", lambda c: {"publish": {"channel": c, "data": 1}}, "{}")
    yield from of_rooms("presence", lambda c: {"presence": {"channel": c}}, "nobody is there")
    yield from of_rooms("presence_stats", lambda c: {"presence_stats": {"channel": c}}, "nobody is there")
    yield from of_rooms("history", lambda c: {"history": {"channel": c, "limit": 10}}, "nothing is there")
    yield from of_rooms("history, backwards", lambda c: {"history": {"channel": c, "limit": 10, "reverse": True}}, "nothing is there")
    yield from of_rooms("history, the position", lambda c: {"history": {"channel": c, "limit": 0}}, "nothing is there")
    yield "history", "a position", lambda c: _since(c.never, c.epoch), lambda c: _since(c.never, "made-up"), "112"
    yield from of_rooms("rpc room.publish", _rpc("room.publish", id="m1", data=1), "offset 1, no duplicate")
    yield from of_rooms("rpc room.trace", _rpc("room.trace", offset=1), "107")
    yield "rpc update_user_status", "a user", lambda c: _says("victim"), lambda c: _says("nobody"), "{}"
    yield from of_rooms("rpc of another name", _rpc("shop.orders"), "104", "104")
    yield "send", "a room", lambda c: {"send": {"data": c.their}}, lambda c: {"send": {"data": c.never}}, "ends with 3508"
    yield "ping", "nothing can be in it", lambda c: {"ping": {}}, lambda c: {"ping": {}}, "{}"
    for what, theirs, nobodys in TOKENS:
        yield "refresh", what, _refresh(theirs), _refresh(nobodys), "ends with 3500"
    yield "refresh", "a good token of the same user", _refresh(lambda c: token("shop", "alice")), _refresh(lambda c: "x.y.z"), "ends with 3500"
    yield "sub_refresh", "a token", _with_token("sub_refresh", SECRETS["shop"], "shop.main"), _with_token("sub_refresh", MADE_UP, "nobody.main"), "103"
    yield "sub_refresh", "a secret, under one's own key id", _with_token("sub_refresh", SECRETS["shop"], "acme.main"), _with_token("sub_refresh", MADE_UP, "acme.main"), "103"


CELLS = list(_cells())


def _connects():
    for what, theirs, nobodys in TOKENS:
        yield what, lambda c, make=theirs: {"token": make(c)}, lambda c, make=nobodys: {"token": make(c)}, "ends with 3500"

    def positioned(epoch):
        def make(c):
            subs = {c.own: {"recover": True, "offset": 1, "epoch": epoch(c)}}
            return {"token": token("acme", "alice", channels=[c.own]), "subs": subs}

        return make

    def signed_as(kid):
        return lambda c: {"token": sign_with(SECRETS["acme"], {"kid": kid}, claims("alice"))}

    yield "a key id, over one's own secret", signed_as("shop.main"), signed_as("nobody.main"), "one's own instance"
    yield "a position", positioned(lambda c: c.epoch), positioned(lambda c: "made-up"), "nothing recovered"

    def granted(rooms):
        return lambda c: {"token": token("acme", "alice", channels=[rooms(c)])}

    yield "a room", granted(lambda c: c.their), granted(lambda c: c.never), OK
    yield "a namespace", granted(lambda c: "secret:plans"), granted(lambda c: "nobody:plans"), "102"


CONNECTS = list(_connects())


def comparable(value, *names):
    """What must be the same of two answers: all but what differs by itself, and the names in question."""

    def without(value):
        if isinstance(value, dict):
            return {name: without(inner) for name, inner in value.items() if name not in VARYING}
        if isinstance(value, list):
            return [without(inner) for inner in value]
        return value

    text = json.dumps(without(value), sort_keys=True)
    for name in names:
        text = text.replace(name, "…")
    return UUID.sub("…", text)


def code(reply):
    """The code in an answer, as the table has it; None: it was granted."""
    if "end" in reply:
        return f"ends with {reply['end'][0]}"
    return str(reply["error"]["code"]) if "error" in reply else None


class Cell:
    """What the rows may name."""


class Isolation(unittest.IsolatedAsyncioTestCase):
    @classmethod
    def setUpClass(cls):
        cls.provider, cls.stranger = Provider(), Provider()
        keys = two.KeySet(cls.provider, ["acme.main", "plain"])
        cls.addClassCleanup(keys.stop)
        cls.server = two.start("sdk-python-isolation", keys.url)
        cls.addClassCleanup(cls.server.stop)
        cls.rooms = 0

    async def asyncSetUp(self):
        asyncio.get_running_loop().slow_callback_duration = PATIENCE
        self.ways = []
        self.addAsyncCleanup(self.close)
        # Somebody of the other instance, with a room.
        self.shop = await self.enter(WebSocketWay, JsonForm, "shop", "victim", jti="shop-token")
        said = await self.shop.ask({"rpc": {"method": "update_user_status", "data": {"state": "a shop's"}}})
        self.assertIn("rpc", said)
        self.filled = []

    async def close(self):
        for way in self.ways:
            way.close()

    async def open(self, kind, form, host, connect):
        way = await kind.open(self.server, host, form, connect)
        self.ways.append(way)
        return way

    async def enter(self, kind, form, instance, user, **more):
        connect = {"token": token(instance, user, **more)}
        way = await self.open(kind, form, "example.org", connect)
        self.assertIn("connect", way.connected)
        return way

    def fresh(self, name):
        Isolation.rooms += 1
        return f"room:{name}-{Isolation.rooms}"

    async def cell(self):
        """Rooms for one cell; shop has published in one and is subscribed to it."""
        c = Cell()
        c.provider, c.stranger = self.provider, self.stranger
        c.their, c.never = self.fresh("their"), self.fresh("never")
        for n in range(1, 4):
            data = {"room": c.their, "id": f"m{n}", "data": n}
            await self.shop.ask({"rpc": {"method": "room.publish", "data": data}})
        subscribed = await self.shop.ask({"subscribe": {"channel": c.their}})
        c.epoch = subscribed["subscribe"]["epoch"]
        self.filled.append(c.their)
        return c

    async def is_untouched(self):
        """Nothing of all that was done to the other instance has reached it."""
        for room in self.filled:
            history = (await self.shop.ask({"history": {"channel": room, "limit": 10}}))["history"]
            data = [publication["data"] for publication in history["publications"]]
            self.assertEqual((history["offset"], data), (3, [1, 2, 3]))
            presence = (await self.shop.ask({"presence": {"channel": room}}))["presence"]["presence"]
            self.assertEqual([info["user"] for info in presence.values()], ["victim"])
        status, _, body = await self.api("shop", "get_user_status", {"users": ["victim"]})
        victim = self.parsed(body)["result"]["statuses"][0]
        self.assertEqual((status, victim["state"]), (200, "a shop's"))
        self.assertIn("active", victim)
        others = [p for p in self.shop.pushes if p.get("join", {}).get("info", {}).get("user") != "victim"]
        self.assertEqual(others, [])

    def is_of_nobody(self, what, theirs, nobodys, answer, *names):
        self.assertEqual(comparable(theirs, *names), comparable(nobodys, *names), what)
        said = code(nobodys) if isinstance(nobodys, dict) else None
        if said is not None or re.fullmatch(r"(ends with )?\d+", answer):
            self.assertEqual(said, answer, f"{what}: {nobodys}")

    async def test_every_command_of_the_protocol_has_a_row(self):
        fields = {field.name for field in client_pb2.Command.DESCRIPTOR.fields} - {"id"}
        rows = {re.split("[ ,]", command)[0] for command, *_ in CELLS}
        self.assertEqual(rows | {"connect"}, fields)

    async def test_every_command_over_every_transport(self):
        for kind, form in TWO_WAY:
            way = await self.enter(kind, form, "acme", "alice")
            for command, what, theirs, nobodys, answer in CELLS:
                name = f"{command} with {what} over {kind.name} in {form.name}"
                c = await self.cell()
                replies = []
                for make in (theirs, nobodys):
                    # A subscription that a token of its own began.
                    c.held = self.fresh("held")
                    if command == "sub_refresh":
                        held = channel_token(SECRETS["acme"], "acme.main", "alice", c.held)
                        await way.ask({"subscribe": {"channel": c.held, "token": held}})
                    elif what == "a position":
                        # One's own room has publications behind the offset that is named.
                        c.never = self.fresh("own")
                        for n in range(3):
                            await way.ask({"publish": {"channel": c.never, "data": n}})
                    replies.append(await way.ask(make(c)))
                    if "end" in replies[-1]:
                        way.close()
                        way = await self.enter(kind, form, "acme", "alice")
                names = (c.their, c.never, "secret", "nobody")
                self.is_of_nobody(name, *replies, answer, *names)
            self.assertEqual([p for p in way.pushes if "victim" in json.dumps(p)], [])
        await self.is_untouched()

    async def test_every_connect_over_every_transport(self):
        for kind, form in TWO_WAY + ONE_WAY:
            for what, theirs, nobodys, answer in CONNECTS:
                # Where no key says which instance is meant, the host name does, or the listener.
                for host in ("acme.localhost", "example.org"):
                    name = f"connect at {host} with {what} over {kind.name} in {form.name}"
                    c, replies, owns = await self.cell(), [], []
                    for make in (theirs, nobodys):
                        c.own = self.fresh("own")
                        owns.append(c.own)
                        if what == "a position":
                            for n in range(3):
                                await self.api("acme", "publish", {"channel": c.own, "data": n})
                        way = await self.open(kind, form, host, make(c))
                        replies.append(way.connected)
                        way.close()
                    if kind.one_way and answer == "102":
                        self.assertEqual(code(replies[0]), "ends with 3004", name)
                        self.assertEqual(*replies)
                        continue
                    self.is_of_nobody(name, *replies, answer, c.their, c.never, *owns)
        await self.is_untouched()

    async def test_who_follows_a_prefix_hears_its_own_instance_alone(self):
        for kind, form in TWO_WAY:
            way = await self.enter(kind, form, "acme", "alice")
            prefix = self.fresh("prefix")
            self.assertIn("subscribe", await way.ask({"subscribe": {"channel": f"{prefix}*"}}))
            for n, who in enumerate((self.shop, way)):
                for command in ("subscribe", "publish"):
                    more = {"data": n} if command == "publish" else {}
                    await who.ask({command: {"channel": f"{prefix}-{n}", **more}})
                await self.api("shop", "publish", {"channel": f"{prefix}-{n}", "data": "api"})
            # One's own is told behind all that was before it.
            async with asyncio.timeout(PATIENCE):
                while not (told := [p for p in way.pushes if "pub" in p]):
                    await way.ask({"presence": {"channel": f"{prefix}-1"}})
            self.assertEqual({push["pub"]["data"] for push in told}, {1}, kind.name)

    async def api(self, key, method, body):
        headers = {"X-API-Key": API_KEYS.get(key, key), "Content-Type": "application/json"}
        return await post(self.server, "shop.localhost", f"/api/{method}", headers, json.dumps(body).encode())

    def api_cells(self, c):
        """By method: what of the other instance, the body with it, and with what nobody has."""
        connect = self.shop.connected["connect"]
        client, session = connect["client"], connect["session"]
        nobody = "00000000-0000-4000-8000-000000000000"
        rooms = lambda make: [  # noqa: E731
            ("a room", make(c.their), make(c.never)),
            ("a namespace", make("secret:plans"), make("nobody:plans")),
        ]

        def people(**more):
            return [
                ("a user", {"user": "victim", **more}, {"user": "nobody", **more}),
                ("a client id", {"user": "", "client": client, **more}, {"user": "", "client": nobody, **more}),
                ("a session id", {"user": "", "session": session, **more}, {"user": "", "session": "0" * 32, **more}),
            ]

        users = [("a user", {"user": "victim"}, {"user": "nobody"})]
        statuses = [("a user", {"users": ["victim"]}, {"users": ["nobody"]})]
        return {
            "publish": rooms(lambda r: {"channel": r, "data": 1, "idempotency_key": "m1"}),
            "broadcast": rooms(lambda r: {"channels": [r], "data": 1}),
            "subscribe": people(channel=c.their) + people(channel="secret:plans"),
            "unsubscribe": people(channel=c.their),
            "disconnect": people(),
            "refresh": people(expired=True),
            "presence": rooms(lambda r: {"channel": r}),
            "presence_stats": rooms(lambda r: {"channel": r}),
            "history": rooms(lambda r: {"channel": r, "limit": 10})
            + [
                (
                    "a position",
                    {"channel": c.own, "limit": 10, "since": {"offset": 1, "epoch": c.epoch}},
                    {"channel": c.own, "limit": 10, "since": {"offset": 1, "epoch": "made-up"}},
                )
            ],
            "history_remove": rooms(lambda r: {"channel": r}),
            "channels": [("a room", {"pattern": c.their}, {"pattern": c.never})],
            "info": [("everything", {}, {})],
            "rpc": rooms(lambda r: {"method": "room.trace", "params": {"room": r, "offset": 1}}),
            "batch": rooms(lambda r: {"commands": [{"presence": {"channel": r}}]}),
            "connections": users,
            "get_user_status": statuses,
            "update_user_status": statuses,
            "delete_user_status": statuses,
            "block_user": users,
            "unblock_user": users,
            "invalidate_user_tokens": users,
            "revoke_token": [
                ("the id of a token", {"uid": "shop-token"}, {"uid": "no-token"}),
                ("a token", {"uid": token("shop", "victim")}, {"uid": "x.y.z"}),
            ],
        }

    async def test_every_method_of_the_server_api(self):
        c = await self.cell()
        c.own = self.fresh("own")
        for n in range(3):
            await self.api("acme", "publish", {"channel": c.own, "data": n})
        cells = self.api_cells(c)
        paths = json.loads((ROOT / "docs" / "openapi.json").read_text())["paths"]
        self.assertEqual({f"/api/{method}" for method in cells}, set(paths))
        for method, rows in cells.items():
            for what, theirs, nobodys in rows:
                name = f"{method} with {what}"
                answers = [await self.api("acme", method, body) for body in (theirs, nobodys)]
                texts = [
                    comparable([status, headers, self.parsed(body)], c.their, c.never, "secret", "nobody", "victim")
                    for status, headers, body in answers
                ]
                # The length of an answer follows from its text, the epoch and the time in it.
                texts = [re.sub(r"content-length: \d+", "", text) for text in texts]
                self.assertEqual(*texts, name)
                self.assertEqual(answers[0][0], 200, name)
            # A key that is made of what is known of both is no key.
            wrong = [f"gb6_shop_{'1' * 32}", f"gb6_acme_{'2' * 32}", f"gb6_nobody_{'1' * 32}", "x", token("acme", "alice")]
            refused = [await self.api(key, method, rows[0][1]) for key in wrong]
            for answer in refused:
                self.assertEqual(answer, refused[0], method)
            self.assertEqual((refused[0][0], refused[0][2]), (401, ""))
        await self.is_untouched()
        # The victim is there still, and may come again with the token that the other revoked.
        again = await self.enter(WebSocketWay, JsonForm, "shop", "victim", jti="shop-token")
        self.assertNotIn("error", again.connected)

    @staticmethod
    def parsed(body):
        return json.loads(body) if body else None

    async def test_sessions_of_the_other_are_sessions_of_nobody(self):
        # Whoever knows a session's id speaks for it, so that only guesses and dead ones are left.
        stream = await self.open(TWO_WAY[2][0], JsonForm, "example.org", {"token": token("shop", "carol")})
        live, node = (stream.connected["connect"][name] for name in ("session", "node"))
        near = live[:-1] + ("1" if live[-1] == "0" else "0")
        websocket = self.shop.connected["connect"]["session"]
        answers = []
        for session in ("0" * 32, near, websocket, "nobody"):
            body = {"session": session, "node": node, "data": json.dumps({"id": 9, "send": {}})}
            kind = {"Content-Type": "application/json"}
            answers.append(await post(self.server, "acme.localhost", "/emulation", kind, json.dumps(body).encode()))
        for answer in answers:
            self.assertEqual(answer, answers[0])
        self.assertEqual(answers[0][0], 204)
        # A `send` would have ended either.
        for way in (stream, self.shop):
            self.assertIn("presence", await way.ask({"presence": {"channel": self.fresh("alive")}}))

    async def test_metrics_name_nobody_and_nothing_of_an_instance(self):
        c = await self.cell()
        address, port = self.server.http.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(address, int(port))
        writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        text = (await reader.read()).decode()
        writer.close()
        self.assertIn("gb6_edge_sessions", text)
        connect = self.shop.connected["connect"]
        for secret in ("victim", c.their, c.epoch, connect["client"], connect["session"], "shop.main", SECRETS["shop"], API_KEYS["shop"]):
            self.assertNotIn(secret, text)

    async def test_the_time_of_an_answer_does_not_tell_what_the_other_has(self):
        way = await self.enter(WebSocketWay, JsonForm, "acme", "alice")
        c = await self.cell()

        async def refused(kid):
            made_up = sign_with(MADE_UP, {"kid": kid}, claims("alice"))
            once = await WebSocketWay.open(self.server, "example.org", JsonForm, {"token": made_up})
            once.close()

        pairs = {
            "a key id": (lambda: refused("shop.main"), lambda: refused("nobody.main")),
            "a namespace": (
                lambda: way.ask({"history": {"channel": "secret:plans"}}),
                lambda: way.ask({"history": {"channel": "nobody:plans"}}),
            ),
            "a room": (
                lambda: way.ask({"history": {"channel": c.their, "limit": 10}}),
                lambda: way.ask({"history": {"channel": c.never, "limit": 10}}),
            ),
            "a key of the API": (
                lambda: self.api(f"gb6_shop_{'1' * 32}", "info", {}),
                lambda: self.api(f"gb6_none_{'1' * 32}", "info", {}),
            ),
            "a user": (
                lambda: self.api("acme", "connections", {"user": "victim"}),
                lambda: self.api("acme", "connections", {"user": "nobody"}),
            ),
        }
        for name, pair in pairs.items():
            times = ([], [])
            for n in range(TIMED):
                # By turns and in turn first, so that what else runs here slows both alike.
                for which in (n % 2, 1 - n % 2):
                    began = time.perf_counter()
                    await pair[which]()
                    times[which].append(time.perf_counter() - began)
            low, _, high = statistics.quantiles(times[0] + times[1], n=4)
            # Of each turn, so that a machine that gets slower in between is no difference.
            apart = abs(statistics.median(one - other for one, other in zip(*times)))
            # The median of 200 is known to a tenth of the quartiles' distance.
            self.assertLess(apart, max(0.75 * (high - low), 20e-6), f"{name}: {apart}")

    async def test_the_documentation_has_these_rows(self):
        c = Cell()
        c.their = c.never = c.own = c.epoch = ""
        lines = ["| command | what the other instance has | the answer to both |", "|---|---|---|"]
        lines += [f"| `connect` | {what} | {answer} |" for what, _, _, answer in CONNECTS]
        for command, what, *_, answer in CELLS:
            name, _, rest = command.partition(" " if " " in command and "," not in command else ",")
            lines.append(f"| `{name}`{',' if ',' in command else ''}{' ' + rest.strip() if rest else ''} | {what} | {answer} |")
        for method, rows in self.api_cells(c).items():
            what = ", ".join(dict.fromkeys(what for what, *_ in rows))
            lines.append(f"| `/api/{method}` | {what}; a wrong key (401) | the same |")
        begin, end = "<!-- cells -->\n", "<!-- end of cells -->\n"
        text = DOCUMENT.read_text()
        head, _, rest = text.partition(begin)
        _, _, tail = rest.partition(end)
        wanted = head + begin + "\n" + "\n".join(lines) + "\n\n" + end + tail
        if os.environ.get("GB6_WRITE_DOCS"):
            DOCUMENT.write_text(wanted)
        self.assertEqual(text, wanted, "run this test with GB6_WRITE_DOCS=1 and commit the page")
