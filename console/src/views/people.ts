//! Who is in the open room.

import type { Session } from '../app.ts';
import { h, setAttributes, setChildren, setText } from '../dom.ts';
import { timeOfDay } from '../format.ts';
import { hueOf, initialsOf } from '../names.ts';
import type { Move } from '../room.ts';

/** How many people are listed by name. */
const LISTED_MAX = 500;

/** The list of people. */
export class PeopleView {
  readonly element: HTMLElement;
  #session: Session;
  #heading: HTMLElement;
  #list: HTMLElement;
  #more: HTMLElement;
  #moves: HTMLElement;
  #shownMoves: readonly Move[] = [];
  #rows = new Map<string, { element: HTMLElement; note: HTMLElement }>();

  constructor(session: Session) {
    this.#session = session;
    this.#heading = h('h2', {}, 'People');
    this.#list = h('ul', { class: 'people' });
    this.#more = h('p', { class: 'hint' });
    this.#moves = h('ul', { class: 'moves', 'data-testid': 'moves' });
    this.element = h(
      'aside',
      { class: 'people-panel', id: 'people', 'aria-label': 'People in this room', 'data-testid': 'presence' },
      this.#heading,
      this.#list,
      this.#more,
      this.#moves,
    );
  }

  render(): void {
    const me = this.#session.connection.identity.user;
    const { people, moves } = this.#session.open;
    const everybody = people.list(me);
    const listed = everybody.slice(0, LISTED_MAX);
    setText(this.#heading, `People · ${people.count.toLocaleString()}`);
    setAttributes(this.element, { 'data-count': people.count });
    const users = new Set(listed.map((person) => person.user));
    for (const user of this.#rows.keys()) if (!users.has(user)) this.#rows.delete(user);
    setChildren(
      this.#list,
      listed.map(({ user, connections }) => {
        const row = this.#rows.get(user) ?? this.#row(user);
        const notes = [user === me ? 'you' : '', connections > 1 ? `${connections} tabs` : ''];
        setText(row.note, notes.filter((note) => note !== '').join(', '));
        return row.element;
      }),
    );
    const more = people.count - listed.length;
    setText(this.#more, more > 0 ? `and ${more.toLocaleString()} more` : '');
    if (moves === this.#shownMoves) return;
    this.#shownMoves = moves;
    setChildren(
      this.#moves,
      moves.map(({ user, here, time }) =>
        h('li', {}, h('bdi', {}, user || 'somebody'), here ? ' came' : ' left', h('time', {}, timeOfDay(time))),
      ),
    );
  }

  #row(user: string): { element: HTMLElement; note: HTMLElement } {
    const note = h('span', { class: 'note' });
    const element = h(
      'li',
      { 'data-testid': 'person', 'data-user': user },
      avatar(user),
      h('bdi', { class: 'person-name' }, user || 'anonymous'),
      note,
    );
    const row = { element, note };
    this.#rows.set(user, row);
    return row;
  }
}

/** A round mark in a person's colour. */
export function avatar(user: string): HTMLElement {
  const mark = h('span', { class: 'avatar', 'aria-hidden': 'true' }, initialsOf(user));
  mark.style.setProperty('--hue', String(hueOf(user)));
  return mark;
}
