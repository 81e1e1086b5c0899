// Prefixes: one subscription to all channels that begin alike.

import assert from 'node:assert/strict';
import { after, afterEach, before, describe, test } from 'node:test';
import { Clients, Room, format as formatOf, formats, rejection, roomPublish } from '../lib/client.js';
import { proves } from '../lib/conformance.js';
import { Server } from '../lib/server.js';
import { member, signWith } from '../lib/token.js';

const secret = 'd'.repeat(40);
const files = {
  'dev.toml': `
[instances.demo]
keys = [{ id = "demo.main", secret_file = "demo.secret" }]
[instances.demo.namespaces.room]
presence = true
join_leave = true
delta = true
tags_filter = true
allow_prefix = "member"
[instances.demo.namespaces.signal]
kind = "signal"
allow_prefix = "member"
[instances.demo.namespaces.closed]
allow_prefix = "token"
[instances.demo.namespaces.plain]
[instances.other]
keys = [{ id = "other.main", secret_file = "other.secret" }]
[instances.other.namespaces.room]
allow_prefix = "anyone"
`,
  'demo.secret': secret,
  'other.secret': 'o'.repeat(40),
};

let server;
let clients;
before(async () => {
  server = await Server.start('sdk-prefix', ['--config', 'dev.toml'], files);
  clients = new Clients(server);
});
afterEach(() => clients.closeAll());
after(() => server?.stop());

const sign = (claims) => signWith(secret, { kid: 'demo.main' }, claims);
const token = (name, more = {}) => sign(member(name, 3600, { caps: undefined, ...more }));
const connect = (format, name, more, options) => clients.connect(format, null, { token: token(name, more), ...options });
const channelOf = (publication) => publication.tags['gb6.channel'];
const json = formatOf('websocket', 'json');

let names = 0;
const fresh = (namespace = 'room') => `${namespace}:lobby-${process.pid}-${++names}.`;

for (const format of formats) {
  describe(format.name, () => {
    proves(format, ['prefix'], `${format.name}: every channel that begins so, in order, with its name`, async () => {
      const prefix = fresh();
      const [alice, bob] = [await connect(format, 'alice'), await connect(format, 'bob')];
      const lobby = await new Room(bob, format, `${prefix}*`, { joinLeave: true, recoverable: true, positioned: true, delta: 'fossil' }).subscribe();
      const [context] = lobby.subscribed;
      assert.deepEqual([context.recoverable, context.positioned, context.streamPosition], [false, false, undefined]);
      const one = await new Room(bob, format, `${prefix}3`).subscribe();
      const rooms = Array.from({ length: 8 }, (_, n) => `${prefix}${n}`);
      for (let n = 1; n <= 5; n += 1) {
        for (const room of [...rooms, `room:elsewhere-${prefix.slice(5)}`, `${prefix}1#alice`]) await alice.publish(room, format.encode({ n }));
      }
      await lobby.count(40);
      await one.count(5);
      assert.equal(lobby.publications.length, 40);
      for (const room of rooms) {
        const told = lobby.publications.filter((p) => channelOf(p) === room);
        assert.deepEqual(told.map((p) => [Number(p.offset), format.decode(p.data).n]), [1, 2, 3, 4, 5].map((n) => [n, n]));
        assert.ok(told.every((p) => p.info.user === 'alice' && p.channel === `${prefix}*`));
      }
      assert.deepEqual(one.data.map(({ n }) => n), [1, 2, 3, 4, 5]);
      assert.equal(lobby.joins.length, 0);
      // Whoever was away misses what came meanwhile, and gets what comes then.
      bob.link.cut();
      await alice.publish(rooms[0], format.encode({ n: 6 }));
      await lobby.until('it is back', (r) => r.subscribed.length === 2);
      assert.equal(lobby.subscribed[1].wasRecovering, false);
      await alice.publish(rooms[0], format.encode({ n: 7 }));
      await lobby.until('the last', (r) => r.data.at(-1).n === 7);
      assert.deepEqual(lobby.data.slice(40).map(({ n }) => n).filter((n) => n !== 6), [7]);
      lobby.sub.unsubscribe();
      await lobby.until('it has ended', (r) => r.unsubscribed.length === 1);
    });
  });
}

