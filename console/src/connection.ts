//! The connection of this tab: signing in, the socket and its state, and the calls of the protocol
//! in the console's own types.

import { Centrifuge, UnauthorizedError, type PublicationContext, type Subscription } from 'centrifuge';
import type { DirectoryLink, Follower } from './directory.ts';
import { channelOf } from './names.ts';
import type { Connection as PresentConnection } from './people.ts';
import type { Acknowledgement, Publication } from './timeline.ts';

/** Who this tab is. */
export interface Identity {
  readonly name: string;
  readonly user: string;
  readonly instance: string;
  readonly token: string;
}

/** What the connection is doing, with the reason when it is not working. */
export type ConnectionState =
  | { readonly kind: 'connecting'; readonly reason: string | null }
  | { readonly kind: 'connected' }
  | { readonly kind: 'reconnecting'; readonly reason: string }
  | { readonly kind: 'disconnected'; readonly reason: string };

/** A call that failed: what the server said, or what happened on the way. */
export class CallError extends Error {
  /** The protocol's code; below 100: found on this side. */
  readonly code: number;
  /** Whether the same call may simply be made again. */
  readonly temporary: boolean;

  constructor(code: number, message: string, temporary: boolean) {
    super(message);
    this.code = code;
    this.temporary = temporary;
  }
}

/** A page of a room's history. */
export interface HistoryPage {
  readonly publications: readonly Publication[];
  readonly epoch: string;
  readonly top: number;
}

/** Where a message went: what `room.trace` knows of it. */
export interface Trace {
  readonly edge: string | null;
  readonly shard: number | null;
  readonly shardEpoch: number | null;
  readonly syncUs: number | null;
  readonly batch: number | null;
}

/** Codes that the protocol calls temporary, for servers that leave the mark out. */
const TEMPORARY = new Set([100, 111, 113, 1001, 1002, 1003]);
/** The code of a position that the history no longer reaches. */
export const UNRECOVERABLE = 112;

/** The address of the socket on this origin. */
export function socketUrl(location: Location): string {
  return `${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}/connection/websocket`;
}

/** Asks for a token in exchange for a name. */
export async function signIn(name: string): Promise<Identity> {
  let response: Response;
  try {
    response = await fetch('/dev/token', {
      method: 'POST',
      headers: { 'content-type': 'application/json' },
      body: JSON.stringify({ name }),
      signal: AbortSignal.timeout(10_000),
    });
  } catch {
    throw new CallError(0, 'The server does not answer. Is it running?', true);
  }
  const body = await response.text();
  if (!response.ok) throw new CallError(response.status, refusal(response.status, body), response.status >= 500);
  const answer = record(parse(body));
  const token = answer?.['token'];
  const user = answer?.['user'];
  const instance = answer?.['instance'];
  if (typeof token !== 'string' || typeof user !== 'string') {
    throw new CallError(0, 'The server’s answer is not a token. Is this address a GB6 edge?', false);
  }
  return { name, user, instance: typeof instance === 'string' ? instance : '', token };
}

/** One person's connection. */
export class Connection implements DirectoryLink {
  readonly identity: Identity;
  readonly url: string;
  /** Called after every change of {@link state}. */
  onState: () => void = () => undefined;
  #client: Centrifuge;
  #state: ConnectionState = { kind: 'connecting', reason: null };
  #token: string;
  #wasConnected = false;

