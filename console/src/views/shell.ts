//! The page of a signed-in person: rooms, messages, people, and what opens over them.

import type { App, Session } from '../app.ts';
import { h, icon, iconButton, setAttributes, setText } from '../dom.ts';
import type { Room } from '../room.ts';
import { ComposerView } from './composer.ts';
import { ConnectionStateView } from './connectionState.ts';
import { PeopleView, avatar } from './people.ts';
import { RoomListView } from './roomList.ts';
import { SdkPanel } from './sdkPanel.ts';
import { brand } from './signIn.ts';
import { themeButton } from './themeButton.ts';
import { TimelineView } from './timeline.ts';

/** The panels that are drawers on narrow screens. */
type Drawer = 'rooms' | 'people';

/** The whole page. */
export class ShellView {
  readonly element: HTMLElement;
  readonly session: Session;
  #app: App;
  #rooms: RoomListView;
  #people: PeopleView;
  #timeline: TimelineView;
  #composer: ComposerView;
  #state: ConnectionStateView;
  #theme: { element: HTMLElement; render(): void };
  #title: HTMLElement;
  #rejoin: HTMLButtonElement;
  #live: HTMLElement;
  #toggles: Record<Drawer, HTMLButtonElement>;
  #drawer: Drawer | null = null;
  #room: Room | null = null;
  #said: string[] = [];
  #saying: ReturnType<typeof setTimeout> | null = null;

  constructor(app: App, session: Session) {
    this.#app = app;
    this.session = session;
    const sdk = new SdkPanel(session);
    this.#rooms = new RoomListView(app, session, () => {
      this.#open(null);
      this.#composer.focus();
    });
    this.#people = new PeopleView(session);
    this.#timeline = new TimelineView(app, session);
    this.#composer = new ComposerView(session, () => this.#timeline.toEnd());
    this.#state = new ConnectionStateView(session);
    this.#theme = themeButton(app);
    this.#title = h('h1', { 'data-testid': 'room-title' });
    this.#rejoin = h('button', { type: 'button', onclick: () => session.open.rejoin() }, 'Try again');
    this.#live = h('div', { class: 'only-heard', 'aria-live': 'polite', 'aria-atomic': 'false', 'data-testid': 'announcements' });
    this.#toggles = {
      rooms: iconButton('menu', 'Rooms', {
        class: 'icon-button rooms-toggle',
        'data-testid': 'rooms-toggle',
        'aria-controls': 'rooms',
        onclick: () => this.#open(this.#drawer === 'rooms' ? null : 'rooms'),
      }),
      people: iconButton('people', 'People', {
        class: 'icon-button people-toggle',
        'data-testid': 'people-toggle',
        'aria-controls': 'people',
        onclick: () => this.#open(this.#drawer === 'people' ? null : 'people'),
      }),
    };
    const { identity } = session.connection;
    const me = h(
      'div',
      { class: 'me' },
      avatar(identity.user),
      h('bdi', { class: 'person-name', 'data-testid': 'me' }, identity.user),
      this.#theme.element,
      iconButton('exit', 'Sign out', { 'data-testid': 'sign-out', onclick: () => app.signOut() }),
    );
    const code = h(
      'button',
      { type: 'button', class: 'code-button', 'data-testid': 'sdk-open', title: 'Use it from your code', onclick: () => void sdk.open() },
      icon('code'),
      h('span', {}, 'Use it from your code'),
    );
    this.element = h(
      'div',
      { class: 'shell' },
      h('div', { class: 'sidebar', id: 'rooms' }, h('div', { class: 'sidebar-head' }, brand()), this.#rooms.element, me),
      h(
        'main',
        { class: 'room-main' },
        h('header', { class: 'room-head' }, this.#toggles.rooms, this.#title, this.#rejoin, this.#state.element, code, this.#toggles.people),
        this.#timeline.element,
        this.#composer.element,
      ),
      this.#people.element,
      h('div', { class: 'scrim', onclick: () => this.#open(null) }),
      this.#live,
      sdk.element,
    );
    this.element.addEventListener('keydown', (event) => this.#key(event));
    app.announce = (text) => this.#say(text);
  }

  /** The view is on the page. */
  shown(): void {
    this.#composer.focus();
  }

  render(): void {
    const room = this.session.open;
    setText(this.#title, `#${room.name}`);
    setAttributes(this.#title, { title: room.name });
    setAttributes(this.#rejoin, { hidden: room.state.kind !== 'refused' });
    if (room !== this.#room) {
      this.#room = room;
      this.#said = [];
    }
    this.#theme.render();
    this.#state.render();
    this.#composer.render();
    this.#timeline.render();
    this.#people.render();
    this.#rooms.render();
  }

  #open(drawer: Drawer | null): void {
    const before = this.#drawer;
    this.#drawer = drawer;
    setAttributes(this.element, { 'data-drawer': drawer });
    for (const [name, toggle] of Object.entries(this.#toggles)) setAttributes(toggle, { 'aria-expanded': name === drawer ? 'true' : 'false' });
    if (drawer === 'rooms') this.#rooms.focus();
    else if (before !== null && drawer === null) this.#toggles[before].focus();
  }

  #key(event: KeyboardEvent): void {
    // A dialog closes itself; an input method's Escape is its own.
    if (event.key !== 'Escape' || event.defaultPrevented || event.isComposing) return;
    if (this.element.querySelector('dialog[open]')) return;
    if (this.#drawer !== null) this.#open(null);
    else if (!this.#timeline.closeDetails()) this.#composer.focus();
  }

  /** Says things to screen readers, together when they come fast. */
  #say(text: string): void {
    if (this.#app.session !== this.session) return;
    this.#said.push(text);
    if (this.#saying !== null) return;
    this.#saying = setTimeout(() => {
      this.#saying = null;
      const said = this.#said.splice(0);
      const lines = said.length > 4 ? [...said.slice(-3), `${said.length - 3} more before`] : said;
      this.#live.replaceChildren(...lines.map((line) => h('p', {}, line)));
    }, 500);
  }
}
