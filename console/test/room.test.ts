import assert from 'node:assert/strict';
import { beforeEach, mock, test } from 'node:test';
import type { Subscription } from 'centrifuge';
import { CallError, Connection, type ConnectionState, type HistoryPage } from '../src/connection.ts';
import { Room, type RoomEvents } from '../src/room.ts';
import type { Acknowledgement } from '../src/timeline.ts';

/** A connection whose answers the test gives; nothing goes out. */
class Fake extends Connection {
  current: ConnectionState = { kind: 'connected' };
  subscribed: Subscription | null = null;
  /** What was published, in order: ids and texts. */
  sent: { id: string; data: unknown }[] = [];
  answers: (Acknowledgement | CallError)[] = [];
  pages: (HistoryPage | CallError)[] = [];

  constructor() {
    super({ name: 'alice', user: 'alice', instance: 'demo', token: 't' }, 'ws://127.0.0.1:1/');
  }

  override get state(): ConnectionState {
    return this.current;
  }

  override subscription(room: string): Subscription {
    this.subscribed = super.subscription(room);
    return this.subscribed;
  }

  override publish(_room: string, id: string, data: unknown): Promise<Acknowledgement> {
    this.sent.push({ id, data });
    return answer(this.answers.shift() ?? new CallError(1003, 'outcome unknown', true));
  }

  override history(): Promise<HistoryPage> {
    return answer(this.pages.shift() ?? { publications: [], epoch: 'e', top: 0 });
  }

  override presence(): ReturnType<Connection['presence']> {
    return Promise.resolve([{ client: 'c1', user: 'alice' }]);
  }

  override presenceStats(): ReturnType<Connection['presenceStats']> {
    return Promise.resolve({ connections: 1, people: 1 });
  }

  /** The server lets the room in at this position. */
  joined(offset = 0): void {
    const position = { offset, epoch: 'e' };
    this.subscribed?.emit('subscribed', {
      channel: 'room:a',
      positioned: true,
      recoverable: true,
      wasRecovering: false,
      recovered: false,
      hasRecoveredPublications: false,
      streamPosition: position,
    });
  }

  /** Somebody's message arrives. */
  arrives(offset: number, user: string, text: string, id?: string): void {
    this.subscribed?.emit('publication', {
      channel: 'room:a',
      offset,
      data: { text },
      info: { user, client: `c-${user}` },
      ...(id === undefined ? {} : { tags: { id } }),
    });
  }
}

function answer<T>(what: T | CallError): Promise<T> {
  return what instanceof CallError ? Promise.reject(what) : Promise.resolve(what);
}

let seen: string[] = [];
const events: RoomEvents = {
  changed: () => undefined,
  remember: () => seen.push('remember'),
  arrived: (_room, publication) => seen.push(`arrived ${publication.offset}`),
  moved: (_room, user, here) => seen.push(`${user} ${here ? 'came' : 'left'}`),
};

/** A room that stands, at its beginning unless said. */
async function standing(top = 0): Promise<{ room: Room; connection: Fake }> {
  const connection = new Fake();
  const room = new Room({ name: 'a', read: null, unsent: [] }, connection, events);
  connection.pages = [{ publications: [], epoch: 'e', top }];
  connection.joined(top);
  await pass(0);
  return { room, connection };
}

/** Lets time go by, with all that it begins. */
async function pass(ms: number): Promise<void> {
  mock.timers.tick(ms);
  for (let n = 0; n < 30; n += 1) await Promise.resolve();
}

beforeEach(() => {
  seen = [];
  mock.timers.reset();
  mock.timers.enable({ apis: ['setTimeout', 'Date'], now: 1_700_000_000_000 });
});

test('a message that is acknowledged stands at its offset, once, whatever its echo does', async () => {
  const { room, connection } = await standing();
  connection.answers = [{ offset: 1, epoch: 'e', time: 5 }];
  assert.equal(room.send('hello'), null);
  const id = room.outbox.messages[0]?.id ?? '';
  assert.match(id, /^[0-9a-f]{32}$/);
  await pass(0);
  assert.deepEqual(connection.sent, [{ id, data: { text: 'hello' } }]);
  assert.equal(room.outbox.messages.length, 0);
  connection.arrives(1, 'alice', 'hello', id);
  await pass(0);
  assert.deepEqual(room.timeline.messages.map(({ offset, user }) => [offset, user]), [[1, 'alice']]);
  assert.equal(room.unread, 0);
  assert.deepEqual(seen.filter((what) => what.startsWith('arrived')), [], 'one’s own is no news');
});

