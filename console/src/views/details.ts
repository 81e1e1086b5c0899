//! What is shown under a message on demand: where it went and how long the disk took.

import type { Trace } from '../connection.ts';
import { h } from '../dom.ts';
import { count, exactTime, microseconds } from '../format.ts';
import type { Publication } from '../timeline.ts';

/** What is known of a message's way: being asked, known, or why not. */
export type TraceState =
  | { readonly kind: 'asking' }
  | { readonly kind: 'known'; readonly trace: Trace }
  | { readonly kind: 'failed'; readonly reason: string };

const FORGOTTEN = 'no longer known';

/** The table of facts. */
export function detailsOf(id: string, publication: Publication, state: TraceState): HTMLElement {
  const trace = state.kind === 'known' ? state.trace : null;
  const unknown = state.kind === 'asking' ? '…' : FORGOTTEN;
  const { syncUs = null, batch = null } = trace ?? {};
  const shard = trace?.shard ?? null;
  const epoch = trace?.shardEpoch ?? null;
  const list = h('dl', {});
  const row = (field: string, label: string, value: string): void => {
    list.append(h('div', { 'data-field': field }, h('dt', {}, label), h('dd', {}, value)));
  };
  row('edge', 'Edge', trace?.edge ?? unknown);
  row('shard', 'Shard', shard === null ? unknown : `${shard}${epoch === null ? '' : ` · epoch ${epoch}`}`);
  row('offset', 'Offset', String(publication.offset));
  row('sync', 'Disk sync', syncUs === null ? unknown : microseconds(syncUs) + (batch === null ? '' : `, with ${count(batch, 'record')}`));
  row('time', 'Time', publication.time === null ? FORGOTTEN : exactTime(publication.time));
  if (publication.id !== null) row('id', 'Message id', publication.id);
  for (const [name, value] of Object.entries(publication.tags)) if (name !== 'id') row('tag', `Tag ${name}`, value);
  return h(
    'div',
    { class: 'details', id, 'data-testid': 'message-details', 'data-trace': state.kind },
    list,
    state.kind === 'failed' && h('p', { class: 'problem' }, `The server does not say where it went: ${state.reason}.`),
  );
}
