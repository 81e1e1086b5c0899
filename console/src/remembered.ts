//! What this tab remembers over a reload. Session storage, because each tab may be another person;
//! only the colour scheme is the browser's.

/** A message that had no offset yet when the page went away. */
export interface Unsent {
  readonly id: string;
  readonly text: string;
  readonly createdAt: number;
}

/** A room of this tab. */
export interface RememberedRoom {
  readonly name: string;
  /** The last offset that was read, or `null` when the room was never open. */
  readonly read: number | null;
  readonly unsent: readonly Unsent[];
}

/** `auto` follows the system. */
export type Theme = 'auto' | 'light' | 'dark';

const NAME = 'gb6.name';
const ROOMS = 'gb6.rooms';
const OPEN = 'gb6.open';
const THEME = 'gb6.theme';

/** The name under which this tab signed in. */
export function loadName(): string | null {
  return read(sessionStorage, NAME);
}

/** Remembers the name, or forgets it. */
export function saveName(name: string | null): void {
  write(sessionStorage, NAME, name);
}

/** The rooms of this tab, in their order. */
export function loadRooms(): RememberedRoom[] {
  const text = read(sessionStorage, ROOMS);
  if (text === null) return [];
  try {
    const parsed: unknown = JSON.parse(text);
    return Array.isArray(parsed) ? parsed.flatMap(roomOf) : [];
  } catch {
    return [];
  }
}

/** Remembers the rooms. */
export function saveRooms(rooms: readonly RememberedRoom[]): void {
  write(sessionStorage, ROOMS, JSON.stringify(rooms));
}

/** The room that was open. */
export function loadOpen(): string | null {
  return read(sessionStorage, OPEN);
}

/** Remembers the open room. */
export function saveOpen(room: string): void {
  write(sessionStorage, OPEN, room);
}

/** Forgets the rooms, as another person has others. */
export function forgetRooms(): void {
  write(sessionStorage, ROOMS, null);
  write(sessionStorage, OPEN, null);
}

/** The chosen colour scheme. */
export function loadTheme(): Theme {
  const theme = read(localStorage, THEME);
  return theme === 'light' || theme === 'dark' ? theme : 'auto';
}

/** Remembers the colour scheme. */
export function saveTheme(theme: Theme): void {
  write(localStorage, THEME, theme === 'auto' ? null : theme);
}

function roomOf(value: unknown): RememberedRoom[] {
  if (typeof value !== 'object' || value === null || !('name' in value) || typeof value.name !== 'string') return [];
  const readUpTo = 'read' in value && typeof value.read === 'number' ? value.read : null;
  const unsent = 'unsent' in value && Array.isArray(value.unsent) ? value.unsent.flatMap(unsentOf) : [];
  return [{ name: value.name, read: readUpTo, unsent }];
}

function unsentOf(value: unknown): Unsent[] {
  if (typeof value !== 'object' || value === null) return [];
  if (!('id' in value && 'text' in value && 'createdAt' in value)) return [];
  const { id, text, createdAt } = value;
  if (typeof id !== 'string' || typeof text !== 'string' || typeof createdAt !== 'number') return [];
  return [{ id, text, createdAt }];
}

// Storage may be switched off or full: the console then works without a memory.
function read(storage: Storage, key: string): string | null {
  try {
    return storage.getItem(key);
  } catch {
    return null;
  }
}

function write(storage: Storage, key: string, value: string | null): void {
  try {
    if (value === null) storage.removeItem(key);
    else storage.setItem(key, value);
  } catch {
    return;
  }
}
