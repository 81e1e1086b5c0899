// Ports for servers that come back to theirs after they were killed.
//
// A port that the kernel chooses (port 0) would not do: while its server is away an outgoing
// connection of any client may get it as its own port. So these are chosen outside the range of
// such ports, as tests/harness/src/process/ports.rs does.

import { createSocket } from 'node:dgram';
import { readFileSync } from 'node:fs';
import { createServer } from 'node:net';

/** The first port that is given out. */
export const FIRST = 10_000;
/** Where the kernel's own choice begins if it does not say. */
const KERNEL_FIRST = 32_768;
/** Ports between the first ones of two processes with neighbouring ids. */
const STRIDE = 97;

let given = 0;

/** The first port that the kernel chooses by itself. */
export function kernelFirst() {
  let first = Number.NaN;
  try {
    first = Number.parseInt(readFileSync('/proc/sys/net/ipv4/ip_local_port_range', 'utf8'), 10);
  } catch {
    // Not a Linux: what is usual elsewhere.
  }
  return first > FIRST + 1_000 ? first : KERNEL_FIRST;
}

/** Rejects unless `open` succeeds; what it opened is closed again. */
function tried(socket, open) {
  return new Promise((resolve, reject) => {
    socket.once('error', reject);
    open(() => socket.close(() => resolve()));
  });
}

/** A port of loopback, free for TCP and UDP a moment ago, never given out twice by this process. */
export async function freePort() {
  const span = kernelFirst() - FIRST;
  let refused;
  for (let i = 0; i < span; i += 1) {
    const port = FIRST + ((process.pid * STRIDE + given) % span);
    given += 1;
    try {
      const tcp = createServer();
      await tried(tcp, (done) => tcp.listen(port, '127.0.0.1', done));
      const udp = createSocket('udp4');
      await tried(udp, (done) => udp.bind(port, '127.0.0.1', done));
      return port;
    } catch (error) {
      refused = error;
    }
  }
  throw new Error(`no port from ${FIRST} to ${FIRST + span} is free`, { cause: refused });
}
