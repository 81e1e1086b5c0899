// Servers of these suites come back to ports that nothing else is given.

import assert from 'node:assert/strict';
import { createServer } from 'node:net';
import { test } from 'node:test';

import { FIRST, freePort, kernelFirst } from '../lib/ports.js';

test('ports differ and are not those of outgoing connections', async () => {
  const ports = [];
  for (let n = 0; n < 20; n += 1) ports.push(await freePort());
  assert.equal(new Set(ports).size, 20);
  assert.ok(ports.every((port) => port >= FIRST && port < kernelFirst()), String(ports));
});

test('a port that is in use is passed over', async () => {
  const port = await freePort();
  const server = createServer();
  await new Promise((resolve) => server.listen(port + 1, '127.0.0.1', resolve));
  try {
    assert.notEqual(await freePort(), port + 1);
  } finally {
    server.close();
  }
});
