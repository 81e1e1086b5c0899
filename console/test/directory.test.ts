import assert from 'node:assert/strict';
import { test } from 'node:test';
import { CallError, type HistoryPage } from '../src/connection.ts';
import { Directory, LISTED_MAX, RoomNames, type Announcement, type DirectoryLink, type Follower } from '../src/directory.ts';
import { DIRECTORY } from '../src/names.ts';
import type { Acknowledgement } from '../src/timeline.ts';
import { random } from './random.ts';

const at = (offset: number, room: unknown): Announcement => ({ offset, data: { room } });

test('announcements in any order and number give the same list', () => {
  for (let seed = 1; seed <= 50; seed += 1) {
    const next = random(seed);
    const all = Array.from({ length: 40 }, (_, n) => at(n + 1, `r${Math.floor(next() * 12)}`));
    const straight = new RoomNames();
    straight.add(all);
    const shuffled = new RoomNames();
    for (let n = 0; n < 120; n += 1) shuffled.add([all[Math.floor(next() * all.length)] ?? at(1, 'r0')]);
    for (const announcement of [...all].reverse()) shuffled.add([announcement]);
    assert.deepEqual(shuffled.names, straight.names, `seed ${seed}`);
    assert.deepEqual(straight.names, [...new Set(straight.names)].sort());
  }
});

test('what announces no possible room is passed over', () => {
  const list = new RoomNames();
  const junk = [null, undefined, 'lobby', 7, [], {}, { room: 7 }, { room: null }, { room: '' }, { room: 'a b' }, { room: 'a#b' }];
  assert.equal(list.add([...junk, { room: 'x'.repeat(500) }, { room: DIRECTORY }].map((data, n) => ({ offset: n + 1, data }))), false);
  assert.deepEqual(list.names, []);
  assert.equal(list.add([at(20, 'lobby')]), true);
  assert.equal(list.add([at(21, 'lobby')]), false, 'it is there already');
  assert.deepEqual(list.names, ['lobby']);
});

test('of too many rooms the last announced are listed', () => {
  const all = Array.from({ length: LISTED_MAX + 20 }, (_, n) => at(n + 1, `room-${n}`));
  for (const order of [all, [...all].reverse()]) {
    const list = new RoomNames();
    list.add(order.slice(0, LISTED_MAX));
    assert.equal(list.cut, false);
    for (const announcement of order.slice(LISTED_MAX)) list.add([announcement]);
    assert.equal(list.cut, true);
    assert.equal(list.names.length, LISTED_MAX);
    assert.equal(list.has('room-19'), false);
    assert.equal(list.has('room-20'), true);
    // Announced again, an old one is among the last.
    list.add([at(LISTED_MAX + 100, 'room-0')]);
    assert.equal(list.has('room-0'), true);
    assert.equal(list.has('room-20'), false);
  }
});

/** A stream in memory. */
class Stream {
  readonly log: Announcement[] = [];
  readonly ids = new Map<string, number>();
  followers: Follower[] = [];
  /** What the next calls fail with. */
  failures: CallError[] = [];

  tab(): DirectoryLink & { online(whole: boolean): void } {
    let follower: Follower | null = null;
    let connected = false;
    return {
      get isConnected() {
        return connected;
      },
      online: (whole) => {
        connected = true;
        follower?.followed(whole);
      },
      follow: (room, given) => {
        assert.equal(room, DIRECTORY);
        follower = given;
        this.followers.push(given);
        return () => {
          this.followers = this.followers.filter((other) => other !== given);
        };
      },
      publish: async (_room, id, data) => this.publish(id, data),
      history: async (_room, before, limit) => this.history(before?.offset ?? null, limit),
    };
  }

  publish(id: string, data: unknown): Acknowledgement {
    const failure = this.failures.shift();
    if (failure) throw failure;
    let offset = this.ids.get(id);
    if (offset === undefined) {
      offset = this.log.length + 1;
      this.ids.set(id, offset);
      const announcement = { offset, data };
      this.log.push(announcement);
      for (const follower of this.followers) follower.arrived(announcement);
    }
    return { offset, epoch: 'e', time: null };
  }

  history(before: number | null, limit: number): HistoryPage {
    const failure = this.failures.shift();
    if (failure) throw failure;
    const end = before === null ? this.log.length : before - 1;
    const page = this.log.slice(Math.max(0, end - limit), end).reverse();
    const publications = page.map(({ offset, data }) => ({ offset, data, user: '', time: null, id: null, tags: {} }));
    return { publications, epoch: 'e', top: this.log.length };
  }
}

/** Lets everything that was begun go on. */
const settle = (): Promise<void> => new Promise((resolve) => setTimeout(resolve, 0));

test('a room that one tab makes is in the list of another, and stands in the stream once', async () => {
  const stream = new Stream();
  let changes = 0;
  const [first, second] = [stream.tab(), stream.tab()];
  const [alice, bob] = [new Directory(first, () => undefined), new Directory(second, () => (changes += 1))];
  alice.announce('plans');
  await settle();
  assert.equal(stream.log.length, 0, 'nothing is said without a connection');
  first.online(false);
  second.online(false);
  await settle();
  assert.deepEqual(bob.list.names, ['plans']);
  assert.ok(changes > 0);
  bob.announce('plans');
  bob.announce('lunch');
  await settle();
  assert.deepEqual(alice.list.names, ['lunch', 'plans']);
  assert.equal(stream.log.length, 2);

  // A tab that comes later reads it.
  const third = stream.tab();
  const carol = new Directory(third, () => undefined);
  carol.announce('lunch');
  third.online(false);
  await settle();
  assert.deepEqual(carol.list.names, ['lunch', 'plans']);
  assert.equal(stream.log.length, 2);
  carol.close();
  bob.announce('after');
  await settle();
  assert.equal(carol.list.has('after'), false);
});

test('a long list is read page by page, and what was missed is read again', async () => {
  const stream = new Stream();
  for (let n = 0; n < 450; n += 1) stream.publish(`r${n}`, { room: `r${n}` });
  const tab = stream.tab();
  const directory = new Directory(tab, () => undefined);
  tab.online(false);
  await settle();
  assert.equal(directory.list.names.length, 450);
  assert.equal(directory.list.cut, false);
  const [follower] = stream.followers.splice(0);
  stream.publish('missed', { room: 'missed' });
  if (follower) stream.followers.push(follower);
  tab.online(true);
  await settle();
  assert.equal(directory.list.has('missed'), false, 'the server said that nothing was missed');
  tab.online(false);
  await settle();
  assert.equal(directory.list.has('missed'), true);
});

test('a call that fails for a time is made again, one that is refused is not', async (context) => {
  context.mock.timers.enable({ apis: ['setTimeout'] });
  const pass = async (): Promise<void> => {
    for (let n = 0; n < 20; n += 1) await Promise.resolve();
  };
  const stream = new Stream();
  const tab = stream.tab();
  const directory = new Directory(tab, () => undefined);
  stream.failures = [new CallError(100, 'internal', true), new CallError(1002, 'owner moving', true)];
  directory.announce('plans');
  tab.online(false);
  await pass();
  assert.equal(stream.log.length, 0);
  for (let n = 0; n < 3; n += 1) {
    context.mock.timers.tick(60_000);
    await pass();
  }
  assert.deepEqual(directory.list.names, ['plans']);
  stream.failures = [new CallError(103, 'permission denied', false)];
  directory.announce('secret');
  directory.announce('more');
  await pass();
  assert.deepEqual(directory.list.names, ['more', 'plans']);
  directory.close();
});
