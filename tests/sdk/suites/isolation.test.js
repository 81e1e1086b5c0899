// Two instances of one server, `acme` and `shop`, with the same users, rooms and message ids: with
// keys, tokens, positions, ids and names of the other nobody gets anywhere, and neither the text of
// an answer nor the time that it takes tells what the other one has.

import assert from 'node:assert/strict';
import { generateKeyPairSync, sign } from 'node:crypto';
import { createServer, request } from 'node:http';
import { after, afterEach, before, describe, test } from 'node:test';
import { Raw } from '../lib/raw.js';
import { Server, within } from '../lib/server.js';
import { forge, member, signWith } from '../lib/token.js';

const secrets = { acme: 'a'.repeat(40), shop: 's'.repeat(40) };
const apiKeys = { acme: `gb6_acme_${'1'.repeat(32)}`, shop: `gb6_shop_${'2'.repeat(32)}` };
// The key set of `shop`'s identity provider, which claims a key of `acme`.
const provider = generateKeyPairSync('ec', { namedCurve: 'P-256' });
const jwk = { ...provider.publicKey.export({ format: 'jwk' }), alg: 'ES256', use: 'sig' };
const keySet = createServer((_, answer) => {
  answer.setHeader('content-type', 'application/json');
  answer.end(JSON.stringify({ keys: ['acme.main', 'plain'].map((kid) => ({ ...jwk, kid })) }));
});
const config = (keys) =>
  ['acme', 'shop']
    .map(
      (name) => `
[instances.${name}]
allowed_origins = ["https://${name}.example"]
keys = [{ id = "${name}.main", secret_file = "${name}.secret" }]
api_keys = ["${apiKeys[name]}"]
[instances.${name}.namespaces.room]
presence = true
join_leave = true
force_join_leave = true
`,
    )
    // Only the other one has this namespace.
    .concat('[instances.shop.namespaces.secret]\npresence = true\n')
    .join('')
    .replace('[instances.shop]', `[instances.shop]\njwks_url = "${keys}"`);

let server;
const open = [];
before(async () => {
  await new Promise((resolve) => keySet.listen(0, '127.0.0.1', resolve));
  const files = { 'dev.toml': config(`http://127.0.0.1:${keySet.address().port}/keys`), 'acme.secret': secrets.acme, 'shop.secret': secrets.shop };
  server = await Server.start('sdk-isolation', ['--config', 'dev.toml', '--default-instance', 'acme'], files);
});
afterEach(() => {
  for (const raw of open.splice(0)) raw.socket.terminate();
});
after(async () => {
  keySet.close();
  await server?.stop();
});

const everything = [{ channels: ['*'], match: 'wildcard', allow: ['sub', 'pub', 'prs', 'hst'] }];
const claims = (user, more = {}) => member(user, 3600, { caps: everything, ...more });
const token = (instance, user, more) => signWith(secrets[instance], { kid: `${instance}.main` }, claims(user, more));

/** A bare connection; `host` chooses the instance where no key does. */
async function dial(host) {
  const raw = await Raw.open(server.ws, { headers: host === undefined ? {} : { host } });
  open.push(raw);
  return raw;
}

/** A connection on which a user of an instance is signed in. */
async function signIn(instance, user) {
  const raw = await dial();
  const { connect } = await raw.ask({ connect: { token: token(instance, user) } });
  assert.ok(connect?.client.length > 0);
  raw.client = connect.client;
  return raw;
}

let rooms = 0;
const freshRoom = () => `room:isolated-${(rooms += 1)}`;

/** `room.publish` of a message. */
const publish = (raw, room, id, data) => raw.ask({ rpc: { method: 'room.publish', data: { room, id, data } } });

