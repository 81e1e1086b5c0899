// Beginning and keeping a connection: tokens, expiry, refusals, pings, the first frame.

import assert from 'node:assert/strict';
import { after, afterEach, before, describe, test } from 'node:test';
import { Clients, formats, next } from '../lib/client.js';
import { proves } from '../lib/conformance.js';
import { Raw } from '../lib/raw.js';
import { Server, within } from '../lib/server.js';
import { forge, header, member, sign } from '../lib/token.js';

let server;
let clients;
before(async () => {
  server = await Server.start('sdk-connect');
  clients = new Clients(server);
});
afterEach(() => clients.closeAll());
after(() => server.stop());

for (const format of formats) {
  describe(format.name, () => {
    proves(format, ['connect'], 'connects with a token and gets a client id', async () => {
      const client = clients.make(format, 'alice');
      const connected = next(client, 'connected');
      client.connect();
      const context = await connected;
      assert.ok(context.client.length > 0);
      assert.equal(context.transport, format.transport);
    });

    proves(format, ['connect'], 'the tokens of --ready-json are good', async () => {
      for (const token of Object.values(server.ready.tokens)) {
        await clients.connect(format, null, { token });
      }
    });

    proves(format, ['renewal'], 'an expired token is exchanged by getToken', async () => {
      let asked = 0;
      await clients.connect(format, null, {
        token: sign(server, member('alice', -60)),
        getToken: async () => {
          asked += 1;
          return sign(server, member('alice'));
        },
      });
      assert.equal(asked, 1);
    });

    proves(format, ['refresh'], 'a connection outlives its token when getToken refreshes it', async () => {
      let asked = 0;
      const client = clients.make(format, null, {
        token: sign(server, member('alice', 2)),
        getToken: async () => {
          asked += 1;
          return sign(server, member('alice', asked === 1 ? 2 : 3600));
        },
      });
      const left = [];
      client.on('connecting', (context) => left.push(context));
      client.on('disconnected', (context) => left.push(context));
      client.connect();
      await client.ready(10_000);
      // Two refreshes: the first brought a short token again.
      const refreshed = within(
        (async () => {
          while (asked < 2) await new Promise((resolve) => setTimeout(resolve, 50));
        })(),
        'two refreshes',
      );
      await refreshed;
      await client.rpc('room.publish', format.encode({ room: 'room:refresh', data: {} }));
      assert.deepEqual(left.map((c) => c.code), [0], 'connected once and never lost');
    });

    const bad = {
      'signed with another secret': () => sign(server, member('alice'), { secret: 'x'.repeat(64) }),
      'with alg none': () => forge({ alg: 'none', kid: header(server.ready.tokens.alice).kid }, member('alice')),
      'of a key that nobody made': () => sign(server, member('alice'), { kid: 'other.0000', secret: 'y'.repeat(64) }),
      'that is garbage': () => 'not.a.token',
    };
    for (const [name, token] of Object.entries(bad)) {
      proves(format, ['refusals'], `a token ${name} ends with 3500, for good`, async () => {
        const client = clients.make(format, null, { token: token() });
        const disconnected = next(client, 'disconnected');
        client.connect();
        const context = await disconnected;
        assert.equal(context.code, 3500);
        assert.ok(context.reason.length > 0);
      });
    }

    proves(format, ['refusals'], 'no token at all ends with 3501', async () => {
      const client = clients.make(format, null);
      const disconnected = next(client, 'disconnected');
      client.connect();
      assert.equal((await disconnected).code, 3501);
    });

    proves(format, ['refresh-refused'], 'a refresh with an expired token ends with 3005, and the SDK comes back with a new one', async () => {
      let asked = 0;
      const client = clients.make(format, null, {
        token: sign(server, member('alice', 4)),
        getToken: async () => {
          asked += 1;
          return sign(server, member('alice', asked === 1 ? -60 : 3600));
        },
      });
      const lost = next(client, 'connecting', (context) => context.code !== 0);
      client.connect();
      await client.ready(10_000);
      assert.equal((await lost).code, 3005);
      await client.ready(10_000);
      await client.rpc('room.publish', format.encode({ room: 'room:refreshed', data: {} }));
    });

    proves(format, ['refresh-refused'], 'a refresh as somebody else is refused', async () => {
      const client = clients.make(format, null, {
        token: sign(server, member('alice', 4)),
        getToken: async () => sign(server, member('bob')),
      });
      const disconnected = next(client, 'disconnected');
      client.connect();
      const { code } = await disconnected;
      assert.ok(code >= 3500, `terminal, and was ${code}`);
    });

    proves(format, ['one-frame'], 'connect and 400 subscribes in as few messages as there can be', async () => {
      const client = clients.make(format, 'alice');
      const subs = Array.from({ length: 400 }, (_, n) => client.newSubscription(`room:many-${format.id}-${n}`));
      for (const sub of subs) sub.subscribe();
      client.connect();
      await within(Promise.all(subs.map((sub) => sub.ready(20_000))), '400 subscriptions');
      // Where commands go by requests, the subscribes wait for the session's id.
      assert.equal(client.link.sent.length, format.transport === 'websocket' ? 1 : 2);
    });
  });
}