test('a message whose outcome is unknown is sent again by itself, under its id', async () => {
  const { room, connection } = await standing();
  connection.answers = [new CallError(1003, 'outcome unknown', true), { offset: 1, epoch: 'e', time: 5 }];
  room.send('hello');
  await pass(0);
  assert.equal(room.outbox.messages[0]?.state, 'failed');
  assert.equal(room.outbox.messages[0]?.reason, 'outcome unknown');
  await pass(2_000);
  assert.equal(connection.sent.length, 2);
  assert.equal(connection.sent[0]?.id, connection.sent[1]?.id);
  assert.equal(room.outbox.messages.length, 0);
  assert.equal(room.timeline.top, 1);
});

test('the echo of a message is its acknowledgement when that one is lost', async () => {
  const { room, connection } = await standing();
  room.send('hello');
  const id = room.outbox.messages[0]?.id ?? '';
  connection.arrives(1, 'alice', 'hello', id);
  await pass(60_000);
  assert.equal(room.outbox.messages.length, 0);
  assert.equal(connection.sent.length, 1, 'and it is not sent again');
  assert.equal(room.timeline.messages.length, 1);
});

test('a refused message waits for its writer, who sends it again or gives it up', async () => {
  const { room, connection } = await standing();
  connection.answers = [new CallError(103, 'permission denied', false)];
  room.send('hello');
  await pass(60_000);
  assert.equal(connection.sent.length, 1);
  const id = room.outbox.messages[0]?.id ?? '';
  connection.answers = [new CallError(103, 'permission denied', false)];
  room.retry(id);
  await pass(60_000);
  assert.deepEqual(connection.sent.map((sent) => sent.id), [id, id]);
  assert.deepEqual(room.remembered.unsent.map((unsent) => unsent.id), [id], 'a reload does not lose it');
  room.discard(id);
  assert.deepEqual(room.remembered.unsent, []);
});

test('what waits without a connection is shown as failed, and goes out when it is back', async () => {
  const { room, connection } = await standing();
  connection.current = { kind: 'reconnecting', reason: 'lost' };
  room.connectionChanged();
  room.send('hello');
  await pass(10_000);
  assert.equal(room.outbox.messages[0]?.state, 'failed');
  assert.equal(connection.sent.length, 0);
  connection.answers = [{ offset: 1, epoch: 'e', time: 5 }];
  connection.current = { kind: 'connected' };
  room.connectionChanged();
  await pass(0);
  assert.equal(room.timeline.top, 1);
});

test('messages of others are unread until they are looked at', async () => {
  const { room, connection } = await standing();
  connection.arrives(1, 'bob', 'hi');
  connection.arrives(2, 'bob', 'there');
  await pass(0);
  assert.equal(room.unread, 2);
  assert.deepEqual(seen.filter((what) => what.startsWith('arrived')), ['arrived 1', 'arrived 2']);
  room.show(true);
  assert.equal(room.newFrom, 1);
  room.markRead();
  assert.equal(room.unread, 0);
  assert.equal(room.remembered.read, 2);
});

test('a hole before a live message is filled from history', async () => {
  const { room, connection } = await standing();
  connection.arrives(1, 'bob', 'm1');
  const missed = [3, 2].map((offset) => ({ offset, data: { text: `m${offset}` }, user: 'bob', time: null, id: null, tags: {} }));
  connection.pages = [{ publications: missed, epoch: 'e', top: 4 }];
  connection.arrives(4, 'bob', 'm4');
  assert.deepEqual(room.timeline.gaps, [{ from: 2, to: 3 }]);
  await pass(1_000);
  assert.deepEqual(room.timeline.messages.map(({ offset }) => offset), [1, 2, 3, 4]);
});

test('history that cannot be had is said, and asked for again', async () => {
  const connection = new Fake();
  const room = new Room({ name: 'a', read: null, unsent: [] }, connection, events);
  connection.pages = [new CallError(100, 'internal server error', true), { publications: [], epoch: 'e', top: 0 }];
  connection.joined();
  await pass(0);
  assert.equal(room.historyProblem, 'internal server error');
  assert.equal(room.loaded, false);
  await pass(2_000);
  assert.equal(room.historyProblem, null);
  assert.equal(room.loaded, true);
});

test('a refusal is shown and can be tried again; who leaves hears nothing more', async () => {
  const { room, connection } = await standing();
  connection.subscribed?.emit('unsubscribed', { channel: 'room:a', code: 103, reason: 'permission denied' });
  assert.deepEqual(room.state, { kind: 'refused', reason: 'permission denied' });
  room.rejoin();
  assert.equal(room.state.kind, 'joining');
  connection.subscribed?.emit('join', { channel: 'room:a', info: { client: 'c9', user: 'bob' } });
  assert.deepEqual([room.moves.map(({ user, here }) => [user, here]), seen.includes('bob came')], [[['bob', true]], true]);
  room.leave();
  const before = seen.length;
  connection.arrives(9, 'bob', 'late');
  assert.equal(seen.length, before);
});
