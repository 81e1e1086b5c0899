//! Which offsets of a stream are known: a set of inclusive ranges. It is what tells a gap that must
//! be fetched from an offset that simply holds nothing any more.

/** Offsets `from` to `to`, both included. */
export interface Range {
  readonly from: number;
  readonly to: number;
}

/** A set of offsets, kept as sorted ranges that neither touch nor overlap. */
export class Coverage {
  #ranges: Range[] = [];

  /** The ranges, ascending. */
  get ranges(): readonly Range[] {
    return this.#ranges;
  }

  /** The lowest known offset, or `null` when nothing is known. */
  get first(): number | null {
    return this.#ranges[0]?.from ?? null;
  }

  /** The highest known offset, or `null` when nothing is known. */
  get last(): number | null {
    return this.#ranges[this.#ranges.length - 1]?.to ?? null;
  }

  /** Adds a range; an empty one (`to < from`) changes nothing. */
  add(from: number, to: number): void {
    if (to < from) return;
    let low = from;
    let high = to;
    const before: Range[] = [];
    const after: Range[] = [];
    for (const range of this.#ranges) {
      if (range.to + 1 < low) before.push(range);
      else if (range.from > high + 1) after.push(range);
      else {
        low = Math.min(low, range.from);
        high = Math.max(high, range.to);
      }
    }
    this.#ranges = [...before, { from: low, to: high }, ...after];
  }

  /** Whether `offset` is known. */
  has(offset: number): boolean {
    return this.#ranges.some((range) => range.from <= offset && offset <= range.to);
  }

  /** What is missing between the lowest known offset and `top`, ascending. */
  gaps(top: number): Range[] {
    const missing: Range[] = [];
    let next = this.first;
    if (next === null) return missing;
    for (const range of this.#ranges) {
      if (range.from > next) missing.push({ from: next, to: range.from - 1 });
      next = range.to + 1;
    }
    if (next <= top) missing.push({ from: next, to: top });
    return missing;
  }

  /** Forgets every offset below `offset`. */
  dropBelow(offset: number): void {
    this.#ranges = this.#ranges
      .filter((range) => range.to >= offset)
      .map((range) => (range.from < offset ? { from: offset, to: range.to } : range));
  }

  /** Forgets everything. */
  clear(): void {
    this.#ranges = [];
  }
}
