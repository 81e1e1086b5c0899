// Tokens that are signed with private keys: ES256, RS256 and EdDSA, verified by public keys of the
// configuration, and by a key set that the server fetches.

import assert from 'node:assert/strict';
import { generateKeyPairSync, sign } from 'node:crypto';
import { createServer } from 'node:http';
import { after, afterEach, before, describe } from 'node:test';
import { Clients, Room, formats, freshRoom, next } from '../lib/client.js';
import { proves } from '../lib/conformance.js';
import { Server, within } from '../lib/server.js';
import { member } from '../lib/token.js';

const pairs = {
  ES256: generateKeyPairSync('ec', { namedCurve: 'P-256' }),
  RS256: generateKeyPairSync('rsa', { modulusLength: 2048 }),
  EdDSA: generateKeyPairSync('ed25519'),
};
const algorithms = Object.keys(pairs);
// One that only the key set has.
const rotated = generateKeyPairSync('ec', { namedCurve: 'P-256' });

const encode = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');
/** A token by the private key of a pair. */
function signed(alg, kid, claims, { privateKey } = pairs[alg]) {
  const body = `${encode({ alg, kid })}.${encode(claims)}`;
  const key = alg === 'ES256' ? { key: privateKey, dsaEncoding: 'ieee-p1363' } : privateKey;
  return `${body}.${sign(alg === 'EdDSA' ? null : 'sha256', Buffer.from(body), key).toString('base64url')}`;
}

const keySet = createServer((_, answer) => {
  const jwk = { ...rotated.publicKey.export({ format: 'jwk' }), kid: 'rotated', alg: 'ES256', use: 'sig' };
  answer.setHeader('content-type', 'application/json');
  answer.end(JSON.stringify({ keys: [jwk] }));
});

let server;
let clients;
before(async () => {
  await new Promise((resolve) => keySet.listen(0, '127.0.0.1', resolve));
  const keys = algorithms.map((alg) => `{ id = "${alg}", algorithm = "${alg}", public_key_file = "${alg}.pem" }`);
  const config = `
[instances.demo]
public_keys = [${keys.join(', ')}]
jwks_url = "http://127.0.0.1:${keySet.address().port}/keys"
[instances.demo.namespaces.room]
`;
  const pem = algorithms.map((alg) => [`${alg}.pem`, pairs[alg].publicKey.export({ format: 'pem', type: 'spki' })]);
  server = await Server.start('sdk-signatures', ['--config', 'dev.toml'], { 'dev.toml': config, ...Object.fromEntries(pem) });
  clients = new Clients(server);
});
afterEach(() => clients.closeAll());
after(async () => {
  keySet.close();
  await server?.stop();
});

for (const format of formats) {
  describe(format.name, () => {
    proves(format, ['signatures'], 'tokens by private keys, and by a key of the key set, are good for everything', async () => {
      const ways = [...algorithms.map((alg) => [alg, alg, pairs[alg]]), ['ES256', 'rotated', rotated]];
      for (const [alg, kid, pair] of ways) {
        const channel = freshRoom(`signed-${kid}`);
        const make = (claims) => signed(alg, kid, claims, pair);
        let asked = 0;
        const client = await clients.connect(format, null, {
          token: make(member('alice', 2)),
          getToken: async () => {
            asked += 1;
            return make(member('alice'));
          },
        });
        const own = { sub: 'alice', channel, exp: Math.floor(Date.now() / 1000) + 60 };
        const room = await new Room(client, format, channel, { token: make(own) }).subscribe();
        await client.publish(channel, format.encode({ alg }));
        await room.count(1);
        // The connection outlives its first token.
        const refreshed = async () => {
          while (asked < 1) await new Promise((resolve) => setTimeout(resolve, 20));
        };
        await within(refreshed(), `a refresh by ${kid}`);
        assert.equal(client.state, 'connected');
      }
    });

    proves(format, ['signatures'], 'a signature by another key, or one that names another algorithm, is refused', async () => {
      const other = generateKeyPairSync('ed25519');
      for (const token of [
        signed('EdDSA', 'EdDSA', member('alice'), other),
        signed('ES256', 'EdDSA', member('alice')),
        signed('RS256', 'ES256', member('alice')),
        // The signature of something else.
        [...signed('EdDSA', 'EdDSA', member('alice')).split('.').slice(0, 2), signed('EdDSA', 'EdDSA', member('bob')).split('.')[2]].join('.'),
      ]) {
        const client = clients.make(format, null, { token });
        const ended = next(client, 'disconnected');
        client.connect();
        assert.deepEqual(await ended, { code: 3500, reason: 'invalid token' });
      }
    });
  });
}
