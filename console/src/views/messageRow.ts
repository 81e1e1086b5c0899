//! One row of the timeline: a message that has an offset, or one on its way to it.

import { h, icon, type Child } from '../dom.ts';
import { exactTime, timeOfDay } from '../format.ts';
import type { Outgoing } from '../outbox.ts';
import { show } from '../payload.ts';
import type { Publication } from '../timeline.ts';
import { detailsOf, type TraceState } from './details.ts';
import { avatar } from './people.ts';

/** Everything that a row shows; rows are made anew only when one of these differs. */
export interface RowModel {
  readonly key: string;
  /** The message, or the one that has none yet. */
  readonly message: Publication | Outgoing;
  readonly user: string;
  readonly mine: boolean;
  /** Whether it continues the row above: no name, no mark. */
  readonly continued: boolean;
  /** What is known of its way, when its details are open. */
  readonly trace: TraceState | null;
  /** Whether a long message is shown whole. */
  readonly whole: boolean;
}

/** What can be done in a row. */
export interface RowActions {
  toggle(key: string): void;
  expand(key: string): void;
  retry(id: string): void;
  discard(id: string): void;
}

/** How much of a long message is shown at first. */
const LINES_MAX = 24;
const CHARACTERS_MAX = 2_000;

/** Whether two models look the same. */
export function sameRow(a: RowModel, b: RowModel): boolean {
  return (
    a.message === b.message &&
    a.continued === b.continued &&
    a.trace === b.trace &&
    a.whole === b.whole &&
    a.mine === b.mine
  );
}

/** The attributes of a row's element. */
export function rowAttributes(model: RowModel): Record<string, string | number | boolean | null> {
  const published = 'offset' in model.message;
  return {
    class: `message${model.mine ? ' mine' : ''}${model.continued ? ' continued' : ''}`,
    'data-testid': 'message',
    'data-key': model.key,
    'data-offset': 'offset' in model.message ? model.message.offset : null,
    'data-state': 'state' in model.message ? model.message.state : 'durable',
    'data-id': model.message.id,
    'data-user': model.user,
    'data-open': published && model.trace !== null,
    'aria-label': `${model.user || 'Somebody'}${'time' in model.message && model.message.time !== null ? `, ${timeOfDay(model.message.time)}` : ''}`,
  };
}

/** The contents of a row. */
export function rowContents(model: RowModel, actions: RowActions): Node[] {
  const { message, user } = model;
  const time = 'offset' in message ? message.time : message.createdAt;
  const detailsId = `details-${model.key}`;
  const stamp =
    'offset' in message
      ? h(
          'button',
          {
            type: 'button',
            class: 'stamp',
            tabindex: -1,
            'aria-expanded': model.trace ? 'true' : 'false',
            'aria-controls': model.trace ? detailsId : null,
            'aria-label': `Where message ${message.offset} went`,
            title: time === null ? `Offset ${message.offset}` : `${exactTime(time)} · offset ${message.offset}`,
            onclick: (event) => {
              event.stopPropagation();
              actions.toggle(model.key);
            },
          },
          time === null ? `#${message.offset}` : timeOfDay(time),
        )
      : h('span', { class: 'stamp' }, timeOfDay(message.createdAt));
  const head = model.continued ? null : h('div', { class: 'head' }, h('bdi', { class: 'author' }, user || 'anonymous'), stamp);
  const body = h(
    'div',
    { class: 'body' },
    ...[
      head,
      h('div', { class: 'line' }, h('div', { class: 'content', dir: 'auto' }, ...contents(model, actions)), delivery(model)),
      'offset' in message ? null : failure(message, actions),
      'offset' in message && model.trace ? detailsOf(detailsId, message, model.trace) : null,
    ],
  );
  return [model.continued ? h('span', { class: 'gutter' }, stamp) : avatar(user), body];
}

/** The small mark behind one's own messages. */
function delivery(model: RowModel): Child {
  if (!model.mine) return null;
  const { message } = model;
  if ('offset' in message) {
    const label = `Durable at offset ${message.offset}`;
    return h('span', { class: 'delivery', title: label, role: 'img', 'aria-label': label }, icon('check'));
  }
  if (message.state === 'failed') return null;
  return h('span', { class: 'delivery sending', title: 'Sending', role: 'img', 'aria-label': 'Sending' });
}

function failure(message: Outgoing, actions: RowActions): Child {
  if (message.state !== 'failed') return null;
  const again = message.nextTryAt === null ? '' : ' · retrying by itself';
  return h(
    'div',
    { class: 'failure', 'data-testid': 'message-failure' },
    h('span', {}, `failed${message.reason === null ? '' : `: ${message.reason}`}${again}`),
    h('button', { type: 'button', 'data-testid': 'retry', onclick: () => actions.retry(message.id) }, 'Retry'),
    h('button', { type: 'button', 'data-testid': 'discard', onclick: () => actions.discard(message.id) }, 'Discard'),
  );
}

function contents(model: RowModel, actions: RowActions): Node[] {
  const shown = show('offset' in model.message ? model.message.data : { text: model.message.text });
  switch (shown.kind) {
    case 'nothing':
      return [h('em', { class: 'quiet' }, 'no data')];
    case 'value':
      return [h('code', { class: 'value' }, shown.text)];
    case 'binary': {
      const nodes: Node[] = [h('span', { class: 'chip' }, `${shown.bytes.toLocaleString()} bytes`)];
      if (shown.text !== null) nodes.push(...long('p', shown.text, model, actions));
      else if (shown.hex !== '') nodes.push(h('code', { class: 'hex' }, shown.hex));
      return nodes;
    }
    case 'json':
      return long('pre', shown.text, model, actions);
    case 'text':
      if (shown.text.trim() === '') return [h('em', { class: 'quiet' }, 'an empty text')];
      return long('p', shown.text, model, actions);
  }
}

function long(tag: 'p' | 'pre', text: string, model: RowModel, actions: RowActions): Node[] {
  const lines = text.split('\n', LINES_MAX + 1);
  if (model.whole || (lines.length <= LINES_MAX && text.length <= CHARACTERS_MAX)) return [h(tag, {}, text)];
  const start = lines.slice(0, LINES_MAX).join('\n').slice(0, CHARACTERS_MAX);
  return [
    h(tag, {}, `${start}…`),
    h(
      'button',
      {
        type: 'button',
        class: 'link',
        onclick: (event) => {
          event.stopPropagation();
          actions.expand(model.key);
        },
      },
      `Show all ${text.length.toLocaleString()} characters`,
    ),
  ];
}
