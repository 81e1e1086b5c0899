// The unmodified SDK in a page, JSON and Protobuf: the two share a room.

import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { after, before, test } from 'node:test';
import { Dev } from '../lib/programs.js';
import { launch } from '../lib/tab.js';

let dev;
let browser;
before(async () => {
  [dev, browser] = await Promise.all([Dev.start('browser-sdk'), launch()]);
});
after(async () => {
  await browser?.close();
  await dev?.stop();
});

const builds = { json: 'centrifuge.js', protobuf: 'centrifuge.protobuf.js' };

test('JSON and Protobuf clients in pages share a room, its ids and its history', async () => {
  const pages = {};
  for (const [format, file] of Object.entries(builds)) {
    const page = await browser.newPage();
    await page.goto(dev.http);
    const url = new URL(`../node_modules/centrifuge/dist/${file}`, import.meta.url);
    // Evaluated, not a script element: the console's own policy allows no foreign scripts.
    await page.evaluate(`${await readFile(url, 'utf8')}\n;globalThis.Centrifuge = Centrifuge;`);
    await page.evaluate(
      async ({ ws, token, user }) => {
        globalThis.seen = [];
        globalThis.client = new globalThis.Centrifuge(ws, { token, name: user });
        globalThis.room = globalThis.client.newSubscription('room:pages');
        globalThis.room.on('publication', ({ offset, data, info, tags }) => {
          globalThis.seen.push({ offset, data, user: info.user, id: tags?.id });
        });
        globalThis.room.subscribe();
        globalThis.client.connect();
        await globalThis.room.ready(10_000);
      },
      { ws: dev.ready.ws, token: dev.ready.tokens[format === 'json' ? 'alice' : 'bob'], user: format },
    );
    pages[format] = page;
  }
  const encode = format => (format === 'json' ? 'plain' : 'bytes');
  for (const [format, page] of Object.entries(pages)) {
    const answers = await page.evaluate(async ({ format, kind }) => {
      const parse = (data) => (data instanceof Uint8Array ? JSON.parse(new TextDecoder().decode(data)) : data);
      const write = (value) => (kind === 'bytes' ? new TextEncoder().encode(JSON.stringify(value)) : value);
      const call = () => globalThis.client.rpc('room.publish', write({ room: 'pages', id: `one-${format}`, data: { from: format } }));
      return [parse((await call()).data), parse((await call()).data)];
    }, { format, kind: encode(format) });
    assert.deepEqual(answers.map((a) => a.duplicate), [false, true]);
    assert.equal(answers[0].offset, answers[1].offset);
  }
  for (const page of Object.values(pages)) {
    await page.waitForFunction(() => globalThis.seen.length >= 2, null, { timeout: 10_000 });
    const seen = await page.evaluate(async () => {
      const parse = (data) => (data instanceof Uint8Array ? JSON.parse(new TextDecoder().decode(data)) : data);
      const history = await globalThis.room.history({ limit: 10, reverse: true });
      return {
        live: globalThis.seen.map((p) => ({ ...p, offset: Number(p.offset), data: parse(p.data) })),
        history: history.publications.map((p) => Number(p.offset)),
      };
    });
    assert.deepEqual(seen.live, [
      { offset: 1, data: { from: 'json' }, user: 'alice', id: 'one-json' },
      { offset: 2, data: { from: 'protobuf' }, user: 'bob', id: 'one-protobuf' },
    ]);
    assert.deepEqual(seen.history, [2, 1]);
  }
});
