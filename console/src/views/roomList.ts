//! The rooms of this tab, those that others have made, and the field that joins another.

import type { App, Session } from '../app.ts';
import { LISTED_MAX } from '../directory.ts';
import { h, iconButton, icon, setAttributes, setChildren, setText } from '../dom.ts';
import { count } from '../format.ts';
import { ROOM_NAME_MAX } from '../names.ts';
import type { Room } from '../room.ts';

interface Row {
  readonly element: HTMLElement;
  readonly button: HTMLButtonElement;
  readonly badge: HTMLElement;
  readonly leave: HTMLButtonElement;
}

/** The list of rooms. */
export class RoomListView {
  readonly element: HTMLElement;
  #app: App;
  #session: Session;
  #opened: () => void;
  #list: HTMLElement;
  #input: HTMLInputElement;
  #problem: HTMLElement;
  #rows = new Map<Room, Row>();
  #others: HTMLElement;
  #otherList: HTMLElement;
  #otherRows = new Map<string, { element: HTMLElement; button: HTMLButtonElement }>();
  #cut: HTMLElement;

  /** `opened` is called after a room was chosen. */
  constructor(app: App, session: Session, opened: () => void) {
    this.#app = app;
    this.#session = session;
    this.#opened = opened;
    this.#list = h('ul', { class: 'rooms', 'data-testid': 'room-list', onkeydown: (event) => this.#key(event) });
    this.#input = h('input', {
      id: 'new-room',
      'data-testid': 'new-room-input',
      type: 'text',
      autocomplete: 'off',
      autocapitalize: 'off',
      spellcheck: 'false',
      maxlength: ROOM_NAME_MAX,
      placeholder: 'Join or create a room',
      'aria-label': 'Name of a room to join or create',
      'aria-describedby': 'new-room-problem',
      oninput: () => this.#show(null),
    });
    this.#problem = h('p', { id: 'new-room-problem', class: 'problem', role: 'alert', 'data-testid': 'new-room-problem' });
    this.#otherList = h('ul', {
      class: 'rooms',
      'data-testid': 'other-rooms',
      'aria-labelledby': 'other-rooms-title',
      onkeydown: (event) => this.#otherKey(event),
    });
    this.#cut = h('p', { class: 'hint' }, `Only the ${LISTED_MAX} rooms that were announced last are listed; any other can be joined by its name.`);
    this.#others = h('section', { class: 'other-rooms' }, h('h2', { id: 'other-rooms-title' }, 'Rooms of others'), this.#otherList, this.#cut);
    this.element = h(
      'nav',
      { class: 'room-panel', 'aria-label': 'Rooms' },
      h('h2', {}, 'Rooms'),
      this.#list,
      this.#others,
      h(
        'form',
        { class: 'new-room', onsubmit: (event) => this.#join(event) },
        this.#input,
        h('button', { type: 'submit', class: 'icon-button', 'aria-label': 'Join', title: 'Join', 'data-testid': 'join-room' }, icon('plus')),
      ),
      this.#problem,
    );
  }

  /** Puts the focus on the open room. */
  focus(): void {
    this.#rows.get(this.#session.open)?.button.focus();
  }

  render(): void {
    const { rooms, open } = this.#session;
    for (const room of this.#rows.keys()) if (!rooms.includes(room)) this.#rows.delete(room);
    setChildren(
      this.#list,
      rooms.map((room) => {
        const row = this.#rows.get(room) ?? this.#row(room);
        const unread = room === open && document.visibilityState === 'visible' ? 0 : room.unread;
        const refused = room.state.kind === 'refused';
        setAttributes(row.button, {
          'aria-current': room === open ? 'true' : null,
          'aria-label': unread > 0 ? `${room.name}, ${count(unread, 'unread message')}` : room.name,
          'data-unread': unread,
          'data-refused': refused,
          tabindex: room === open ? 0 : -1,
        });
        setText(row.badge, refused ? '!' : unread === 0 ? '' : unread > 999 ? '999+' : String(unread));
        setAttributes(row.leave, { hidden: rooms.length === 1 });
        return row.element;
      }),
    );
    this.#renderOthers();
  }

  #renderOthers(): void {
    const { others, directory } = this.#session;
    const names = new Set(others);
    for (const name of this.#otherRows.keys()) if (!names.has(name)) this.#otherRows.delete(name);
    setChildren(
      this.#otherList,
      others.map((name, n) => {
        const row = this.#otherRows.get(name) ?? this.#otherRow(name);
        // One stop of the Tab key; the arrows go on from there.
        setAttributes(row.button, { tabindex: n === 0 ? 0 : -1 });
        return row.element;
      }),
    );
    setAttributes(this.#others, { hidden: others.length === 0 });
    setAttributes(this.#cut, { hidden: !directory.list.cut });
  }

  #otherRow(name: string): { element: HTMLElement; button: HTMLButtonElement } {
    const button = h(
      'button',
      {
        type: 'button',
        class: 'room',
        'data-testid': `other-room-${name}`,
        'data-unread': 0,
        'aria-label': `Join ${name}`,
        onclick: () => {
          if (this.#session.join(name) === null) this.#opened();
        },
      },
      h('span', { class: 'hash', 'aria-hidden': 'true' }, '#'),
      h('span', { class: 'room-name' }, name),
    );
    const row = { element: h('li', {}, button), button };
    this.#otherRows.set(name, row);
    return row;
  }

  #otherKey(event: Event): void {
    if (!(event instanceof KeyboardEvent)) return;
    const { others } = this.#session;
    const at = others.findIndex((name) => this.#otherRows.get(name)?.button === document.activeElement);
    const last = others.length - 1;
    const target = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: last }[event.key];
    if (at < 0 || target === undefined) return;
    event.preventDefault();
    const name = others[Math.max(0, Math.min(last, target))];
    if (name !== undefined) this.#otherRows.get(name)?.button.focus();
  }

  #row(room: Room): Row {
    const badge = h('span', { class: 'badge', 'data-testid': `unread-${room.name}`, 'aria-hidden': 'true' });
    const button = h(
      'button',
      {
        type: 'button',
        class: 'room',
        'data-testid': `room-${room.name}`,
        'aria-keyshortcuts': 'Delete',
        onclick: () => this.#select(room),
      },
      h('span', { class: 'hash', 'aria-hidden': 'true' }, '#'),
      h('span', { class: 'room-name' }, room.name),
      badge,
    );
    const leave = iconButton('close', `Leave ${room.name}`, {
      class: 'icon-button leave',
      tabindex: -1,
      onclick: () => this.#session.leave(room),
    });
    const row = { element: h('li', {}, button, leave), button, badge, leave };
    this.#rows.set(room, row);
    return row;
  }

  #select(room: Room): void {
    this.#session.select(room);
    this.#opened();
  }

  #join(event: Event): void {
    event.preventDefault();
    const problem = this.#session.join(this.#input.value.trim());
    this.#show(problem);
    if (problem !== null) return;
    this.#input.value = '';
    this.#opened();
  }

  #show(problem: string | null): void {
    setText(this.#problem, problem ?? '');
    setAttributes(this.#input, { 'aria-invalid': problem === null ? null : 'true' });
  }

  #key(event: Event): void {
    if (!(event instanceof KeyboardEvent)) return;
    const { rooms } = this.#session;
    const at = rooms.findIndex((room) => this.#rows.get(room)?.button === document.activeElement);
    if (at < 0) return;
    const last = rooms.length - 1;
    const target = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: last }[event.key];
    if (target !== undefined) {
      event.preventDefault();
      const room = rooms[Math.max(0, Math.min(last, target))];
      if (room) this.#session.select(room);
    } else if (event.key === 'Delete') {
      const room = rooms[at];
      if (room) this.#session.leave(room);
    } else return;
    this.#app.changed();
    this.render();
    this.focus();
  }
}
