// In which form publications come: as differences, chosen by tags, under numbers, without one's own.

import assert from 'node:assert/strict';
import { after, afterEach, before, describe, test } from 'node:test';
import { Clients, Room, format as formatOf, formats, freshRoom, rejection, roomPublish } from '../lib/client.js';
import { proves } from '../lib/conformance.js';
import { Server } from '../lib/server.js';

const [json, protobuf] = ['json', 'protobuf'].map((encoding) => formatOf('websocket', encoding));
// Of the others the bytes are not looked at.
const isWatched = (format) => format.transport === 'websocket';
let server;
let clients;
before(async () => {
  server = await Server.start('sdk-delivery');
  clients = new Clients(server);
});
afterEach(() => clients.closeAll());
after(() => server.stop());

/** A state of 2 kB with text whose characters share their first bytes, of which three fields change. */
function state(n) {
  const players = Array.from({ length: 20 }, (_, id) => ({ id, name: `Игрок ${id} из Köln 漢字😀`, team: 'blue', score: id === 7 ? n : id * 31 }));
  return { minute: n % 90, word: 'жзийклм'[n % 7], players };
}

/** What a client was sent since the last look. */
const received = (client) => client.link.takeReceived();

describe('deltas', () => {
  for (const format of formats) {
    proves(format, ['delta'], `${format.name}: the data are the same and the bytes a fifth at most`, async () => {
      const channel = freshRoom('delta');
      const [alice, bob, carol] = [await clients.connect(json, 'alice'), await clients.connect(format, 'bob'), await clients.connect(format, 'carol')];
      const small = await new Room(bob, format, channel, { delta: 'fossil' }).subscribe();
      const plain = await new Room(carol, format, channel).subscribe();
      await roomPublish(alice, json, channel, undefined, state(0));
      await Promise.all([small.count(1), plain.count(1)]);
      if (isWatched(format)) for (const client of [bob, carol]) received(client);
      for (let n = 1; n <= 50; n += 1) await roomPublish(alice, json, channel, undefined, state(n));
      await Promise.all([small.count(51), plain.count(51)]);
      const states = Array.from({ length: 51 }, (_, n) => state(n));
      assert.deepEqual(small.data, states);
      assert.deepEqual(plain.data, states);
      const stats = small.sub.deltaStats?.();
      if (stats) assert.equal(stats.numDeltaPayloads, 50);
      if (!isWatched(format)) return;
      const [less, whole] = [received(bob).length, received(carol).length];
      assert.ok(less <= 0.2 * whole, `${less} of ${whole} bytes`);
    });

    proves(format, ['delta'], `${format.name}: publications of all kinds, and recovery after a cut`, async () => {
      const channel = freshRoom('delta-kinds');
      const [alice, bob] = [await clients.connect(json, 'alice'), await clients.connect(format, 'bob')];
      const room = await new Room(bob, format, channel, { delta: 'fossil' }).subscribe();
      const values = [1, 'ä', null, state(1), { text: '"\\\n\t€' }, [], state(2), state(3)];
      for (const value of values) await roomPublish(alice, json, channel, undefined, value);
      await room.count(values.length);
      assert.deepEqual(room.data, values);
      // While it is away and after it has come back.
      bob.link.cut();
      for (const n of [4, 5]) await roomPublish(alice, json, channel, undefined, state(n));
      await room.count(values.length + 2);
      for (const n of [6, 7, 8]) await roomPublish(alice, json, channel, undefined, state(n));
      await room.count(values.length + 5);
      assert.deepEqual(room.data.slice(-5), [4, 5, 6, 7, 8].map(state));
      assert.deepEqual(room.offsets, Array.from({ length: values.length + 5 }, (_, n) => n + 1));
      assert.equal(room.subscribed.at(-1).recovered, true);
    });
  }

  test('data that are not JSON come through in both formats', async () => {
    const channel = freshRoom('delta-bytes');
    const [alice, bob] = [await clients.connect(json, 'alice'), await clients.connect(protobuf, 'bob')];
    const inJson = await new Room(alice, json, channel, { delta: 'fossil' }).subscribe();
    const inProtobuf = await new Room(bob, protobuf, channel, { delta: 'fossil' }).subscribe();
    const bytes = (n) => Uint8Array.from({ length: 600 }, (_, i) => (i === 300 ? n : (i * 7) % 256));
    for (const n of [1, 2, 3]) await bob.publish(channel, bytes(n));
    await Promise.all([inJson.count(3), inProtobuf.count(3)]);
    assert.deepEqual(inProtobuf.publications.map((p) => Uint8Array.from(p.data)), [1, 2, 3].map(bytes));
    assert.deepEqual(inJson.publications.map((p) => p.data), [1, 2, 3].map((n) => ({ b64: Buffer.from(bytes(n)).toString('base64') })));
  });
});