describe('tokens', () => {
  const noKey = (instance, user, more) => signWith(secrets[instance], {}, claims(user, more));
  // Where it connects to, and with what: each is as good as a token that somebody made up.
  const foreign = {
    'the key id of one, the secret of the other': [undefined, () => signWith(secrets.shop, { kid: 'acme.main' }, claims('alice'))],
    'the same the other way round': ['shop.localhost', () => signWith(secrets.acme, { kid: 'shop.main' }, claims('alice'))],
    'a token of the one without a key id, at the host of the other': ['acme.localhost', () => noKey('shop', 'alice')],
    'the same the other way round, at the host': ['shop.localhost', () => noKey('acme', 'alice')],
    'an issuer of the other': [undefined, () => noKey('shop', 'alice', { iss: 'acme.main' })],
    'no signature': [undefined, () => forge({ alg: 'none', kid: 'shop.main' }, claims('alice'))],
    'a key id that nobody has': [undefined, () => signWith(secrets.shop, { kid: 'shop.other' }, claims('alice'))],
    'an instance that nobody has': [undefined, () => signWith(secrets.shop, { kid: 'nobody.main' }, claims('alice'))],
    garbage: [undefined, () => 'not.a.token'],
  };

  test('every foreign token ends at connect like one that is made up, word for word', async () => {
    for (const [name, [host, make]] of Object.entries(foreign)) {
      const raw = await dial(host);
      raw.send(JSON.stringify({ id: 1, connect: { token: make() } }));
      assert.deepEqual(await raw.end(), { code: 3500, reason: 'invalid token' }, name);
      assert.deepEqual(raw.frames, [], name);
    }
  });

  test('every foreign token ends a connection at refresh, word for word', async () => {
    const more = { 'a good one of the same user of the other': [undefined, () => token('shop', 'alice')] };
    for (const [name, [host, make]] of Object.entries({ ...foreign, ...more })) {
      // A refresh belongs to the connection's instance, whatever the host says.
      const raw = await dial(host);
      await raw.ask({ connect: { token: token('acme', 'alice') } });
      raw.send(JSON.stringify({ id: 9, refresh: { token: make() } }));
      const end = await raw.end();
      assert.deepEqual(end, { code: 3500, reason: 'invalid token' }, name);
    }
  });

  test('a subscription token of the other is one that is made up', async () => {
    const room = freshRoom();
    const raw = await signIn('acme', 'alice');
    const own = { sub: 'alice', channel: room, exp: Math.floor(Date.now() / 1000) + 60 };
    const answers = [];
    for (const [secret, kid] of [[secrets.shop, 'shop.main'], [secrets.shop, 'acme.main'], ['x'.repeat(40), 'nobody.main']]) {
      answers.push(await raw.ask({ subscribe: { channel: room, token: signWith(secret, { kid }, own) } }));
    }
    assert.equal(answers[0].error.code, 103);
    assert.deepEqual(answers[0], answers[1]);
    assert.deepEqual(answers[0], answers[2]);
    // The same of its own lets in.
    assert.ok((await raw.ask({ subscribe: { channel: room, token: signWith(secrets.acme, { kid: 'acme.main' }, own) } })).subscribe);
  });

  test('a good token leads to its own instance, whatever host it is shown to', async () => {
    const room = freshRoom();
    const raw = await dial('acme.localhost');
    assert.ok((await raw.ask({ connect: { token: token('shop', 'alice') } })).connect);
    await publish(raw, room, 'm', 1);
    assert.equal((await (await signIn('shop', 'bob')).ask({ history: { channel: room, limit: 0 } })).history.offset, 1);
    assert.equal((await (await signIn('acme', 'bob')).ask({ history: { channel: room, limit: 0 } })).history.offset, undefined);
  });

  test('a key set counts in its own instance alone, whatever ids it claims', async () => {
    const text = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
    const signed = (kid) => {
      const body = `${text({ alg: 'ES256', kid })}.${text(claims('alice'))}`;
      return `${body}.${sign('sha256', Buffer.from(body), { key: provider.privateKey, dsaEncoding: 'ieee-p1363' }).toString('base64url')}`;
    };
    const enter = async (host, kid) => {
      const raw = await dial(host);
      raw.send(JSON.stringify({ id: 1, connect: { token: signed(kid) } }));
      return Promise.race([raw.next(), raw.end()]);
    };
    // It is fetched when it is first needed, or before.
    assert.ok(JSON.parse(await enter('shop.localhost', 'plain')).connect);
    for (const [host, kid] of [['acme.localhost', 'plain'], [undefined, 'plain'], ['acme.localhost', 'acme.main'], [undefined, 'acme.main']]) {
      assert.deepEqual(await enter(host, kid), { code: 3500, reason: 'invalid token' }, `${kid} at ${host}`);
    }
    // At its own host it is an id like any other, and leads to its own instance.
    const room = freshRoom();
    await publish(await signIn('shop', 'bob'), room, 'm', 'of shop');
    const raw = await dial('shop.localhost');
    assert.ok((await raw.ask({ connect: { token: signed('acme.main') } })).connect);
    assert.deepEqual((await raw.ask({ history: { channel: room, limit: 10 } })).history.publications.map((p) => p.data), ['of shop']);
  });

  test('an origin lets in its own instance alone', async () => {
    for (const [own, other] of [['acme', 'shop'], ['shop', 'acme']]) {
      const enter = async (host, page, instance) => {
        const origin = `https://${page}.example`;
        const raw = await Raw.open(server.ws, { headers: { host, origin } });
        open.push(raw);
        raw.send(JSON.stringify({ id: 1, connect: { token: token(instance, 'alice') } }));
        return Promise.race([raw.next(), raw.end()]);
      };
      const refused = { code: 3507, reason: 'permission denied' };
      for (const host of [`${own}.localhost`, 'localhost']) {
        assert.ok(JSON.parse(await enter(host, own, own)).connect);
        // The token names the instance, so the page's origin is looked at again with it.
        assert.deepEqual(await enter(host, own, other), refused);
      }
      // A page of the other is one of nobody, where the host says whom it asks and where it does not.
      for (const page of [other, 'nobody']) {
        await assert.rejects(enter(`${own}.localhost`, page, own), /403/);
        assert.deepEqual(await enter('localhost', page, own), refused);
      }
    }
  });

  test('whether a key exists can not be told from the time of the refusal', async () => {
    const refused = async (text) => {
      const raw = await Raw.open(server.ws);
      const began = performance.now();
      raw.send(JSON.stringify({ id: 1, connect: { token: text } }));
      await raw.end();
      return performance.now() - began;
    };
    const known = signWith('x'.repeat(40), { kid: 'shop.main' }, claims('alice'));
    const unknown = signWith('x'.repeat(40), { kid: 'nobody.main' }, claims('alice'));
    const [a, b] = [[], []];
    // By turns, so that what else runs here slows both.
    for (let n = 0; n < 200; n += 1) {
      a.push(await refused(known));
      b.push(await refused(unknown));
    }
    const median = (list) => [...list].sort((x, y) => x - y)[list.length / 2];
    // Of each turn, so that a machine that gets slower in between is no difference.
    const apart = Math.abs(median(a.map((ms, n) => ms - b[n])));
    assert.ok(apart < 0.25 * Math.max(median(a), median(b)), `${median(a)} ms and ${median(b)} ms`);
  });
});