  constructor(identity: Identity, url: string) {
    this.identity = identity;
    this.url = url;
    this.#token = identity.token;
    this.#client = new Centrifuge(url, {
      token: identity.token,
      getToken: () => this.freshToken(),
      name: 'gb6-console',
      minReconnectDelay: 300,
      maxReconnectDelay: 8_000,
    });
    keepPublicationTime(this.#client);
    this.#client.on('connecting', ({ reason }) => {
      const words = reason === '' || reason === 'connect called' ? null : reason;
      this.#set(
        this.#wasConnected
          ? { kind: 'reconnecting', reason: words ?? 'the connection was lost' }
          : { kind: 'connecting', reason: words },
      );
    });
    this.#client.on('connected', () => {
      this.#wasConnected = true;
      this.#set({ kind: 'connected' });
    });
    this.#client.on('disconnected', ({ reason }) => this.#set({ kind: 'disconnected', reason: reason || 'closed' }));
    this.#client.on('error', ({ error }) => {
      if (this.#state.kind !== 'connecting' && this.#state.kind !== 'reconnecting') return;
      this.#set({ kind: this.#state.kind, reason: error.message || 'the server cannot be reached' });
    });
  }

  /** What the connection is doing. */
  get state(): ConnectionState {
    return this.#state;
  }

  /** Whether calls can be made. */
  get isConnected(): boolean {
    return this.#state.kind === 'connected';
  }

  /** Starts, or starts again after a refusal, with a fresh token. */
  connect(again = false): void {
    if (again) this.#client.setToken('');
    this.#client.connect();
  }

  /** Closes for good. */
  close(): void {
    this.onState = () => undefined;
    this.#client.disconnect();
  }

  /** A token that has just been issued. */
  async freshToken(): Promise<string> {
    try {
      this.#token = (await signIn(this.identity.name)).token;
      return this.#token;
    } catch (error) {
      if (error instanceof CallError && (error.code === 401 || error.code === 403)) {
        throw new UnauthorizedError(error.message);
      }
      throw error;
    }
  }

  /** The subscription of a room, made but not begun. */
  subscription(room: string): Subscription {
    return this.#client.newSubscription(channelOf(room), {
      positioned: true,
      recoverable: true,
      joinLeave: true,
      minResubscribeDelay: 300,
      maxResubscribeDelay: 8_000,
    });
  }

  /** Ends a room's subscription. */
  forget(subscription: Subscription): void {
    subscription.unsubscribe();
    subscription.removeAllListeners();
    this.#client.removeSubscription(subscription);
  }

  /** Follows a room that nobody looks at: only what is published in it. Ends when the answer is called. */
  follow(room: string, follower: Follower): () => void {
    const subscription = this.#client.newSubscription(channelOf(room), { positioned: true, recoverable: true });
    subscription.on('subscribed', ({ wasRecovering, recovered }) => follower.followed(wasRecovering && recovered));
    subscription.on('publication', (context) => {
      const publication = publicationOf(context);
      if (publication) follower.arrived(publication);
    });
    subscription.subscribe();
    return () => this.forget(subscription);
  }

  /** Publishes durably. The id makes it safe to call again after any failure. */
  async publish(room: string, id: string, data: unknown): Promise<Acknowledgement> {
    const answer = record(await this.#rpc('room.publish', { room: channelOf(room), id, data }));
    const offset = number(answer?.['offset']);
    if (offset === null || offset === 0) throw new CallError(0, 'the server’s answer names no offset', true);
    const epoch = answer?.['epoch'];
    return { offset, epoch: typeof epoch === 'string' ? epoch : '', time: number(answer?.['time']) };
  }

  /** Where a message went. */
  async trace(room: string, offset: number): Promise<Trace> {
    const answer = record(await this.#rpc('room.trace', { room: channelOf(room), offset }));
    const edge = answer?.['edge'];
    return {
      edge: typeof edge === 'string' && edge !== '' ? edge : null,
      shard: number(answer?.['shard']),
      shardEpoch: number(answer?.['shard_epoch']),
      syncUs: number(answer?.['sync_us']) || null,
      batch: number(answer?.['batch']) || null,
    };
  }

  /** History, newest first, from before `before` (`null`: from the end). */
  async history(room: string, before: { offset: number; epoch: string } | null, limit: number): Promise<HistoryPage> {
    const options = { limit, reverse: true, ...(before ? { since: before } : {}) };
    const result = await this.#call(() => this.#client.history(channelOf(room), options));
    return {
      publications: result.publications.flatMap((context) => publicationOf(context) ?? []),
      epoch: result.epoch,
      top: result.offset,
    };
  }

  /** Who is in a room. */
  async presence(room: string): Promise<PresentConnection[]> {
    const { clients } = await this.#call(() => this.#client.presence(channelOf(room)));
    return Object.values(clients).map(({ client, user }) => ({ client, user }));
  }

  /** How many are in a room, exactly. */
  async presenceStats(room: string): Promise<{ connections: number; people: number }> {
    const { numClients, numUsers } = await this.#call(() => this.#client.presenceStats(channelOf(room)));
    return { connections: numClients, people: numUsers };
  }

  async #rpc(method: string, data: unknown): Promise<unknown> {
    const { data: answer }: { data: unknown } = await this.#call(() => this.#client.rpc(method, data));
    return answer;
  }

  async #call<T>(call: () => Promise<T>): Promise<T> {
    try {
      return await call();
    } catch (error) {
      throw callError(error);
    }
  }

  #set(state: ConnectionState): void {
    this.#state = state;
    this.onState();
  }
}

/** A publication of the SDK in the console's own type; `null` for one without an offset. */
export function publicationOf(context: PublicationContext): Publication | null {
  if (context.offset === undefined) return null;
  const tags = context.tags ?? {};
  const time = 'time' in context ? number(context.time) : null;
  const data: unknown = context.data;
  return { offset: context.offset, data, user: context.info?.user ?? '', time, id: tags['id'] ?? null, tags };
}

/** The SDK (5.8.0, pinned) reads a publication's `time` from the wire but leaves it out of what it
 * hands on: this puts it back. Where a later version works otherwise, times are unknown, not wrong. */
export function keepPublicationTime(client: object): void {
  if (!('_getPublicationContext' in client)) return;
  const original = client._getPublicationContext;
  if (typeof original !== 'function') return;
  Object.defineProperty(client, '_getPublicationContext', {
    value(channel: string, publication: { time?: unknown }): object {
      const context: object = original.call(client, channel, publication);
      return { ...context, time: publication.time };
    },
  });
}

/** Any failure of a call in one shape. */
export function callError(error: unknown): CallError {
  if (error instanceof CallError) return error;
  const fields = record(error);
  const code = number(fields?.['code']) ?? 0;
  const message = fields?.['message'];
  const temporary = fields?.['temporary'] === true || code < 100 || TEMPORARY.has(code);
  return new CallError(code, typeof message === 'string' && message !== '' ? message : 'the call failed', temporary);
}

function refusal(status: number, body: string): string {
  const error = record(parse(body))?.['error'];
  const message = record(error)?.['message'] ?? error;
  if (typeof message === 'string' && message !== '') return message.slice(0, 300);
  if (status === 404) return 'This server does not sign people in by name (dev_tokens is off).';
  const text = body.trim();
  return text !== '' && !text.startsWith('<') ? text.slice(0, 300) : `The server refused (HTTP ${status}).`;
}

function parse(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return null;
  }
}

function record(value: unknown): Record<string, unknown> | null {
  return typeof value === 'object' && value !== null ? { ...value } : null;
}

function number(value: unknown): number | null {
  return typeof value === 'number' && Number.isFinite(value) ? value : null;
}