test('signals of every channel that begins so', async () => {
  const prefix = fresh('signal');
  const [alice, bob] = [await connect(json, 'alice'), await connect(json, 'bob')];
  const lobby = await new Room(bob, json, `${prefix}*`).subscribe();
  const both = await new Room(bob, json, `${prefix}1`).subscribe();
  for (const room of ['1', '2', '1', '3']) await alice.publish(`${prefix}${room}`, { room });
  await lobby.count(4);
  await both.count(2);
  // Between channels, which may be of different shards, there is no order.
  assert.deepEqual(lobby.publications.map(channelOf).sort(), ['1', '1', '2', '3'].map((n) => `${prefix}${n}`));
  assert.equal(both.publications.length, 2);
});

test('who may follow which prefixes, and that they are no channels', async () => {
  const alice = await connect(json, 'alice');
  const refused = async (channel, options) => {
    const sub = alice.newSubscription(channel, options);
    const [context] = await new Promise((resolve) => {
      sub.once('unsubscribed', (...args) => resolve(args));
      sub.subscribe();
    });
    alice.removeSubscription(sub);
    return context.code;
  };
  for (const [channel, code] of [['room:*', 107], ['room:lo*', 107], ['room:lob*y*', 107], ['$room:lobby*', 103], ['room:lobby#*', 103], ['closed:lobby*', 103], ['*', 102], ['nowhere:lobby*', 102]]) {
    assert.equal(await refused(channel), code, channel);
  }
  const prefix = fresh('closed');
  const channelToken = sign({ sub: 'alice', channel: `${prefix}*`, exp: Math.floor(Date.now() / 1000) + 60 });
  await new Room(alice, json, `${prefix}*`, { token: channelToken }).subscribe();
  assert.equal((await rejection(alice.publish('room:lobby*', 1))).code, 107);
  assert.equal((await rejection(alice.history('room:lobby*'))).code, 107);
  // Where a namespace has none it is a channel.
  await alice.publish('plain:*', 1);
  const caps = (channels, match) => [{ channels, match, allow: ['sub'] }];
  for (const [channels, match, may] of [[['room:lobby*'], 'wildcard', true], [['room:*'], 'wildcard', true], [['room:lobby.x*'], 'wildcard', false], [['room:lobby*'], undefined, false], [['room:.*'], 'regex', false]]) {
    const client = await connect(json, 'carol', { caps: caps(channels, match) });
    const sub = client.newSubscription('room:lobby*');
    const told = new Promise((resolve) => {
      sub.once('subscribed', () => resolve(true));
      sub.once('unsubscribed', ({ code }) => resolve(code));
    });
    sub.subscribe();
    assert.equal(await told, may || 103, `${channels} ${match}`);
  }
});

test('the same prefix of another instance is another one', async () => {
  const prefix = fresh();
  const other = signWith(files['other.secret'], { kid: 'other.main' }, member('mallory', 3600, { caps: undefined }));
  const [alice, bob, mallory] = [await connect(json, 'alice'), await connect(json, 'bob'), await clients.connect(json, null, { token: other })];
  const theirs = await new Room(mallory, json, `${prefix}*`).subscribe();
  const ours = await new Room(bob, json, `${prefix}*`).subscribe();
  for (const n of [1, 2, 3]) await alice.publish(`${prefix}${n}`, n);
  await mallory.publish(`${prefix}1`, 'theirs');
  await ours.count(3);
  await theirs.count(1);
  assert.deepEqual(ours.data, [1, 2, 3]);
  assert.deepEqual(theirs.data, ['theirs']);
});

test('publications are chosen by their tags, and one\'s own are left out', async () => {
  const prefix = fresh();
  const bob = await connect(json, 'bob', {}, { data: { gb6: { exclude_own: true } } });
  const alice = await connect(json, 'alice');
  const lobby = await new Room(bob, json, `${prefix}*`, { tagsFilter: { key: 'id', cmp: 'nex' } }).subscribe();
  await bob.publish(`${prefix}1`, 'own');
  // The id of a durable publish is a tag.
  await roomPublish(alice, json, `${prefix}1`, 'an-id', 'unwanted');
  await alice.publish(`${prefix}1`, 'told');
  await lobby.count(1);
  assert.deepEqual(lobby.data, ['told']);
});
