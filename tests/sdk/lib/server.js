// Starts `gb6 dev` for one suite: on a port that it can come back to, with a data directory of its own.

import { spawn } from 'node:child_process';
import { createWriteStream, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { connect as connectTls } from 'node:tls';
import { fileURLToPath } from 'node:url';

import { freePort } from './ports.js';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../../..');
/** Where builds go. */
export const target = path.resolve(root, process.env.CARGO_TARGET_DIR ?? 'target');

/** How long anything may take before a test fails. */
export const PATIENCE = 20_000;

/** A program of the build. */
export function built(name, hint) {
  const file = path.join(target, 'debug', name);
  if (!existsSync(file)) throw new Error(`${file} does not exist: build it with \`${hint}\``);
  return file;
}

/** The gb6 that is tested: GB6_BIN, or the development build. */
export function gb6() {
  if (process.env.GB6_BIN) return path.resolve(root, process.env.GB6_BIN);
  return built('gb6', 'cargo build -p gb6');
}

/** A directory for the data of one suite. */
export function scratch(name) {
  const parent = path.join(target, 'test-data');
  mkdirSync(parent, { recursive: true });
  return mkdtempSync(path.join(parent, `${name}-`));
}

/** Rejects when `promise` takes longer than `ms`. */
export function within(promise, what, ms = PATIENCE) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${typeof what === 'function' ? what() : what}: nothing within ${ms} ms`)), ms);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

export class Server {
  /**
   * Starts a server, with these arguments beside the usual ones, and waits until it is ready. In
   * its directory stand these files; an argument `--config NAME` is one of them.
   */
  static async start(name, args = [], files = {}) {
    const dir = scratch(name);
    for (const [file, text] of Object.entries(files)) writeFileSync(path.join(dir, file), text);
    const server = new Server(dir, args.map((arg) => (arg in files ? path.join(dir, arg) : arg)));
    await server.#start(`127.0.0.1:${await freePort()}`);
    return server;
  }

  constructor(dir, args) {
    this.dir = dir;
    this.args = args;
    this.log = path.join(dir, 'gb6.log');
  }

  async #start(http) {
    const args = ['dev', '--ready-json', '--http', http, '--data-dir', path.join(this.dir, 'data')];
    // Servers that start at once would take the usual port from each other.
    args.push('--quic', '127.0.0.1:0', ...this.args);
    const child = spawn(gb6(), args, { stdio: ['ignore', 'pipe', 'pipe'] });
    this.child = child;
    this.ended = new Promise((resolve) => child.once('exit', (code, signal) => resolve({ code, signal })));
    // Also when this process ends without a word.
    this.killer ??= () => this.child.kill('SIGKILL');
    process.off('exit', this.killer).on('exit', this.killer);
    child.stderr.pipe(createWriteStream(this.log, { flags: 'a' }));
    const lines = createInterface({ input: child.stdout });
    const line = new Promise((resolve, reject) => {
      lines.once('line', resolve);
      child.once('error', reject);
      this.ended.then((how) => reject(new Error(`gb6 dev ended with ${JSON.stringify(how)}\n${this.logTail()}`)));
    });
    this.ready = JSON.parse(await within(line, () => `the line of --ready-json\n${this.logTail()}`));
    this.http = this.ready.http;
    this.ws = this.ready.ws;
  }

  get address() {
    return new URL(this.http).host;
  }

  /** The certificate that it shows (PEM): what a client trusts that has been given it. */
  async certificate() {
    const { hostname: host, port } = new URL(this.http);
    const socket = connectTls({ host, port, rejectUnauthorized: false });
    try {
      await within(new Promise((resolve, reject) => socket.once('secureConnect', resolve).once('error', reject)), 'a TLS handshake');
      const base64 = socket.getPeerCertificate().raw.toString('base64');
      return `-----BEGIN CERTIFICATE-----\n${base64.replaceAll(/.{64}/g, '$&\n')}\n-----END CERTIFICATE-----\n`;
    } finally {
      socket.destroy();
    }
  }

  logTail() {
    return existsSync(this.log) ? readFileSync(this.log, 'utf8').slice(-4000) : '';
  }

  /** SIGKILL, and waits until it is gone. */
  async kill() {
    this.child.kill('SIGKILL');
    await within(this.ended, 'the end of a killed server');
  }

  /** Starts it again on the same address and data. */
  async restart() {
    await this.#start(this.address);
  }

  /** SIGTERM; resolves with how it ended. */
  async terminate() {
    this.child.kill('SIGTERM');
    return within(this.ended, () => `the end of a terminated server\n${this.logTail()}`);
  }

  /** Ends the server of a suite and deletes its data, unless a test failed. */
  async stop(failed = false) {
    await this.kill();
    process.off('exit', this.killer);
    if (!failed) rmSync(this.dir, { recursive: true, force: true });
  }
}
