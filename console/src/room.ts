//! One room of this tab: its subscription, its timeline kept without gaps, its outbox and its people.

import type { Subscription } from 'centrifuge';
import { CallError, UNRECOVERABLE, callError, publicationOf, type Connection } from './connection.ts';
import { Outbox } from './outbox.ts';
import { People } from './people.ts';
import type { RememberedRoom } from './remembered.ts';
import { Timeline, type Publication } from './timeline.ts';

/** Whether the room is followed. */
export type RoomState =
  | { readonly kind: 'joining' }
  | { readonly kind: 'joined' }
  | { readonly kind: 'refused'; readonly reason: string };

/** What a room tells the console. */
export interface RoomEvents {
  /** Something that is shown has changed. */
  changed(): void;
  /** Something that is remembered over a reload has changed. */
  remember(): void;
  /** A message of somebody else arrived live. */
  arrived(room: Room, publication: Publication): void;
  /** Somebody came or went. */
  moved(room: Room, user: string, here: boolean): void;
}

/** Somebody came or went. */
export interface Move {
  readonly user: string;
  readonly here: boolean;
  /** Unix ms. */
  readonly time: number;
}

/** How many of them are shown. */
const MOVES_MAX = 5;
/** Messages a page when a room is opened or scrolled, and when a gap is filled. */
const PAGE = 60;
const FILL_PAGE = 300;
/** How long an acknowledgement may run ahead of the messages before it: no gap until then. */
const GAP_GRACE_MS = 400;
/** Pause before a failed history call is made again, doubled up to the maximum. */
const HISTORY_RETRY_MS = 1_000;
const HISTORY_RETRY_MAX_MS = 15_000;
/** How often the exact number of people is asked for, while the room is open. */
const PEOPLE_REFRESH_MS = 30_000;

/** A room that this tab is in. */
export class Room {
  readonly name: string;
  readonly timeline: Timeline;
  readonly outbox = new Outbox();
  readonly people = new People();
  /** Who came and went last, newest first. */
  moves: readonly Move[] = [];
  /** Text in the composer that was not sent. */
  draft = '';
  /** Where the mark "new" stands, since the room was opened with unread messages. */
  newFrom: number | null = null;
  state: RoomState = { kind: 'joining' };
  /** Whether the first page has been fetched. */
  loaded = false;
  /** Whether older history is being fetched. */
  loadingOlder = false;
  /** Why history cannot be fetched at the moment, or `null`. */
  historyProblem: string | null = null;
  #read: number | null;
  #open = false;
  #connection: Connection;
  #events: RoomEvents;
  #subscription: Subscription;
  #filling = false;
  #historyFailures = 0;
  #closed = false;
  #timers: Partial<Record<'outbox' | 'fill' | 'people', ReturnType<typeof setTimeout>>> = {};

  constructor(remembered: RememberedRoom, connection: Connection, events: RoomEvents) {
    this.name = remembered.name;
    this.#read = remembered.read;
    this.#connection = connection;
    this.#events = events;
    this.timeline = new Timeline(connection.identity.user);
    const now = Date.now();
    for (const { id, text, createdAt } of remembered.unsent) this.outbox.add(id, text, createdAt, now);
    this.#subscription = this.#subscribe();
  }

  /** How many messages have not been read. */
  get unread(): number {
    return this.#read === null ? 0 : Math.max(0, this.timeline.top - this.#read);
  }

  /** What is remembered over a reload. */
  get remembered(): RememberedRoom {
    return {
      name: this.name,
      read: this.#read,
      unsent: this.outbox.messages.map(({ id, text, createdAt }) => ({ id, text, createdAt })),
    };
  }

