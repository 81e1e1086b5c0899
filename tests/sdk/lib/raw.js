// A bare WebSocket, for what no SDK does.

import WebSocket from 'ws';
import { within } from './server.js';

export class Raw {
  static async open(url, { protocol = 'centrifuge-json', headers = {} } = {}) {
    const raw = new Raw(new WebSocket(url, protocol === null ? [] : [protocol], { headers }));
    await within(new Promise((resolve, reject) => raw.socket.once('open', resolve).once('error', reject)), 'the handshake');
    return raw;
  }

  constructor(socket) {
    this.socket = socket;
    this.frames = [];
    this.replies = [];
    this.asked = 0;
    this.waiting = [];
    this.closed = new Promise((resolve) => socket.once('close', (code, reason) => resolve({ code, reason: reason.toString() })));
    socket.on('error', () => undefined);
    socket.on('message', (data, binary) => {
      const frame = binary ? data : data.toString();
      const taker = this.waiting.shift();
      if (taker) taker(frame);
      else this.frames.push(frame);
    });
  }

  send(frame) {
    this.socket.send(frame);
  }

  /** The next frame. */
  next(ms) {
    if (this.frames.length > 0) return Promise.resolve(this.frames.shift());
    return within(new Promise((resolve) => this.waiting.push(resolve)), 'a frame', ms);
  }

  /** Sends a command and gives its reply, without its id. */
  async ask(command) {
    const id = (this.asked += 1);
    this.send(JSON.stringify({ id, ...command }));
    for (;;) {
      const found = this.replies.findIndex((reply) => reply.id === id);
      if (found >= 0) {
        const [{ id: _, ...reply }] = this.replies.splice(found, 1);
        return reply;
      }
      await this.more();
    }
  }

  /** Takes the objects of the next frame. */
  async more() {
    for (const line of (await this.next()).split('\n')) this.replies.push(JSON.parse(line));
  }

  /** Every push that was taken so far. */
  get pushes() {
    return this.replies.filter((reply) => reply.push).map((reply) => reply.push);
  }

  /** The code and reason of the close frame. */
  end(ms) {
    return within(this.closed, 'a close frame', ms);
  }
}
