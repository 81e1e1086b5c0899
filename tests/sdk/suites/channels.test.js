// Whose channels are whose: subscriptions by token and by the server, private and personal channels,
// people without a token, and namespaces with options of their own.

import assert from 'node:assert/strict';
import path from 'node:path';
import { after, afterEach, before, describe } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Clients, Room, formats, freshRoom, next, rejection, roomPublish } from '../lib/client.js';
import { proves } from '../lib/conformance.js';
import { Server, within } from '../lib/server.js';
import { member, sign } from '../lib/token.js';

const config = fileURLToPath(new URL('../../conformance/channels.toml', import.meta.url));
let server;
let clients;
before(async () => {
  server = await Server.start('sdk-channels', ['--config', path.resolve(config)]);
  clients = new Clients(server);
});
afterEach(() => clients.closeAll());
after(() => server.stop());

/** A channel of a namespace that no other test uses. */
const fresh = (namespace) => freshRoom('c').replace('room:', `${namespace}:`);
const inSeconds = (n) => Math.floor(Date.now() / 1000) + n;
/** A token for a subscription. */
const subscription = (user, channel, more = {}) => sign(server, { sub: user, channel, exp: inSeconds(3600), ...more });
/** Everything that a client is told of its server-side subscriptions. */
function serverSide(client) {
  const seen = { subscribed: [], unsubscribed: [], publications: [] };
  client.on('subscribed', (context) => seen.subscribed.push(context));
  client.on('unsubscribed', (context) => seen.unsubscribed.push(context));
  client.on('publication', (context) => seen.publications.push(context));
  return seen;
}

