import assert from 'node:assert/strict';
import { test } from 'node:test';
import { AUTO_RETRY_MS, BACKOFF_MAX_MS, OUTBOX_MAX, Outbox, WAIT_MS } from '../src/outbox.ts';
import { random } from './random.ts';

const TEMPORARY = { temporary: true, reason: 'owner moving' };
const FINAL = { temporary: false, reason: 'permission denied' };

test('one message at a time, in order, under its own id', () => {
  const outbox = new Outbox();
  outbox.add('a', 'first', 0, 0);
  outbox.add('b', 'second', 1, 1);
  assert.equal(outbox.due(1)?.id, 'a');
  outbox.started('a');
  assert.equal(outbox.due(1), null);
  outbox.failed('a', TEMPORARY, 10, 0.5);
  assert.equal(outbox.get('a')?.state, 'failed');
  assert.equal(outbox.due(10), null, 'the second waits for the first');
  const at = outbox.wakeAt(true);
  assert.ok(at !== null && at > 10);
  assert.equal(outbox.due(at)?.id, 'a', 'the same id again');
  outbox.started('a');
  assert.equal(outbox.get('a')?.state, 'sending');
  outbox.remove('a');
  assert.equal(outbox.due(at)?.id, 'b');
});

test('a final refusal lets the next one go and waits for a person', () => {
  const outbox = new Outbox();
  outbox.add('a', 'first', 0, 0);
  outbox.add('b', 'second', 0, 0);
  outbox.started('a');
  outbox.failed('a', FINAL, 5, 0);
  assert.equal(outbox.due(5)?.id, 'b');
  outbox.retry('a', 6);
  assert.equal(outbox.due(6)?.id, 'a');
});

test('the reconnected connection makes what failed for a time due at once', () => {
  const outbox = new Outbox();
  outbox.add('a', 'first', 0, 0);
  outbox.started('a');
  outbox.failed('a', TEMPORARY, 100, 0.9);
  assert.equal(outbox.due(101), null);
  outbox.reconnected(101);
  assert.equal(outbox.due(101)?.id, 'a');
});

test('without a connection a message is shown as failed after a while, and still goes out', () => {
  const outbox = new Outbox();
  outbox.add('a', 'first', 0, 0);
  assert.equal(outbox.wakeAt(false), WAIT_MS);
  outbox.lapse(WAIT_MS - 1);
  assert.equal(outbox.get('a')?.state, 'sending');
  outbox.lapse(WAIT_MS);
  assert.equal(outbox.get('a')?.state, 'failed');
  assert.equal(outbox.wakeAt(false), null);
  outbox.reconnected(WAIT_MS + 1);
  assert.equal(outbox.due(WAIT_MS + 1)?.id, 'a');
});

test('it is never sent by itself once the server may have forgotten its id', () => {
  for (let seed = 1; seed <= 100; seed += 1) {
    const next = random(seed);
    const outbox = new Outbox();
    outbox.add('a', 'text', 0, 0);
    let now = 0;
    for (let attempts = 0; ; attempts += 1) {
      const due = outbox.due(now);
      if (!due) break;
      assert.ok(now < AUTO_RETRY_MS + BACKOFF_MAX_MS, `seed ${seed}`);
      assert.ok(attempts < 500, `seed ${seed}`);
      outbox.started('a');
      now += Math.floor(next() * 5_000);
      outbox.failed('a', TEMPORARY, now, next());
      now = outbox.get('a')?.nextTryAt ?? now;
    }
    assert.ok(now >= AUTO_RETRY_MS, `seed ${seed}`);
    assert.equal(outbox.get('a')?.state, 'failed');
  }
});

test('what was left from before a reload is sent again under its id, unless it is too old', () => {
  const outbox = new Outbox();
  outbox.add('new', 'text', 1_000, 2_000);
  outbox.add('old', 'text', 0, AUTO_RETRY_MS);
  assert.equal(outbox.due(AUTO_RETRY_MS)?.id, 'new');
  assert.equal(outbox.get('old')?.state, 'failed');
  assert.equal(outbox.get('old')?.nextTryAt, null);
});

test('the queue is bounded', () => {
  const outbox = new Outbox();
  for (let i = 0; i < OUTBOX_MAX; i += 1) assert.equal(outbox.add(`id-${i}`, 'text', 0, 0), true);
  assert.equal(outbox.add('one more', 'text', 0, 0), false);
});
