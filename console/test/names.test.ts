import assert from 'node:assert/strict';
import { test } from 'node:test';
import { DIRECTORY, ROOM_NAME_MAX, channelOf, personNameProblem, roomNameProblem, roomOfFragment } from '../src/names.ts';

/** The server's grammar, as `core/model/src/channel.rs` has it: 1 to 255 bytes from 0x21 to 0x7e, no
 * `$` in front and no `#` anywhere, which it keeps for channels of certain users. */
function serverTakes(channel: string): boolean {
  const bytes = new TextEncoder().encode(channel);
  const printable = bytes.every((byte) => byte >= 0x21 && byte <= 0x7e);
  return bytes.length >= 1 && bytes.length <= 255 && printable && !channel.startsWith('$') && !channel.includes('#');
}

test('what the console takes, the server takes, and almost the other way round', () => {
  const ends = ['', 'a', 'x'.repeat(ROOM_NAME_MAX), 'x'.repeat(ROOM_NAME_MAX + 1), 'x'.repeat(250), 'x'.repeat(251)];
  const bytes = Array.from({ length: 256 }, (_, code) => String.fromCharCode(code));
  const around = bytes.flatMap((character) => [character, `a${character}b`, `${character}a`, `a${character}`]);
  for (const name of [...ends, ...around, 'a:b', '$a', 'ä', '😀', ' a', 'a#1,2']) {
    const taken = roomNameProblem(name) === null;
    assert.ok(!taken || serverTakes(channelOf(name)), `the server refuses ${JSON.stringify(name)}`);
    const ours = name === '' || name.length > ROOM_NAME_MAX || name === DIRECTORY;
    assert.equal(taken, serverTakes(channelOf(name)) && !ours, JSON.stringify(name));
  }
});

test('a refusal says why', () => {
  for (const [name, words] of [
    ['', 'Type a name'],
    ['a b', 'no spaces'],
    ['tab\t', 'no spaces'],
    ['a#b', 'no #'],
    ['é', 'ASCII'],
    ['\u007f', 'ASCII'],
    ['x'.repeat(ROOM_NAME_MAX + 1), `${ROOM_NAME_MAX} characters`],
    [DIRECTORY, 'list of rooms'],
  ] as const) {
    assert.ok(roomNameProblem(name)?.includes(words), `${JSON.stringify(name)}: ${roomNameProblem(name)}`);
  }
  assert.ok(personNameProblem('')?.includes('Type'));
  assert.equal(personNameProblem('Ada Lovelace'), null);
  assert.ok(personNameProblem('x'.repeat(65))?.includes('64'));
});

test('a link to what is no room leads nowhere', () => {
  assert.equal(roomOfFragment('#lobby'), 'lobby');
  for (const fragment of ['#a%23b', `#${DIRECTORY}`, '#a%20b']) assert.equal(roomOfFragment(fragment), null, fragment);
});
