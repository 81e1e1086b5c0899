// A mesh on this machine: geo, a region and two edges as processes, and a balancer before the edges.

import { execFileSync, spawn } from 'node:child_process';
import { openSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect, createServer } from 'node:net';
import path from 'node:path';

import { freePort } from './ports.js';
import { PATIENCE, gb6, scratch, within } from './server.js';
import { signWith } from './token.js';

const ROLES = { g1: 'geo', r1: 'region', e1: 'edge', e2: 'edge' };
const SECRET = '0123456789abcdef'.repeat(4);

/** One process. */
class Node {
  constructor(mesh, name) {
    this.mesh = mesh;
    this.name = name;
  }

  async start() {
    const { dir, listen } = this.mesh;
    const role = ROLES[this.name];
    this.address ??= `127.0.0.1:${await freePort()}`;
    this.http = `http://${this.address}`;
    const args = [role, '--name', this.name, '--http', this.address];
    if (role === 'edge') args.push('--admin', '127.0.0.1:0', '--drain', '2s');
    else args.push('--mesh-listen', listen[this.name]);
    if (role !== 'geo') args.push('--mesh-geo', `g1@${listen.g1}`);
    const log = path.join(dir, `${this.name}.log`);
    const to = openSync(log, 'a');
    this.child = spawn(gb6(), args, { cwd: dir, stdio: ['ignore', to, to] });
    this.ended = new Promise((resolve) => this.child.once('exit', (code) => resolve(code)));
    const ready = async () => {
      while (!(await this.isReady())) {
        if (this.child.exitCode !== null) throw new Error(`${this.name} ended\n${readFileSync(log, 'utf8').slice(-4000)}`);
        await new Promise((resolve) => setTimeout(resolve, 50));
      }
    };
    await within(ready(), `${this.name} to be ready`);
  }

  /** What a balancer asks. */
  async isReady() {
    try {
      return (await fetch(`${this.http}/readyz`, { headers: { connection: 'close' } })).ok;
    } catch {
      return false;
    }
  }

  /** SIGTERM; resolves with the status with which it ended. */
  async terminate() {
    this.child.kill('SIGTERM');
    return within(this.ended, `the end of ${this.name}`, 2 * PATIENCE);
  }
}

export class Mesh {
  static async start(name) {
    const mesh = new Mesh(scratch(name));
    const run = (...args) => execFileSync(gb6(), args, { cwd: mesh.dir, encoding: 'utf8' });
    run('cert', 'ca', 'mesh-data/certs');
    for (const node of Object.keys(ROLES)) {
      run('cert', 'node', '--ca', 'mesh-data/certs', '--role', ROLES[node], '--name', node);
    }
    for (const node of ['g1', 'r1']) mesh.listen[node] = `127.0.0.1:${await freePort()}`;
    writeFileSync(path.join(mesh.dir, 'mesh-data', 'demo.secret'), SECRET);
    const snapshot = run('config', 'example', 'snapshot').replace('127.0.0.1:7700', mesh.listen.g1).replace('127.0.0.1:7600', mesh.listen.r1);
    writeFileSync(path.join(mesh.dir, 'mesh-data', 'snapshot.toml'), snapshot);
    // Also when this process ends without a word.
    process.on('exit', mesh.killer);
    for (const node of Object.keys(ROLES)) {
      mesh.nodes[node] = new Node(mesh, node);
      await mesh.nodes[node].start();
    }
    return mesh;
  }

  constructor(dir) {
    this.dir = dir;
    this.listen = {};
    this.nodes = {};
    this.killer = () => {
      for (const { child } of Object.values(this.nodes)) child?.kill('SIGKILL');
    };
  }

  get edges() {
    return [this.nodes.e1, this.nodes.e2];
  }

  /** A token of its one instance. */
  token(claims) {
    return signWith(SECRET, { kid: 'demo.main' }, claims);
  }

  async stop() {
    this.killer();
    process.off('exit', this.killer);
    await Promise.all(Object.values(this.nodes).map((node) => node.ended));
    rmSync(this.dir, { recursive: true, force: true });
  }
}

/** Leads each connection to the first edge that says it is ready. `http` and `ws` are as a server's. */
export class Balancer {
  static async start(edges) {
    const balancer = new Balancer(edges);
    await new Promise((resolve) => balancer.server.listen(0, '127.0.0.1', resolve));
    const address = `127.0.0.1:${balancer.server.address().port}`;
    balancer.http = `http://${address}`;
    balancer.ws = `ws://${address}/connection/websocket`;
    return balancer;
  }

  constructor(edges) {
    this.edges = edges;
    this.open = new Set();
    this.server = createServer((client) => this.#lead(client));
  }

  async #lead(client) {
    this.#keep(client);
    for (const edge of this.edges) {
      if (!(await edge.isReady())) continue;
      const [host, port] = edge.address.split(':');
      const server = connect({ host, port: Number(port) });
      this.#keep(server);
      client.pipe(server).pipe(client);
      // An end of the one that is none of the protocol's is the end of the other.
      client.once('close', () => server.destroy());
      server.once('close', () => client.destroy());
      return;
    }
    client.destroy();
  }

  /**
   * Leads to these edges from now on. What is open ends: clients keep connections for their next requests,
   * which would go on to the edge of before.
   */
  lead(edges) {
    this.edges = edges;
    for (const socket of this.open) socket.destroy();
  }

  #keep(socket) {
    this.open.add(socket);
    socket.on('error', () => undefined);
    socket.once('close', () => this.open.delete(socket));
  }

  stop() {
    this.server.close();
    for (const socket of this.open) socket.destroy();
  }
}
