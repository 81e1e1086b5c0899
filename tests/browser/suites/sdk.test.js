// The unmodified SDK in pages, over each transport of a browser, in JSON and Protobuf.

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { after, afterEach, before, describe } from 'node:test';
import { proves } from '../../sdk/lib/conformance.js';
import { application } from '../lib/page-client.js';
import { Dev } from '../lib/programs.js';
import { launch } from '../lib/tab.js';

let dev;
let browser;
const pages = [];
before(async () => {
  [dev, browser] = await Promise.all([Dev.start('browser-sdk'), launch()]);
});
afterEach(async () => {
  for (const page of pages.splice(0)) await page.close();
});
after(async () => {
  await browser?.close();
  await dev?.stop();
});

const builds = { json: 'centrifuge.js', protobuf: 'centrifuge.protobuf.js' };

/** The transports: where the SDK connects to. */
const at = (transport, address) => [{ transport, endpoint: `${address}/connection/${transport}` }];
const transports = [
  { transport: 'websocket', encodings: ['json', 'protobuf'], endpoint: () => dev.ready.ws },
  { transport: 'http_stream', encodings: ['json', 'protobuf'], endpoint: () => at('http_stream', dev.http) },
  { transport: 'sse', encodings: ['json'], endpoint: () => at('sse', dev.http) },
  { transport: 'webtransport', encodings: ['json', 'protobuf'], endpoint: () => at('webtransport', `https://${dev.ready.quic}`) },
];

/** A page with the SDK and an application in it. */
async function open(encoding) {
  // An application's own page, which the console's policy does not bind.
  const context = await browser.newContext({ bypassCSP: true });
  pages.push(context);
  const page = await context.newPage();
  await page.goto(dev.http);
  const url = new URL(`../node_modules/centrifuge/dist/${builds[encoding]}`, import.meta.url);
  await page.evaluate(`${await readFile(url, 'utf8')}\n;globalThis.Centrifuge = Centrifuge;`);
  await page.evaluate(application, [encoding, dev.ready.quic_cert_sha256]);
  return (call, ...args) => page.evaluate(([name, list]) => globalThis.app[name](...list), [call, args]);
}

let rooms = 0;
const freshRoom = () => `room:page-${process.pid}-${(rooms += 1)}`;

for (const { transport, encodings, endpoint } of transports) {
  for (const encoding of encodings) {
    const combination = { id: `chromium/${transport}/${encoding}` };
    /** Two people in one room, in one page. */
    const meet = async () => {
      const [app, room] = [await open(encoding), freshRoom()];
      const states = await app('open', 'alice', endpoint(), dev.ready.tokens.alice, room);
      await app('open', 'bob', endpoint(), dev.ready.tokens.bob, room);
      return { app, room, states };
    };

    describe(`${transport} ${encoding}`, () => {
      // There is no WebTransport without TLS.
      const encrypted = transport === 'webtransport' ? ['tls'] : [];
      proves(combination, ['connect', 'publish', ...encrypted], 'two people talk', async () => {
        const { app, states } = await meet();
        assert.deepEqual(states, [transport]);
        for (let n = 1; n <= 10; n += 1) await app('publish', n % 2 ? 'alice' : 'bob', { n });
        const expected = Array.from({ length: 10 }, (_, i) => ({ offset: i + 1, data: { n: i + 1 }, user: i % 2 ? 'bob' : 'alice' }));
        for (const name of ['alice', 'bob']) assert.deepEqual(await app('seen', name, 'publications', 10), expected);
      });

      proves(combination, ['durable-publish', 'history', 'errors'], 'a message with an id is there once', async () => {
        const { app, room } = await meet();
        const message = { room, id: 'm1', data: { text: 'ä' } };
        const first = await app('rpc', 'alice', 'room.publish', message);
        assert.deepEqual([first.offset, first.duplicate], [1, false]);
        const again = await app('rpc', 'alice', 'room.publish', message);
        assert.deepEqual([again.offset, again.duplicate], [1, true]);
        await app('rpc', 'bob', 'room.publish', { room, data: { text: 'b' } });
        const shown = [
          { offset: 1, data: { text: 'ä' }, user: 'alice', id: 'm1' },
          { offset: 2, data: { text: 'b' }, user: 'bob' },
        ];
        assert.deepEqual(await app('seen', 'bob', 'publications', 2), shown);
        assert.deepEqual(await app('history', 'bob', { limit: 10 }), shown);
        assert.deepEqual(await app('history', 'bob', { limit: 1, reverse: true }), shown.slice(1));
        const { error, message: words } = await app('rpc', 'alice', 'no.such.method', {});
        assert.equal(error, 104);
        assert.ok(words.length > 0);
      });

      proves(combination, ['presence', 'join-leave', 'unsubscribe'], 'who is there is seen', async () => {
        const { app } = await meet();
        assert.deepEqual(await app('seen', 'alice', 'joins', 2), ['alice', 'bob']);
        assert.deepEqual(await app('presence', 'alice'), { users: ['alice', 'bob'], stats: [2, 2] });
        await app('unsubscribe', 'bob');
        assert.deepEqual(await app('seen', 'alice', 'leaves', 1), ['bob']);
        assert.deepEqual(await app('presence', 'alice'), { users: ['alice'], stats: [1, 1] });
        await app('publish', 'alice', { n: 1 });
        await app('seen', 'alice', 'publications', 1);
        assert.deepEqual(await app('seen', 'bob', 'publications', 0), []);
      });

      proves(combination, ['recovery'], 'what was missed comes when one is back', async () => {
        const { app } = await meet();
        await app('publish', 'alice', { n: 1 });
        await app('seen', 'bob', 'publications', 1);
        await app('leave', 'bob');
        for (let n = 2; n <= 20; n += 1) await app('publish', 'alice', { n });
        await app('comeBack', 'bob');
        const seen = await app('seen', 'bob', 'publications', 20);
        assert.deepEqual(seen.map((p) => p.data.n), Array.from({ length: 20 }, (_, i) => i + 1));
        assert.deepEqual((await app('seen', 'bob', 'subscribed', 2))[1], { wasRecovering: true, recovered: true });
      });
    });
  }
}

for (const { transport, encodings, endpoint } of transports) {
  const shown = encodings.map((encoding) => ({ id: `chromium/${transport}/${encoding}` }));
  // An encoding that the transport does not carry comes over a WebSocket.
  const over = (encoding) => (encodings.includes(encoding) ? endpoint() : dev.ready.ws);
  proves(shown, ['text'], `JSON and Protobuf clients share a room over ${transport}`, async () => {
    const [json, protobuf, room] = [await open('json'), await open('protobuf'), freshRoom()];
    await json('open', 'alice', over('json'), dev.ready.tokens.alice, room);
    await protobuf('open', 'bob', over('protobuf'), dev.ready.tokens.bob, room);
    await json('publish', 'alice', { text: 'ä€😀\n' });
    await protobuf('publish', 'bob', [1.5, null, 'ü']);
    const expected = [
      { offset: 1, data: { text: 'ä€😀\n' }, user: 'alice' },
      { offset: 2, data: [1.5, null, 'ü'], user: 'bob' },
    ];
    assert.deepEqual(await json('seen', 'alice', 'publications', 2), expected);
    assert.deepEqual(await protobuf('seen', 'bob', 'publications', 2), expected);
  });
}
