//! The list of rooms that everybody sees: each room is announced once in a room of its own, which
//! every tab follows. It is durable, so the list outlives tabs and servers.

import { CallError, UNRECOVERABLE, callError, type HistoryPage } from './connection.ts';
import { DIRECTORY, roomNameProblem } from './names.ts';
import type { Acknowledgement } from './timeline.ts';

/** The most rooms that are listed: those that were announced last. */
export const LISTED_MAX = 500;
/** The most announcements that are read, newest first, and how many at once. */
export const READ_MAX = 3_000;
const PAGE = 300;
/** Pause before a failed call is made again, doubled up to the maximum. */
const RETRY_MS = 1_000;
const RETRY_MAX_MS = 30_000;

/** An announcement as it stands in the stream. */
export interface Announcement {
  readonly offset: number;
  readonly data: unknown;
}

/** The rooms that were announced. Pure: the same announcements in any order, any number of times,
 * give the same list. */
export class RoomNames {
  #offsets = new Map<string, number>();
  #names: readonly string[] = [];
  #cut = false;

  /** The names, in the order of the alphabet. */
  get names(): readonly string[] {
    return this.#names;
  }

  /** Whether rooms are left out, because there are more than {@link LISTED_MAX}. */
  get cut(): boolean {
    return this.#cut;
  }

  /** Whether this room is listed. */
  has(name: string): boolean {
    return this.#offsets.has(name);
  }

  /** Takes announcements; what is none, or names a room that cannot be, is passed over. Returns
   * whether the list has changed. */
  add(announcements: readonly Announcement[]): boolean {
    let fresh = false;
    for (const { offset, data } of announcements) {
      const name = announced(data);
      if (name === null) continue;
      const before = this.#offsets.get(name);
      if (before === undefined) fresh = true;
      if (before === undefined || before < offset) this.#offsets.set(name, offset);
    }
    if (!fresh) return false;
    if (this.#offsets.size > LISTED_MAX) {
      this.#cut = true;
      const newest = [...this.#offsets].sort(([, a], [, b]) => b - a);
      this.#offsets = new Map(newest.slice(0, LISTED_MAX));
    }
    this.#names = [...this.#offsets.keys()].sort();
    return true;
  }

  /** Older announcements than those that were added are not read. */
  cutHere(): void {
    this.#cut = true;
  }
}

/** The room that a publication announces, or `null`. */
function announced(data: unknown): string | null {
  if (typeof data !== 'object' || data === null || !('room' in data)) return null;
  const { room } = data;
  return typeof room === 'string' && roomNameProblem(room) === null ? room : null;
}

/** What following a room tells. */
export interface Follower {
  /** The subscription stands; `whole`: nothing was missed since it stood before. */
  followed(whole: boolean): void;
  arrived(announcement: Announcement): void;
}

/** What the directory needs of a connection. */
export interface DirectoryLink {
  readonly isConnected: boolean;
  /** Follows a room until the answer is called. */
  follow(room: string, follower: Follower): () => void;
  publish(room: string, id: string, data: unknown): Promise<Acknowledgement>;
  history(room: string, before: { offset: number; epoch: string } | null, limit: number): Promise<HistoryPage>;
}

/** Follows the announcements, and announces. */
export class Directory {
  readonly list = new RoomNames();
  #link: DirectoryLink;
  #changed: () => void;
  #stop: () => void;
  #following = false;
  #read = false;
  #busy = false;
  #closed = false;
  #failures = 0;
  #timer: ReturnType<typeof setTimeout> | undefined;
  /** Rooms that must be in the list. */
  #wanted = new Set<string>();

  constructor(link: DirectoryLink, changed: () => void) {
    this.#link = link;
    this.#changed = changed;
    this.#stop = link.follow(DIRECTORY, {
      followed: (whole) => {
        this.#following = true;
        if (!whole) this.#read = false;
        void this.#work();
      },
      arrived: (announcement) => {
        if (this.list.add([announcement])) this.#changed();
      },
    });
  }

  /** Sees to it that this room is listed: announced once it is known that it is not. */
  announce(room: string): void {
    this.#wanted.add(room);
    void this.#work();
  }

  /** The connection came back. */
  reconnected(): void {
    void this.#work();
  }

  /** Ends it. */
  close(): void {
    this.#closed = true;
    clearTimeout(this.#timer);
    this.#stop();
  }

  /** Reads what was announced, then announces what is missing; one call at a time. */
  async #work(): Promise<void> {
    if (this.#busy) return;
    this.#busy = true;
    clearTimeout(this.#timer);
    try {
      while (this.#may && !(this.#read && this.#wanted.size === 0)) {
        if (!this.#read) await this.#readAll();
        else await this.#announceNext();
      }
      this.#failures = 0;
    } catch {
      const pause = Math.min(RETRY_MAX_MS, RETRY_MS * 2 ** Math.min(this.#failures, 10));
      this.#failures += 1;
      if (!this.#closed) this.#timer = setTimeout(() => void this.#work(), pause);
    }
    this.#busy = false;
  }

  get #may(): boolean {
    return this.#following && this.#link.isConnected && !this.#closed;
  }

  async #readAll(): Promise<void> {
    // Set first: whatever asks for another reading meanwhile gets one.
    this.#read = true;
    let before: { offset: number; epoch: string } | null = null;
    try {
      for (let read = 0; ; ) {
        const page: HistoryPage = await this.#link.history(DIRECTORY, before, PAGE);
        if (this.list.add(page.publications)) this.#changed();
        read += page.publications.length;
        const oldest = page.publications.at(-1)?.offset ?? 1;
        if (oldest <= 1) return;
        if (read >= READ_MAX || this.list.names.length >= LISTED_MAX) {
          this.list.cutHere();
          this.#changed();
          return;
        }
        before = { offset: oldest, epoch: page.epoch };
      }
    } catch (error) {
      const failure: CallError = callError(error);
      // What is older is no longer kept; and what is refused stays so.
      if (failure.code === UNRECOVERABLE || !failure.temporary) return;
      this.#read = false;
      throw failure;
    }
  }

  async #announceNext(): Promise<void> {
    const [room] = this.#wanted;
    if (room === undefined) return;
    if (!this.list.has(room)) {
      const data = { room };
      try {
        // The name is the id: announced twice, it stands there once.
        const { offset } = await this.#link.publish(DIRECTORY, room, data);
        if (this.list.add([{ offset, data }])) this.#changed();
      } catch (error) {
        const failure: CallError = callError(error);
        if (failure.temporary) throw failure;
      }
    }
    this.#wanted.delete(room);
  }
}
