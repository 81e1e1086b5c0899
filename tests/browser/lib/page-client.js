// What runs inside a page: an application with the SDK, which a test asks for one thing after the
// other. It is sent into the page as text, so it uses nothing from outside its function.

/**
 * Puts `globalThis.app` into the page: clients by name, in JSON or Protobuf, which take the
 * certificate with this SHA-256 (hexadecimal) for WebTransport.
 */
export function application([encoding, pin]) {
  const bytes = encoding === 'protobuf';
  const encode = (value) => (bytes ? new TextEncoder().encode(JSON.stringify(value)) : value);
  const decode = (data) => (data instanceof Uint8Array ? JSON.parse(new TextDecoder().decode(data)) : data);
  const publication = ({ offset, data, info, tags }) => ({
    offset: Number(offset),
    data: decode(data),
    user: info?.user,
    ...(tags?.id && { id: tags.id }),
  });
  // The SDK gives WebTransport an address and no options, so that the page pins the certificate.
  const value = Uint8Array.from(pin.match(/../g), (digits) => Number.parseInt(digits, 16));
  globalThis.WebTransport = class extends WebTransport {
    constructor(url) {
      super(url, { serverCertificateHashes: [{ algorithm: 'sha-256', value }] });
    }
  };
  const clients = {};
  const until = async (is, what) => {
    const end = performance.now() + 15_000;
    while (!is()) {
      if (performance.now() > end) throw new Error(`${what}: not within 15 s`);
      await new Promise((done) => setTimeout(done, 10));
    }
  };
  globalThis.app = {
    /** Connects a client and subscribes it to a room. */
    async open(name, endpoint, token, room) {
      const client = new globalThis.Centrifuge(endpoint, {
        token,
        emulationEndpoint: `${globalThis.location.origin}/emulation`,
        minReconnectDelay: 50,
        maxReconnectDelay: 400,
      });
      const seen = { publications: [], joins: [], leaves: [], subscribed: [], states: [] };
      client.on('error', () => undefined);
      client.on('connected', ({ transport }) => seen.states.push(transport));
      client.on('disconnected', ({ code, reason }) => seen.states.push({ code, reason }));
      const sub = client.newSubscription(room);
      sub.on('publication', (p) => seen.publications.push(publication(p)));
      sub.on('join', ({ info }) => seen.joins.push(info.user));
      sub.on('leave', ({ info }) => seen.leaves.push(info.user));
      sub.on('subscribed', ({ wasRecovering, recovered }) => seen.subscribed.push({ wasRecovering, recovered }));
      sub.on('error', () => undefined);
      clients[name] = { client, sub, seen };
      sub.subscribe();
      client.connect();
      await sub.ready(15_000);
      return seen.states;
    },
    async publish(name, data) {
      await clients[name].sub.publish(encode(data));
    },
    async rpc(name, method, data) {
      try {
        return decode((await clients[name].client.rpc(method, encode(data))).data);
      } catch ({ code, message }) {
        return { error: code, message };
      }
    },
    async history(name, options) {
      const page = await clients[name].sub.history(options);
      return page.publications.map(publication);
    },
    async presence(name) {
      const { clients: present } = await clients[name].sub.presence();
      const stats = await clients[name].sub.presenceStats();
      return { users: Object.values(present).map((i) => i.user).sort(), stats: [stats.numClients, stats.numUsers] };
    },
    unsubscribe(name) {
      clients[name].sub.unsubscribe();
    },
    leave(name) {
      clients[name].client.disconnect();
    },
    async comeBack(name) {
      const before = clients[name].seen.subscribed.length;
      clients[name].client.connect();
      await until(() => clients[name].seen.subscribed.length > before, `${name} is back`);
    },
    /** What a client saw, once it has so many of something. */
    async seen(name, kind, count) {
      const { seen } = clients[name];
      await until(() => seen[kind].length >= count, `${count} ${kind} of ${name}, has ${JSON.stringify(seen[kind])}`);
      return seen[kind];
    },
    close() {
      for (const { client } of Object.values(clients)) client.disconnect();
    },
  };
}
