// The server is killed and comes back under publishers: every id that was acknowledged is there
// once. What every client saw goes through the history checker.

import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { writeFileSync } from 'node:fs';
import path from 'node:path';
import { after, afterEach, before } from 'node:test';
import { Clients, Room, formats, freshRoom, next, roomPublish } from '../lib/client.js';
import { proves } from '../lib/conformance.js';
import { Server, built, within } from '../lib/server.js';

let server;
let clients;
before(async () => {
  server = await Server.start('sdk-crash');
  clients = new Clients(server);
});
afterEach(() => clients.closeAll());
after(() => server.stop());

const fingerprint = (data) => createHash('sha256').update(data).digest('hex').slice(0, 16);
const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

class History {
  events = [];

  add(client, kind, fields = {}) {
    this.events.push({ client, kind, at: Date.now(), ...fields });
  }

  check() {
    const file = path.join(server.dir, 'history.jsonl');
    writeFileSync(file, this.events.map((e) => `${JSON.stringify(e)}\n`).join(''));
    const checker = built('history-check', 'cargo build -p gb6-tests-harness');
    try {
      return execFileSync(checker, [file], { encoding: 'utf8' });
    } catch (error) {
      throw new Error(`${error.stdout}\nthe history is in ${file}`);
    }
  }
}

const publication = (format, p) => ({
  offset: Number(p.offset),
  id: p.tags?.id,
  user: p.info?.user ?? '',
  data: fingerprint(JSON.stringify(format.decode(p.data))),
});

/** Publishes until it is told to stop, each message until it is acknowledged. */
class Publisher {
  acknowledged = 0;
  stopping = false;

  constructor(history, client, format, name, channel) {
    Object.assign(this, { history, client, format, name, channel });
    this.done = this.#run();
  }

  async #run() {
    for (let n = 0; !this.stopping; n += 1) {
      const id = `${this.name}-${n}`;
      const data = { id };
      const message = { room: this.channel, id, data: fingerprint(JSON.stringify(data)) };
      for (;;) {
        this.history.add(this.name, 'sent', message);
        try {
          const answer = await roomPublish(this.client, this.format, this.channel, id, data);
          const { offset, epoch, duplicate = false } = answer;
          this.history.add(this.name, 'acknowledged', { ...message, offset, epoch, duplicate });
          this.acknowledged += 1;
          break;
        } catch (error) {
          this.history.add(this.name, 'failed', { ...message, code: error.code >= 100 ? error.code : 0 });
          await pause(50);
        }
      }
    }
  }
}

proves(formats, ['restart'], 'kill -9 and restart under publishers', async () => {
  const history = new History();
  const channel = freshRoom('crash');
  const publishers = [];
  const readers = [];
  for (const format of formats) {
    const name = `reader-${format.id}`;
    const client = await clients.connect(format, name);
    history.add(name, 'client', { instance: 'demo', user: name });
    const room = new Room(client, format, channel);
    room.sub.on('subscribed', ({ streamPosition, wasRecovering, recovered }) =>
      history.add(name, 'subscribed', {
        room: channel,
        offset: Number(streamPosition.offset),
        epoch: streamPosition.epoch,
        recovered: wasRecovering ? recovered : null,
      }),
    );
    room.sub.on('publication', (p) => history.add(name, 'received', { room: channel, ...publication(format, p) }));
    await room.subscribe();
    readers.push({ name, format, room });
    for (let n = 1; n <= 2; n += 1) {
      const user = `publisher-${format.id}-${n}`;
      const sender = await clients.connect(format, user, { timeout: 5_000 });
      history.add(user, 'client', { instance: 'demo', user });
      sender.on('connected', () => history.add(user, 'connected'));
      publishers.push(new Publisher(history, sender, format, user, channel));
    }
  }
  const progress = async (n) => {
    const goals = publishers.map((p) => p.acknowledged + n);
    const reached = async () => {
      while (publishers.some((p, i) => p.acknowledged < goals[i])) await pause(10);
    };
    await within(reached(), () => `${n} more acknowledgements (${publishers.map((p) => p.acknowledged)})\n${server.logTail()}`, 60_000);
  };
  for (let kill = 1; kill <= 3; kill += 1) {
    await progress(20);
    await server.kill();
    await server.restart();
  }
  await progress(20);
  for (const publisher of publishers) publisher.stopping = true;
  await within(Promise.all(publishers.map((p) => p.done)), 'the last acknowledgements', 60_000);

  // The whole log, as a reader that comes after everything.
  const format = formats[0];
  const late = await clients.connect(format, 'late');
  history.add('late', 'client', { instance: 'demo', user: 'late' });
  const sub = late.newSubscription(channel);
  const { offset: top } = await late.history(channel, { limit: 0 });
  for (let since = 0; since < top; ) {
    const page = await late.history(channel, { limit: 300, since: { offset: since, epoch: '' } });
    const publications = page.publications.map((p) => publication(format, p));
    history.add('late', 'page', { room: channel, since, top: Number(page.offset), epoch: page.epoch, publications });
    assert.ok(publications.length > 0);
    since = publications.at(-1).offset;
  }
  history.add('late', 'log', { room: channel, first: 1, top: Number(top) });
  for (const { name, room } of readers) {
    await room.until(`everything up to ${top}`, (r) => r.offsets.at(-1) === Number(top));
    history.add(name, 'settled', { room: channel });
  }
  sub.unsubscribe();
  const report = history.check();
  assert.match(report, /^ok: /);
  const acknowledged = publishers.reduce((sum, p) => sum + p.acknowledged, 0);
  assert.ok(acknowledged >= 4 * 80, `${acknowledged}`);
});

proves(formats, ['drain'], 'a drained server tells clients to come back, and they do', async () => {
  const all = [];
  for (const format of formats) all.push(await clients.connect(format, 'alice'));
  const connecting = all.map((client) => next(client, 'connecting'));
  const ended = server.terminate();
  for (const { code, reason } of await Promise.all(connecting)) {
    assert.equal(code, 3001);
    assert.ok(reason.length > 0);
  }
  assert.deepEqual(await ended, { code: 0, signal: null });
  const connected = all.map((client) => next(client, 'connected'));
  await server.restart();
  await Promise.all(connected);
});
