import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { test } from 'node:test';

const sources = readdirSync('src', { recursive: true, encoding: 'utf8' }).filter((name) => name.endsWith('.ts'));

test('no source reaches around the type checker or writes markup', () => {
  assert.ok(sources.length > 20);
  for (const name of sources) {
    const text = readFileSync(join('src', name), 'utf8');
    assert.doesNotMatch(text, /(:|<|\bas|\|)\s*any\b|@ts-|\bas unknown as\b/, name);
    assert.doesNotMatch(text, /innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\(|new Function/, name);
    assert.doesNotMatch(text, /setAttribute\(\s*'style'|style: '/, `${name}: styles come from style sheets`);
  }
});

test('nothing is fetched from another origin', () => {
  const styles = readdirSync('src/style').map((name) => join('style', name));
  for (const name of [...sources, ...styles]) {
    const text = readFileSync(join('src', name), 'utf8').replaceAll('http://www.w3.org/2000/svg', '');
    assert.doesNotMatch(text, /https?:\/\//, name);
  }
});
