//! The messages of the open room: rows, days, gaps, the mark "new", scrolling and details.

import type { App, Session } from '../app.ts';
import { callError } from '../connection.ts';
import { h, icon, setAttributes, setChildren, setText } from '../dom.ts';
import { count, dayLabel, dayOf } from '../format.ts';
import type { Room } from '../room.ts';
import { KEEP_MAX, rowKey, type TimelineItem } from '../timeline.ts';
import type { TraceState } from './details.ts';
import { rowAttributes, rowContents, sameRow, type RowActions, type RowModel } from './messageRow.ts';

/** Messages of one person within this time stand under one name. */
const TOGETHER_MS = 5 * 60_000;
/** How near the end still counts as being there, and how near the start asks for older messages. */
const END_PX = 60;
const START_PX = 400;
/** The most messages that are kept for a reader far above; beyond it the list returns to the end. */
const READ_MAX = 12_000;
/** A gap shorter lived than this is not shown. */
const GAP_SHOWN_AFTER_MS = 600;

interface Row {
  readonly element: HTMLElement;
  model: RowModel | null;
}

/** The list of messages. */
export class TimelineView implements RowActions {
  readonly element: HTMLElement;
  #app: App;
  #session: Session;
  #scroller: HTMLElement;
  #list: HTMLElement;
  #start: HTMLElement;
  #empty: HTMLElement;
  #down: HTMLButtonElement;
  #downCount: HTMLElement;
  #room: Room | null = null;
  #rows = new Map<string, Row>();
  #order: Row[] = [];
  #traces = new Map<string, TraceState>();
  #whole = new Set<string>();
  #gapsSeen = new Map<string, number>();
  #current: string | null = null;
  #following = true;

