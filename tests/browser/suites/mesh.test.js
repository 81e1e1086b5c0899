// The console on a mesh: two edges, a region that dies, and a network that swallows bytes.

import assert from 'node:assert/strict';
import { after, before, test } from 'node:test';
import { Mesh, Proxy } from '../lib/programs.js';
import { Tab, launch } from '../lib/tab.js';

let mesh;
let browser;
before(async () => {
  [mesh, browser] = await Promise.all([Mesh.start(), launch()]);
});
after(async () => {
  await browser?.close();
  await mesh?.stop();
});

test('tabs on two edges chat while the region is killed and comes back', async () => {
  const [alice, bob] = [await Tab.open(browser, mesh.nodes.e1, 'alice', 'mesh'), await Tab.open(browser, mesh.nodes.e2, 'bob', 'mesh')];
  await alice.page.locator('[data-testid="presence"][data-count="2"]').waitFor();
  await alice.write('over the mesh');
  await bob.sees('over the mesh');
  await mesh.say('kill r1');
  await alice.write('without a region');
  await bob.write('me neither');
  await alice.page.locator('[data-testid="message"]:is([data-state="sending"],[data-state="failed"])').filter({ hasText: 'without a region' }).waitFor();
  await mesh.say('start r1');
  for (const [tab, text] of [[alice, 'without a region'], [bob, 'me neither']]) {
    for (const other of [alice, bob]) await other.sees(text);
    assert.equal(await tab.messages(text).count(), 1);
  }
  await bob.write('and on it goes');
  await alice.sees('and on it goes');
  assert.deepEqual(await alice.offsets(), await bob.offsets());
  assert.deepEqual(await alice.offsets(), [1, 2, 3, 4]);
  await alice.screenshot('console-mesh');
  for (const tab of [alice, bob]) await tab.close();
});

test('a tab whose bytes are swallowed notices, reconnects and catches up', async () => {
  const proxy = await Proxy.start(mesh.nodes.e1);
  try {
    const [alice, bob] = [await Tab.open(browser, proxy.http, 'alice', 'dropped'), await Tab.open(browser, mesh.nodes.e2, 'bob', 'dropped')];
    await bob.write('through the proxy');
    await alice.sees('through the proxy');
    await proxy.say('blackhole');
    await bob.write('into the dark');
    await bob.sees('into the dark');
    await bob.write('and more');
    await bob.sees('and more');
    // Nothing closes: only the pings that do not come tell the tab. That takes up to 35 seconds.
    alice.page.setDefaultTimeout(60_000);
    await alice.state('connecting', 'reconnecting');
    assert.equal(await alice.messages('into the dark').count(), 0);
    await proxy.say('pass');
    await alice.state('connected');
    await alice.sees('into the dark');
    await alice.sees('and more');
    assert.deepEqual(await alice.offsets(), [1, 2, 3]);
    await alice.write('back again');
    await bob.sees('back again');
    for (const tab of [alice, bob]) await tab.close();
  } finally {
    await proxy.stop();
  }
});
