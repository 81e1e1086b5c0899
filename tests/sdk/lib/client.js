// The unmodified SDK in both formats, and waiting for its events.

import { Centrifuge } from 'centrifuge';
import { Centrifuge as CentrifugeProtobuf } from 'centrifuge/build/protobuf';
import { EventSource } from 'eventsource';
import WebSocket from 'ws';
import { PATIENCE, within } from './server.js';
import { member, sign } from './token.js';

const text = new TextEncoder();

/** The two encodings: how an SDK is made and how data goes in and comes out. */
const encodings = [
  {
    name: 'JSON',
    encoding: 'json',
    make: (endpoint, options) => new Centrifuge(endpoint, options),
    encode: (value) => value,
    decode: (data) => data,
  },
  {
    name: 'Protobuf',
    encoding: 'protobuf',
    make: (endpoint, options) => new CentrifugeProtobuf(endpoint, options),
    encode: (value) => text.encode(JSON.stringify(value)),
    decode: (data) => JSON.parse(Buffer.from(data).toString()),
  },
];

/** One client's WebSockets, so that a test can cut them and look at what the client sent. */
class WebSocketLink {
  #sockets = [];
  #sent = [];
  #received = [];

  constructor(server) {
    const [sockets, sent, received] = [this.#sockets, this.#sent, this.#received];
    class Watched extends WebSocket {
      constructor(...args) {
        super(...args);
        sockets.push(this);
        // The SDK takes binary messages as ArrayBuffers.
        this.on('message', (data) => received.push(Buffer.from(data)));
      }
      send(data, ...rest) {
        sent.push(Buffer.from(data));
        super.send(data, ...rest);
      }
    }
    this.endpoint = server.ws;
    this.options = { websocket: Watched };
  }

  /** Everything that the client sent, as it cut it into messages. */
  get sent() {
    return this.#sent;
  }

  /** What the client was sent since the last look. */
  takeReceived() {
    return Buffer.concat(this.#received.splice(0));
  }

  /** Breaks the connection, as if the network were gone. */
  cut() {
    this.#sockets.at(-1).terminate();
  }
}

/**
 * One client's requests: an answer that does not end, and others for its commands. A test can cut
 * the first and look at all of them.
 */
class RequestsLink {
  #streams = [];
  #sent = [];

  constructor(server, transport, path) {
    const emulationEndpoint = `${server.http}/emulation`;
    // Of every request the body, or for one without what its query holds.
    const watched = async (url, init = {}) => {
      this.#sent.push(Buffer.from(init.body ?? new URL(url).searchParams.get('cf_connect') ?? ''));
      if (url === emulationEndpoint) return fetch(url, init);
      const cut = new AbortController();
      this.#streams.push(cut);
      return fetch(url, { ...init, signal: init.signal ? AbortSignal.any([init.signal, cut.signal]) : cut.signal });
    };
    class Watched extends EventSource {
      constructor(url, init) {
        super(url, { ...init, fetch: watched });
      }
    }
    this.endpoint = [{ transport, endpoint: `${server.http}${path}` }];
    this.options = { emulationEndpoint, fetch: watched, eventsource: Watched };
  }

  /** Everything that the client sent, request by request. */
  get sent() {
    return this.#sent;
  }

  /** Breaks the connection, as if the network were gone. */
  cut() {
    this.#streams.at(-1).abort(new TypeError('the network is gone'));
  }
}

class HttpStreamLink extends RequestsLink {
  constructor(server) {
    super(server, 'http_stream', '/connection/http_stream');
  }
}

class SseLink extends RequestsLink {
  constructor(server) {
    super(server, 'sse', '/connection/sse');
  }
}

/** The transports: what carries which encodings. */
const transports = [
  { name: 'WebSocket', transport: 'websocket', encodings: ['json', 'protobuf'], Link: WebSocketLink },
  { name: 'HTTP streaming', transport: 'http_stream', encodings: ['json', 'protobuf'], Link: HttpStreamLink },
  { name: 'SSE', transport: 'sse', encodings: ['json'], Link: SseLink },
];

/** Every combination of a transport and an encoding. */
export const formats = transports.flatMap(({ name, transport, Link, encodings: carried }) =>
  encodings
    .filter(({ encoding }) => carried.includes(encoding))
    .map((encoding) => ({
      ...encoding,
      name: `${name} ${encoding.name}`,
      transport,
      Link,
      // As the conformance table names it.
      id: `js/${transport}/${encoding.encoding}`,
    })),
);

/** The combination of this transport and encoding. */
export const format = (transport, encoding) => formats.find((f) => f.transport === transport && f.encoding === encoding);

/** An SDK client that is not yet connected; `closeAll` ends it with the others. */
export class Clients {
  #clients = [];

  constructor(server) {
    this.server = server;
  }

  make(format, user, options = {}) {
    const link = new format.Link(this.server);
    const client = format.make(link.endpoint, {
      ...link.options,
      token: user === null ? undefined : sign(this.server, member(user)),
      minReconnectDelay: 50,
      maxReconnectDelay: 400,
      ...options,
    });
    // An error event without a listener would throw.
    client.on('error', () => undefined);
    client.link = link;
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
