// What an application does in rooms: publish, read, look who is there, leave.

import assert from 'node:assert/strict';
import { after, afterEach, before, describe, test } from 'node:test';
import { Clients, Room, formats, freshRoom, next, rejection, roomPublish } from '../lib/client.js';
import { proves } from '../lib/conformance.js';
import { Server, within } from '../lib/server.js';
import { member, sign } from '../lib/token.js';

let server;
let clients;
before(async () => {
  server = await Server.start('sdk-rooms');
  clients = new Clients(server);
});
afterEach(() => clients.closeAll());
after(() => server.stop());

const seconds = (n) => n * 1000;

for (const format of formats) {
  const { encode, decode } = format;

  describe(format.name, () => {
    proves(format, ['publish'], 'subscribes, publishes, receives in order', async () => {
      const channel = freshRoom('publish');
      const [alice, bob] = [await clients.connect(format, 'alice'), await clients.connect(format, 'bob')];
      const rooms = [await new Room(alice, format, channel).subscribe(), await new Room(bob, format, channel).subscribe()];
      const context = rooms[0].subscribed[0];
      assert.deepEqual([context.recoverable, context.positioned, context.wasRecovering], [true, true, false]);
      assert.equal(Number(context.streamPosition.offset), 0);
      assert.ok(context.streamPosition.epoch.length > 0);
      for (let n = 1; n <= 20; n += 1) await rooms[n % 2].sub.publish(encode({ n }));
      for (const room of rooms) {
        await room.count(20);
        assert.deepEqual(room.data, Array.from({ length: 20 }, (_, n) => ({ n: n + 1 })));
        assert.deepEqual(room.offsets, Array.from({ length: 20 }, (_, n) => n + 1));
        assert.deepEqual([...new Set(room.publications.map((p) => p.info.user))].sort(), ['alice', 'bob']);
        assert.ok(room.publications.every((p) => p.info.client.length > 0));
        // Only what was given an id carries one.
        assert.ok(room.publications.every((p) => p.tags?.id === undefined));
      }
    });

    proves(format, ['durable-publish'], 'room.publish answers with the offset, and a retry with the first one', async () => {
      const channel = freshRoom('durable');
      const [alice, bob] = [await clients.connect(format, 'alice'), await clients.connect(format, 'bob')];
      const room = await new Room(bob, format, channel).subscribe();
      const began = Date.now();
      const first = await roomPublish(alice, format, channel, 'm1', { text: 'ä' });
      assert.deepEqual([first.offset, first.duplicate ?? false], [1, false]);
      assert.ok(Math.abs(first.time - began) < seconds(60), `${first.time}`);
      assert.equal(first.epoch, room.subscribed[0].streamPosition.epoch);
      const again = await roomPublish(alice, format, channel, 'm1', { text: 'ä' });
      assert.deepEqual([again.offset, again.duplicate, again.epoch], [1, true, first.epoch]);
      // The id belongs to the user: another one's is another message.
      const others = await roomPublish(bob, format, channel, 'm1', { text: 'b' });
      assert.deepEqual([others.offset, others.duplicate ?? false], [2, false]);
      // Without an id nothing is deduplicated, and the short name is the same room.
      const short = channel.slice('room:'.length);
      for (const offset of [3, 4]) assert.equal((await roomPublish(alice, format, short, undefined, { same: true })).offset, offset);
      await room.count(4);
      assert.deepEqual(room.data, [{ text: 'ä' }, { text: 'b' }, { same: true }, { same: true }]);
      assert.deepEqual(room.publications.map((p) => p.tags?.id), ['m1', 'm1', undefined, undefined]);
      assert.deepEqual(room.publications.map((p) => p.info.user), ['alice', 'bob', 'alice', 'alice']);
    });

    proves(format, ['history'], 'history is paged both ways', async () => {
      const channel = freshRoom('history');
      const alice = await clients.connect(format, 'alice');
      const room = new Room(alice, format, channel);
      await room.subscribe();
      for (let n = 1; n <= 25; n += 1) await roomPublish(alice, format, channel, `m${n}`, { n });
      const numbers = (page) => page.publications.map((p) => decode(p.data).n);
      const top = await room.sub.history({ limit: 0 });
      assert.deepEqual([top.publications.length, Number(top.offset)], [0, 25]);
      const { epoch } = top;
      const forward = await room.sub.history({ limit: 10 });
      assert.deepEqual(numbers(forward), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
      assert.deepEqual(forward.publications.map((p) => Number(p.offset)), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
      assert.ok(forward.publications.every((p) => p.info.user === 'alice' && p.tags.id.startsWith('m')));
      assert.deepEqual(numbers(await room.sub.history({ limit: 3, since: { offset: 10, epoch } })), [11, 12, 13]);
      assert.deepEqual(numbers(await room.sub.history({ limit: 3, reverse: true })), [25, 24, 23]);
      assert.deepEqual(numbers(await room.sub.history({ limit: 3, reverse: true, since: { offset: 23, epoch } })), [22, 21, 20]);
      assert.deepEqual(numbers(await room.sub.history({ limit: -1 })), Array.from({ length: 25 }, (_, n) => n + 1));
      assert.deepEqual(numbers(await room.sub.history({ limit: 10, since: { offset: 25, epoch } })), []);
      assert.deepEqual(numbers(await room.sub.history({ limit: 10, since: { offset: 24, epoch: '' } })), [25]);
      assert.equal((await rejection(room.sub.history({ limit: 10, since: { offset: 1, epoch: 'other' } }))).code, 112);
    });

    proves(format, ['history'], 'a page ends at 300 publications', async () => {
      const channel = freshRoom('page');
      const alice = await clients.connect(format, 'alice');
      await Promise.all(Array.from({ length: 320 }, (_, n) => alice.publish(channel, encode({ n }))));
      const page = await alice.history(channel, { limit: -1 });
      assert.equal(page.publications.length, 300);
      const rest = await alice.history(channel, { limit: 1000, since: { offset: 300, epoch: page.epoch } });
      assert.deepEqual(rest.publications.map((p) => Number(p.offset)), Array.from({ length: 20 }, (_, n) => 301 + n));
    });

    proves(format, ['presence', 'join-leave'], 'presence, its statistics, joins and leaves', async () => {
      const channel = freshRoom('presence');
      const alice = await clients.connect(format, 'alice');
      const room = await new Room(alice, format, channel).subscribe();
      const bobs = [await clients.connect(format, 'bob'), await clients.connect(format, 'bob')];
      for (const bob of bobs) await new Room(bob, format, channel).subscribe();
      await room.until('two joins of bob', (r) => r.joins.filter((j) => j.info.user === 'bob').length === 2);
      const { clients: present } = await room.sub.presence();
      assert.deepEqual(Object.values(present).map((i) => i.user).sort(), ['alice', 'bob', 'bob']);
      for (const [id, info] of Object.entries(present)) assert.equal(info.client, id);
      const stats = await room.sub.presenceStats();
      assert.deepEqual([stats.numClients, stats.numUsers], [3, 2]);
      bobs[0].disconnect();
      await room.until('a leave of bob', (r) => r.leaves.some((l) => l.info.user === 'bob'));
      assert.equal((await room.sub.presenceStats()).numClients, 2);
      bobs[1].getSubscription(channel).unsubscribe();
      await room.until('two leaves of bob', (r) => r.leaves.length === 2);
      assert.equal((await room.sub.presenceStats()).numUsers, 1);
    });

    proves(format, ['unsubscribe'], 'after unsubscribing nothing comes, and subscribing again begins at the top', async () => {
      const channel = freshRoom('unsubscribe');
      const alice = await clients.connect(format, 'alice');
      const room = await new Room(alice, format, channel).subscribe();
      await roomPublish(alice, format, channel, undefined, { n: 1 });
      await room.count(1);
      room.sub.unsubscribe();
      assert.equal(room.unsubscribed.at(-1).code, 0);
      await roomPublish(alice, format, channel, undefined, { n: 2 });
      assert.equal(room.publications.length, 1);
      const other = await clients.connect(format, 'bob');
      const fresh = await new Room(other, format, channel).subscribe();
      assert.equal(Number(fresh.subscribed[0].streamPosition.offset), 2);
      await roomPublish(alice, format, channel, undefined, { n: 3 });
      await fresh.count(1);
      assert.deepEqual(fresh.data, [{ n: 3 }]);
      assert.equal(room.publications.length, 1);
    });

    proves(format, ['batching'], 'commands of one batch are answered, each', async () => {
      const channel = freshRoom('batch');
      const alice = await clients.connect(format, 'alice');
      const room = await new Room(alice, format, channel).subscribe();
      const before = alice.link.sent.length;
      alice.startBatching();
      const calls = [
        room.sub.publish(encode({ n: 1 })),
        roomPublish(alice, format, channel, 'x', { n: 2 }),
        room.sub.presenceStats(),
        rejection(alice.rpc('no.such.method', encode({}))),
        room.sub.history({ limit: 0 }),
      ];
      alice.stopBatching();
      const [, published, stats, error, history] = await Promise.all(calls);
      assert.equal(alice.link.sent.length, before + 1);
      // In which order the SDK writes the calls of one turn is its own affair.
      assert.ok([1, 2].includes(published.offset));
      assert.deepEqual([stats.numClients, error.code], [1, 104]);
      assert.ok(Number(history.offset) <= 2);
      await room.count(2);
      assert.equal(room.data[published.offset - 1].n, 2);
      assert.deepEqual(room.data.map((d) => d.n).sort(), [1, 2]);
    });

    proves(format, ['errors'], 'errors have codes and words', async () => {
      const alice = await clients.connect(format, 'alice');
      const cases = [
        [104, () => alice.rpc('no.such.method', encode({}))],
        [107, () => alice.rpc('room.publish', encode({ room: '' }))],
        [107, () => roomPublish(alice, format, freshRoom('id'), 'x'.repeat(129), {})],
        [107, () => roomPublish(alice, format, freshRoom('size'), 'x', { text: 'x'.repeat(66_000) })],
        [107, () => alice.publish(freshRoom('size'), encode({ text: 'x'.repeat(66_000) }))],
        [102, () => alice.publish('nowhere:a', encode({}))],
        [102, () => alice.history('nowhere:a', { limit: 1 })],
        [107, () => alice.publish(`room:${'x'.repeat(300)}`, encode({}))],
      ];
      for (const [index, [code, call]] of cases.entries()) {
        const error = await rejection(call());
        assert.equal(error.code, code, `case ${index}: ${error.message}`);
        assert.ok(error.message.length > 0);
      }
    });

    proves(format, ['capabilities'], 'a token without the capability is refused with 103', async () => {
      const caps = [{ channels: ['room:open-*'], match: 'wildcard', allow: ['sub'] }];
      const token = sign(server, member('carol', 3600, { caps }));
      const carol = await clients.connect(format, null, { token });
      const room = await new Room(carol, format, freshRoom('open-').replace('room:open--', 'room:open-')).subscribe();
      assert.equal((await rejection(room.sub.publish(encode({})))).code, 103);
      assert.equal((await rejection(roomPublish(carol, format, room.channel, 'a', {}))).code, 103);
      assert.equal((await rejection(room.sub.history({ limit: 1 }))).code, 103);
      assert.equal((await rejection(room.sub.presence())).code, 103);
      const closed = carol.newSubscription(freshRoom('closed'));
      const unsubscribed = next(closed, 'unsubscribed');
      closed.subscribe();
      assert.equal((await unsubscribed).code, 103);
    });

    proves(format, ['limits'], 'a subscription beyond 1,024 is refused with 106', async () => {
      const alice = await clients.connect(format, 'alice');
      const subs = Array.from({ length: 1024 }, (_, n) => alice.newSubscription(`room:limit-${format.id}-${n}`));
      alice.startBatching();
      for (const sub of subs) sub.subscribe();
      alice.stopBatching();
      await Promise.all(subs.map((sub) => sub.ready(20_000)));
      const beyond = alice.newSubscription(`room:limit-${format.id}-beyond`);
      const unsubscribed = next(beyond, 'unsubscribed');
      beyond.subscribe();
      assert.equal((await unsubscribed).code, 106);
      // And one that ends makes room for another.
      subs[0].unsubscribe();
      // By HTTP each is a request, and one may overtake the other.
      const left = async () => {
        while ((await alice.presenceStats(subs[0].channel)).numClients > 0) continue;
      };
      await within(left(), 'the end of a subscription');
      beyond.subscribe();
      await beyond.ready(10_000);
    });
  });
}
