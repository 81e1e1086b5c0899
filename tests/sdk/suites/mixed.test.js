// JSON and Protobuf clients in one room: each combination with one of the other encoding.

import assert from 'node:assert/strict';
import { after, afterEach, before, describe } from 'node:test';
import { Clients, Room, format, formats, freshRoom, roomPublish } from '../lib/client.js';
import { proves } from '../lib/conformance.js';
import { Server } from '../lib/server.js';

let server;
let clients;
before(async () => {
  server = await Server.start('sdk-mixed');
  clients = new Clients(server);
});
afterEach(() => clients.closeAll());
after(() => server.stop());

for (const combination of formats) {
  // The other one is of the other encoding.
  const other = format('websocket', combination.encoding === 'json' ? 'protobuf' : 'json');
  const [json, protobuf] = combination.encoding === 'json' ? [combination, other] : [other, combination];

  describe(combination.name, () => {
    proves(combination, ['text'], 'JSON data is the same for both', async () => {
      const channel = freshRoom('json');
      const [a, b] = [await clients.connect(json, 'alice'), await clients.connect(protobuf, 'bob')];
      const rooms = [await new Room(a, json, channel).subscribe(), await new Room(b, protobuf, channel).subscribe()];
      const values = [{ text: 'ä€😀\n', n: 1.5, list: [null, true] }, 'text', 7, [], { b64: 'not ours' }, null];
      for (const [n, value] of values.entries()) {
        if (n % 2 === 0) await a.publish(channel, value);
        else await b.publish(channel, protobuf.encode(value));
      }
      for (const room of rooms) {
        await room.count(values.length);
        assert.deepEqual(room.data, values);
      }
    });

    proves(combination, ['binary'], 'bytes that are not JSON reach a JSON client as b64, live, in history and in recovery', async () => {
      const channel = freshRoom('bytes');
      const [a, b] = [await clients.connect(json, 'alice'), await clients.connect(protobuf, 'bob')];
      const rooms = [await new Room(a, json, channel).subscribe(), await new Room(b, protobuf, channel).subscribe()];
      const bytes = [Uint8Array.from([0, 255, 1, 254]), Uint8Array.from([0x7b]), new TextEncoder().encode('plain words')];
      const shown = bytes.map((data) => ({ b64: Buffer.from(data).toString('base64') }));
      for (const data of bytes) await b.publish(channel, data);
      for (const room of rooms) await room.count(bytes.length);
      assert.deepEqual(rooms[0].publications.map((p) => p.data), shown);
      assert.deepEqual(rooms[1].publications.map((p) => Uint8Array.from(p.data)), bytes);
      const page = await rooms[0].sub.history({ limit: 10 });
      assert.deepEqual(page.publications.map((p) => p.data), shown);
      const { epoch } = page;
      const late = await new Room(await clients.connect(json, 'carol'), json, channel, { since: { offset: 0, epoch } }).subscribe();
      await late.count(bytes.length);
      assert.deepEqual(late.publications.map((p) => p.data), shown);
    });

    proves(combination, ['presence', 'durable-publish'], 'who publishes in one format is present in the other', async () => {
      const channel = freshRoom('presence');
      const [a, b] = [await clients.connect(json, 'alice'), await clients.connect(protobuf, 'bob')];
      const rooms = [await new Room(a, json, channel).subscribe(), await new Room(b, protobuf, channel).subscribe()];
      for (const room of rooms) {
        const { clients: present } = await room.sub.presence();
        assert.deepEqual(Object.values(present).map((i) => i.user).sort(), ['alice', 'bob']);
      }
      const first = await roomPublish(a, json, channel, 'same', { from: 'json' });
      await a.disconnect();
      // The same user with the same id in the other format: a retry.
      const again = await roomPublish(await clients.connect(protobuf, 'alice'), protobuf, channel, 'same', { from: 'json' });
      assert.deepEqual([again.offset, again.duplicate], [first.offset, true]);
    });
  });
}
