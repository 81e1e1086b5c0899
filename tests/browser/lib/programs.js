// The programs under test, each watched by its lines: `gb6 dev`, a mesh, and the proxy that drops
// bytes.

import { spawn } from 'node:child_process';
import { createWriteStream, existsSync, mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import path from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';

import { freePort } from '../../sdk/lib/ports.js';

const root = path.resolve(path.dirname(fileURLToPath(import.meta.url)), '../../..');

/** Where builds go. */
export const target = path.resolve(root, process.env.CARGO_TARGET_DIR ?? 'target');
/** How long anything may take before a test fails. */
export const PATIENCE = 30_000;

function built(name, hint) {
  const file = path.join(target, 'debug', name);
  if (!existsSync(file)) throw new Error(`${file} does not exist: build it with \`${hint}\``);
  return file;
}

function gb6() {
  if (process.env.GB6_BIN) return path.resolve(root, process.env.GB6_BIN);
  return built('gb6', 'cargo build -p gb6');
}

function within(promise, what, ms = PATIENCE) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`${what}: nothing within ${ms} ms`)), ms);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

/** A program that prints lines, and may be told lines. */
class Program {
  #lines = [];
  #waiting = [];

  constructor(file, args, log) {
    this.name = path.basename(file);
    this.child = spawn(file, args, { stdio: ['pipe', 'pipe', log ? 'pipe' : 'inherit'], cwd: root });
    if (log) this.child.stderr.pipe(createWriteStream(log, { flags: 'a' }));
    this.child.stdin.on('error', () => undefined);
    this.ended = new Promise((resolve) => this.child.once('exit', (code, signal) => resolve({ code, signal })));
    this.failed = new Promise((_, reject) => this.child.once('error', reject));
    this.failed.catch(() => undefined);
    this.killer = () => this.child.kill('SIGKILL');
    process.on('exit', this.killer);
    this.ended.then(() => process.off('exit', this.killer));
    createInterface({ input: this.child.stdout }).on('line', (line) => {
      const taker = this.#waiting.shift();
      if (taker) taker(line);
      else this.#lines.push(line);
    });
  }

  /** The next line. */
  line(what) {
    if (this.#lines.length > 0) return Promise.resolve(this.#lines.shift());
    const line = new Promise((resolve) => this.#waiting.push(resolve));
    const early = this.ended.then((how) => {
      throw new Error(`${this.name} ended with ${JSON.stringify(how)}`);
    });
    early.catch(() => undefined);
    return within(Promise.race([line, early, this.failed]), `${this.name}: ${what}`);
  }

  /** Says a line and requires that it is obeyed. */
  async say(line) {
    this.child.stdin.write(`${line}\n`);
    const answer = await this.line(line);
    if (answer.startsWith('error')) throw new Error(`${this.name}: ${line}: ${answer}`);
    return answer;
  }

  /** SIGKILL, and waits until it is gone. */
  async kill() {
    this.child.kill('SIGKILL');
    await within(this.ended, `the end of ${this.name}`);
  }
}

/** A `gb6 dev` with data of its own. */
export class Dev {
  static async start(name) {
    const parent = path.join(target, 'test-data');
    mkdirSync(parent, { recursive: true });
    const dev = new Dev();
    dev.dir = mkdtempSync(path.join(parent, `${name}-`));
    await dev.start(`127.0.0.1:${await freePort()}`);
    return dev;
  }

  async start(http = new URL(this.http).host) {
    const args = ['dev', '--ready-json', '--http', http, '--data-dir', path.join(this.dir, 'data')];
    // Servers that start at once would take the usual port from each other.
    args.push('--quic', '127.0.0.1:0');
    this.program = new Program(gb6(), args, path.join(this.dir, 'gb6.log'));
    this.ready = JSON.parse(await this.program.line('the line of --ready-json'));
    this.http = this.ready.http;
  }

  kill() {
    return this.program.kill();
  }

  async stop() {
    await this.kill();
    rmSync(this.dir, { recursive: true, force: true });
  }
}

/** A mesh of processes: geo, a region and two edges. */
export class Mesh {
  static async start() {
    gb6();
    const mesh = new Mesh();
    mesh.program = new Program(built('test-mesh', 'cargo build -p gb6-tests-harness'), []);
    mesh.nodes = JSON.parse(await mesh.program.line('the addresses of the mesh'));
    return mesh;
  }

  say(line) {
    return this.program.say(line);
  }

  async stop() {
    this.program.child.stdin.end('quit\n');
    await within(this.program.ended, 'the end of the mesh');
  }
}

/** A proxy in front of a server. */
export class Proxy {
  static async start(http) {
    const proxy = new Proxy();
    proxy.program = new Program(built('fault-proxy', 'cargo build -p gb6-tests-harness'), [new URL(http).host]);
    proxy.http = `http://${JSON.parse(await proxy.program.line('its address')).listening}`;
    return proxy;
  }

  say(line) {
    return this.program.say(line);
  }

  stop() {
    return this.program.kill();
  }
}
