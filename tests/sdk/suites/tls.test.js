// The same over TLS 1.3, with the certificate that `gb6 dev --tls` makes.

import assert from 'node:assert/strict';
import { after, afterEach, before, describe } from 'node:test';
import WebSocket from 'ws';
import { Clients, Room, formats, freshRoom, next } from '../lib/client.js';
import { proves } from '../lib/conformance.js';
import { Server } from '../lib/server.js';

let server;
let clients;
before(async () => {
  server = await Server.start('sdk-tls', ['--tls']);
  clients = new Clients(server);
});
afterEach(() => clients.closeAll());
after(() => server.stop());

// Fetch takes no certificate from a program; TLS is the same below every transport.
for (const format of formats.filter((f) => f.transport === 'websocket')) {
  describe(format.name, () => {
    proves(format, ['tls'], 'connects, publishes and receives over TLS', async () => {
      assert.match(server.ws, /^wss:/);
      const ca = await server.certificate();
      class Trusting extends WebSocket {
        constructor(url, protocols) {
          super(url, protocols, { ca });
        }
      }
      const alice = await clients.connect(format, 'alice', { websocket: Trusting });
      const room = await new Room(alice, format, freshRoom('tls')).subscribe();
      await room.sub.publish(format.encode({ n: 1 }));
      await room.count(1);
      assert.deepEqual(room.data, [{ n: 1 }]);
    });

    proves(format, ['tls'], 'a certificate that is not trusted is refused by the client', async () => {
      const client = clients.make(format, 'alice');
      const refused = next(client, 'error');
      client.connect();
      assert.equal((await refused).type, 'transport');
      assert.equal(client.state, 'connecting');
    });
  });
}
