// Channels that keep nothing, and what a stream is told not to keep.

import assert from 'node:assert/strict';
import { after, afterEach, before } from 'node:test';
import { Clients, Room, formats, freshRoom, rejection } from '../lib/client.js';
import { proves } from '../lib/conformance.js';
import { Server } from '../lib/server.js';
import { member, sign } from '../lib/token.js';

let server;
let clients;
before(async () => {
  server = await Server.start('sdk-signals');
  clients = new Clients(server);
});
afterEach(() => clients.closeAll());
after(() => server.stop());

const freshChannel = (name) => freshRoom(name).replace('room:', 'signal:');

for (const format of formats) {
  proves(format, ['signals'], `${format.name}: signals reach who is there, in order, and are kept nowhere`, async () => {
    const channel = freshChannel('order');
    const caps = [{ channels: ['signal:*'], match: 'wildcard', allow: ['sub', 'pub', 'prs', 'hst'] }];
    const token = (user) => ({ token: sign(server, member(user, 3600, { caps })) });
    const [alice, bob] = [await clients.connect(format, 'alice', token('alice')), await clients.connect(format, 'bob', token('bob'))];
    const rooms = [await new Room(alice, format, channel, { joinLeave: true }).subscribe(), await new Room(bob, format, channel, { delta: 'fossil' }).subscribe()];
    for (const room of rooms) {
      const context = room.subscribed[0];
      assert.deepEqual([context.recoverable, context.positioned, context.streamPosition], [false, false, undefined]);
    }
    const value = (n) => ({ n, word: 'ж€漢'[n % 3], rest: 'what stays the same from one to the next' });
    for (let n = 1; n <= 30; n += 1) await rooms[0].sub.publish(format.encode(value(n)));
    for (const room of rooms) {
      await room.count(30);
      assert.deepEqual(room.data, Array.from({ length: 30 }, (_, n) => value(n + 1)));
      assert.ok(room.publications.every((p) => !Number(p.offset ?? 0) && p.info.user === 'alice'));
    }
    assert.ok(rooms[1].sub.deltaStats().numDeltaPayloads >= 29);
    assert.ok(rooms[0].joins.some((j) => j.info.user === 'bob'));
    assert.equal((await rejection(rooms[0].sub.history({ limit: 1 }))).code, 108);
    assert.equal((await rejection(alice.rpc('room.publish', format.encode({ room: channel, data: 1 })))).code, 108);
    const { numClients } = await rooms[0].sub.presenceStats();
    assert.equal(numClients, 2);
    // Who was away misses what came meanwhile, and gets what comes then.
    bob.link.cut();
    await rooms[0].sub.publish(format.encode(value(31)));
    await rooms[1].until('it is back', (r) => r.subscribed.length === 2);
    assert.equal(rooms[1].subscribed[1].wasRecovering, false);
    await rooms[0].sub.publish(format.encode(value(32)));
    await rooms[1].until('the last', (r) => r.data.at(-1).n === 32);
    assert.deepEqual(rooms[1].data.slice(30).map((d) => d.n).filter((n) => n !== 31), [32]);
  });
}

/** The server API, as an application's backend uses it. */
async function publish(channel, data, more = {}) {
  const headers = { 'X-API-Key': server.ready.api_key };
  const response = await fetch(`${server.http}/api/publish`, { method: 'POST', headers, body: JSON.stringify({ channel, data, ...more }) });
  const { result, error } = await response.json();
  assert.equal(error, undefined);
  return result;
}

for (const format of formats) {
  proves(format, ['signals'], `${format.name}: what a stream does not keep leaves its position, its history and its deltas alone`, async () => {
    const channel = freshRoom('unkept');
    const [alice, bob] = [await clients.connect(format, 'alice'), await clients.connect(format, 'bob')];
    const kept = { positioned: true, recoverable: true };
    const rooms = [await new Room(alice, format, channel, kept).subscribe(), await new Room(bob, format, channel, { ...kept, delta: 'fossil' }).subscribe()];
    const value = (n) => ({ n, word: 'ж€漢'[n % 3], rest: 'what stays the same from one to the next' });
    const skip = { skip_history: true };
    assert.deepEqual(await publish(channel, value(100), skip), { offset: 0, epoch: '' });
    const sent = [100];
    for (let n = 1; n <= 9; n += 1) {
      assert.equal((await publish(channel, value(n))).offset, n);
      sent.push(n);
      if (n % 3 > 0) continue;
      await publish(channel, value(100 + n), skip);
      sent.push(100 + n);
    }
    for (const room of rooms) {
      await room.count(sent.length);
      assert.deepEqual(room.data, sent.map(value));
      assert.deepEqual(room.publications.map((p) => Number(p.offset ?? 0)), sent.map((n) => (n > 99 ? 0 : n)));
    }
    // The second of each three, and the third.
    assert.ok(rooms[1].sub.deltaStats().numDeltaPayloads >= 6);
    // The newest that they were told has no offset. They come back to where they stood before it, and
    // of what came meanwhile they are told what was kept.
    for (const client of [alice, bob]) client.link.cut();
    await publish(channel, value(10));
    await publish(channel, value(110), skip);
    await publish(channel, value(11));
    for (const room of rooms) {
      await room.until('it is back and has the last', (r) => r.subscribed.length === 2 && r.data.at(-1)?.n === 11);
      const { wasRecovering, recovered } = room.subscribed[1];
      assert.deepEqual([wasRecovering, recovered], [true, true]);
      const came = room.data.slice(sent.length).map((d) => d.n);
      assert.deepEqual(came.filter((n) => n !== 110), [10, 11]);
    }
    const { publications } = await rooms[0].sub.history({ limit: 100 });
    assert.deepEqual(publications.map((p) => format.decode(p.data)), Array.from({ length: 11 }, (_, n) => value(n + 1)));
  });
}
