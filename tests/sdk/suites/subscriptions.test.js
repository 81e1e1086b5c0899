// Subscriptions that the server begins, subscriptions by token, channels that are for certain users,
// and connections without a token.

import assert from 'node:assert/strict';
import { after, afterEach, before, describe, test } from 'node:test';
import { Clients, Room, formats, next, rejection } from '../lib/client.js';
import { proves } from '../lib/conformance.js';
import { Server, within } from '../lib/server.js';
import { member, signWith } from '../lib/token.js';

const secret = 'd'.repeat(40);
const files = {
  'dev.toml': `
[instances.demo]
keys = [{ id = "demo.main", secret_file = "demo.secret" }]
anonymous = { allow = true }
personal_channel = true
[instances.demo.defaults]
[instances.demo.namespaces.room]
presence = true
join_leave = true
[instances.demo.namespaces.news]
allow_subscribe = "anyone"
allow_publish = "token"
publish_debounce = "50ms"
[instances.demo.namespaces.cursor]
publish_debounce = "200ms"
[instances.demo.namespaces.state]
recovery_mode = "cache"
dedupe_field = "key"
`,
  'demo.secret': secret,
};

let server;
let clients;
before(async () => {
  server = await Server.start('sdk-subscriptions', ['--config', 'dev.toml'], files);
  clients = new Clients(server);
});
afterEach(() => clients.closeAll());
after(() => server?.stop());

const sign = (claims) => signWith(secret, { kid: 'demo.main' }, claims);
const user = (name, more = {}) => sign(member(name, 3600, { caps: undefined, ...more }));
const soon = (seconds) => Math.floor(Date.now() / 1000) + seconds;
const channelToken = (name, channel, more = {}) => sign({ sub: name, channel, exp: soon(3600), ...more });

