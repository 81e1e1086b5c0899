import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Timeline, type Publication } from '../src/timeline.ts';
import { random } from './random.ts';

const ME = 'alice';

function publication(offset: number, user = 'bob', id: string | null = null): Publication {
  return { offset, data: { text: `message ${offset}` }, user, time: offset * 1_000, id, tags: id === null ? {} : { id } };
}

/** What a server answers to a reverse history call. */
function historyBefore(stream: readonly Publication[], before: number | null, limit: number): Publication[] {
  return stream
    .filter((message) => before === null || message.offset < before)
    .reverse()
    .slice(0, limit);
}

const offsets = (timeline: Timeline): number[] => timeline.messages.map((message) => message.offset);

test('pages, live messages and acknowledgements in any order end as the stream, once each', () => {
  for (let seed = 1; seed <= 400; seed += 1) {
    const next = random(seed);
    const length = 20 + Math.floor(next() * 60);
    const stream = Array.from({ length }, (_, i) => {
      const mine = next() < 0.3;
      return publication(i + 1, mine ? ME : 'bob', mine ? `id-${i + 1}` : null);
    });
    const timeline = new Timeline(ME);
    timeline.position('e', Math.floor(next() * length));
    for (let step = 0; step < 60; step += 1) {
      const at = stream[Math.floor(next() * length)];
      assert.ok(at);
      const kind = next();
      if (kind < 0.4) timeline.publish(at);
      else if (kind < 0.6 && at.id !== null) timeline.acknowledge(at.id, at.data, { offset: at.offset, epoch: 'e', time: at.time });
      else if (kind < 0.8) {
        const top = Math.max(timeline.top, at.offset);
        timeline.page(null, historyBefore(stream.slice(0, top), null, 7), 'e', top);
      } else if (timeline.first !== null) timeline.page(timeline.first, historyBefore(stream, timeline.first, 5), 'e', length);
      const seen = offsets(timeline);
      assert.deepEqual(seen, [...new Set(seen)].sort((a, b) => a - b), `seed ${seed}: ordered, no duplicates`);
      const keys = timeline.items().map((item) => item.key);
      assert.equal(new Set(keys).size, keys.length, `seed ${seed}: one row each`);
      // What is not shown above the oldest row is named as missing.
      const missing = timeline.gaps.flatMap(({ from, to }) => Array.from({ length: to - from + 1 }, (_, i) => from + i));
      const first = timeline.first;
      if (first !== null) {
        const all = Array.from({ length: timeline.top - first + 1 }, (_, i) => first + i);
        assert.deepEqual([...seen, ...missing].sort((a, b) => a - b), all, `seed ${seed}: nothing is skipped in silence`);
      }
    }
    // The caller's loop: gaps newest first, then older pages.
    for (let guard = 0; timeline.first === null || timeline.gaps.length > 0 || !timeline.complete; guard += 1) {
      assert.ok(guard < 300, `seed ${seed}: ends`);
      const gap = timeline.gaps.at(-1);
      const before = gap ? (gap.to >= timeline.top ? null : gap.to + 1) : timeline.first;
      timeline.page(before, historyBefore(stream, before, 9), 'e', length);
    }
    const from = timeline.first ?? 0;
    assert.deepEqual(offsets(timeline), stream.filter((m) => m.offset >= from).map((m) => m.offset), `seed ${seed}`);
    assert.equal(from, 1, `seed ${seed}`);
    assert.equal(timeline.top, length, `seed ${seed}`);
  }
});

test('an acknowledged message keeps its row when its echo comes, and the echo is not shown again', () => {
  const timeline = new Timeline(ME);
  timeline.position('e', 4);
  timeline.page(null, [publication(4), publication(3)], 'e', 4);
  timeline.acknowledge('x', { text: 'hello' }, { offset: 5, epoch: 'e', time: 5_000 });
  const before = timeline.items().at(-1);
  const { added, echo } = timeline.publish(publication(5, ME, 'x'));
  assert.deepEqual({ added, echo }, { added: false, echo: 'x' });
  assert.equal(timeline.items().at(-1)?.key, before?.key);
  assert.deepEqual(offsets(timeline), [3, 4, 5]);
});

test('an echo that comes before the acknowledgement answers the outgoing message', () => {
  const timeline = new Timeline(ME);
  timeline.position('e', 0);
  assert.equal(timeline.publish(publication(1, ME, 'x')).echo, 'x');
  timeline.own(1, 'x');
  timeline.acknowledge('x', { text: 'other' }, { offset: 1, epoch: 'e', time: 1 });
  assert.deepEqual(timeline.messages, [publication(1, ME, 'x')]);
  assert.deepEqual(timeline.items().map((item) => item.key), ['id:x']);
});

