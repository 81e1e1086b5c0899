// The unmodified SDK in both formats, and waiting for its events.

import { Centrifuge } from 'centrifuge';
import { Centrifuge as CentrifugeProtobuf } from 'centrifuge/build/protobuf';
import WebSocket from 'ws';
import { PATIENCE, within } from './server.js';
import { member, sign } from './token.js';

const text = new TextEncoder();

/** The two formats: how an SDK is made and how data goes in and comes out. */
export const formats = [
  {
    name: 'JSON',
    make: (url, options) => new Centrifuge(url, options),
    encode: (value) => value,
    decode: (data) => data,
  },
  {
    name: 'Protobuf',
    make: (url, options) => new CentrifugeProtobuf(url, options),
    encode: (value) => text.encode(JSON.stringify(value)),
    decode: (data) => JSON.parse(Buffer.from(data).toString()),
  },
];

/** A WebSocket class that keeps the sockets and frames of one client, so that a test can cut the former and look at the latter. */
export function watchedWebSocket() {
  const sockets = [];
  const frames = [];
  class Watched extends WebSocket {
    constructor(...args) {
      super(...args);
      sockets.push(this);
      this.on('message', (data, binary) => frames.push({ from: 'server', data, binary }));
    }
    send(data, ...rest) {
      frames.push({ from: 'client', data: Buffer.from(data), binary: typeof data !== 'string' });
      super.send(data, ...rest);
    }
  }
  return { WebSocket: Watched, sockets, frames };
}

/** An SDK client that is not yet connected; `closeAll` ends it with the others. */
export class Clients {
  #clients = [];

  constructor(server) {
    this.server = server;
  }

  make(format, user, options = {}) {
    const watched = watchedWebSocket();
    const client = format.make(this.server.ws, {
      websocket: watched.WebSocket,
      token: user === null ? undefined : sign(this.server, member(user)),
      minReconnectDelay: 50,
      maxReconnectDelay: 400,
      ...options,
    });
    // An error event without a listener would throw.
    client.on('error', () => undefined);
    client.watched = watched;
    this.#clients.push(client);
    return client;
  }

  /** A connected client. */
  async connect(format, user, options) {
    const client = this.make(format, user, options);
    client.connect();
    await within(client.ready(PATIENCE), `${user} connects`);
    return client;
  }

  closeAll() {
    for (const client of this.#clients) client.disconnect();
    this.#clients = [];
  }
}

/** The next event of a kind for which `is` holds. Begin to wait before the cause. */
export function next(emitter, event, is = () => true, ms = PATIENCE) {
  let listener;
  const found = new Promise((resolve) => {
    listener = (context) => is(context) && resolve(context);
    emitter.on(event, listener);
  });
  return within(found, `event ${event}`, ms).finally(() => emitter.off(event, listener));
}

/** A subscription with everything that came of it, and a way to wait for it. */
export class Room {
  constructor(client, format, channel, options = {}) {
    this.format = format;
    this.channel = channel;
    this.sub = client.newSubscription(channel, options);
    this.publications = [];
    this.subscribed = [];
    this.unsubscribed = [];
    this.joins = [];
    this.leaves = [];
    this.#collect('publication', this.publications);
    this.#collect('subscribed', this.subscribed);
    this.#collect('unsubscribed', this.unsubscribed);
    this.#collect('join', this.joins);
    this.#collect('leave', this.leaves);
    this.sub.on('error', () => undefined);
  }

  #waiting = new Set();

  #collect(event, list) {
    this.sub.on(event, (context) => {
      list.push(context);
      for (const check of this.#waiting) check();
    });
  }

  /** Subscribes and waits until it is so. */
  async subscribe() {
    this.sub.subscribe();
    await within(this.sub.ready(PATIENCE), `subscribed to ${this.channel}`);
    return this;
  }

  /** Waits until `is` holds of this room. */
  async until(what, is, ms = PATIENCE) {
    let check;
    const held = new Promise((resolve) => {
      check = () => is(this) && resolve();
      this.#waiting.add(check);
      check();
    });
    await within(held, () => `${this.channel}: ${what} (has ${this.publications.length} publications)`, ms).finally(() => this.#waiting.delete(check));
  }

  /** Waits until there are so many publications. */
  async count(n, ms) {
    await this.until(`${n} publications`, (room) => room.publications.length >= n, ms);
  }

  /** The data of all publications. */
  get data() {
    return this.publications.map((p) => this.format.decode(p.data));
  }

  /** The offsets of all publications. */
  get offsets() {
    return this.publications.map((p) => Number(p.offset));
  }
}

/** `room.publish`: the durable publish. */
export async function roomPublish(client, format, room, id, data) {
  const request = { room, data };
  if (id !== undefined) request.id = id;
  const { data: answer } = await client.rpc('room.publish', format.encode(request));
  return format.decode(answer);
}

/** The error that a promise rejects with. */
export async function rejection(promise) {
  let value;
  try {
    value = await promise;
  } catch (error) {
    return error;
  }
  throw new Error(`it should have failed and answered ${JSON.stringify(value)}`);
}

let names = 0;
/** A room that no other test uses. */
export const freshRoom = (name) => `room:${name}-${process.pid}-${++names}`;
