//! One room's messages in order: publications merged by offset, outgoing messages matched with their
//! echo by id, and the gaps between them. Pure: what is fetched and when is the caller's.

import { Coverage, type Range } from './coverage.ts';

/** A publication of the room's stream. */
export interface Publication {
  readonly offset: number;
  readonly data: unknown;
  /** The publisher; empty when the server named none. */
  readonly user: string;
  /** Unix ms of the record, or `null` when the server sent none. */
  readonly time: number | null;
  /** The id under which it was published, or `null`. */
  readonly id: string | null;
  readonly tags: Readonly<Record<string, string>>;
}

/** The answer to a durable publish. */
export interface Acknowledgement {
  readonly offset: number;
  readonly epoch: string;
  readonly time: number | null;
}

/** What stands in the list, top to bottom. */
export type TimelineItem =
  | { readonly kind: 'message'; readonly key: string; readonly publication: Publication }
  | { readonly kind: 'gap'; readonly key: string; readonly range: Range; readonly lost: boolean };

/** The most messages that a timeline keeps while it follows the end of its room. */
export const KEEP_MAX = 3_000;
/** How many remain when it is cut. */
export const KEEP_AFTER_CUT = 2_000;
/** The longest gap that is filled by itself; what lies behind a longer one is older history, loaded
 * when somebody scrolls to it. */
export const FILL_MAX = 2_000;

/** The messages of one room as this tab knows them. */
export class Timeline {
  readonly #me: string;
  #epoch = '';
  #top = 0;
  #complete = false;
  #known = new Coverage();
  #lost: Range[] = [];
  #messages: Publication[] = [];
  /** Offsets of messages that this tab wrote, with the id that named their row before they had one. */
  #ownRows = new Map<number, string>();

  /** `me` is the user whose echoes are recognised by id. */
  constructor(me: string) {
    this.#me = me;
  }

  /** The stream's epoch, empty until one is known. */
  get epoch(): string {
    return this.#epoch;
  }

  /** The highest offset that is known to exist. */
  get top(): number {
    return this.#top;
  }

  /** The lowest offset that is known, or `null` when nothing is. */
  get first(): number | null {
    return this.#known.first;
  }

  /** Whether nothing older can be fetched. */
  get complete(): boolean {
    return this.#complete || this.#known.first === 1;
  }

  /** The messages, ascending. */
  get messages(): readonly Publication[] {
    return this.#messages;
  }

  /** What must still be fetched between the oldest message shown and the end, ascending. */
  get gaps(): Range[] {
    return this.#known.gaps(this.#top);
  }

  /** The position of the stream as the server told it. A new epoch is a new stream: everything known
   * of the old one is forgotten. Returns whether that happened. */
  position(epoch: string, top: number): boolean {
    const fresh = this.#adopt(epoch);
    this.#top = Math.max(this.#top, top);
    return fresh;
  }

  /** A live publication. Returns whether it is new, and the id of the outgoing message it answers. */
  publish(publication: Publication): { added: boolean; echo: string | null } {
    const added = this.#insert(publication);
    this.#known.add(publication.offset, publication.offset);
    this.#top = Math.max(this.#top, publication.offset);
    const echo = this.#echoOf(publication);
    return { added, echo };
  }