describe('names', () => {
  const commands = {
    subscribe: (channel) => ({ subscribe: { channel } }),
    'subscribe with recovery': (channel) => ({ subscribe: { channel, recover: true, offset: 1, epoch: '' } }),
    publish: (channel) => ({ publish: { channel, data: 1 } }),
    history: (channel) => ({ history: { channel, limit: 10 } }),
    'history of the position': (channel) => ({ history: { channel, limit: 0 } }),
    'history backwards': (channel) => ({ history: { channel, limit: 10, reverse: true } }),
    presence: (channel) => ({ presence: { channel } }),
    presence_stats: (channel) => ({ presence_stats: { channel } }),
    unsubscribe: (channel) => ({ unsubscribe: { channel } }),
    'room.publish': (channel) => ({ rpc: { method: 'room.publish', data: { room: channel, id: 'm1', data: 1 } } }),
    'room.trace': (channel) => ({ rpc: { method: 'room.trace', data: { room: channel, offset: 1 } } }),
  };
  /** An answer without what is another one for each room or moment. */
  const comparable = (reply) =>
    JSON.stringify(reply, (key, value) => (['epoch', 'time', 'client', 'shard', 'sync_us', 'shard_epoch', 'batch'].includes(key) ? undefined : value));

  test('a namespace of the other is one that does not exist', async () => {
    const shop = await signIn('shop', 'alice');
    await publish(shop, 'secret:plans', 'm0', 1);
    await shop.ask({ subscribe: { channel: 'secret:plans' } });
    const raw = await signIn('acme', 'alice');
    for (const [name, command] of Object.entries(commands)) {
      const [theirs, nobodys] = [await raw.ask(command('secret:plans')), await raw.ask(command('nobody:plans'))];
      assert.deepEqual(theirs, nobodys, name);
      if (name !== 'unsubscribe') assert.equal(theirs.error?.code, 102, name);
    }
  });

  test('a room of the other is one in which nothing ever happened', async () => {
    const shop = await signIn('shop', 'alice');
    for (const [name, command] of Object.entries(commands)) {
      const [theirs, nobodys] = [freshRoom(), freshRoom()];
      for (let n = 0; n < 3; n += 1) await publish(shop, theirs, `m${n}`, { n });
      await shop.ask({ subscribe: { channel: theirs } });
      const raw = await signIn('acme', 'alice');
      const answers = [await raw.ask(command(theirs)), await raw.ask(command(nobodys))];
      assert.equal(comparable(answers[0]), comparable(answers[1]), name);
    }
  });

  test('nothing that happens in a room reaches the other\'s room of that name', async () => {
    const room = freshRoom();
    const [acme, shop] = [await signIn('acme', 'alice'), await signIn('shop', 'alice')];
    for (const raw of [acme, shop]) await raw.ask({ subscribe: { channel: room, join_leave: true } });
    // Somebody comes to the one, writes in both ways, asks, and goes.
    const bob = await signIn('shop', 'bob');
    await bob.ask({ subscribe: { channel: room } });
    await bob.ask({ publish: { channel: room, data: 'plain' } });
    await publish(bob, room, 'm1', 'durable');
    await bob.ask({ unsubscribe: { channel: room } });
    const left = async () => {
      while (!shop.pushes.some((push) => push.leave?.info.user === 'bob')) await shop.more();
    };
    await within(left(), 'the leave of bob');
    // The other sees its own publication, at its own first offset, and nothing else before it.
    await publish(acme, room, 'm1', 'own');
    const own = async () => {
      while (!acme.pushes.some((push) => push.pub)) await acme.more();
    };
    await within(own(), 'the own publication');
    const strangers = acme.pushes.filter((push) => (push.join ?? push.leave ?? push.pub).info.user !== 'alice');
    assert.deepEqual(strangers, []);
    assert.deepEqual(acme.pushes.filter((push) => push.pub).map((push) => [push.pub.offset, push.pub.data]), [[1, 'own']]);
    const { presence } = await acme.ask({ presence: { channel: room } });
    assert.deepEqual(Object.keys(presence.presence), [acme.client]);
    assert.deepEqual((await acme.ask({ presence_stats: { channel: room } })).presence_stats, { num_clients: 1, num_users: 1 });
  });
});

