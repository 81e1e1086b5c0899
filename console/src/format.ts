//! Times, days and durations as a person reads them.

const clock = new Intl.DateTimeFormat(undefined, { hour: '2-digit', minute: '2-digit', hourCycle: 'h23' });
const weekday = new Intl.DateTimeFormat(undefined, { weekday: 'long', day: 'numeric', month: 'long' });
const fullDate = new Intl.DateTimeFormat(undefined, { day: 'numeric', month: 'long', year: 'numeric' });
const instant = new Intl.DateTimeFormat(undefined, {
  day: 'numeric',
  month: 'short',
  year: 'numeric',
  hour: '2-digit',
  minute: '2-digit',
  second: '2-digit',
  fractionalSecondDigits: 3,
  hourCycle: 'h23',
});

/** Hours and minutes. */
export function timeOfDay(ms: number): string {
  return clock.format(ms);
}

/** Date and time to the millisecond. */
export function exactTime(ms: number): string {
  return instant.format(ms);
}

/** A number that is the same for all times of one local day, and another for every other day. */
export function dayOf(ms: number): number {
  const date = new Date(ms);
  return date.getFullYear() * 10_000 + date.getMonth() * 100 + date.getDate();
}

/** The day of `ms`, seen from `now`. */
export function dayLabel(ms: number, now: number): string {
  const day = dayOf(ms);
  if (day === dayOf(now)) return 'Today';
  const yesterday = new Date(now);
  yesterday.setDate(yesterday.getDate() - 1);
  if (day === dayOf(yesterday.getTime())) return 'Yesterday';
  const sameYear = new Date(ms).getFullYear() === new Date(now).getFullYear();
  return sameYear ? weekday.format(ms) : fullDate.format(ms);
}

/** Microseconds, with a unit that suits them. */
export function microseconds(us: number): string {
  if (us < 1_000) return `${us} µs`;
  if (us < 1_000_000) return `${(us / 1_000).toFixed(us < 10_000 ? 2 : 1)} ms`;
  return `${(us / 1_000_000).toFixed(2)} s`;
}

/** `1 message`, `2 messages`. */
export function count(n: number, thing: string, things = `${thing}s`): string {
  return `${n.toLocaleString()} ${n === 1 ? thing : things}`;
}
