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

  /** The code and reason of the close frame. */
  end(ms) {
    return within(this.closed, 'a close frame', ms);
  }
}
