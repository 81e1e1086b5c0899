// The application's backend, as it would be written for Centrifugo, decides about connections and
// publications.

import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { after, afterEach, before, beforeEach, describe } from 'node:test';
import { Clients, Room, formats, freshRoom, next } from '../lib/client.js';
import { proves } from '../lib/conformance.js';
import { Server } from '../lib/server.js';

/** A backend: what it was asked, and what it says. */
class Backend {
  async start() {
    this.http = createServer(async (request, response) => {
      const parts = [];
      for await (const part of request) parts.push(part);
      const body = JSON.parse(Buffer.concat(parts));
      const asked = { path: request.url, headers: request.headers, body };
      this.asked.push(asked);
      const answer = await this.says(asked);
      if (answer === undefined) return request.socket.destroy();
      response.setHeader('Content-Type', 'application/json');
      response.end(JSON.stringify(answer));
    });
    await new Promise((resolve) => this.http.listen(0, '127.0.0.1', resolve));
    this.url = `http://127.0.0.1:${this.http.address().port}`;
    this.reset();
    return this;
  }

  reset() {
    this.asked = [];
    this.says = ({ body }) => (body.channel ? { result: {} } : { result: { user: `user-${dataOf(body).name}` } });
  }

  stop() {
    this.http.closeAllConnections();
    this.http.close();
  }
}

const dataOf = ({ data, b64data }) => data ?? JSON.parse(Buffer.from(b64data ?? 'e30=', 'base64').toString());

const backend = await new Backend().start();
let server;
let clients;
before(async () => {
  const config = `
[instances.demo]

[instances.demo.proxies.connect]
url = "${backend.url}/connect"
headers = ["X-Tenant"]

[instances.demo.proxies.publish]
url = "${backend.url}/publish"
static_headers = { Authorization = "Bearer backend" }

[instances.demo.namespaces.room]
presence = true
publish_proxy = true
`;
  server = await Server.start('sdk-proxies', ['--config', 'proxies.toml'], { 'proxies.toml': config });
  clients = new Clients(server);
});
beforeEach(() => backend.reset());
afterEach(() => clients.closeAll());
after(async () => {
  await server?.stop();
  backend.stop();
});

for (const format of formats) {
  describe(format.name, () => {
    /** A client without a token, of whom the backend is told a name. */
    const named = (name, more = {}) => clients.make(format, null, { data: format.encode({ name }), ...more });

    proves(format, ['connect-proxy'], 'the backend names the user of a connection without a token', async () => {
      backend.says = ({ body }) => (body.channel ? {} : { result: { user: 'ann', data: { motd: 'hi' }, channels: ['room:lobby'], info: { n: 1 } } });
      const client = named('ann', { headers: { 'X-Tenant': 't1' } });
      const connected = next(client, 'connected');
      const joined = next(client, 'subscribed');
      client.connect();
      assert.deepEqual(format.decode((await connected).data), { motd: 'hi' });
      assert.equal((await joined).channel, 'room:lobby');
      const [asked] = backend.asked;
      assert.equal(asked.path, '/connect');
      assert.equal(asked.headers['x-tenant'], 't1');
      const { transport, protocol, name } = asked.body;
      assert.deepEqual({ transport, protocol, name }, { transport: format.transport, protocol: format.encoding, name: 'js' });
      assert.deepEqual(dataOf(asked.body), { name: 'ann' });
      const { clients: present } = await client.presence('room:lobby');
      assert.deepEqual(Object.values(present).map((info) => info.user), ['ann']);
    });

    proves(format, ['connect-proxy'], 'an expired connection comes back by itself and is asked about again', async () => {
      let times = 0;
      backend.says = () => ({ result: { user: 'ann', expire_at: times++ === 0 ? Math.floor(Date.now() / 1000) + 3600 : 0 } });
      const client = named('ann');
      const errors = [];
      client.on('error', (context) => errors.push(context));
      client.connect();
      await next(client, 'connected');
      const again = next(client, 'connected');
      client.link.cut();
      await again;
      assert.equal(times, 2);
      // Nothing asks it for a token that it can not get.
      assert.ok(errors.every(({ type }) => type !== 'configuration'), JSON.stringify(errors));
    });

    proves(format, ['connect-proxy'], 'the backend refuses, for now and for good', async () => {
      let times = 0;
      backend.says = () => (times++ === 0 ? { error: { code: 1000, message: 'not yet', temporary: true } } : { disconnect: { code: 4501, reason: 'banned' } });
      const client = named('mallory');
      const error = next(client, 'error', ({ error: { code } }) => code === 1000);
      const gone = next(client, 'disconnected');
      client.connect();
      assert.equal((await error).error.message, 'not yet');
      const { code, reason } = await gone;
      assert.deepEqual({ code, reason }, { code: 4501, reason: 'banned' });
      assert.equal(times, 2);
    });

    proves(format, ['publish-proxy'], 'the backend replaces, refuses and passes publications', async () => {
      const client = await clients.connect(format, 'alice');
      assert.equal(backend.asked.length, 0, 'who brings a token is not asked about');
      const room = await new Room(client, format, freshRoom('proxied')).subscribe();
      backend.says = ({ body }) => {
        const { text } = dataOf(body);
        if (text === 'spam') return { error: { code: 1234, message: 'no spam' } };
        if (text === 'rude') return { result: { data: { text: '****' } } };
        return {};
      };
      await room.sub.publish(format.encode({ text: 'hello' }));
      await assert.rejects(room.sub.publish(format.encode({ text: 'spam' })), ({ code, message }) => code === 1234 && message === 'no spam');
      await room.sub.publish(format.encode({ text: 'rude' }));
      await room.count(2);
      assert.deepEqual(room.data, [{ text: 'hello' }, { text: '****' }]);
      const [asked] = backend.asked;
      assert.equal(asked.path, '/publish');
      assert.equal(asked.headers.authorization, 'Bearer backend');
      assert.deepEqual([asked.body.user, asked.body.channel], ['alice', room.channel]);
      backend.says = () => undefined;
      await assert.rejects(room.sub.publish(format.encode({ text: 'lost' })), ({ code, temporary }) => code === 100 && temporary);
    });

    proves(format, ['publish-proxy'], 'publications keep their order however long each takes', async () => {
      const client = await clients.connect(format, 'alice');
      const room = await new Room(client, format, freshRoom('ordered')).subscribe();
      backend.says = async ({ body }) => {
        await new Promise((resolve) => setTimeout(resolve, 20 - dataOf(body).n));
        return {};
      };
      // In one request: those that a browser sends side by side have no order of their own.
      client.startBatching();
      const all = [...Array(20).keys()].map((n) => room.sub.publish(format.encode({ n })));
      client.stopBatching();
      await Promise.all(all);
      await room.count(20);
      assert.deepEqual(room.data.map(({ n }) => n), [...Array(20).keys()]);
    });
  });
}
