import assert from 'node:assert/strict';
import { test } from 'node:test';
import { People } from '../src/people.ts';

const connection = (client: string, user = client): { client: string; user: string } => ({ client, user });

test('joins and leaves that overtake the presence answer are not undone by it', () => {
  const people = new People();
  people.asked();
  people.joined(connection('c3', 'carol'));
  people.left(connection('c2', 'bob'));
  people.answered([connection('c1', 'alice'), connection('c2', 'bob')], null);
  assert.deepEqual(people.list('alice').map((person) => person.user), ['alice', 'carol']);
});

test('a person with two tabs comes once and goes once', () => {
  const people = new People();
  people.answered([], null);
  assert.equal(people.joined(connection('c1', 'bob')), true);
  assert.equal(people.joined(connection('c2', 'bob')), false);
  assert.deepEqual(people.list('alice'), [{ user: 'bob', connections: 2 }]);
  assert.equal(people.left(connection('c1', 'bob')), false);
  assert.equal(people.left(connection('c2', 'bob')), true);
  assert.equal(people.left(connection('c2', 'bob')), false, 'a leave that is told twice');
});

test('oneself stands first, the others by name', () => {
  const people = new People();
  people.answered([connection('1', 'carol'), connection('2', 'me'), connection('3', 'bob')], null);
  assert.deepEqual(people.list('me').map((person) => person.user), ['me', 'bob', 'carol']);
});

test('a room larger than the answer shows the exact number', () => {
  const people = new People();
  people.answered([connection('1', 'a'), connection('2', 'b')], { connections: 5_000, people: 4_000 });
  assert.equal(people.count, 4_000);
  people.left(connection('2', 'b'));
  assert.equal(people.count, 3_999);
  people.answered([connection('1', 'a')], { connections: 1, people: 1 });
  assert.equal(people.count, 1);
});
