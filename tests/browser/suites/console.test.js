// The console on `gb6 dev`: two tabs, presence, reload, history on scroll, a server that is killed.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { Dev } from '../lib/programs.js';
import { Tab, launch } from '../lib/tab.js';

let dev;
let browser;
before(async () => {
  [dev, browser] = await Promise.all([Dev.start('browser-console'), launch()]);
});
after(async () => {
  await browser?.close();
  await dev?.stop();
});

const upTo = (n) => Array.from({ length: n }, (_, i) => i + 1);

async function publish(room, count) {
  const response = await fetch(`${dev.http}/dev/token`, {
    method: 'POST',
    headers: { 'content-type': 'application/json' },
    body: JSON.stringify({ name: 'machine' }),
  });
  const { token } = await response.json();
  const { default: WebSocket } = await import('ws');
  const socket = new WebSocket(dev.ready.ws, 'centrifuge-json');
  await new Promise((resolve, reject) => socket.once('open', resolve).once('error', reject));
  let left = count;
  const done = new Promise((resolve, reject) => {
    socket.on('close', (code, reason) => reject(new Error(`closed ${code} ${reason}`)));
    socket.on('message', (frame) => {
      for (const line of frame.toString().split('\n')) {
        const reply = JSON.parse(line);
        if (reply.error) reject(new Error(JSON.stringify(reply.error)));
        if (reply.id > 1 && (left -= 1) === 0) resolve();
      }
    });
  });
  const commands = [{ id: 1, connect: { token } }];
  for (const n of upTo(count)) commands.push({ id: n + 1, publish: { channel: `room:${room}`, data: { text: `message ${n} of ${count}` } } });
  socket.send(commands.map((c) => JSON.stringify(c)).join('\n'));
  await done.finally(() => socket.close());
}

test('two tabs are two people who chat and see each other', async () => {
  const [alice, bob] = [await Tab.open(browser, dev.http, 'alice', 'tabs'), await Tab.open(browser, dev.http, 'bob', 'tabs')];
  for (const tab of [alice, bob]) {
    await tab.page.locator('[data-testid="presence"][data-count="2"]').waitFor();
    for (const user of ['alice', 'bob']) await tab.page.locator(`[data-testid="person"][data-user="${user}"]`).first().waitFor();
  }
  await alice.write('Hello from Alice');
  await bob.sees('Hello from Alice');
  await bob.write('Hello from Bob <b>&amp;</b> 😀');
  await alice.sees('Hello from Bob <b>&amp;</b> 😀');
  await alice.sees('Hello from Alice');
  assert.deepEqual(await alice.offsets(), [1, 2]);
  // What is under a message.
  await alice.messages('Hello from Alice').locator('.stamp').click();
  await alice.page.locator('[data-testid="message-details"][data-trace="known"]').waitFor();
  assert.equal((await alice.page.locator('[data-field="offset"]').first().innerText()).replace(/\D/g, ''), '1');
  await alice.screenshot('console-light');

  // A reload keeps the person, the room and the messages.
  await bob.page.reload();
  await bob.state('connected');
  await bob.sees('Hello from Alice');
  assert.equal(await bob.get('me').innerText(), 'bob');
  await bob.close();
  await alice.page.locator('[data-testid="presence"][data-count="1"]').waitFor();
  assert.deepEqual([...alice.errors, ...bob.errors], []);
  await alice.close();
});

test('history comes on scrolling, without a hole', async () => {
  await publish('history', 250);
  const tab = await Tab.open(browser, dev.http, 'carol', 'history');
  await tab.sees('message 250 of 250');
  assert.ok((await tab.offsets()).length < 250, 'not everything at once');
  const timeline = tab.get('timeline');
  await timeline.hover();
  const deadline = Date.now() + 30_000;
  for (;;) {
    const offsets = await tab.offsets();
    if (offsets[0] === 1) {
      assert.deepEqual(offsets, upTo(250));
      break;
    }
    assert.ok(Date.now() < deadline, `the oldest is ${offsets[0]}`);
    await tab.page.mouse.wheel(0, -2_000);
    await tab.page.waitForTimeout(50);
  }
  await tab.close();
});

test('what is written while the server is away is sent when it is back, once', async () => {
  const [alice, bob] = [await Tab.open(browser, dev.http, 'alice', 'killed'), await Tab.open(browser, dev.http, 'bob', 'killed')];
  await alice.write('before');
  await bob.sees('before');
  await dev.kill();
  await alice.state('connecting', 'reconnecting');
  await alice.write('while it is away');
  await alice.page.locator('[data-testid="message"]:is([data-state="sending"],[data-state="failed"])').filter({ hasText: 'while it is away' }).waitFor();
  await alice.screenshot('console-away');
  await dev.start();
  await alice.state('connected');
  await bob.state('connected');
  // It goes by itself, or with a click.
  const retry = alice.messages('while it is away').getByTestId('retry');
  if (await retry.isVisible()) await retry.click();
  await alice.sees('while it is away');
  await bob.sees('while it is away');
  await bob.write('after');
  await alice.sees('after');
  for (const tab of [alice, bob]) {
    assert.deepEqual(await tab.offsets(), [1, 2, 3]);
    await tab.close();
  }
});

test('dark, and on a phone', async () => {
  const dark = await Tab.open(browser, dev.http, 'dora', 'looks', { colorScheme: 'dark' });
  await dark.write('In the dark');
  await dark.sees('In the dark');
  const background = await dark.page.evaluate(() => getComputedStyle(document.body).backgroundColor);
  const [r, g, b] = background.match(/\d+(\.\d+)?/g).map(Number);
  assert.ok(r + g + b < 3 * 90, `the page is ${background}`);
  await dark.screenshot('console-dark');
  await dark.close();

  const phone = await Tab.open(browser, dev.http, 'paul', 'looks', { viewport: { width: 390, height: 780 }, hasTouch: true, isMobile: true });
  await phone.sees('In the dark');
  const overflow = await phone.page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
  assert.ok(overflow <= 0, `${overflow} pixels too wide`);
  await phone.get('rooms-toggle').click();
  await phone.get('room-looks').waitFor();
  await phone.screenshot('console-phone-rooms');
  await phone.page.keyboard.press('Escape');
  await phone.write('From a phone');
  await phone.sees('From a phone');
  await phone.screenshot('console-phone');
  await phone.close();
});
