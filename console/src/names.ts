//! Names of rooms and people: what is allowed, and how a room's name becomes a channel's.

/** The namespace of rooms. */
const NAMESPACE = 'room:';
/** The room in which the console keeps its list of rooms; nobody chats there. */
export const DIRECTORY = '_rooms';
/** The longest room name, in characters: a name is also the id under which its room is announced, and
 * an id has at most 128 bytes. The server allows a whole channel 255. */
export const ROOM_NAME_MAX = 128;
/** The longest name of a person, in characters. */
export const PERSON_NAME_MAX = 64;

/** Why a room cannot have this name, or `null` when it can: stricter than the server's grammar of
 * channels, never laxer. */
export function roomNameProblem(name: string): string | null {
  if (name.length === 0) return 'Type a name for the room.';
  if (name.length > ROOM_NAME_MAX) return `A room's name has at most ${ROOM_NAME_MAX} characters.`;
  if (/\s/.test(name)) return 'A room’s name has no spaces; use - or _ instead.';
  if (!/^[\x21-\x7e]+$/.test(name)) return 'A room’s name has only letters a–z, digits and ASCII signs.';
  if (name.includes('#')) return 'A room’s name has no #: the server keeps it for rooms of certain users.';
  if (name === DIRECTORY) return `${DIRECTORY} is where the list of rooms is kept; take another name.`;
  return null;
}

/** Why a person cannot have this name, or `null` when it can. */
export function personNameProblem(name: string): string | null {
  if (name.length === 0) return 'Type the name that others should see.';
  if (name.length > PERSON_NAME_MAX) return `A name has at most ${PERSON_NAME_MAX} characters.`;
  return null;
}

/** The channel of a room. */
export function channelOf(room: string): string {
  return NAMESPACE + room;
}

/** The room of a link's fragment (`#lobby`), or `null`. */
export function roomOfFragment(fragment: string): string | null {
  try {
    const name = decodeURIComponent(fragment.replace(/^#/, ''));
    return roomNameProblem(name) === null ? name : null;
  } catch {
    return null;
  }
}

/** A hue from 0 to 359 that stays the same for a name. */
export function hueOf(name: string): number {
  let hash = 2166136261;
  for (let i = 0; i < name.length; i += 1) hash = Math.imul(hash ^ name.charCodeAt(i), 16777619);
  return (hash >>> 0) % 360;
}

/** One or two characters that stand for a name. */
export function initialsOf(name: string): string {
  const words = name.split(/[\s._-]+/).filter((word) => word !== '');
  const letters = words.slice(0, 2).map((word) => Array.from(word)[0] ?? '');
  return letters.join('').toUpperCase() || '?';
}
