//! Who is in a room: the presence answer and the joins and leaves around it, by connection. Pure.

/** One connection in a room. */
export interface Connection {
  readonly client: string;
  readonly user: string;
}

/** One person with all of their connections. */
export interface Person {
  readonly user: string;
  readonly connections: number;
}

/** The connections of one room. */
export class People {
  #connections = new Map<string, string>();
  /** Joins (`true`) and leaves that came while a presence answer was on its way: they are newer. */
  #since: { connection: Connection; here: boolean }[] | null = null;
  /** How many people the answer did not name: it holds a bounded number of connections. */
  #unnamed = 0;

  /** A presence request goes out. */
  asked(): void {
    this.#since = [];
  }

  /** Its answer, and the exact numbers when the room is larger than an answer may be. */
  answered(connections: readonly Connection[], total: { connections: number; people: number } | null): void {
    this.#connections = new Map(connections.map((connection) => [connection.client, connection.user]));
    this.#unnamed = Math.max(0, (total?.people ?? 0) - this.#named);
    const since = this.#since ?? [];
    this.#since = null;
    for (const { connection, here } of since) this.#apply(connection, here);
  }

  /** Somebody came. Returns whether it is a person's first connection. */
  joined(connection: Connection): boolean {
    this.#since?.push({ connection, here: true });
    const known = this.#has(connection.user);
    this.#apply(connection, true);
    return !known;
  }

  /** A connection went. Returns whether it was a person's last. */
  left(connection: Connection): boolean {
    this.#since?.push({ connection, here: false });
    const known = this.#has(connection.user);
    this.#apply(connection, false);
    return known && !this.#has(connection.user);
  }

  /** Everybody by name, oneself first. */
  list(me: string): Person[] {
    const counts = new Map<string, number>();
    for (const user of this.#connections.values()) counts.set(user, (counts.get(user) ?? 0) + 1);
    return [...counts]
      .map(([user, connections]) => ({ user, connections }))
      .sort((a, b) => Number(b.user === me) - Number(a.user === me) || a.user.localeCompare(b.user));
  }

  /** How many people are in the room, also those that the list does not hold. */
  get count(): number {
    return this.#named + this.#unnamed;
  }

  get #named(): number {
    return new Set(this.#connections.values()).size;
  }

  #has(user: string): boolean {
    for (const known of this.#connections.values()) if (known === user) return true;
    return false;
  }

  #apply({ client, user }: Connection, here: boolean): void {
    if (here) this.#connections.set(client, user);
    else this.#connections.delete(client);
  }
}
