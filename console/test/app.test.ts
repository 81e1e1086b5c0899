import assert from 'node:assert/strict';
import { after, before, beforeEach, test } from 'node:test';
import { App, DEFAULT_ROOM, ROOMS_MAX, Session } from '../src/app.ts';
import { loadOpen, loadRooms, saveOpen, saveRooms } from '../src/remembered.ts';

/** The little of a browser that the state of the console touches. */
class Store {
  #values = new Map<string, string>();
  getItem(key: string): string | null {
    return this.#values.get(key) ?? null;
  }
  setItem(key: string, value: string): void {
    this.#values.set(key, value);
  }
  removeItem(key: string): void {
    this.#values.delete(key);
  }
}

/** A socket that never opens. */
class Silent {
  close(): void {
    return;
  }
}

const address = { protocol: 'http:', host: '127.0.0.1:1', hash: '' };
let shown = '';
let sessions: Session[] = [];

before(() => {
  const globals = {
    location: address,
    history: { replaceState: (_state: unknown, _title: string, url: string) => (shown = url) },
    requestAnimationFrame: (run: () => void) => queueMicrotask(run),
    WebSocket: Silent,
  };
  for (const [name, value] of Object.entries(globals)) Object.defineProperty(globalThis, name, { value, configurable: true, writable: true });
});

beforeEach(() => {
  shown = '';
  for (const name of ['sessionStorage', 'localStorage']) Object.defineProperty(globalThis, name, { value: new Store(), configurable: true });
});

after(() => {
  for (const session of sessions) session.close();
});

function start(app = new App()): Session {
  const session = new Session({ name: 'alice', user: 'alice', instance: 'demo', token: 't' }, app);
  sessions = [...sessions, session];
  return session;
}

const names = (session: Session): string[] => session.rooms.map(({ name }) => name);

test('a new person starts in the default room', () => {
  const session = start();
  assert.deepEqual(names(session), [DEFAULT_ROOM]);
  assert.equal(session.open.name, DEFAULT_ROOM);
});

test('a room is joined once, shown, and remembered', () => {
  const session = start();
  assert.equal(session.join('plans'), null);
  assert.equal(session.join(DEFAULT_ROOM), null);
  assert.equal(session.join('plans'), null);
  assert.deepEqual(names(session), [DEFAULT_ROOM, 'plans']);
  assert.equal(session.open.name, 'plans');
  assert.equal(shown, '#plans');
  assert.equal(loadOpen(), 'plans');
  assert.deepEqual(loadRooms().map(({ name }) => name), [DEFAULT_ROOM, 'plans']);
  assert.ok(session.join('a#b')?.includes('no #'));
  assert.equal(session.open.name, 'plans');
});

test('a reload brings the rooms back, except those that no longer can be', () => {
  saveRooms(['plans', 'a b', 'a#b', 'lunch'].map((name) => ({ name, read: 3, unsent: [] })));
  saveOpen('lunch');
  const session = start();
  assert.deepEqual(names(session), ['plans', 'lunch']);
  assert.equal(session.open.name, 'lunch');
});

test('rooms of others are those that are listed and not one’s own', () => {
  const session = start();
  session.directory.list.add(['plans', DEFAULT_ROOM, 'lunch'].map((room, n) => ({ offset: n + 1, data: { room } })));
  assert.deepEqual(session.others, ['lunch', 'plans']);
  session.join('plans');
  assert.deepEqual(session.others, ['lunch']);
  const [, plans] = session.rooms;
  assert.ok(plans);
  session.leave(plans);
  assert.deepEqual(session.others, ['lunch', 'plans'], 'it can be joined again');
});

test('leaving shows a neighbour, and the last room stays', () => {
  const session = start();
  for (const name of ['b', 'c']) session.join(name);
  const leave = (name: string): void => {
    const room = session.rooms.find((candidate) => candidate.name === name);
    assert.ok(room);
    session.leave(room);
  };
  leave('c');
  assert.equal(session.open.name, 'b');
  leave(DEFAULT_ROOM);
  leave('b');
  assert.deepEqual(names(session), ['b']);
});

test('the rooms of a tab are bounded', () => {
  saveRooms(Array.from({ length: ROOMS_MAX + 5 }, (_, n) => ({ name: `r${n}`, read: null, unsent: [] })));
  const session = start();
  assert.equal(session.rooms.length, ROOMS_MAX);
  assert.ok(session.join('one-more')?.includes(`${ROOMS_MAX} rooms`));
  assert.equal(session.join('r1'), null, 'its own can still be shown');
});

test('listeners hear of many changes once', async () => {
  const app = new App();
  let heard = 0;
  app.onChange(() => (heard += 1));
  for (let n = 0; n < 10; n += 1) app.changed();
  await new Promise((resolve) => setTimeout(resolve, 0));
  assert.equal(heard, 1);
  app.setTheme('dark');
  await new Promise((resolve) => setTimeout(resolve, 0));
  assert.equal(heard, 2);
  assert.equal(new App().theme, 'dark');
});
