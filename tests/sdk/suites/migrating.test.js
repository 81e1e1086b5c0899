// The JavaScript program of docs/migrating.md, as the page leaves it, on the server that it configures.

import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { after, before, test } from 'node:test';
import { fileURLToPath } from 'node:url';
import { Server, within } from '../lib/server.js';
import { member, signWith } from '../lib/token.js';

const page = readFileSync(new URL('../../../docs/migrating.md', import.meta.url), 'utf8');
const packages = fileURLToPath(new URL('../node_modules', import.meta.url));

/** The blocks of a language below a heading. */
function blocks(language, heading = '') {
  const section = page.slice(page.indexOf(`\n## ${heading}`)).split('\n## ')[1];
  return [...section.matchAll(new RegExp(`^\`\`\`${language}\\n([^]*?)^\`\`\``, 'gm'))].map(([, text]) => text);
}

/** The program after the change. */
function changed(program, diff) {
  const [minus, plus] = ['-', '+'].map((sign) => diff.split('\n').filter((l) => l.startsWith(sign)).map((l) => l.slice(1)).join('\n'));
  assert.equal(program.split(minus).length, 2, `the program does not say once: ${minus}`);
  return program.replace(minus, plus);
}

let server;
before(async () => {
  const [config] = blocks('toml', 'The server');
  server = await Server.start('migrating', ['--config', 'chat.toml'], { 'chat.toml': config });
});
after(() => server?.stop());

test('a client of before talks to the server of after', async () => {
  const [before] = blocks('json', 'The server');
  const secret = JSON.parse(before).client.token.hmac_secret_key;
  const [program, diff] = [...blocks('js', 'JavaScript'), ...blocks('diff', 'JavaScript')];
  const after = changed(program, diff);
  assert.ok(after.includes('localhost:8080'));
  const folder = path.join(server.dir, 'client');
  mkdirSync(folder);
  symlinkSync(packages, path.join(folder, 'node_modules'));
  writeFileSync(path.join(folder, 'client.mjs'), after.replace('localhost:8080', server.address));
  // As the application's backend signs it: without a key id, and with no capabilities.
  const token = signWith(secret, {}, member('alice', 3600, { caps: undefined }));
  const child = spawn('node', ['client.mjs'], { cwd: folder, env: { ...process.env, TOKEN: token }, stdio: ['ignore', 'pipe', 'inherit'] });
  try {
    const line = new Promise((resolve, reject) => {
      createInterface({ input: child.stdout }).once('line', resolve);
      child.once('exit', (code) => reject(new Error(`the client ended with ${code}`)));
    });
    assert.equal(await within(line, 'the message'), 'alice: hello from JavaScript');
  } finally {
    child.kill();
  }
});
