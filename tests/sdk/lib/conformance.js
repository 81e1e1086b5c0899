// What the suites proved, written down for the conformance table (tests/conformance/README.md).

import { mkdirSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { test } from 'node:test';
import { target } from './server.js';

const results = [];
// `sdk-connect` for tests/sdk/suites/connect.test.js.
const file = path.resolve(process.argv[1]);
const suite = `${path.basename(path.resolve(file, '../..'))}-${path.basename(file, '.test.js')}`;

/**
 * A test that shows these features of tests/conformance/features.json when it passes: on one
 * combination, or on each of several.
 */
export function proves(combinations, features, name, body) {
  return test(name, async (context) => {
    const note = (passed) => {
      for (const { id } of [combinations].flat()) {
        for (const feature of features) results.push({ feature, on: id, test: `${suite}: ${name}`, passed });
      }
    };
    try {
      await body(context);
    } catch (error) {
      note(false);
      throw error;
    }
    note(true);
  });
}

// Those of an earlier run are gone, also when this one ends early.
process.on('exit', () => {
  const folder = path.join(target, 'conformance');
  mkdirSync(folder, { recursive: true });
  writeFileSync(path.join(folder, `${suite}.json`), `${JSON.stringify(results, null, 1)}\n`);
});
