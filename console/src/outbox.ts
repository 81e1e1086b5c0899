//! Messages on their way out of one room: what is sent next, what is tried again and when. Pure: the
//! time is a parameter, sending is the caller's.

/** How long after its first attempt a message is still sent again by itself. The server remembers an
 * id for ten minutes; past that, a second attempt could become a second message. */
export const AUTO_RETRY_MS = 9 * 60_000;
/** How long a message waits for a connection before it is shown as failed (it still goes out later). */
export const WAIT_MS = 5_000;
/** The longest pause between two attempts. */
export const BACKOFF_MAX_MS = 15_000;
/** The most messages that wait in one room: beyond it the composer refuses. */
export const OUTBOX_MAX = 200;

/** What a person sees of a message that is not durable yet. */
export type OutgoingState = 'sending' | 'failed';

/** A message that has no offset yet. Replaced, never changed, so that views can compare by identity. */
export interface Outgoing {
  readonly id: string;
  readonly text: string;
  /** Unix ms at which the person pressed Enter. */
  readonly createdAt: number;
  readonly state: OutgoingState;
  readonly attempts: number;
  readonly inFlight: boolean;
  /** Unix ms of the next attempt; `null`: only a person starts it. */
  readonly nextTryAt: number | null;
  /** Why the last attempt failed, in words. */
  readonly reason: string | null;
}

/** How an attempt failed. */
export interface SendFailure {
  /** Whether the same id may simply be sent again. */
  readonly temporary: boolean;
  readonly reason: string;
}

/** The queue of one room. One message is in flight at a time, so that retries never reorder. */
export class Outbox {
  #queue: Outgoing[] = [];

  /** All messages, in the order in which they were written. */
  get messages(): readonly Outgoing[] {
    return this.#queue;
  }

  /** Appends a message; `false` when {@link OUTBOX_MAX} are waiting already. */
  add(id: string, text: string, createdAt: number, now: number): boolean {
    if (this.#queue.length >= OUTBOX_MAX) return false;
    const old = now - createdAt >= AUTO_RETRY_MS;
    this.#queue.push({
      id,
      text,
      createdAt,
      state: old ? 'failed' : 'sending',
      attempts: 0,
      inFlight: false,
      nextTryAt: old ? null : now,
      reason: old ? 'it waited too long to be sent by itself' : null,
    });
    return true;
  }

  /** The message to send now, or `null`. */
  due(now: number): Outgoing | null {
    const head = this.#queue.find((message) => message.inFlight || message.nextTryAt !== null);
    if (!head || head.inFlight || head.nextTryAt === null || head.nextTryAt > now) return null;
    return head;
  }

  /** Unix ms at which {@link due} or {@link lapse} should be asked again, or `null`. */
  wakeAt(connected: boolean): number | null {
    const head = this.#queue.find((message) => message.inFlight || message.nextTryAt !== null);
    if (!head || head.inFlight) return null;
    if (connected) return head.nextTryAt;
    const waiting = this.#queue.filter((message) => message.state === 'sending');
    return waiting.length === 0 ? null : Math.min(...waiting.map((message) => message.createdAt + WAIT_MS));
  }

  /** An attempt begins. */
  started(id: string): void {
    this.#replace(id, (message) => ({
      ...message,
      state: 'sending',
      inFlight: true,
      attempts: message.attempts + 1,
      reason: null,
    }));
  }

  /** An attempt failed. `jitter` is in [0, 1). */
  failed(id: string, failure: SendFailure, now: number, jitter: number): void {
    this.#replace(id, (message) => {
      const again = failure.temporary && now - message.createdAt < AUTO_RETRY_MS;
      const pause = Math.min(BACKOFF_MAX_MS, 500 * 2 ** Math.min(message.attempts, 10));
      return {
        ...message,
        state: 'failed',
        inFlight: false,
        nextTryAt: again ? now + Math.round(pause * (0.5 + jitter / 2)) : null,
        reason: failure.reason,
      };
    });
  }

  /** Without a connection, what has waited for {@link WAIT_MS} is shown as failed; it stays queued. */
  lapse(now: number): void {
    this.#queue = this.#queue.map((message) =>
      !message.inFlight && message.state === 'sending' && now - message.createdAt >= WAIT_MS
        ? { ...message, state: 'failed', reason: 'not connected' }
        : message,
    );
  }

  /** The connection is back: whatever waits for its next attempt is due at once. */
  reconnected(now: number): void {
    this.#queue = this.#queue.map((message) =>
      message.nextTryAt !== null && !message.inFlight ? { ...message, nextTryAt: now } : message,
    );
  }

  /** A person asked for another attempt, under the same id. */
  retry(id: string, now: number): void {
    this.#replace(id, (message) =>
      message.inFlight ? message : { ...message, state: 'sending', nextTryAt: now, reason: null },
    );
  }

  /** Takes a message out: it is durable, or a person gave it up. */
  remove(id: string): Outgoing | null {
    const found = this.get(id);
    if (found) this.#queue = this.#queue.filter((message) => message !== found);
    return found;
  }

  /** The message of that id, or `null`. */
  get(id: string): Outgoing | null {
    return this.#queue.find((message) => message.id === id) ?? null;
  }

  #replace(id: string, change: (message: Outgoing) => Outgoing): void {
    this.#queue = this.#queue.map((message) => (message.id === id ? change(message) : message));
  }
}