for (const format of formats) {
  const unique = (name) => `${name}-${format.name.replaceAll(/[^a-zA-Z]/g, '')}`;

  describe(format.name, () => {
    test('rooms of the token come with the connect, and what was missed in them with the next', async () => {
      const channel = `room:${unique('server')}`;
      const bob = await clients.connect(format, null, { token: user('bob') });
      await bob.publish(channel, format.encode({ n: 0 }));
      const token = user('alice', { subs: { [channel]: { data: { d: 1 }, info: { role: 'host' } } } });
      const alice = clients.make(format, null, { token });
      const began = next(alice, 'subscribed', (c) => c.channel === channel);
      const mine = next(alice, 'subscribed', (c) => c.channel === '#alice');
      alice.connect();
      const context = await began;
      await mine;
      assert.deepEqual(format.decode(context.data), { d: 1 });
      assert.ok(context.positioned && context.recoverable && !context.wasRecovering);
      assert.equal(Number(context.streamPosition.offset), 1);
      const got = [];
      alice.on('publication', (c) => c.channel === channel && got.push(format.decode(c.data)));
      const first = next(alice, 'publication');
      await bob.publish(channel, format.encode({ n: 1 }));
      await first;
      const again = next(alice, 'subscribed', (c) => c.channel === channel);
      const lost = next(alice, 'connecting');
      alice.link.cut();
      await lost;
      for (const n of [2, 3]) await bob.publish(channel, format.encode({ n }));
      const back = await again;
      assert.ok(back.wasRecovering && back.recovered);
      const last = next(alice, 'publication', (c) => format.decode(c.data).n === 4);
      await bob.publish(channel, format.encode({ n: 4 }));
      await last;
      assert.deepEqual(got.map((d) => d.n), [1, 2, 3, 4]);
      const { clients: people } = await bob.presence(channel);
      assert.deepEqual(format.decode(Object.values(people)[0].chanInfo), { role: 'host' });
      // The server's subscription is not the client's to begin.
      const room = new Room(alice, format, channel);
      const ended = next(room.sub, 'unsubscribed');
      room.sub.subscribe();
      assert.equal((await ended).code, 105);
    });

    test('a room that a new token no longer names has ended', async () => {
      const channel = `room:${unique('ended')}`;
      const alice = await clients.connect(format, null, { token: user('alice', { channels: [channel] }) });
      const ended = next(alice, 'unsubscribed', (c) => c.channel === channel);
      alice.setToken(user('alice'));
      alice.link.cut();
      await ended;
      await within(alice.ready(), 'connected again');
    });

    test('a private room opens by a token, which is fetched again and again', async () => {
      const channel = `$room:${unique('private')}`;
      const alice = await clients.connect(format, null, { token: user('alice') });
      const without = new Room(alice, format, channel);
      const refused = next(without.sub, 'unsubscribed');
      without.sub.subscribe();
      assert.equal((await refused).code, 103);
      alice.removeSubscription(without.sub);
      let asked = 0;
      const room = new Room(alice, format, channel, {
        getToken: async () => {
          asked += 1;
          // An expired one, then short ones that are refreshed in time.
          const exp = soon(asked === 1 ? -60 : asked < 4 ? 2 : 3600);
          return channelToken('alice', channel, { exp, data: { d: 2 } });
        },
      });
      await room.subscribe();
      assert.deepEqual(format.decode(room.subscribed[0].data), { d: 2 });
      await within(
        (async () => {
          while (asked < 4) await new Promise((resolve) => setTimeout(resolve, 50));
        })(),
        'two refreshes',
      );
      await room.sub.publish(format.encode({ n: 1 }));
      await room.count(1);
      assert.equal(room.subscribed.length, 1, 'subscribed once and never lost');
    });

    test('a refresh that brings an expired token ends in another subscription', async () => {
      const channel = `room:${unique('expired')}`;
      const alice = await clients.connect(format, null, { token: user('alice') });
      let asked = 0;
      const room = new Room(alice, format, channel, {
        getToken: async () => {
          asked += 1;
          return channelToken('alice', channel, { exp: soon(asked === 1 ? 4 : asked < 4 ? -60 : 3600) });
        },
      });
      await room.subscribe();
      const lost = await next(room.sub, 'subscribing');
      assert.equal(lost.code, 2501);
      await room.until('subscribed again', (r) => r.subscribed.length === 2);
      assert.equal(alice.state, 'connected');
    });

    test('a token that is for somebody else ends the connection', async () => {
      const channel = `room:${unique('foreign')}`;
      const alice = await clients.connect(format, null, { token: user('alice') });
      const room = new Room(alice, format, channel, { token: channelToken('bob', channel) });
      const ended = next(alice, 'disconnected');
      room.sub.subscribe();
      assert.equal((await ended).code, 3500);
    });

    test('who is on the list of a room comes in, and nobody else', async () => {
      const channel = `room:${unique('list')}#alice,carol`;
      const alice = await clients.connect(format, null, { token: user('alice') });
      const bob = await clients.connect(format, null, { token: user('bob') });
      const room = await new Room(alice, format, channel).subscribe();
      await alice.publish(channel, format.encode({ n: 1 }));
      await room.count(1);
      for (const refused of [
        () => bob.publish(channel, format.encode({})),
        () => bob.history(channel, { limit: 1 }),
        () => bob.publish('#alice', format.encode({})),
      ]) {
        assert.equal((await rejection(refused())).code, 103);
      }
    });

    test('without a token one reads what is for everybody, and no more', async () => {
      const channel = `news:${unique('open')}`;
      const nobody = await clients.connect(format, null, {});
      const room = await new Room(nobody, format, channel).subscribe();
      assert.equal((await rejection(nobody.publish(channel, format.encode({})))).code, 103);
      assert.equal((await rejection(nobody.history(`room:x`, { limit: 1 }))).code, 103);
      const editor = await clients.connect(format, null, { token: user('editor') });
      assert.equal((await rejection(editor.publish(channel, format.encode({})))).code, 103);
      const desk = new Room(editor, format, channel, { token: channelToken('editor', channel, { info: { desk: 1 } }) });
      await desk.subscribe();
      await desk.sub.publish(format.encode({ n: 1 }));
      await room.count(1);
      assert.deepEqual(format.decode(room.publications[0].info.chanInfo), { desk: 1 });
    });

    proves(format, ['debounce'], `${format.name}: of publishes at once the first goes out, and the last`, async () => {
      const channel = `cursor:${unique('debounce')}`;
      const bob = await clients.connect(format, null, { token: user('bob') });
      const alice = await clients.connect(format, null, { token: user('alice') });
      const room = await new Room(alice, format, channel).subscribe();
      await Promise.all([0, 1, 2, 3, 4].map((n) => room.sub.publish(format.encode({ n }))));
      await room.count(2);
      await bob.publish(channel, format.encode({ n: 'end' }));
      await room.count(3);
      assert.deepEqual(room.data, [{ n: 0 }, { n: 4 }, { n: 'end' }]);
    });

    test('of a state only the newest is recovered, and each key is written once', async () => {
      const channel = `state:${unique('cache')}`;
      const bob = await clients.connect(format, null, { token: user('bob') });
      for (const key of ['a', 'b', 'b', 'c']) await bob.publish(channel, format.encode({ key }));
      const alice = await clients.connect(format, null, { token: user('alice') });
      const room = new Room(alice, format, channel, { since: { offset: 0, epoch: '' } });
      await room.subscribe();
      assert.ok(room.subscribed[0].wasRecovering && room.subscribed[0].recovered);
      await room.count(1);
      assert.deepEqual(room.data, [{ key: 'c' }]);
      assert.deepEqual(room.offsets, [3]);
    });
  });
}
