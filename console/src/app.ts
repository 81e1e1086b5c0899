//! The state of the console: who is signed in, the rooms and which one is open. Views read it and
//! are told when it changes.

import { CallError, Connection, signIn, socketUrl, type Identity } from './connection.ts';
import { Directory } from './directory.ts';
import { roomNameProblem, roomOfFragment } from './names.ts';
import { oneLine } from './payload.ts';
import {
  forgetRooms,
  loadName,
  loadOpen,
  loadRooms,
  loadTheme,
  saveName,
  saveOpen,
  saveRooms,
  saveTheme,
  type Theme,
} from './remembered.ts';
import { Room, type RoomEvents } from './room.ts';

/** The room that everybody starts in. */
export const DEFAULT_ROOM = 'lobby';
/** The most rooms of one tab: each is a subscription, and the server allows 1,024. */
export const ROOMS_MAX = 200;
/** Pause between attempts to sign a remembered person in again. */
const RESUME_RETRY_MS = 1_500;

/** Everything behind one signed-in person. */
export class Session implements RoomEvents {
  readonly connection: Connection;
  /** The rooms of everybody. */
  readonly directory: Directory;
  #rooms: Room[] = [];
  #open: Room;
  #app: App;

  constructor(identity: Identity, app: App) {
    this.#app = app;
    this.connection = new Connection(identity, socketUrl(location));
    const remembered = loadRooms().filter(({ name }) => roomNameProblem(name) === null);
    if (remembered.length === 0) remembered.push({ name: DEFAULT_ROOM, read: null, unsent: [] });
    this.#rooms = remembered.slice(0, ROOMS_MAX).map((room) => new Room(room, this.connection, this));
    const [first] = this.#rooms;
    if (!first) throw new Error('a session has at least one room');
    this.#open = this.#rooms.find((room) => room.name === loadOpen()) ?? first;
    this.#open.show(true);
    this.directory = new Directory(this.connection, () => this.#app.changed());
    for (const { name } of this.#rooms) this.directory.announce(name);
    this.connection.onState = () => {
      if (this.connection.isConnected) this.directory.reconnected();
      for (const room of this.#rooms) room.connectionChanged();
      this.#app.changed();
    };
    this.connection.connect();
  }

  /** The rooms, in the order in which they were joined. */
  get rooms(): readonly Room[] {
    return this.#rooms;
  }

  /** Rooms that others have made and this tab is not in, in the order of the alphabet. */
  get others(): readonly string[] {
    const mine = new Set(this.#rooms.map(({ name }) => name));
    return this.directory.list.names.filter((name) => !mine.has(name));
  }

  /** The room that is shown. */
  get open(): Room {
    return this.#open;
  }

  /** All unread messages. */
  get unread(): number {
    return this.#rooms.reduce((sum, room) => sum + room.unread, 0);
  }

  /** Joins a room, creating it if it is new, and shows it. Returns why not, or `null`. */
  join(name: string): string | null {
    const problem = roomNameProblem(name);
    if (problem !== null) return problem;
    let room = this.#rooms.find((candidate) => candidate.name === name);
    if (!room) {
      if (this.#rooms.length >= ROOMS_MAX) return `This tab is in ${ROOMS_MAX} rooms; leave one first.`;
      room = new Room({ name, read: null, unsent: [] }, this.connection, this);
      this.#rooms = [...this.#rooms, room];
      this.remember();
      this.directory.announce(name);
    }
    this.select(room);
    return null;
  }

  /** Shows a room. */
  select(room: Room): void {
    if (room !== this.#open) {
      this.#open.show(false);
      this.#open = room;
      room.show(true);
    }
    saveOpen(room.name);
    history.replaceState(null, '', `#${encodeURIComponent(room.name)}`);
    this.#app.changed();
  }

  /** Leaves a room; the last one stays. */
  leave(room: Room): void {
    if (this.#rooms.length === 1) return;
    const at = this.#rooms.indexOf(room);
    this.#rooms = this.#rooms.filter((other) => other !== room);
    const next = this.#rooms[Math.min(at, this.#rooms.length - 1)];
    if (room === this.#open && next) this.select(next);
    room.leave();
    this.remember();
    this.#app.changed();
  }

  /** Somebody looks at the page again. */
  lookedAt(): void {
    this.#open.show(true);
  }

  /** Ends everything. */
  close(): void {
    for (const room of this.#rooms) room.leave();
    this.directory.close();
    this.connection.close();
  }

  changed(): void {
    this.#app.changed();
  }

  remember(): void {
    saveRooms(this.#rooms.map((room) => room.remembered));
  }

  arrived(room: Room, publication: Room['timeline']['messages'][number]): void {
    if (room === this.#open) this.#app.announce(`${publication.user || 'Somebody'}: ${oneLine(publication.data)}`);
  }

  moved(room: Room, user: string, here: boolean): void {
    if (room !== this.#open) return;
    this.#app.announce(`${user || 'Somebody'} ${here ? 'joined' : 'left'}`);
  }
}

/** The console. */
export class App {
  session: Session | null = null;
  theme: Theme = loadTheme();
  /** Whether a sign-in is on its way, and why the last one failed. */
  signingIn = false;
  signInProblem: string | null = null;
  /** Says something to screen readers; the page that is shown sets it. */
  announce: (text: string) => void = () => undefined;
  #listeners: (() => void)[] = [];
  #scheduled = false;
  #mayRetry = false;

  /** Calls `listener` after changes, at most once a frame. */
  onChange(listener: () => void): void {
    this.#listeners.push(listener);
  }

  /** Something that is shown has changed. */
  changed(): void {
    if (this.#scheduled) return;
    this.#scheduled = true;
    let done = false;
    const run = (): void => {
      if (done) return;
      done = true;
      this.#scheduled = false;
      for (const listener of this.#listeners) listener();
    };
    // Hidden tabs have no frames, yet their title counts unread messages.
    requestAnimationFrame(run);
    setTimeout(run, 200);
  }

  /** Signs the remembered person in again, as after a reload. */
  async resume(): Promise<void> {
    const name = loadName();
    if (name === null) return;
    await this.signIn(name);
    // A server that is just starting: this person is still this person.
    while (!this.session && this.#mayRetry) {
      await new Promise((resolve) => setTimeout(resolve, RESUME_RETRY_MS));
      if (!this.session && this.#mayRetry) await this.signIn(name);
    }
  }

  /** Signs in by name. */
  async signIn(name: string): Promise<void> {
    if (this.signingIn) return;
    this.signingIn = true;
    this.signInProblem = null;
    this.#mayRetry = false;
    this.changed();
    try {
      const identity = await signIn(name);
      if (loadName() !== name) forgetRooms();
      saveName(name);
      this.session = new Session(identity, this);
      const linked = roomOfFragment(location.hash);
      if (linked !== null) this.session.join(linked);
    } catch (error) {
      this.signInProblem = error instanceof Error ? error.message : 'Signing in failed.';
      this.#mayRetry = error instanceof CallError && error.temporary;
    }
    this.signingIn = false;
    this.changed();
  }

  /** Signs out: the tab forgets who it was. */
  signOut(): void {
    this.session?.close();
    this.session = null;
    saveName(null);
    forgetRooms();
    this.changed();
  }

  /** Chooses the colour scheme. */
  setTheme(theme: Theme): void {
    this.theme = theme;
    saveTheme(theme);
    this.changed();
  }
}

