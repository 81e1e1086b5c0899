import assert from 'node:assert/strict';
import { test } from 'node:test';
import { oneLine, show } from '../src/payload.ts';
import { hueOf, initialsOf, roomOfFragment } from '../src/names.ts';
import { curlExample, sdkExample } from '../src/views/sdkPanel.ts';

test('every shape is shown as something', () => {
  assert.deepEqual(show({ text: 'hello' }), { kind: 'text', text: 'hello' });
  assert.deepEqual(show('plain'), { kind: 'text', text: 'plain' });
  assert.deepEqual(show(42), { kind: 'value', text: '42' });
  assert.deepEqual(show(false), { kind: 'value', text: 'false' });
  assert.deepEqual(show(null), { kind: 'value', text: 'null' });
  assert.deepEqual(show(undefined), { kind: 'nothing' });
  assert.equal(show([1, 'two', { three: 3 }]).kind, 'json');
  assert.equal(show({}).kind, 'json');
  assert.equal(show({ text: 5 }).kind, 'json', 'a text that is none');
  assert.equal(show({ text: 'a', more: 1 }).kind, 'json', 'other fields are not hidden');
  assert.equal(show({ text: '<img src=x onerror=alert(1)>' }).kind, 'text');
});

test('binary data is shown as text where it is text, else in hexadecimal', () => {
  assert.deepEqual(show({ b64: 'aGVsbG8=' }), { kind: 'binary', bytes: 5, hex: '68 65 6c 6c 6f', text: 'hello' });
  assert.deepEqual(show({ b64: '/wA=' }), { kind: 'binary', bytes: 2, hex: 'ff 00', text: null });
  assert.deepEqual(show({ b64: '' }), { kind: 'binary', bytes: 0, hex: '', text: null });
  assert.equal(show({ b64: 'not base64!' }).kind, 'json');
  assert.equal(show({ b64: 7 }).kind, 'json');
});

test('data too deep for the serializer does not throw', () => {
  let deep: unknown = 1;
  for (let i = 0; i < 200_000; i += 1) deep = [deep];
  assert.equal(show(deep).kind, 'json');
  assert.ok(oneLine(deep).length > 0);
});

test('indentation does not blow deep data up', () => {
  let deep: unknown = 1;
  for (let i = 0; i < 2_000; i += 1) deep = [deep];
  const shown = show(deep);
  assert.ok(shown.kind === 'json' && shown.text.length < 5_000);
  const flat = show(Array.from({ length: 100 }, (_, i) => i));
  assert.ok(flat.kind === 'json' && flat.text.includes('\n'));
});

test('announcements are one line', () => {
  assert.equal(oneLine({ text: ' a\n b ' }), 'a b');
  assert.equal(oneLine('x'.repeat(500)).length, 201);
  assert.equal(oneLine(undefined), 'an empty message');
});

test('rooms of links', () => {
  assert.equal(roomOfFragment('#team%2Fone'), 'team/one');
  assert.equal(roomOfFragment('#%'), null);
  assert.equal(roomOfFragment(''), null);
});

test('marks of people', () => {
  assert.equal(initialsOf('ada lovelace'), 'AL');
  assert.equal(initialsOf(''), '?');
  assert.equal(initialsOf('😀x'), '😀');
  assert.equal(hueOf('alice'), hueOf('alice'));
  assert.ok(hueOf('bob') >= 0 && hueOf('bob') < 360);
});

test('the example carries any room name as one string', () => {
  const code = sdkExample('ws://127.0.0.1:8080/connection/websocket', 'tok', '"; alert(1) //');
  assert.ok(code.includes(String.raw`"room:\"; alert(1) //"`));
  assert.equal(code.trimEnd().split('\n').length, 10);
});

test('the command carries any room name as one word', () => {
  const command = curlExample('wss://example.test/connection/websocket', 'tok', "it's");
  assert.equal(
    command,
    String.raw`curl -N 'https://example.test/connection/uni_sse' --json '{"token":"tok","subs":{"room:it'\''s":{}}}'` + '\n',
  );
});
