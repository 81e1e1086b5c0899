// Two edges of one mesh behind a balancer: who is at an edge that is drained under load goes on at the
// other.

import assert from 'node:assert/strict';
import { after, afterEach, before, describe } from 'node:test';
import { Clients, Room, formats, freshRoom, next, roomPublish } from '../lib/client.js';
import { proves } from '../lib/conformance.js';
import { Balancer, Mesh } from '../lib/mesh.js';
import { PATIENCE, within } from '../lib/server.js';
import { member } from '../lib/token.js';

let mesh;
let balancer;
let clients;
before(async () => {
  mesh = await Mesh.start('sdk-edges');
  balancer = await Balancer.start(mesh.edges);
  clients = new Clients(balancer);
});
afterEach(() => clients.closeAll());
after(async () => {
  balancer?.stop();
  await mesh?.stop();
});

const up = (n) => [...Array(n).keys()].map((i) => i + 1);

for (const format of formats) {
  describe(format.name, () => {
    proves(format, ['drain-edges'], 'nothing is missed, doubled or out of order when an edge is drained', async () => {
      balancer.lead(mesh.edges);
      const enter = (name) => clients.connect(format, null, { token: mesh.token(member(name)) });
      const channel = freshRoom('drained');
      const [writer, ...readers] = await Promise.all(['writer', 'r1', 'r2', 'r3', 'r4'].map(enter));
      const rooms = await Promise.all(readers.map((reader) => new Room(reader, format, channel).subscribe()));
      const acknowledged = [];
      let stop = false;
      const writing = (async () => {
        for (let n = 1; !stop; n += 1) {
          for (;;) {
            try {
              acknowledged.push((await roomPublish(writer, format, channel, `m${n}`, { n })).offset);
              break;
            } catch {
              if (stop) return;
              // With the same id again: whether it was written is not known.
              await new Promise((resolve) => setTimeout(resolve, 20));
            }
          }
        }
      })();
      try {
        const more = () => Promise.all(rooms.map((room) => room.count(room.publications.length + 20)));
        const [first, second] = mesh.edges;
        const all = [writer, ...readers];
        for (const [drained, other] of [[first, second], [second, first]]) {
          await more();
          const told = all.map((client) => next(client, 'connecting'));
          const back = all.map((client) => next(client, 'connected'));
          const ended = drained.terminate();
          const [lost] = await Promise.all([Promise.all(told), Promise.all(back)]);
          for (const { code, reason } of lost) assert.deepEqual({ code, reason }, { code: 3001, reason: 'shutdown' });
          assert.equal(await ended, 0);
          // Nobody is to go back: that one is drained next.
          balancer.edges = [other, drained];
          await more();
          // A command that was under way to the edge when it ended begins its connection once more.
          await Promise.all(all.map((client) => client.ready(PATIENCE)));
          await more();
          await drained.start();
        }
      } finally {
        // Without an end to it this process would have none.
        stop = true;
      }
      await within(writing, 'the last publish');
      assert.deepEqual(acknowledged, up(acknowledged.length));
      for (const room of rooms) {
        await room.count(acknowledged.length);
        assert.deepEqual(room.offsets, acknowledged);
        assert.deepEqual(room.data, acknowledged.map((n) => ({ n })));
        assert.deepEqual(room.subscribed.slice(1).map((context) => context.recovered), [true, true]);
      }
    });
  });
}