  /** A publish of this tab was acknowledged: the message stands at its offset from now on, whether its
   * echo came before or is still to come. */
  acknowledge(id: string, data: unknown, ack: Acknowledgement): void {
    // Of another stream, or of a time before what is shown: the history has it.
    if (this.#epoch !== '' && ack.epoch !== '' && ack.epoch !== this.#epoch) return;
    this.#adopt(ack.epoch);
    const first = this.#known.first;
    if (first !== null && ack.offset < first) return;
    this.own(ack.offset, id);
    if (this.#known.has(ack.offset)) return;
    this.#insert({ offset: ack.offset, data, user: this.#me, time: ack.time, id, tags: { id } });
    this.#known.add(ack.offset, ack.offset);
    this.#top = Math.max(this.#top, ack.offset);
  }

  /** Marks `offset` as written by this tab under `id`, so that its row keeps its place. */
  own(offset: number, id: string): void {
    // An id that was used again after the server forgot it names its first row only.
    if ([...this.#ownRows.values()].includes(id)) return;
    this.#ownRows.set(offset, id);
  }

  /** A page of history, read backwards from before `before` (`null`: from the end, where the stream's
   * top was `top`). Returns the ids of echoes in it. */
  page(before: number | null, publications: readonly Publication[], epoch: string, top: number): string[] {
    this.position(epoch, top);
    const high = before === null ? top : before - 1;
    let low = high + 1;
    const echoes: string[] = [];
    for (const publication of publications) {
      this.#insert(publication);
      // A page read from the end may hold what arrived after its top was taken.
      this.#known.add(publication.offset, publication.offset);
      this.#top = Math.max(this.#top, publication.offset);
      low = Math.min(low, publication.offset);
      const echo = this.#echoOf(publication);
      if (echo !== null) echoes.push(echo);
    }
    if (publications.length > 0) this.#known.add(low, high);
    else this.nothingBefore(before);
    return echoes;
  }

  /** The server keeps nothing older than `before` (`null`: nothing at all). */
  nothingBefore(before: number | null): void {
    const high = before === null ? this.#top : before - 1;
    const gap = this.gaps.find((range) => range.from <= high && high <= range.to);
    if (gap) {
      this.#lost.push({ from: gap.from, to: high });
      this.#known.add(gap.from, high);
    } else if (this.#known.first === null || before === null || before <= this.#known.first) {
      this.#complete = true;
      if (this.#known.first === null && high > 0) this.#known.add(high, high);
    }
  }

  /** Gives up what lies behind a gap longer than {@link FILL_MAX}: it is older history then, and nothing
   * of it is skipped. Returns whether anything was given up. */
  foldLongGaps(): boolean {
    const long = this.gaps.reverse().find((range) => range.to - range.from + 1 > FILL_MAX);
    if (!long) return false;
    this.#dropBelow(long.to + 1);
    return true;
  }

  /** Keeps memory bounded while nobody reads far above. Returns whether anything was dropped. */
  cut(keepMax: number = KEEP_MAX, keep: number = KEEP_AFTER_CUT): boolean {
    if (this.#messages.length <= keepMax) return false;
    const oldest = this.#messages[this.#messages.length - keep];
    if (!oldest) return false;
    this.#dropBelow(oldest.offset);
    return true;
  }

  /** Messages and gaps, in order. */
  items(): TimelineItem[] {
    const gaps = [
      ...this.gaps.map((range) => ({ range, lost: false })),
      ...this.#lost.map((range) => ({ range, lost: true })),
    ].sort((a, b) => a.range.from - b.range.from);
    const items: TimelineItem[] = [];
    let nextGap = 0;
    const gapsBelow = (offset: number): void => {
      for (let gap = gaps[nextGap]; gap && gap.range.from < offset; gap = gaps[nextGap]) {
        items.push({ kind: 'gap', key: `gap:${gap.range.from}`, ...gap });
        nextGap += 1;
      }
    };
    for (const publication of this.#messages) {
      gapsBelow(publication.offset);
      const own = this.#ownRows.get(publication.offset);
      const key = own === undefined ? `offset:${publication.offset}` : rowKey(own);
      items.push({ kind: 'message', key, publication });
    }
    gapsBelow(Number.POSITIVE_INFINITY);
    return items;
  }

  #adopt(epoch: string): boolean {
    if (epoch === '' || epoch === this.#epoch) return false;
    const fresh = this.#epoch !== '';
    if (fresh) {
      this.#known.clear();
      this.#messages = [];
      this.#lost = [];
      this.#ownRows.clear();
      this.#top = 0;
      this.#complete = false;
    }
    this.#epoch = epoch;
    return fresh;
  }

  #echoOf(publication: Publication): string | null {
    // Ids belong to (room, user): the same id of somebody else is another message.
    return publication.user === this.#me ? publication.id : null;
  }

  /** Inserts by offset, once; the stream's own copy replaces what an acknowledgement put there. */
  #insert(publication: Publication): boolean {
    let low = 0;
    let high = this.#messages.length;
    while (low < high) {
      const middle = (low + high) >>> 1;
      const at = this.#messages[middle];
      if (at && at.offset < publication.offset) low = middle + 1;
      else high = middle;
    }
    if (this.#messages[low]?.offset === publication.offset) {
      this.#messages[low] = publication;
      return false;
    }
    this.#messages.splice(low, 0, publication);
    return true;
  }

  #dropBelow(offset: number): void {
    if (this.#known.first === null || offset <= this.#known.first) return;
    this.#complete = false;
    this.#known.dropBelow(offset);
    this.#messages = this.#messages.filter((message) => message.offset >= offset);
    this.#lost = this.#lost.filter((range) => range.from >= offset);
    for (const own of this.#ownRows.keys()) if (own < offset) this.#ownRows.delete(own);
  }
}

/** The key of the row that shows the outgoing message `id`, before and after it has an offset. */
export function rowKey(id: string): string {
  return `id:${id}`;
}