describe('ids and positions', () => {
  test('a message id belongs to its instance', async () => {
    const room = freshRoom();
    for (const instance of ['shop', 'acme']) {
      const raw = await signIn(instance, 'alice');
      const first = (await publish(raw, room, 'order-17', instance)).rpc.data;
      assert.deepEqual([first.offset, first.duplicate], [1, false]);
      const again = (await publish(raw, room, 'order-17', instance)).rpc.data;
      assert.deepEqual([again.offset, again.duplicate], [1, true]);
    }
  });

  test('a position of the other\'s room is one of no room', async () => {
    const room = freshRoom();
    const [acme, shop] = [await signIn('acme', 'alice'), await signIn('shop', 'alice')];
    for (let n = 1; n <= 3; n += 1) await publish(shop, room, `m${n}`, n);
    await publish(acme, room, 'm1', 1);
    const { epoch } = (await shop.ask({ history: { channel: room, limit: 0 } })).history;
    const own = (await acme.ask({ history: { channel: room, limit: 0 } })).history;
    assert.notEqual(epoch, own.epoch);
    const since = (of) => acme.ask({ history: { channel: room, limit: 10, since: { offset: 1, epoch: of } } });
    const theirs = await since(epoch);
    assert.equal(theirs.error.code, 112);
    assert.deepEqual(theirs, await since('made-up'));
    const { subscribe } = await acme.ask({ subscribe: { channel: room, recover: true, offset: 1, epoch } });
    assert.deepEqual([subscribe.was_recovering, subscribe.recovered ?? false, subscribe.publications ?? []], [true, false, []]);
  });
});

