// Tokens that tests sign themselves, good and bad ones.

import { createHmac } from 'node:crypto';

const encode = (value) => Buffer.from(JSON.stringify(value)).toString('base64url');

/** The header of a token. */
export const header = (token) => JSON.parse(Buffer.from(token.split('.')[0], 'base64url').toString());

/** Claims of a user who may do everything in `room:*`. */
export function member(user, seconds = 3600, more = {}) {
  const allow = ['sub', 'pub', 'prs', 'hst'];
  return {
    sub: user,
    exp: Math.floor(Date.now() / 1000) + seconds,
    caps: [{ channels: ['room:*'], match: 'wildcard', allow }],
    ...more,
  };
}

/** A token of the server's demo instance. */
export function sign(server, claims, { secret = server.ready.hmac_secret, kid = header(server.ready.tokens.alice).kid } = {}) {
  return signWith(secret, { kid }, claims);
}

/** A token with this secret, and more in its header. */
export function signWith(secret, head, claims) {
  const body = `${encode({ alg: 'HS256', typ: 'JWT', ...head })}.${encode(claims)}`;
  return `${body}.${createHmac('sha256', secret).update(body).digest('base64url')}`;
}

/** A token with any header and no signature. */
export const forge = (head, claims) => `${encode(head)}.${encode(claims)}.`;
