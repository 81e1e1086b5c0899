// What the console offers besides chatting: rooms of others, a retry under the same id, where a
// message went, publications of any shape, the example program, colours, the keyboard.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Centrifuge } from 'centrifuge/build/protobuf';
import WebSocket from 'ws';
import { Dev, PATIENCE } from '../lib/programs.js';
import { Tab, launch } from '../lib/tab.js';

const modules = fileURLToPath(new URL('../node_modules', import.meta.url));
let dev;
let browser;
before(async () => {
  [dev, browser] = await Promise.all([Dev.start('browser-features'), launch()]);
});
after(async () => {
  await browser?.close();
  await dev?.stop();
});

test('a room that is made by its name appears for others, who join it with a click', async () => {
  const [alice, bob] = [await Tab.open(browser, dev.http, 'alice', 'made-start'), await Tab.open(browser, dev.http, 'bob', 'made-start')];
  await alice.get('new-room-input').fill('no#room');
  await alice.get('join-room').click();
  await alice.get('new-room-problem').filter({ hasText: 'no #' }).waitFor();
  await alice.get('new-room-input').fill('made-by-alice');
  assert.equal(await alice.get('new-room-problem').innerText(), '', 'typing takes the complaint away');
  await alice.get('new-room-input').press('Enter');
  await alice.get('room-title').filter({ hasText: '#made-by-alice' }).waitFor();
  await alice.get('room-made-by-alice').and(alice.page.locator('[aria-current="true"]')).waitFor();
  await alice.write('Who finds this?');
  await alice.sees('Who finds this?');

  await bob.get('other-room-made-by-alice').click();
  await bob.get('room-title').filter({ hasText: '#made-by-alice' }).waitFor();
  await bob.sees('Who finds this?');
  assert.equal(await bob.get('other-room-made-by-alice').count(), 0, 'it is one of his rooms now');
  await bob.write('I did');
  await alice.sees('I did');

  // The list is on the server's disk: who comes later, and after a restart, sees it too.
  await dev.kill();
  await dev.start();
  const carol = await Tab.open(browser, dev.http, 'carol', 'made-start');
  await carol.get('other-room-made-by-alice').waitFor();
  await carol.screenshot('console-other-rooms');
  for (const tab of [alice, bob, carol]) {
    assert.deepEqual(tab.errors, []);
    await tab.close();
  }
});

test('a message that failed is sent again under the same id', async () => {
  const [alice, bob] = [await Tab.open(browser, dev.http, 'alice', 'retried'), await Tab.open(browser, dev.http, 'bob', 'retried')];
  await dev.kill();
  await alice.state('connecting', 'reconnecting');
  await alice.write('try again');
  const row = alice.messages('try again');
  await alice.messages('try again', 'failed').waitFor();
  assert.ok((await row.getByTestId('message-failure').innerText()).startsWith('failed'));
  const before = await row.getAttribute('data-id');
  assert.match(before, /^[0-9a-f]{32}$/);
  await row.getByTestId('retry').click();
  await dev.start();
  for (const tab of [alice, bob]) {
    await tab.state('connected');
    await tab.sees('try again');
    assert.equal(await tab.messages('try again').getAttribute('data-id'), before, tab.name);
    assert.deepEqual(await tab.offsets(), [1]);
    await tab.close();
  }
});

test('under a message stands where it went', async () => {
  const tab = await Tab.open(browser, dev.http, 'alice', 'traced');
  await tab.write('where to?');
  await tab.sees('where to?');
  await tab.messages('where to?').locator('.stamp').click();
  const details = tab.page.locator('[data-testid="message-details"][data-trace="known"]');
  await details.waitFor();
  const field = (name) => details.locator(`[data-field="${name}"] dd`).innerText();
  assert.match(await field('edge'), /^[a-z][a-z0-9-]*$/);
  assert.match(await field('shard'), /^\d+ · epoch \d+$/);
  assert.equal(await field('offset'), '1');
  assert.match(await field('sync'), /^[\d.,]+\s?(µs|ms|s), with \d+ records?$/);
  assert.match(await field('time'), /\d/);
  assert.equal(await field('id'), await tab.messages('where to?').getAttribute('data-id'));
  await tab.page.keyboard.press('Escape');
  await details.waitFor({ state: 'detached' });
  await tab.close();
});

