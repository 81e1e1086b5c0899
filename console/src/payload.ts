//! What a publication of any shape looks like to a person. Only text comes out of here, never markup.

/** How a publication's data is shown. */
export type Shown =
  | { readonly kind: 'text'; readonly text: string }
  | { readonly kind: 'value'; readonly text: string }
  | { readonly kind: 'json'; readonly text: string }
  | { readonly kind: 'binary'; readonly bytes: number; readonly hex: string; readonly text: string | null }
  | { readonly kind: 'nothing' };

/** How many bytes of binary data are shown. */
const HEX_BYTES = 48;
/** Up to how many characters JSON stays on one line. */
const ONE_LINE = 72;
/** Up to which depth JSON is indented: the indentation of deeper data would be far larger than the data. */
const DEPTH_MAX = 40;

/** Describes data of any shape. Never throws. */
export function show(data: unknown): Shown {
  if (data === undefined) return { kind: 'nothing' };
  if (typeof data === 'string') return { kind: 'text', text: data };
  if (data === null || typeof data === 'number' || typeof data === 'boolean') {
    return { kind: 'value', text: String(data) };
  }
  const only = onlyField(data);
  if (only?.name === 'text' && typeof only.value === 'string') return { kind: 'text', text: only.value };
  if (only?.name === 'b64' && typeof only.value === 'string') {
    const bytes = decodeBase64(only.value);
    if (bytes) {
      const hex = Array.from(bytes.subarray(0, HEX_BYTES), (byte) => byte.toString(16).padStart(2, '0'));
      const more = bytes.length > HEX_BYTES ? ' …' : '';
      return { kind: 'binary', bytes: bytes.length, hex: hex.join(' ') + more, text: decodeText(bytes) };
    }
  }
  return { kind: 'json', text: toJson(data) };
}

/** One line for announcements and previews. */
export function oneLine(data: unknown, max = 200): string {
  const shown = show(data);
  let text: string;
  if (shown.kind === 'nothing') text = 'an empty message';
  else if (shown.kind === 'binary') text = `${shown.bytes} bytes of binary data`;
  else text = shown.text;
  const line = text.replace(/\s+/g, ' ').trim();
  return line.length > max ? `${line.slice(0, max)}…` : line;
}

function onlyField(data: object): { name: string; value: unknown } | null {
  if (Array.isArray(data)) return null;
  const entries = Object.entries(data);
  const first = entries[0];
  return entries.length === 1 && first ? { name: first[0], value: first[1] } : null;
}

function decodeBase64(text: string): Uint8Array | null {
  try {
    return Uint8Array.from(atob(text), (character) => character.charCodeAt(0));
  } catch {
    return null;
  }
}

function decodeText(bytes: Uint8Array): string | null {
  try {
    const text = new TextDecoder('utf-8', { fatal: true }).decode(bytes);
    // Control characters other than tab and line ends mean that this is no text.
    return text === '' || /[\u0000-\u0008\u000b\u000c\u000e-\u001f\u007f]/.test(text) ? null : text;
  } catch {
    return null;
  }
}

function deeperThan(levels: number, data: unknown): boolean {
  if (typeof data !== 'object' || data === null) return false;
  return levels === 0 || Object.values(data).some((value) => deeperThan(levels - 1, value));
}

function toJson(data: unknown): string {
  try {
    const short = JSON.stringify(data) ?? String(data);
    return short.length <= ONE_LINE || deeperThan(DEPTH_MAX, data) ? short : JSON.stringify(data, null, 2);
  } catch {
    // Nested too deeply for the engine's serializer, or not from JSON at all.
    return '(data that cannot be shown)';
  }
}