  constructor(app: App, session: Session) {
    this.#app = app;
    this.#session = session;
    this.#list = h('div', { class: 'messages', role: 'feed', 'aria-label': 'Messages' });
    this.#start = h('p', { class: 'start' });
    this.#empty = h('p', { class: 'empty' });
    this.#scroller = h('div', { class: 'scroller', 'data-testid': 'timeline' }, this.#start, this.#empty, this.#list);
    this.#downCount = h('span', {});
    this.#down = h(
      'button',
      { type: 'button', class: 'down', 'data-testid': 'to-end', onclick: () => this.toEnd() },
      icon('down'),
      this.#downCount,
    );
    this.element = h('div', { class: 'timeline' }, this.#scroller, this.#down);
    this.#scroller.addEventListener('scroll', () => this.#scrolled(), { passive: true });
    this.#list.addEventListener('click', (event) => this.#click(event));
    this.#list.addEventListener('keydown', (event) => this.#key(event));
    new ResizeObserver(() => {
      if (this.#following) this.#scroller.scrollTop = this.#scroller.scrollHeight;
    }).observe(this.#scroller);
  }

  /** Goes to the newest message and follows the room from there. */
  toEnd(): void {
    this.#following = true;
    this.#app.changed();
  }

  /** Closes the details that are open. Returns whether there were any. */
  closeDetails(): boolean {
    if (this.#traces.size === 0) return false;
    this.#traces.clear();
    this.#app.changed();
    return true;
  }

  toggle(key: string): void {
    if (this.#traces.delete(key)) this.#app.changed();
    else void this.#trace(key);
  }

  expand(key: string): void {
    this.#whole.add(key);
    this.#app.changed();
  }

  retry(id: string): void {
    this.#session.open.retry(id);
  }

  discard(id: string): void {
    this.#session.open.discard(id);
  }

  render(): void {
    const room = this.#session.open;
    const changedRoom = room !== this.#room;
    if (changedRoom) this.#reset(room);
    // Memory stays bounded; a reader far above keeps more.
    if (room.timeline.cut(this.#following ? KEEP_MAX : READ_MAX)) this.#following = true;
    const anchor = this.#following ? null : this.#anchor();
    this.#renderRows(room);
    this.#renderEdges(room);
    if (this.#following) this.#scroller.scrollTop = this.#scroller.scrollHeight;
    else if (anchor?.element.isConnected) this.#scroller.scrollTop += anchor.element.offsetTop - anchor.top;
    this.#afterScroll(room);
  }

  #reset(room: Room): void {
    this.#room = room;
    this.#rows.clear();
    this.#traces.clear();
    this.#whole.clear();
    this.#gapsSeen.clear();
    this.#current = null;
    this.#following = true;
  }

  #renderRows(room: Room): void {
    const me = this.#session.connection.identity.user;
    const now = Date.now();
    const rows: Row[] = [];
    const models: (RowModel | null)[] = [];
    let previous: { user: string; time: number | null } | null = null;
    let day: number | null = null;
    const push = (key: string, make: () => HTMLElement, model: RowModel | null = null): void => {
      const row = this.#rows.get(key) ?? { element: make(), model: null };
      this.#rows.set(key, row);
      rows.push(row);
      models.push(model);
    };
    const message = (key: string, user: string, time: number | null, of: RowModel['message']): void => {
      if (time !== null && dayOf(time) !== day) {
        day = dayOf(time);
        const label = dayLabel(time, now);
        push(`day:${day}:${label}`, () => separator('day', label));
        previous = null;
      }
      if ('offset' in of && of.offset === room.newFrom) {
        push('new', () => separator('new', 'New'));
        previous = null;
      }
      const continued =
        previous !== null &&
        previous.user === user &&
        (time === null || previous.time === null || time - previous.time < TOGETHER_MS);
      previous = { user, time };
      const model: RowModel = {
        key,
        message: of,
        user,
        mine: user === me,
        continued,
        trace: this.#traces.get(key) ?? null,
        whole: this.#whole.has(key),
      };
      push(key, () => h('article', { tabindex: -1 }), model);
    };
    for (const item of room.timeline.items()) {
      if (item.kind === 'message') {
        const { publication } = item;
        message(item.key, publication.user, publication.time, publication);
      } else if (this.#gapShown(item, now)) {
        const { from, to } = item.range;
        push(`${item.key}:${to}:${item.lost}`, () => this.#gapRow(item, to - from + 1));
        previous = null;
      }
    }
    for (const outgoing of room.outbox.messages) message(rowKey(outgoing.id), me, outgoing.createdAt, outgoing);
    const used = new Set(rows);
    for (const [key, row] of this.#rows) if (!used.has(row)) this.#rows.delete(key);
    rows.forEach((row, at) => {
      const model = models[at];
      if (!model) return;
      if (!row.model || !sameRow(row.model, model)) {
        const focused = row.element.contains(document.activeElement);
        setAttributes(row.element, rowAttributes(model));
        setChildren(row.element, rowContents(model, this));
        // The button that was pressed is gone; without a focus in the row the keyboard would be lost.
        if (focused && !row.element.contains(document.activeElement)) row.element.focus({ preventScroll: true });
      }
      row.model = model;
    });
    this.#order = rows.filter((row) => row.model !== null);
    const current = this.#order.find((row) => row.model?.key === this.#current) ?? this.#order.at(-1);
    for (const row of this.#order) setAttributes(row.element, { tabindex: row === current ? 0 : -1 });
    setChildren(
      this.#list,
      rows.map((row) => row.element),
    );
  }

  #renderEdges(room: Room): void {
    const { timeline, loaded, loadingOlder, historyProblem, state } = room;
    setAttributes(this.#list, { 'aria-busy': loadingOlder || !loaded ? 'true' : null });
    let start = '';
    if (historyProblem !== null) start = `Older messages cannot be loaded: ${historyProblem}. Trying again…`;
    else if (loadingOlder || (!loaded && state.kind === 'joined')) start = 'Loading…';
    else if (loaded && timeline.complete && timeline.top > 0) start = timeline.first === 1 ? `The beginning of #${room.name}` : 'Older messages are no longer kept';
    setText(this.#start, start);
    const empty = loaded && timeline.top === 0 && room.outbox.messages.length === 0;
    let text = '';
    if (state.kind === 'refused') text = `You cannot follow #${room.name}: ${state.reason}.`;
    else if (empty) text = `Nobody has written in #${room.name} yet. Say hello.`;
    setText(this.#empty, text);
  }

  #gapShown(item: TimelineItem & { kind: 'gap' }, now: number): boolean {
    if (item.lost) return true;
    const since = this.#gapsSeen.get(item.key);
    if (since === undefined) {
      this.#gapsSeen.set(item.key, now);
      setTimeout(() => this.#app.changed(), GAP_SHOWN_AFTER_MS + 20);
      return false;
    }
    return now - since >= GAP_SHOWN_AFTER_MS;
  }

  #gapRow(item: TimelineItem & { kind: 'gap' }, missing: number): HTMLElement {
    const text = item.lost
      ? `${count(missing, 'message')} here ${missing === 1 ? 'is' : 'are'} no longer kept`
      : `${count(missing, 'message')} still to come`;
    return h(
      'div',
      { class: 'gap', 'data-testid': 'gap', 'data-lost': item.lost },
      h('span', {}, text),
      !item.lost && h('button', { type: 'button', class: 'link', onclick: () => this.#session.open.refetch() }, 'Load now'),
    );
  }

  /** The first row in sight, which must not move when rows come in above it. */
  #anchor(): { element: HTMLElement; top: number } | null {
    const { scrollTop } = this.#scroller;
    const row = this.#order.find(({ element }) => element.offsetTop + element.offsetHeight > scrollTop);
    return row ? { element: row.element, top: row.element.offsetTop } : null;
  }

  #scrolled(): void {
    const { scrollTop, scrollHeight, clientHeight } = this.#scroller;
    this.#following = scrollHeight - scrollTop - clientHeight < END_PX;
    if (this.#room) this.#afterScroll(this.#room);
  }

  #afterScroll(room: Room): void {
    const nearStart = this.#scroller.scrollTop < START_PX && this.#scroller.clientHeight > 0;
    if (nearStart && room.historyProblem === null) void room.loadOlder();
    if (this.#following && document.visibilityState === 'visible') room.markRead();
    setAttributes(this.#down, { hidden: this.#following, 'aria-label': room.unread > 0 ? count(room.unread, 'new message') : 'To the newest message' });
    setText(this.#downCount, room.unread > 0 ? `${room.unread} new` : '');
  }

  async #trace(key: string): Promise<void> {
    const room = this.#session.open;
    const message = this.#rows.get(key)?.model?.message;
    if (!message || !('offset' in message)) return;
    const put = (state: TraceState): void => {
      // The details may have been closed, or another room opened, meanwhile.
      if (state.kind !== 'asking' && (this.#room !== room || !this.#traces.has(key))) return;
      this.#traces.set(key, state);
      this.#app.changed();
    };
    put({ kind: 'asking' });
    try {
      put({ kind: 'known', trace: await this.#session.connection.trace(room.name, message.offset) });
    } catch (error) {
      put({ kind: 'failed', reason: callError(error).message });
    }
  }

  #rowOf(target: EventTarget | null): Row | null {
    const element = target instanceof Element ? target.closest('article') : null;
    return this.#order.find((row) => row.element === element) ?? null;
  }

  #click(event: MouseEvent): void {
    const target = event.target;
    if (target instanceof Element && target.closest('button, a, .details')) return;
    // Selecting text is not asking for details.
    if (getSelection()?.isCollapsed === false) return;
    const row = this.#rowOf(target);
    if (!row?.model) return;
    this.#current = row.model.key;
    this.toggle(row.model.key);
  }

  #key(event: KeyboardEvent): void {
    const row = this.#rowOf(event.target);
    if (!row?.model || event.target !== row.element) return;
    const at = this.#order.indexOf(row);
    const last = this.#order.length - 1;
    const target = { ArrowDown: at + 1, ArrowUp: at - 1, Home: 0, End: last }[event.key];
    if (target !== undefined) {
      event.preventDefault();
      const next = this.#order[Math.max(0, Math.min(last, target))];
      if (!next?.model) return;
      setAttributes(row.element, { tabindex: -1 });
      setAttributes(next.element, { tabindex: 0 });
      this.#current = next.model.key;
      next.element.focus();
    } else if (event.key === 'Enter' || event.key === ' ') {
      event.preventDefault();
      this.#current = row.model.key;
      this.toggle(row.model.key);
    }
  }
}

function separator(kind: 'day' | 'new', label: string): HTMLElement {
  return h('div', { class: `separator ${kind}`, role: 'separator', 'aria-label': label, 'data-testid': `${kind}-separator` }, h('span', {}, label));
}
