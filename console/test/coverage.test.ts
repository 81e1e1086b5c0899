import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Coverage } from '../src/coverage.ts';
import { random } from './random.ts';

test('ranges agree with a plain set of offsets, whatever is added and dropped', () => {
  for (let seed = 1; seed <= 300; seed += 1) {
    const next = random(seed);
    const coverage = new Coverage();
    const model = new Set<number>();
    for (let step = 0; step < 40; step += 1) {
      const from = 1 + Math.floor(next() * 60);
      if (next() < 0.12) {
        coverage.dropBelow(from);
        for (const offset of model) if (offset < from) model.delete(offset);
      } else {
        const to = from + Math.floor(next() * 8) - 1;
        coverage.add(from, to);
        for (let offset = from; offset <= to; offset += 1) model.add(offset);
      }
      const top = 70;
      const known = [...model];
      const lowest = Math.min(...known);
      assert.equal(coverage.first, known.length === 0 ? null : lowest, `seed ${seed}`);
      assert.equal(coverage.last, known.length === 0 ? null : Math.max(...known), `seed ${seed}`);
      for (let offset = 0; offset <= top; offset += 1) assert.equal(coverage.has(offset), model.has(offset), `seed ${seed}`);
      const missing = coverage.gaps(top).flatMap(({ from: a, to: b }) => Array.from({ length: b - a + 1 }, (_, i) => a + i));
      const expected = Array.from({ length: top + 1 }, (_, offset) => offset).filter((o) => o > lowest && !model.has(o));
      assert.deepEqual(missing, known.length === 0 ? [] : expected, `seed ${seed}`);
      // Neighbours are merged: between two ranges at least one offset is missing.
      coverage.ranges.forEach((range, i) => {
        const after = coverage.ranges[i + 1];
        if (after) assert.ok(after.from > range.to + 1, `seed ${seed}`);
      });
    }
  }
});
