// Unidirectional transports with the clients that applications use for them: an EventSource, `fetch`
// and a WebSocket. What they hear is what the server subscribes them to.

import assert from 'node:assert/strict';
import { after, afterEach, before, describe, test } from 'node:test';
import { EventSource } from 'eventsource';
import WebSocket from 'ws';
import { Clients, formats, freshRoom, roomPublish } from '../lib/client.js';
import { Server, within } from '../lib/server.js';
import { member, sign } from '../lib/token.js';

const [json] = formats;
let server;
let clients;
const open = [];
before(async () => {
  server = await Server.start('sdk-unidirectional');
  clients = new Clients(server);
});
afterEach(() => {
  for (const close of open.splice(0)) close();
  clients.closeAll();
});
after(() => server?.stop());

/** What a client was told, in order, and a way to wait for it. */
class Told {
  pushes = [];
  #waiting = [];

  add(text) {
    const push = JSON.parse(text);
    // A ping.
    if (Object.keys(push).length > 0) this.pushes.push(push);
    for (const check of this.#waiting) check();
  }

  /** Every push that has this field: what it holds. */
  all(kind) {
    return this.pushes.filter((push) => kind in push).map((push) => push[kind]);
  }

  async count(kind, n) {
    const there = new Promise((resolve) => {
      const check = () => this.all(kind).length >= n && resolve();
      this.#waiting.push(check);
      check();
    });
    await within(there, () => `${n} of ${kind}: ${JSON.stringify(this.pushes)}`);
    return this.all(kind);
  }
}

const ways = {
  EventSource(request, told) {
    const query = encodeURIComponent(JSON.stringify(request));
    const source = new EventSource(`${server.http}/connection/uni_sse?cf_connect=${query}`);
    source.addEventListener('message', (event) => told.add(event.data));
    return () => source.close();
  },
  fetch(request, told) {
    const cut = new AbortController();
    const read = async () => {
      const answer = await fetch(`${server.http}/connection/uni_http_stream`, {
        method: 'POST',
        headers: { 'content-type': 'application/json' },
        body: JSON.stringify(request),
        signal: cut.signal,
      });
      let rest = '';
      for await (const part of answer.body.pipeThrough(new TextDecoderStream())) {
        const lines = (rest + part).split('\n');
        rest = lines.pop();
        for (const line of lines) told.add(line);
      }
    };
    // It ends with the connection, which the test ends.
    read().catch(() => undefined);
    return () => cut.abort();
  },
  WebSocket(request, told) {
    const socket = new WebSocket(server.ws.replace('/connection/websocket', '/connection/uni_websocket'));
    socket.on('open', () => socket.send(JSON.stringify(request)));
    socket.on('message', (text) => told.add(text.toString()));
    socket.on('error', () => undefined);
    return () => socket.terminate();
  },
};

for (const [name, connect] of Object.entries(ways)) {
  describe(name, () => {
    const enter = (request) => {
      const told = new Told();
      const close = connect(request, told);
      open.push(close);
      return { told, close };
    };
    const token = (channel, more = {}) => sign(server, member('desk', 3600, { channels: [channel], ...more }));

    test('hears the rooms of its token in order, and what it missed with the next connect', async () => {
      const channel = freshRoom(`uni-${name}`);
      const alice = await clients.connect(json, 'alice');
      const publish = async (from, to) => {
        for (let n = from; n <= to; n += 1) await roomPublish(alice, json, channel, `m${n}`, { n });
      };
      const first = enter({ token: token(channel) });
      const [connected] = await first.told.count('connect', 1);
      const { epoch } = connected.subs[channel];
      await publish(1, 20);
      const heard = await first.told.count('pub', 20);
      assert.deepEqual(heard.map(({ offset, data }) => [offset, data.n]), [...Array(20).keys()].map((n) => [n + 1, n + 1]));
      first.close();
      await publish(21, 30);
      const second = enter({ token: token(channel), subs: { [channel]: { recover: true, epoch, offset: 20 } } });
      const [again] = await second.told.count('connect', 1);
      const { recovered, publications } = again.subs[channel];
      assert.equal(recovered, true);
      assert.deepEqual(publications.map((publication) => publication.offset), [21, 22, 23, 24, 25, 26, 27, 28, 29, 30]);
      await publish(31, 32);
      assert.deepEqual((await second.told.count('pub', 2)).map((publication) => publication.offset), [31, 32]);
    });

    test('is told why it is refused', async () => {
      const { told } = enter({ token: sign(server, member('desk'), { secret: 'x'.repeat(64) }) });
      assert.deepEqual(await told.count('disconnect', 1), [{ code: 3500, reason: 'invalid token' }]);
    });
  });
}