test('the same id of somebody else is no echo', () => {
  const timeline = new Timeline(ME);
  assert.equal(timeline.publish(publication(1, 'mallory', 'x')).echo, null);
});

test('an echo found in a page of history is reported', () => {
  const timeline = new Timeline(ME);
  assert.deepEqual(timeline.page(null, [publication(2, ME, 'x'), publication(1)], 'e', 2), ['x']);
});

test('a recovery that was refused leaves a gap up to the new top, filled from its end', () => {
  const timeline = new Timeline(ME);
  timeline.page(null, [publication(2), publication(1)], 'e', 2);
  timeline.position('e', 10);
  assert.deepEqual(timeline.gaps, [{ from: 3, to: 10 }]);
  assert.equal(timeline.foldLongGaps(), false);
  timeline.page(null, [10, 9, 8, 7].map((offset) => publication(offset)), 'e', 10);
  assert.deepEqual(timeline.gaps, [{ from: 3, to: 6 }]);
  assert.deepEqual(
    timeline.items().map((item) => item.key),
    ['offset:1', 'offset:2', 'gap:3', 'offset:7', 'offset:8', 'offset:9', 'offset:10'],
  );
  timeline.page(7, [6, 5, 4, 3].map((offset) => publication(offset)), 'e', 10);
  assert.deepEqual(timeline.gaps, []);
  assert.equal(timeline.messages.length, 10);
});

test('what lies behind a very long gap becomes older history, and is still reachable', () => {
  const timeline = new Timeline(ME);
  timeline.page(null, [publication(2), publication(1)], 'e', 2);
  timeline.position('e', 50_000);
  timeline.publish(publication(50_001));
  assert.equal(timeline.foldLongGaps(), true);
  assert.deepEqual(offsets(timeline), [50_001]);
  assert.equal(timeline.complete, false);
  timeline.page(50_001, [publication(50_000), publication(49_999)], 'e', 50_001);
  assert.deepEqual(offsets(timeline), [49_999, 50_000, 50_001]);
});

test('a gap that the server no longer keeps is shown as lost, not fetched for ever', () => {
  const timeline = new Timeline(ME);
  timeline.page(null, [publication(2), publication(1)], 'e', 2);
  timeline.page(null, [publication(9), publication(8)], 'e', 9);
  timeline.nothingBefore(8);
  assert.deepEqual(timeline.gaps, []);
  assert.deepEqual(timeline.items()[2], { kind: 'gap', key: 'gap:3', range: { from: 3, to: 7 }, lost: true });
});

test('a trimmed start ends the history', () => {
  const timeline = new Timeline(ME);
  timeline.page(null, [publication(9), publication(8)], 'e', 9);
  assert.equal(timeline.complete, false);
  timeline.page(8, [], 'e', 9);
  assert.equal(timeline.complete, true);
  assert.deepEqual(timeline.items().map((item) => item.kind), ['message', 'message']);
});

test('a room whose messages are all gone is complete at its top', () => {
  const timeline = new Timeline(ME);
  timeline.page(null, [], 'e', 12);
  assert.equal(timeline.complete, true);
  assert.deepEqual(timeline.gaps, []);
  timeline.publish(publication(13));
  assert.deepEqual(timeline.gaps, []);
});

test('a new epoch is a new stream', () => {
  const timeline = new Timeline(ME);
  timeline.page(null, [publication(2), publication(1)], 'e', 2);
  assert.equal(timeline.position('f', 1), true);
  assert.deepEqual(offsets(timeline), []);
  assert.equal(timeline.top, 1);
  timeline.acknowledge('x', {}, { offset: 9, epoch: 'e', time: null });
  assert.deepEqual(offsets(timeline), []);
});

test('memory stays bounded and what was dropped can be fetched again', () => {
  const timeline = new Timeline(ME);
  for (let offset = 1; offset <= 30; offset += 1) timeline.publish(publication(offset));
  assert.equal(timeline.cut(40, 10), false);
  assert.equal(timeline.cut(20, 10), true);
  assert.equal(timeline.first, 21);
  assert.equal(timeline.complete, false);
  assert.deepEqual(timeline.gaps, []);
  timeline.page(21, [publication(20)], 'e', 30);
  assert.equal(timeline.first, 20);
});

test('an id that the server forgot and took again names one row only', () => {
  const timeline = new Timeline(ME);
  timeline.own(1, 'x');
  timeline.publish(publication(1, ME, 'x'));
  timeline.own(2, 'x');
  timeline.publish(publication(2, ME, 'x'));
  assert.deepEqual(timeline.items().map((item) => item.key), ['id:x', 'offset:2']);
});
