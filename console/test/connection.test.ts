import assert from 'node:assert/strict';
import { test } from 'node:test';
import { Centrifuge } from 'centrifuge';
import { callError, keepPublicationTime, publicationOf } from '../src/connection.ts';

test('the pinned SDK hands on the time of a publication once it is asked to', () => {
  const client: object = new Centrifuge('ws://127.0.0.1:1/');
  keepPublicationTime(client);
  assert.ok('_getPublicationContext' in client && typeof client._getPublicationContext === 'function');
  const context = client._getPublicationContext('room:a', {
    data: { text: 'x' },
    offset: 7,
    time: 1_700_000_000_000,
    info: { user: 'bob', client: 'c' },
    tags: { id: 'm1' },
  });
  assert.deepEqual(publicationOf(context), {
    offset: 7,
    data: { text: 'x' },
    user: 'bob',
    time: 1_700_000_000_000,
    id: 'm1',
    tags: { id: 'm1' },
  });
});

test('a publication may carry nothing but its offset', () => {
  assert.deepEqual(publicationOf({ channel: 'room:a', data: null, offset: 1 }), {
    offset: 1,
    data: null,
    user: '',
    time: null,
    id: null,
    tags: {},
  });
  assert.equal(publicationOf({ channel: 'room:a', data: 1 }), null);
});

test('failures say whether the same call may be made again', () => {
  for (const [error, temporary] of [
    [{ code: 1, message: 'timeout' }, true],
    [{ code: 11, message: 'connection closed' }, true],
    [{ code: 1003, message: 'outcome unknown', temporary: true }, true],
    [{ code: 1001, message: 'storage full' }, true],
    [{ code: 103, message: 'permission denied' }, false],
    [{ code: 107, message: 'bad request' }, false],
    [new Error('socket'), true],
    [undefined, true],
  ] as const) {
    assert.equal(callError(error).temporary, temporary, JSON.stringify(error));
    assert.notEqual(callError(error).message, '');
  }
});