test('unanswered pings end with 3012', async () => {
  const quiet = await Raw.open(server.ws);
  quiet.send(JSON.stringify({ id: 1, connect: { token: server.ready.tokens.alice } }));
  const { connect } = JSON.parse(await quiet.next());
  assert.ok(connect.ping > 0 && connect.pong, JSON.stringify(connect));
  const interval = connect.ping * 1000;
  assert.equal(await quiet.next(interval + 5_000), '{}');
  const end = await quiet.end(interval + 20_000);
  assert.equal(end.code, 3012);
  assert.ok(end.reason.length > 0);
});

proves(formats, ['pings'], 'pings are answered, and a connection where nothing else happens stays', async () => {
  // All at once: an SDK leaves a server from which no ping comes for an interval and 10 s.
  const idle = await Promise.all(
    formats.map(async (format) => {
      const client = await clients.connect(format, 'bob');
      const states = [];
      client.on('connecting', (context) => states.push(context));
      client.on('disconnected', (context) => states.push(context));
      return { format, client, states, sent: client.link.sent.length };
    }),
  );
  await new Promise((done) => setTimeout(done, 25_000 + 10_000 + 2_000));
  for (const { format, client, states, sent } of idle) {
    assert.deepEqual(states, [], format.name);
    assert.ok(client.link.sent.length > sent, `${format.name}: the SDK answered a ping`);
    await client.rpc('room.publish', format.encode({ room: 'room:idle', data: {} }));
  }
});

describe('frames that no SDK sends', () => {
  const hostile = {
    'a command before connect': '{"id":1,"publish":{"channel":"room:a","data":1}}',
    'a second connect': null,
    'text that is not JSON': 'hello',
    'an empty frame': '',
    'a blank line': '{"id":1,"connect":{}}\n\n{"id":2,"ping":{}}',
    'an unknown command': '{"id":1,"explode":{}}',
    'no id': '{"connect":{}}',
  };
  for (const [name, frame] of Object.entries(hostile)) {
    test(`${name} ends with 3501`, async () => {
      const raw = await Raw.open(server.ws);
      const connect = JSON.stringify({ id: 1, connect: { token: server.ready.tokens.alice } });
      if (frame === null) {
        raw.send(connect);
        await raw.next();
        raw.send(connect);
      } else {
        raw.send(frame);
      }
      const end = await raw.end();
      assert.equal(end.code, 3501, end.reason);
      assert.ok(end.reason.length > 0);
    });
  }

  test('a binary frame on a JSON connection ends with 3506 or 3501', async () => {
    const raw = await Raw.open(server.ws);
    raw.send(Buffer.from([1, 2, 3]));
    assert.ok([3501, 3506].includes((await raw.end()).code));
  });

  test('a pong that nobody asked for ends with 3501', async () => {
    const raw = await Raw.open(server.ws);
    raw.send(JSON.stringify({ id: 1, connect: { token: server.ready.tokens.alice } }));
    await raw.next();
    raw.send('{}');
    assert.equal((await raw.end()).code, 3501);
  });

  test('a foreign origin is refused, a loopback one is welcome', async () => {
    const origin = 'https://evil.example';
    // At once where the host names an instance, else with the connect, which says which it is.
    await assert.rejects(Raw.open(server.ws, { headers: { origin, host: 'demo.localhost' } }), /403/);
    const evil = await Raw.open(server.ws, { headers: { origin } });
    evil.send(JSON.stringify({ id: 1, connect: { token: server.ready.tokens.alice } }));
    assert.deepEqual(await evil.end(), { code: 3507, reason: 'permission denied' });
    const raw = await Raw.open(server.ws, { headers: { origin: 'http://localhost:5173' } });
    raw.socket.close();
  });

  test('who never connects is dropped with 3502', async () => {
    const raw = await Raw.open(server.ws);
    const end = await raw.end(20_000);
    assert.equal(end.code, 3502);
  });
});
