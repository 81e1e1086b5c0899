// What a server of the application is told when sessions and subscriptions of the SDK end: signed as
// docs/webhooks.md says, in order, to the instance's own receiver, and not lost when a server is killed.

import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import path from 'node:path';
import { after, afterEach, before, test } from 'node:test';
import { pathToFileURL } from 'node:url';
import { Clients, Room, formats } from '../lib/client.js';
import { PATIENCE, Server } from '../lib/server.js';
import { member, signWith } from '../lib/token.js';

const page = readFileSync(new URL('../../../docs/webhooks.md', import.meta.url), 'utf8');
const secrets = { acme: 'a'.repeat(40), shop: 's'.repeat(40) };
const hookSecrets = { acme: 'h'.repeat(32), shop: 'k'.repeat(32) };
const apiKey = `gb6_acme_${'1'.repeat(32)}`;

/** Keeps what it is sent, and takes it unless it is told to refuse. */
class Receiver {
  requests = [];
  refuses = false;

  async listen() {
    this.server = createServer(async (request, answer) => {
      const chunks = [];
      for await (const chunk of request) chunks.push(chunk);
      const body = Buffer.concat(chunks);
      this.requests.push({ header: request.headers['gb6-signature'], body, taken: !this.refuses });
      answer.writeHead(this.refuses ? 503 : 204).end();
    });
    await new Promise((resolve) => this.server.listen(0, '127.0.0.1', resolve));
    return `http://127.0.0.1:${this.server.address().port}/hook`;
  }

  /** The events that it has taken, each once, in the order in which they came first. */
  get events() {
    const taken = this.requests.filter((r) => r.taken).flatMap((r) => JSON.parse(r.body).events);
    return [...new Map(taken.map((event) => [event.id, event])).values()];
  }

  of(user) {
    return this.events.filter((event) => event.user === user);
  }

  async until(what, holds) {
    const end = Date.now() + PATIENCE;
    while (!holds(this)) {
      assert.ok(Date.now() < end, `${what}: ${JSON.stringify(this.events)}`);
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
  }
}

const receivers = { acme: new Receiver(), shop: new Receiver() };
let server;
let clients;
let isOurs;
before(async () => {
  const urls = { acme: await receivers.acme.listen(), shop: await receivers.shop.listen() };
  const config = ['acme', 'shop'].map(
    (name) => `
[instances.${name}]
keys = [{ id = "${name}.main", secret_file = "${name}.secret" }]
${name === 'acme' ? `api_keys = ["${apiKey}"]` : ''}
[instances.${name}.webhooks]
url = "${urls[name]}"
secret = "${hookSecrets[name]}"
[instances.${name}.namespaces.room]
presence = true
`,
  );
  const files = { 'dev.toml': config.join(''), 'acme.secret': secrets.acme, 'shop.secret': secrets.shop };
  server = await Server.start('sdk-webhooks', ['--config', 'dev.toml', '--default-instance', 'acme'], files);
  clients = new Clients(server);
  const module = path.join(server.dir, 'check.mjs');
  writeFileSync(module, page.match(/```js\n([^]*?)```/)[1]);
  ({ isOurs } = await import(pathToFileURL(module)));
});
afterEach(() => clients.closeAll());
after(async () => {
  await server?.stop();
  for (const { server } of Object.values(receivers)) server.close();
});

const token = (instance, user) => ({ token: signWith(secrets[instance], { kid: `${instance}.main` }, member(user)) });
const api = async (method, params) => {
  const response = await fetch(`${server.http}/api/${method}`, {
    method: 'POST',
    headers: { 'x-api-key': apiKey, 'content-type': 'application/json' },
    body: JSON.stringify(params),
  });
  assert.deepEqual(await response.json(), { result: {} });
};

for (const format of formats) {
  test(`${format.name}: ends of subscriptions and sessions are told in order, signed, to their own instance`, async () => {
    const user = `alice-${format.transport}-${format.encoding}`;
    const client = await clients.connect(format, user, token('acme', user));
    const other = await clients.connect(format, user, token('shop', user));
    const room = await new Room(client, format, 'room:a').subscribe();
    await new Room(client, format, 'room:b').subscribe();
    room.sub.unsubscribe();
    await receivers.acme.until('the subscription', (r) => r.of(user).length === 1);
    const [left] = receivers.acme.of(user);
    assert.deepEqual([left.type, left.instance, left.channel], ['unsubscribe', 'acme', 'room:a']);
    await api('unsubscribe', { user, channel: 'room:b' });
    await receivers.acme.until('the other', (r) => r.of(user).length === 2);
    assert.equal(receivers.acme.of(user)[1].channel, 'room:b');
    assert.equal(receivers.acme.of(user)[1].code, 2000);
    client.disconnect();
    other.disconnect();
    for (const name of ['acme', 'shop']) {
      await receivers[name].until('the end', (r) => r.of(user).at(-1)?.type === 'disconnect');
      const end = receivers[name].of(user).at(-1);
      assert.deepEqual([end.instance, 'channel' in end], [name, false]);
      assert.equal(end.client, receivers[name].of(user)[0].client);
      assert.ok(Math.abs(Date.now() - end.time) < 60_000);
    }
    for (const name of ['acme', 'shop']) {
      for (const { header, body } of receivers[name].requests) {
        assert.ok(isOurs(hookSecrets[name], header, body));
        assert.ok(!isOurs(hookSecrets[name === 'acme' ? 'shop' : 'acme'], header, body));
        assert.ok(JSON.parse(body).events.every((event) => event.instance === name));
      }
    }
  });
}

test('who is disconnected by the server is told with the code and the reason, and once for all of it', async () => {
  const client = await clients.connect(formats[0], 'bob', token('acme', 'bob'));
  await new Room(client, formats[0], 'room:d').subscribe();
  await api('disconnect', { user: 'bob', disconnect: { code: 4321, reason: 'off you go' } });
  await receivers.acme.until('the end', (r) => r.of('bob').some((event) => event.type === 'disconnect'));
  const [end] = receivers.acme.of('bob');
  assert.deepEqual([end.type, end.code, end.reason], ['disconnect', 4321, 'off you go']);
});

test('nothing is lost when a server is killed while the receiver takes nothing', async () => {
  receivers.acme.refuses = true;
  const users = Array.from({ length: 20 }, (_, n) => `user-${n}`);
  for (const user of users) {
    const client = await clients.connect(formats[0], user, token('acme', user));
    const room = await new Room(client, formats[0], 'room:c').subscribe();
    room.sub.unsubscribe();
  }
  // All of it is in the log.
  const waiting = async () => {
    const metrics = await (await fetch(`${server.http}/metrics`)).text();
    return Number(metrics.match(/gb6_webhook_waiting_events\{instance="acme"\} (\d+)/)?.[1] ?? 0);
  };
  const end = Date.now() + PATIENCE;
  while ((await waiting()) < users.length) assert.ok(Date.now() < end, `only ${await waiting()} are in the log`);
  await server.kill();
  await server.restart();
  receivers.acme.refuses = false;
  await receivers.acme.until('everybody', (r) => users.every((user) => r.of(user).some((event) => event.type === 'unsubscribe')));
  for (const user of users) {
    const [first] = receivers.acme.of(user);
    assert.deepEqual([first.type, first.channel], ['unsubscribe', 'room:c'], 'in order');
  }
});