test('publications of any shape are shown', async () => {
  const tab = await Tab.open(browser, dev.http, 'alice', 'shapes');
  const client = new Centrifuge(dev.ready.ws, { token: dev.ready.tokens.bob, websocket: WebSocket });
  client.connect();
  await client.ready(PATIENCE);
  const bytes = (value) => new TextEncoder().encode(typeof value === 'string' ? value : JSON.stringify(value));
  const shapes = [
    [bytes(42), '42'],
    [bytes('null'), 'null'],
    [bytes('true'), 'true'],
    [bytes('"plain words"'), 'plain words'],
    [bytes({ text: 'as the console writes' }), 'as the console writes'],
    [bytes({ a: [1, { b: null }], text: 7 }), '{"a":[1,{"b":null}],"text":7}'],
    [bytes([1, 'two']), '[1,"two"]'],
    [Uint8Array.from([255, 0, 16]), '3 bytesff 00 10'],
    [bytes('no JSON, but words'), '18 bytes no JSON, but words'],
    [bytes('{"text":"<b>markup</b>"}'), '<b>markup</b>'],
  ];
  for (const [data] of shapes) await client.publish('room:shapes', data);
  client.disconnect();
  await tab.page.locator(`[data-testid="message"][data-offset="${shapes.length}"]`).waitFor();
  const shown = await tab.page.locator('[data-testid="message"] .content').allInnerTexts();
  assert.deepEqual(shown.map((text) => text.replace(/\s+/g, ' ').trim()), shapes.map(([, words]) => words));
  assert.equal(await tab.page.locator('[data-testid="message"] b').count(), 0, 'markup stays text');
  assert.deepEqual(tab.errors, []);
  await tab.screenshot('console-shapes');
  await tab.close();
});