describe('routes', () => {
  /** The answer to a request by HTTP: everything but the time. */
  const ask = (method, path, headers, body) =>
    within(
      new Promise((resolve, reject) => {
        const { hostname, port } = new URL(server.http);
        const sent = request({ hostname, port, method, path, headers }, (answer) => {
          const parts = [];
          answer.on('data', (part) => parts.push(part));
          answer.on('end', () => {
            const { date: _, ...rest } = answer.headers;
            resolve({ status: answer.statusCode, headers: rest, body: Buffer.concat(parts).toString() });
          });
        });
        sent.once('error', reject);
        sent.end(body);
      }),
      `${method} ${path}`,
    );
  /** A request to the server API. */
  const api = async (key, method, body) => ask('POST', `/api/${method}`, { 'x-api-key': key, host: 'shop.localhost' }, JSON.stringify(body));

  test('the host of no instance is not told from that of another one', async () => {
    const at = (host) => ask('GET', '/connection/websocket', { host });
    const answers = [await at('shop.localhost'), await at('nobody.localhost')];
    assert.deepEqual(answers[0], answers[1]);
    assert.ok(answers[0].status >= 400);
  });

  test('a wrong key is told nothing, whosever name is in it', async () => {
    const wrong = ['', 'x', `gb6_shop_${'1'.repeat(32)}`, `gb6_acme_${'2'.repeat(32)}`, `gb6_nobody_${'1'.repeat(32)}`, token('acme', 'alice')];
    const answers = [];
    for (const key of wrong) answers.push(await api(key, 'publish', { channel: 'room:x', data: 1 }));
    assert.deepEqual([answers[0].status, answers[0].body], [401, '']);
    for (const answer of answers) assert.deepEqual(answer, answers[0]);
  });

  test('a key does everything in its own instance and nothing in the other, whatever the host', async () => {
    const [room, never] = [freshRoom(), freshRoom()];
    const shop = await signIn('shop', 'alice');
    for (let n = 0; n < 3; n += 1) await publish(shop, room, `m${n}`, n);
    await shop.ask({ subscribe: { channel: room } });
    const position = async (key) => JSON.parse((await api(key, 'history', { channel: room, limit: 10 })).body).result;
    const before = await position(apiKeys.shop);
    const without = (text) => text.replaceAll(/"epoch":"[^"]*"/g, '');
    const methods = {
      history: (channel) => ({ channel, limit: 10 }),
      presence: (channel) => ({ channel }),
      presence_stats: (channel) => ({ channel }),
      history_remove: (channel) => ({ channel }),
      publish: (channel) => ({ channel, data: 'acme', idempotency_key: 'm1' }),
      broadcast: (channel) => ({ channels: [channel], data: 'acme' }),
      rpc: (channel) => ({ method: 'no.such.method', params: { room: channel } }),
      batch: (channel) => ({ commands: [{ presence: { channel } }, { history: { channel, limit: 0 } }] }),
    };
    for (const [method, body] of Object.entries(methods)) {
      const [theirs, nobodys] = [await api(apiKeys.acme, method, body(room)), await api(apiKeys.acme, method, body(never))];
      assert.equal(theirs.status, 200, method);
      assert.equal(without(theirs.body), without(nobodys.body), method);
      // Where only the other has the namespace; an answer may name what was asked for.
      const [hidden, none] = [await api(apiKeys.acme, method, body('secret:plans')), await api(apiKeys.acme, method, body('nobody:plans'))];
      assert.deepEqual({ ...hidden, body: hidden.body.replaceAll('secret', 'nobody') }, none, method);
    }
    assert.deepEqual(await position(apiKeys.shop), before);
    assert.deepEqual(shop.pushes.filter((push) => push.pub), []);
  });

  test('a session that is guessed or dead is like one that never was', async () => {
    const live = await new Promise((resolve, reject) => {
      const { hostname, port } = new URL(server.http);
      const sent = request({ hostname, port, method: 'POST', path: '/connection/http_stream', headers: { 'content-type': 'application/json' } }, (answer) => {
        answer.once('data', (line) => resolve({ sent, ...JSON.parse(line.toString()).connect }));
        answer.on('error', () => undefined);
      });
      sent.once('error', reject);
      sent.end(JSON.stringify({ id: 1, connect: { token: token('shop', 'alice') } }));
    });
    const room = freshRoom();
    const data = JSON.stringify({ id: 2, publish: { channel: room, data: 1 } });
    const post = (session, node) => ask('POST', '/emulation', { 'content-type': 'application/json' }, JSON.stringify({ session, node, data }));
    const other = live.session.replace(/.$/, (last) => (last === '0' ? '1' : '0'));
    const guesses = [await post(other, live.node), await post('0'.repeat(live.session.length), live.node)];
    live.sent.destroy();
    const written = async () => (await (await signIn('shop', 'bob')).ask({ history: { channel: room, limit: 0 } })).history.offset ?? 0;
    // Until the server has seen that the client is gone, the session is still there.
    const dead = async () => {
      for (;;) {
        const before = await written();
        const answer = await post(live.session, live.node);
        if ((await written()) === before) return answer;
      }
    };
    guesses.push(await within(dead(), 'the end of a session'));
    for (const answer of guesses) assert.deepEqual(answer, guesses[0]);
    assert.equal(guesses[0].status, 204);
    assert.equal((await post(live.session, 'nobody')).status, 404);
  });
});