for (const format of formats) {
  const { encode, decode } = format;
  /** A client that is connected with these claims more. */
  const enter = (user, more = {}, options = {}) => {
    const client = clients.make(format, null, { token: sign(server, member(user, 3600, more)), ...options });
    client.seen = serverSide(client);
    client.connect();
    return within(client.ready(20_000), `${user} connects`).then(() => client);
  };

  describe(format.name, () => {
    proves(format, ['sub-token'], 'a token lets into a guarded channel, with info and data', async () => {
      const channel = fresh('guarded');
      const [alice, bob] = [await enter('alice'), await enter('bob')];
      const room = new Room(alice, format, channel, { token: subscription('alice', channel, { info: { role: 'host' }, data: { topic: 'ä' } }) });
      await room.subscribe();
      assert.deepEqual(decode(room.subscribed[0].data), { topic: 'ä' });
      const asked = [];
      const theirs = new Room(bob, format, channel, {
        getToken: async (context) => {
          asked.push(context.channel);
          return subscription('bob', channel, { info: { role: 'guest' } });
        },
      });
      await theirs.subscribe();
      assert.deepEqual(asked, [channel]);
      await room.until('the join of bob', (r) => r.joins.some((j) => j.info.user === 'bob'));
      assert.deepEqual(decode(room.joins.find((j) => j.info.user === 'bob').info.chanInfo), { role: 'guest' });
      await room.sub.publish(encode({ n: 1 }));
      await theirs.count(1);
      assert.deepEqual(decode(theirs.publications[0].info.chanInfo), { role: 'host' });
      const { clients: present } = await theirs.sub.presence();
      assert.deepEqual(Object.values(present).map((i) => decode(i.chanInfo).role).sort(), ['guest', 'host']);
      // Who has none is refused, in all that the channel is for.
      const carol = await enter('carol');
      const refused = carol.newSubscription(channel);
      const unsubscribed = next(refused, 'unsubscribed');
      refused.subscribe();
      assert.equal((await unsubscribed).code, 103);
      assert.equal((await rejection(carol.publish(channel, encode({})))).code, 103);
      assert.equal((await rejection(carol.history(channel, { limit: 1 }))).code, 103);
      assert.equal((await rejection(carol.presence(channel))).code, 103);
    });

    proves(format, ['sub-token-refused'], 'a bad token is refused, an expired one renewed, a foreign one ends the connection', async () => {
      const channel = fresh('guarded');
      const alice = await enter('alice');
      const bad = new Room(alice, format, channel, { token: sign(server, { sub: 'alice', channel, exp: inSeconds(60) }, { secret: 'x'.repeat(64) }) });
      bad.sub.subscribe();
      await bad.until('unsubscribed', (r) => r.unsubscribed.length > 0);
      assert.equal(bad.unsubscribed[0].code, 103);
      assert.ok(bad.unsubscribed[0].reason.length > 0);
      let asked = 0;
      const expired = new Room(alice, format, fresh('guarded'), {
        token: subscription('alice', channel, { exp: inSeconds(-60) }),
        getToken: async ({ channel: of }) => {
          asked += 1;
          return subscription('alice', of);
        },
      });
      await expired.subscribe();
      assert.equal(asked, 1);
      for (const token of [subscription('bob', fresh('guarded')), subscription('alice', fresh('guarded'))]) {
        const client = await enter('alice');
        const disconnected = next(client, 'disconnected');
        client.newSubscription(fresh('guarded'), { token }).subscribe();
        const { code, reason } = await disconnected;
        assert.equal(code, 3500);
        assert.ok(reason.length > 0);
      }
    });

    proves(format, ['sub-refresh'], 'a subscription outlives its token by refresh', async () => {
      const channel = fresh('guarded');
      const alice = await enter('alice');
      let asked = 0;
      const room = new Room(alice, format, channel, {
        getToken: async () => {
          asked += 1;
          return subscription('alice', channel, { exp: inSeconds(asked < 3 ? 2 : 3600) });
        },
      });
      await room.subscribe();
      const refreshed = async () => {
        while (asked < 3) await new Promise((resolve) => setTimeout(resolve, 50));
      };
      await within(refreshed(), 'two refreshes');
      await room.sub.publish(encode({ n: 1 }));
      await room.count(1);
      assert.equal(room.subscribed.length, 1);
    });

    proves(format, ['server-subs'], 'the server subscribes to the channels of the token, and what was missed is recovered', async () => {
      const [one, two] = [fresh('room'), fresh('room')];
      const [alice, bob] = [await enter('alice'), await enter('bob', { channels: [one], subs: { [two]: { data: { topic: 'x' }, info: { role: 'r' } } } })];
      const { seen } = bob;
      const held = (list) => list.map((s) => s.channel).filter((c) => c !== '#bob').sort();
      assert.deepEqual(held(seen.subscribed), [one, two].sort());
      const context = seen.subscribed.find((s) => s.channel === two);
      assert.deepEqual(decode(context.data), { topic: 'x' });
      assert.deepEqual([context.recoverable, context.positioned, Number(context.streamPosition.offset)], [true, true, 0]);
      const [, of] = Object.entries((await alice.presence(two)).clients)[0];
      assert.deepEqual([of.user, decode(of.chanInfo)], ['bob', { role: 'r' }]);
      const count = (n) =>
        within(
          (async () => {
            while (seen.publications.length < n) await new Promise((resolve) => setTimeout(resolve, 10));
          })(),
          () => `${n} publications, has ${seen.publications.length}`,
        );
      await roomPublish(alice, format, one, undefined, { n: 1 });
      await count(1);
      // Cut off, so that the client comes back by itself.
      const again = next(bob, 'subscribed', (c) => c.channel === two);
      bob.link.cut();
      for (const [n, channel] of [[2, one], [3, two], [4, one]]) await roomPublish(alice, format, channel, undefined, { n });
      const { wasRecovering, recovered } = await again;
      assert.deepEqual([wasRecovering, recovered], [true, true]);
      await count(4);
      const of1 = seen.publications.filter((p) => p.channel === one);
      assert.deepEqual(of1.map((p) => decode(p.data).n), [1, 2, 4]);
      assert.deepEqual(of1.map((p) => Number(p.offset)), [1, 2, 3]);
      assert.deepEqual(seen.publications.filter((p) => p.channel === two).map((p) => decode(p.data).n), [3]);
    });

    proves(format, ['personal'], 'everybody has a channel of their own', async () => {
      const user = `u-${format.encoding}-${format.transport}`;
      // Without capabilities, what any member may.
      const [one, other] = [await enter(user, { caps: undefined }), await enter(user, { caps: undefined })];
      for (const client of [one, other]) assert.deepEqual(client.seen.subscribed.map((s) => s.channel), [`#${user}`]);
      const arrived = [one, other].map((client) => next(client, 'publication'));
      await one.publish(`#${user}`, encode({ n: 1 }));
      for (const context of await Promise.all(arrived)) {
        assert.equal(context.channel, `#${user}`);
        assert.deepEqual(decode(context.data), { n: 1 });
      }
      const stranger = await enter('stranger');
      assert.equal((await rejection(stranger.publish(`#${user}`, encode({})))).code, 103);
      assert.equal((await rejection(stranger.history(`#${user}`, { limit: 1 }))).code, 103);
    });

    proves(format, ['channel-names'], 'lists of users and private channels keep others out', async () => {
      const listed = `${fresh('room')}#alice,bob`;
      const hidden = fresh('room').replace('room:', '$room:');
      const [alice, carol] = [await enter('alice'), await enter('carol')];
      await new Room(alice, format, listed).subscribe();
      await new Room(alice, format, hidden, { token: subscription('alice', hidden) }).subscribe();
      for (const channel of [listed, hidden, '!system']) {
        const sub = carol.newSubscription(channel);
        const unsubscribed = next(sub, 'unsubscribed');
        sub.subscribe();
        const { code, reason } = await unsubscribed;
        assert.equal(code, 103, channel);
        assert.ok(reason.length > 0);
        assert.equal((await rejection(carol.publish(channel, encode({})))).code, 103, channel);
      }
    });

    proves(format, ['anonymous'], 'who has no token may do what anyone may', async () => {
      const nobody = await clients.connect(format, null);
      const channel = fresh('news');
      await new Room(nobody, format, channel).subscribe();
      assert.equal((await rejection(nobody.publish(channel, encode({})))).code, 103);
      const closed = nobody.newSubscription(fresh('room'));
      const unsubscribed = next(closed, 'unsubscribed');
      closed.subscribe();
      assert.equal((await unsubscribed).code, 103);
    });

    proves(format, ['cache'], 'a channel with cache recovery gives the newest publication', async () => {
      const channel = fresh('price');
      const [alice, bob] = [await enter('alice', { caps: undefined }), await enter('bob', { caps: undefined })];
      for (let n = 1; n <= 5; n += 1) await alice.publish(channel, encode({ n }));
      const { epoch } = await alice.history(channel, { limit: 0 });
      const room = await new Room(bob, format, channel, { since: { offset: 1, epoch } }).subscribe();
      await room.count(1);
      assert.deepEqual([room.data, room.offsets], [[{ n: 5 }], [5]]);
      assert.equal(room.subscribed[0].recovered, true);
      // Who has it gets nothing, and is recovered all the same.
      bob.link.cut();
      await room.until('subscribed again', (r) => r.subscribed.length === 2);
      assert.deepEqual([room.subscribed[1].recovered, room.publications.length], [true, 1]);
    });

    proves(format, ['dedupe-field'], 'a message id in the data is written once', async () => {
      const channel = fresh('orders');
      const alice = await enter('alice', { caps: undefined });
      const room = await new Room(alice, format, channel).subscribe();
      for (const id of ['order-17', 'order-17', 17, 'order-18']) await alice.publish(channel, encode({ id }));
      await room.count(3);
      assert.deepEqual(room.data.map((d) => d.id), ['order-17', 17, 'order-18']);
    });
  });
}
