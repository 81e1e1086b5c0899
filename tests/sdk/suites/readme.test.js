// The client of the README's tour, as it stands there.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdirSync, readFileSync, symlinkSync } from 'node:fs';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Server, gb6, within } from '../lib/server.js';

const here = path.dirname(fileURLToPath(import.meta.url));
let server;

before(async () => {
  server = await Server.start('readme');
});

after(() => server?.stop());

/** The commands of "Write a client", with this server's address and packages. */
function commands() {
  const readme = readFileSync(path.join(here, '../../../README.md'), 'utf8');
  const [, block] = readme.match(/\*\*Write a client\.\*\*[^]*?```sh\n([^]*?)```/);
  const changed = (text, from, to) => {
    assert.ok(text.includes(from), `the README does not say ${from}`);
    return text.replace(from, to);
  };
  const text = block.replaceAll(/^ {3}/gm, '');
  const linked = changed(text, 'npm install centrifuge ws', `ln -sfn '${path.join(here, '../node_modules')}' node_modules`);
  return changed(changed(linked, '127.0.0.1:8080', server.address), '\nnode client.mjs', '\nexec node client.mjs');
}

/** Runs them in `folder` until the client has printed the answer of `room.publish`. */
async function run(folder) {
  const child = spawn('bash', ['-e', '-c', commands()], { cwd: folder, stdio: ['ignore', 'pipe', 'pipe'] });
  const said = [];
  const answer = new Promise((resolve, reject) => {
    const look = (line) => {
      said.push(line);
      // An object is printed over several lines once it is long.
      const found = said.join(' ').match(/offset: (\d+).*duplicate: (true|false)/);
      if (found) resolve({ offset: Number(found[1]), duplicate: found[2] === 'true' });
    };
    for (const stream of [child.stdout, child.stderr]) createInterface({ input: stream }).on('line', look);
    child.once('exit', (code) => reject(new Error(`it ended with ${code}: ${said.join('\n')}`)));
  });
  try {
    return await within(answer, () => `the answer, after ${said.join('\n')}`);
  } finally {
    child.kill();
  }
}

test('the client of the tour runs, and its second run is a duplicate', async () => {
  const repository = path.join(server.dir, 'repository');
  mkdirSync(path.join(repository, 'target/debug'), { recursive: true });
  symlinkSync(gb6(), path.join(repository, 'target/debug/gb6'));
  symlinkSync(path.join(server.dir, 'data'), path.join(repository, 'gb6-data'));
  const first = await run(repository);
  assert.equal(first.duplicate, false);
  assert.deepEqual(await run(repository), { offset: first.offset, duplicate: true });
});

test('what moves over in the tour is what the page about it says, whose blocks run', () => {
  const read = (file) => readFileSync(path.join(here, '../../..', file), 'utf8');
  const diffs = (text) => [...text.matchAll(/^( *)```diff\n([^]*?)^ *```$/gm)].map(([, indent, block]) =>
    block.replaceAll(new RegExp(`^${indent}`, 'gm'), ''),
  );
  const [, step] = read('README.md').match(/\*\*Bring an application\.\*\*([^]*?)\n## /);
  const page = diffs(read('docs/migrating.md'));
  assert.equal(page.length, 4, 'three languages, and the API key');
  assert.deepEqual(diffs(step), page);
});
