// Channels that keep nothing.

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