/** Waits until something holds. */
async function until(what, holds) {
  const end = Date.now() + PATIENCE;
  while (!holds()) {
    assert.ok(Date.now() < end, `${what}: not in time`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Runs a program with the packages of these tests until it prints `words`; its whole output. */
async function run(folder, code, words) {
  mkdirSync(folder, { recursive: true });
  symlinkSync(modules, path.join(folder, 'node_modules'));
  const file = path.join(folder, 'example.mjs');
  writeFileSync(file, code);
  // The example is for Node 22, which has WebSocket; Node 20 has it behind a flag.
  const flags = typeof globalThis.WebSocket === 'undefined' ? ['--experimental-websocket'] : [];
  const child = spawn(process.execPath, [...flags, file], { cwd: folder, stdio: ['ignore', 'pipe', 'pipe'] });
  const said = [];
  try {
    return await new Promise((resolve, reject) => {
      const look = (line) => {
        said.push(line);
        if (line.includes(words)) resolve(said.join('\n'));
      };
      for (const stream of [child.stdout, child.stderr]) createInterface({ input: stream }).on('line', look);
      child.once('exit', (code) => reject(new Error(`the example ended with ${code}: ${said.join('\n')}`)));
      setTimeout(() => reject(new Error(`the example only said: ${said.join('\n')}`)), PATIENCE).unref();
    });
  } finally {
    child.kill();
  }
}

test('the example has the live token, and runs', async () => {
  const tab = await Tab.open(browser, dev.http, 'alice', 'example');
  await tab.get('sdk-open').click();
  await tab.get('sdk-panel').waitFor();
  const code = await tab.get('sdk-example').innerText();
  assert.equal(code.trim().split('\n').length, 10);
  const [, claims] = code.match(/const token = "[^."]+\.([^."]+)\.[^"]+"/);
  const { sub, exp } = JSON.parse(Buffer.from(claims, 'base64url').toString());
  assert.equal(sub, 'alice');
  assert.ok(exp * 1000 > Date.now());
  assert.ok(code.includes(JSON.stringify(dev.ready.ws)) && code.includes('"room:example"'), code);
  const command = await tab.get('curl-example').innerText();
  await tab.screenshot('console-example');
  await tab.page.keyboard.press('Escape');
  await tab.get('sdk-panel').waitFor({ state: 'hidden' });
  const curl = spawn('sh', ['-c', command], { stdio: ['ignore', 'pipe', 'ignore'] });
  let followed = '';
  curl.stdout.on('data', (bytes) => (followed += bytes));
  await until('the command has the room', () => followed.includes('"subs":{"room:example"'));
  const said = await run(path.join(dev.dir, 'example'), code, 'durable at offset');
  assert.match(said, /durable at offset 1/);
  await until('the command sees it', () => followed.includes('"text":"Hello"'));
  curl.kill();
  await tab.sees('Hello');
  assert.equal(await tab.messages('Hello').getAttribute('data-user'), 'alice');
  await tab.close();
});

test('the colours go round with a button, and a reload keeps them', async () => {
  const tab = await Tab.open(browser, dev.http, 'dora', 'colours', { colorScheme: 'light' });
  const background = () => tab.page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const button = tab.get('theme');
  const scheme = (name) => tab.page.locator(`[data-testid="theme"][data-theme="${name}"]`).waitFor();
  await scheme('auto');
  const light = await background();
  await button.click();
  await scheme('light');
  assert.equal(await background(), light);
  await button.click();
  await scheme('dark');
  const dark = await background();
  assert.notEqual(dark, light);
  await tab.page.reload();
  await scheme('dark');
  assert.equal(await background(), dark);
  await button.click();
  await scheme('auto');
  assert.equal(await background(), light);
  await tab.close();
});

test('rooms and messages are reached with the keyboard alone', async () => {
  const tab = await Tab.open(browser, dev.http, 'kim', 'keys-a');
  for (const room of ['keys-b', 'keys-c']) {
    await tab.get('new-room-input').fill(room);
    await tab.get('new-room-input').press('Enter');
    await tab.get('room-title').filter({ hasText: `#${room}` }).waitFor();
  }
  const { keyboard } = tab.page;
  const open = (room) => tab.get('room-title').filter({ hasText: `#${room}` }).waitFor();
  const focused = () => tab.page.evaluate(() => document.activeElement?.dataset.testid);
  await tab.get('room-keys-c').focus();
  await keyboard.press('ArrowUp');
  await open('keys-b');
  assert.equal(await focused(), 'room-keys-b');
  await keyboard.press('ArrowUp');
  await open('keys-a');
  await keyboard.press('End');
  await open('keys-c');
  assert.equal(await focused(), 'room-keys-c');

  // Rooms of others are looked through without joining them.
  const others = await tab.page.locator('[data-testid^="other-room-"]').evaluateAll((rows) => rows.map((row) => row.dataset.testid));
  assert.ok(others.length >= 2, `${others}`);
  await tab.get(others[0]).focus();
  await keyboard.press('ArrowDown');
  assert.equal(await focused(), others[1]);
  await keyboard.press('Home');
  assert.equal(await focused(), others[0]);
  await open('keys-c');
  await keyboard.press('Enter');
  await open(others[0].replace('other-room-', ''));

  await tab.get('room-keys-c').click();
  await open('keys-c');
  for (const text of ['first', 'second', 'third']) {
    await tab.write(text);
    await tab.sees(text);
  }
  const at = () => tab.page.evaluate(() => document.activeElement?.dataset.offset);
  await tab.messages('third').focus();
  await keyboard.press('ArrowUp');
  assert.equal(await at(), '2');
  await keyboard.press('Home');
  assert.equal(await at(), '1');
  await keyboard.press('ArrowDown');
  await keyboard.press('Enter');
  await tab.messages('second').getByTestId('message-details').waitFor();
  await keyboard.press('Escape');
  await tab.get('message-details').waitFor({ state: 'detached' });
  await tab.close();
});