for (const format of formats) {
  proves(format, ['tags-filter'], `${format.name}: a filter chooses by tags, live and in recovery`, async () => {
    const channel = freshRoom('filter');
    const [alice, bob] = [await clients.connect(json, 'alice'), await clients.connect(format, 'bob')];
    const tagsFilter = { op: 'or', nodes: [{ key: 'id', cmp: 'in', vals: ['m2', 'm9'] }, { op: 'and', nodes: [{ key: 'id', cmp: 'sw', val: 'm' }, { key: 'id', cmp: 'ew', val: '5' }] }] };
    const room = await new Room(bob, format, channel, { tagsFilter }).subscribe();
    for (let n = 1; n <= 6; n += 1) await roomPublish(alice, json, channel, `m${n}`, { n });
    await room.count(2);
    bob.link.cut();
    for (let n = 7; n <= 15; n += 1) await roomPublish(alice, json, channel, `m${n}`, { n });
    await room.count(4);
    assert.deepEqual(room.data.map((d) => d.n), [2, 5, 9, 15]);
    const wrong = new Room(bob, format, freshRoom('filter'), { tagsFilter: { op: 'and', nodes: [] } });
    wrong.sub.subscribe();
    await wrong.until('is refused', (r) => r.unsubscribed.length > 0);
    assert.equal(wrong.unsubscribed[0].code, 107);
  });

  proves(format, ['exclude-own'], `${format.name}: a connection that does not want its own gets everybody else's`, async () => {
    const channel = freshRoom('own');
    const data = format.encode({ gb6: { exclude_own: true }, app: 1 });
    const [alice, bob] = [await clients.connect(format, 'alice', { data }), await clients.connect(format, 'bob')];
    const rooms = [await new Room(alice, format, channel).subscribe(), await new Room(bob, format, channel).subscribe()];
    for (let n = 1; n <= 4; n += 1) await rooms[n % 2].sub.publish(format.encode({ n }));
    for (const room of rooms) await room.until('the last', (r) => r.data.some((d) => d.n === 3) && (r === rooms[0] || r.publications.length === 4));
    assert.deepEqual(rooms[0].data.map((d) => d.n), [1, 3]);
    assert.deepEqual(rooms[1].data.map((d) => d.n), [1, 2, 3, 4]);
  });

  const named = format === json ? 'a number in place of the channel' : "the channel's name, because this SDK does not find it by number";
  if (!isWatched(format)) continue;
  proves(format, format === json ? ['compaction'] : [], `${format.name}: pushes carry ${named}`, async () => {
    const channel = freshRoom('compact');
    const [alice, bob] = [await clients.connect(format, 'alice'), await clients.connect(format, 'bob')];
    const room = await new Room(bob, format, channel, { joinLeave: true }).subscribe();
    const other = await new Room(bob, format, freshRoom('compact')).subscribe();
    received(bob);
    const mine = await new Room(alice, format, channel).subscribe();
    for (const n of [1, 2]) await mine.sub.publish(format.encode({ n }));
    await other.sub.publish(format.encode({ n: 3 }));
    mine.sub.unsubscribe();
    await room.until('alice has left', (r) => r.leaves.some((l) => l.info.user === 'alice'));
    await other.count(1);
    assert.deepEqual(room.data, [{ n: 1 }, { n: 2 }]);
    assert.deepEqual(other.data, [{ n: 3 }]);
    assert.ok(room.joins.some((j) => j.info.user === 'alice'));
    const bytes = received(bob);
    assert.equal(bytes.includes(channel), format === protobuf);
  });
}

test('a filter together with a delta is refused by the server as by the SDK', async () => {
  const alice = await clients.connect(json, 'alice');
  const channel = freshRoom('both');
  const room = new Room(alice, json, channel, { tagsFilter: { key: 'id', cmp: 'ex' } });
  // Behind the SDK's own check.
  room.sub._delta = 'fossil';
  room.sub.subscribe();
  await room.until('is refused', (r) => r.unsubscribed.length > 0);
  assert.equal(room.unsubscribed[0].code, 107);
  const error = await rejection((async () => new Room(alice, json, freshRoom('both'), { tagsFilter: { key: 'id', cmp: 'ex' }, delta: 'fossil' }))());
  assert.match(error.message, /delta/);
});