  /** The room is shown, or no longer. */
  show(open: boolean): void {
    this.#open = open;
    clearTimeout(this.#timers.people);
    this.newFrom = open && this.unread > 0 && this.#read !== null ? this.#read + 1 : null;
    if (!open) {
      this.timeline.cut();
      return;
    }
    void this.#loadPeople();
    this.#fillLater(0);
  }

  /** Everything up to the end has been seen. */
  markRead(): void {
    if (this.#read === this.timeline.top || !this.loaded) return;
    this.#read = this.timeline.top;
    this.#events.remember();
    this.#events.changed();
  }

  /** Sends a text. Returns why it cannot be, or `null`. */
  send(text: string): string | null {
    const now = Date.now();
    if (!this.outbox.add(newId(), text, now, now)) return 'Too many messages are waiting to be sent.';
    this.newFrom = null;
    this.#events.remember();
    this.#events.changed();
    this.#drainOutbox();
    return null;
  }

  /** Sends a failed message again, under its id. */
  retry(id: string): void {
    this.outbox.retry(id, Date.now());
    this.#events.changed();
    this.#drainOutbox();
  }

  /** Gives a failed message up. */
  discard(id: string): void {
    this.outbox.remove(id);
    this.#events.remember();
    this.#events.changed();
    this.#drainOutbox();
  }

  /** Joins again after a refusal. */
  rejoin(): void {
    this.state = { kind: 'joining' };
    this.#subscription.subscribe();
    this.#events.changed();
  }

  /** Fetches the page before the oldest message. */
  async loadOlder(): Promise<void> {
    if (this.loadingOlder || this.timeline.complete || !this.loaded || !this.#joined) return;
    this.loadingOlder = true;
    this.#events.changed();
    await this.#fetch(this.timeline.first, PAGE);
    this.loadingOlder = false;
    this.#events.changed();
  }

  /** Tries to fetch what is missing now. */
  refetch(): void {
    this.#fillLater(0);
  }

  /** The connection came or went. */
  connectionChanged(): void {
    const now = Date.now();
    if (this.#connected) {
      this.outbox.reconnected(now);
      this.#drainOutbox();
    } else this.#wakeOutbox();
  }

  /** Leaves the room. */
  leave(): void {
    this.#closed = true;
    for (const timer of Object.values(this.#timers)) clearTimeout(timer);
    this.#connection.forget(this.#subscription);
  }

  get #connected(): boolean {
    return this.#connection.state.kind === 'connected';
  }

  get #joined(): boolean {
    return this.state.kind === 'joined' && this.#connected;
  }

  #subscribe(): Subscription {
    const subscription = this.#connection.subscription(this.name);
    subscription.on('subscribing', () => {
      this.state = { kind: 'joining' };
      this.#events.changed();
    });
    subscription.on('subscribed', ({ streamPosition, wasRecovering, recovered }) => {
      this.state = { kind: 'joined' };
      // While the server recovers, its position is the one that was asked for; the messages follow.
      const position = streamPosition;
      if (position) {
        if (this.timeline.position(position.epoch, position.offset)) this.#startOver();
        if (!(wasRecovering && recovered) && this.timeline.foldLongGaps()) this.loaded = false;
      }
      this.#historyFailures = 0;
      this.#fillLater(0);
      if (this.#open) void this.#loadPeople();
      this.#events.changed();
      this.#drainOutbox();
    });
    subscription.on('unsubscribed', ({ code, reason }) => {
      if (this.#closed) return;
      this.state = { kind: 'refused', reason: reason || `the server ended it (${code})` };
      this.#events.changed();
    });
    subscription.on('publication', (context) => {
      const publication = publicationOf(context);
      if (publication) this.#arrived(publication);
    });
    subscription.on('join', ({ info }) => {
      const first = this.people.joined({ client: info.client, user: info.user });
      if (first) this.#moved(info.user, true);
      this.#events.changed();
    });
    subscription.on('leave', ({ info }) => {
      const last = this.people.left({ client: info.client, user: info.user });
      if (last) this.#moved(info.user, false);
      this.#events.changed();
    });
    subscription.subscribe();
    return subscription;
  }

  #moved(user: string, here: boolean): void {
    if (user === this.#connection.identity.user) return;
    this.moves = [{ user, here, time: Date.now() }, ...this.moves].slice(0, MOVES_MAX);
    this.#events.moved(this, user, here);
  }

  /** The room was deleted and its name is used again. */
  #startOver(): void {
    this.loaded = false;
    this.#read = 0;
    this.newFrom = null;
  }

  #arrived(publication: Publication): void {
    const { added, echo } = this.timeline.publish(publication);
    if (echo !== null) this.#echoed(echo, publication.offset);
    const mine = publication.user === this.#connection.identity.user;
    if (mine && this.#read === publication.offset - 1) this.#read = publication.offset;
    if (added && !mine) this.#events.arrived(this, publication);
    if (!this.#open) this.timeline.cut();
    if (this.timeline.gaps.length > 0) this.#fillLater(GAP_GRACE_MS);
    this.#events.changed();
  }

  /** A publication with the id of a message of this tab: the message is durable, whatever became of
   * its acknowledgement. */
  #echoed(id: string, offset: number): void {
    if (!this.outbox.remove(id)) return;
    this.timeline.own(offset, id);
    this.#events.remember();
    this.#drainOutbox();
  }

  // Sending

  #drainOutbox(): void {
    if (this.#closed) return;
    const due = this.#connected ? this.outbox.due(Date.now()) : null;
    if (due) void this.#attempt(due.id, due.text);
    this.#wakeOutbox();
  }

  #wakeOutbox(): void {
    clearTimeout(this.#timers.outbox);
    const at = this.outbox.wakeAt(this.#connected);
    if (at === null) return;
    this.#timers.outbox = setTimeout(
      () => {
        if (!this.#connected) this.outbox.lapse(Date.now());
        this.#events.changed();
        this.#drainOutbox();
      },
      Math.max(10, at - Date.now()),
    );
  }

  async #attempt(id: string, text: string): Promise<void> {
    this.outbox.started(id);
    this.#events.changed();
    const data = { text };
    try {
      const ack = await this.#connection.publish(this.name, id, data);
      if (this.#closed) return;
      this.timeline.acknowledge(id, data, ack);
      if (this.#read === ack.offset - 1) this.#read = ack.offset;
      this.outbox.remove(id);
      this.#events.remember();
      if (this.timeline.gaps.length > 0) this.#fillLater(GAP_GRACE_MS);
    } catch (error) {
      if (this.#closed) return;
      const { temporary, message } = callError(error);
      this.outbox.failed(id, { temporary, reason: message }, Date.now(), Math.random());
    }
    this.#events.changed();
    this.#drainOutbox();
  }

  // History

  #fillLater(afterMs: number): void {
    if (this.#closed) return;
    if (this.#timers.fill !== undefined && afterMs > 0) return;
    clearTimeout(this.#timers.fill);
    this.#timers.fill = setTimeout(() => {
      delete this.#timers.fill;
      void this.#fill();
    }, afterMs);
  }

  /** Fetches the first page, then whatever is missing, newest first, until nothing is. */
  async #fill(): Promise<void> {
    if (this.#filling || !this.#joined) return;
    this.#filling = true;
    let ok = true;
    while (ok && this.#joined && !this.#closed) {
      if (!this.loaded) {
        ok = await this.#fetch(null, PAGE);
        if (ok) {
          this.loaded = true;
          // A room that is entered for the first time has nothing unread.
          this.#read ??= this.timeline.top;
          if (this.#open && this.unread > 0) this.newFrom ??= this.#read + 1;
        }
      } else {
        const gap = this.timeline.gaps.at(-1);
        if (!gap) break;
        const before = gap.to >= this.timeline.top ? null : gap.to + 1;
        ok = await this.#fetch(before, Math.min(FILL_PAGE, gap.to - gap.from + 1));
        const still = this.timeline.gaps.at(-1);
        if (ok && still?.from === gap.from && still.to === gap.to) {
          // The server's history is behind what it told before: ask again later, not at once.
          this.#historyFailures += 1;
          ok = false;
        }
      }
      this.#events.changed();
    }
    this.#filling = false;
    if (!ok && this.#joined) {
      const pause = Math.min(HISTORY_RETRY_MAX_MS, HISTORY_RETRY_MS * 2 ** Math.min(this.#historyFailures - 1, 5));
      this.#fillLater(pause);
    }
  }

  /** One page. Returns whether it came. */
  async #fetch(before: number | null, limit: number): Promise<boolean> {
    const { timeline } = this;
    const epoch = timeline.epoch;
    try {
      const since = before === null ? null : { offset: before, epoch };
      const page = await this.#connection.history(this.name, since, limit);
      if (timeline.epoch === epoch) {
        for (const id of timeline.page(before, page.publications, page.epoch, page.top)) this.#echoedInPage(id, page.publications);
      }
    } catch (error) {
      const failure: CallError = callError(error);
      if (failure.code !== UNRECOVERABLE) {
        this.#historyFailures += 1;
        this.historyProblem = failure.message;
        return false;
      }
      if (timeline.epoch === epoch) timeline.nothingBefore(before);
    }
    this.#historyFailures = 0;
    this.historyProblem = null;
    return true;
  }

  #echoedInPage(id: string, publications: readonly Publication[]): void {
    const publication = publications.find((candidate) => candidate.id === id);
    if (publication) this.#echoed(id, publication.offset);
  }

  // People

  async #loadPeople(): Promise<void> {
    clearTimeout(this.#timers.people);
    if (!this.#joined) return;
    this.people.asked();
    try {
      const [connections, total] = await Promise.all([
        this.#connection.presence(this.name),
        this.#connection.presenceStats(this.name),
      ]);
      this.people.answered(connections, total);
    } catch {
      // The list that is shown stays; it is asked for again below, and at the next join.
    }
    this.#events.changed();
    if (this.#open && !this.#closed) {
      this.#timers.people = setTimeout(() => void this.#loadPeople(), PEOPLE_REFRESH_MS);
    }
  }
}

/** 128 random bits. Not `crypto.randomUUID`, which plain HTTP from another machine does not have. */
function newId(): string {
  return Array.from(crypto.getRandomValues(new Uint8Array(16)), (byte) => byte.toString(16).padStart(2, '0')).join('');
}
