// Coming back: positions, recovery of what was missed, and its bounds.

import assert from 'node:assert/strict';
import { after, afterEach, before, describe, test } from 'node:test';
import { Clients, Room, formats, freshRoom, next, roomPublish } from '../lib/client.js';
import { proves } from '../lib/conformance.js';
import { Server, within } from '../lib/server.js';

let server;
let clients;
before(async () => {
  server = await Server.start('sdk-recovery');
  clients = new Clients(server);
});
afterEach(() => clients.closeAll());
after(() => server.stop());

const upTo = (n) => Array.from({ length: n }, (_, i) => i + 1);

for (const format of formats) {
  const { encode } = format;

  describe(format.name, () => {
    proves(format, ['recovery'], 'what was missed while away is recovered, once and in order', async () => {
      const channel = freshRoom('away');
      const [alice, bob] = [await clients.connect(format, 'alice'), await clients.connect(format, 'bob')];
      const room = await new Room(bob, format, channel).subscribe();
      for (let n = 1; n <= 5; n += 1) await roomPublish(alice, format, channel, undefined, { n });
      await room.count(5);
      bob.disconnect();
      for (let n = 6; n <= 30; n += 1) await roomPublish(alice, format, channel, undefined, { n });
      bob.connect();
      await room.count(30);
      const again = room.subscribed.at(-1);
      assert.deepEqual([again.wasRecovering, again.recovered], [true, true]);
      await roomPublish(alice, format, channel, undefined, { n: 31 });
      await room.count(31);
      assert.deepEqual(room.offsets, upTo(31));
      assert.deepEqual(room.data, upTo(31).map((n) => ({ n })));
    });

    proves(format, ['cut'], 'a cut socket under load loses and doubles nothing', async () => {
      const channel = freshRoom('cut');
      const [alice, bob] = [await clients.connect(format, 'alice'), await clients.connect(format, 'bob')];
      const room = await new Room(bob, format, channel).subscribe();
      let sent = 0;
      let stop = false;
      const publisher = (async () => {
        while (!stop) await roomPublish(alice, format, channel, `m${(sent += 1)}`, { n: sent });
      })();
      for (let cut = 1; cut <= 5; cut += 1) {
        await room.count(room.publications.length + 20);
        const connected = next(bob, 'connected');
        bob.link.cut();
        await connected;
      }
      await room.count(room.publications.length + 20);
      stop = true;
      await publisher;
      await room.count(sent);
      assert.deepEqual(room.offsets, upTo(sent));
      assert.ok(room.subscribed.slice(1).every((s) => s.wasRecovering && s.recovered));
    });

    proves(format, ['recovery'], 'nothing missed is recovered too', async () => {
      const channel = freshRoom('nothing');
      const bob = await clients.connect(format, 'bob');
      const room = await new Room(bob, format, channel).subscribe();
      bob.disconnect();
      bob.connect();
      await room.until('subscribed again', (r) => r.subscribed.length === 2);
      assert.deepEqual([room.subscribed[1].wasRecovering, room.subscribed[1].recovered], [true, true]);
    });

    proves(format, ['unrecoverable'], 'beyond the bound of bytes nothing is skipped in silence', async () => {
      const channel = freshRoom('bound');
      const [alice, bob] = [await clients.connect(format, 'alice'), await clients.connect(format, 'bob')];
      const room = await new Room(bob, format, channel).subscribe();
      await alice.publish(channel, encode({ n: 0 }));
      await room.count(1);
      bob.disconnect();
      const filling = 'x'.repeat(60_000);
      for (let n = 1; n <= 12; n += 1) await alice.publish(channel, encode({ n, filling }));
      bob.connect();
      await room.until('subscribed again', (r) => r.subscribed.length === 2);
      const again = room.subscribed[1];
      assert.deepEqual([again.wasRecovering, again.recovered], [true, false]);
      assert.equal(Number(again.streamPosition.offset), 13);
      // The application pages.
      const missed = [];
      let since = { offset: 1, epoch: again.streamPosition.epoch };
      while (since.offset < 13) {
        const page = await room.sub.history({ limit: 300, since });
        assert.ok(page.publications.length > 0);
        missed.push(...page.publications.map((p) => Number(p.offset)));
        since = { ...since, offset: missed.at(-1) };
      }
      assert.deepEqual(missed, upTo(12).map((n) => n + 1));
      assert.deepEqual(room.offsets, [1]);
    });

    proves(format, ['unrecoverable'], 'a wrong epoch is not recovered', async () => {
      const channel = freshRoom('epoch');
      const alice = await clients.connect(format, 'alice');
      await alice.publish(channel, encode({}));
      const room = new Room(alice, format, channel, { since: { offset: 0, epoch: 'other' } });
      await room.subscribe();
      assert.deepEqual([room.subscribed[0].wasRecovering, room.subscribed[0].recovered], [true, false]);
      assert.equal(room.publications.length, 0);
    });

    proves(format, ['position'], 'a position given by hand is recovered from', async () => {
      const channel = freshRoom('since');
      const alice = await clients.connect(format, 'alice');
      const { epoch } = await roomPublish(alice, format, channel, undefined, { n: 1 });
      for (let n = 2; n <= 5; n += 1) await roomPublish(alice, format, channel, undefined, { n });
      const room = await new Room(alice, format, channel, { since: { offset: 2, epoch } }).subscribe();
      await room.count(3);
      assert.deepEqual(room.offsets, [3, 4, 5]);
      const all = await new Room(await clients.connect(format, 'bob'), format, channel, { since: { offset: 0, epoch } }).subscribe();
      await all.count(5);
      assert.deepEqual(all.offsets, upTo(5));
    });

    proves(format, ['many-rooms'], '400 rooms are recovered by one reconnection', async () => {
      const [alice, bob] = [await clients.connect(format, 'alice'), await clients.connect(format, 'bob')];
      const rooms = Array.from({ length: 400 }, (_, n) => new Room(bob, format, `room:all-${format.id}-${n}`));
      bob.startBatching();
      const ready = rooms.map((room) => room.subscribe());
      bob.stopBatching();
      await Promise.all(ready);
      bob.disconnect();
      await Promise.all(rooms.map((room) => alice.publish(room.channel, encode({ of: room.channel }))));
      bob.connect();
      await within(Promise.all(rooms.map((room) => room.count(1))), '400 recovered rooms');
      assert.ok(rooms.every((room) => room.subscribed.at(-1).recovered && room.data[0].of === room.channel));
    });
  });
}
