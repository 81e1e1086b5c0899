//! What the connection is doing, always in sight.

import type { Session } from '../app.ts';
import { h, setAttributes, setText } from '../dom.ts';

/** The state of the connection. */
export class ConnectionStateView {
  readonly element: HTMLElement;
  #session: Session;
  #state: HTMLElement;
  #word: HTMLElement;
  #reason: HTMLElement;
  #again: HTMLButtonElement;

  constructor(session: Session) {
    this.#session = session;
    this.#word = h('span', { class: 'state-word' });
    this.#reason = h('span', { class: 'state-reason' });
    this.#state = h(
      'div',
      { class: 'state', role: 'status', 'data-testid': 'connection-state' },
      h('span', { class: 'dot', 'aria-hidden': 'true' }),
      this.#word,
      this.#reason,
    );
    this.#again = h(
      'button',
      { type: 'button', 'data-testid': 'connect-again', onclick: () => session.connection.connect(true) },
      'Connect again',
    );
    this.element = h('div', { class: 'state-line' }, this.#state, this.#again);
  }

  render(): void {
    const { state, identity } = this.#session.connection;
    setAttributes(this.#state, { 'data-state': state.kind, title: identity.instance ? `Instance ${identity.instance}` : null });
    const words = { connecting: 'Connecting', connected: 'Connected', reconnecting: 'Reconnecting', disconnected: 'Disconnected' };
    setText(this.#word, words[state.kind]);
    setText(this.#reason, 'reason' in state && state.reason !== null ? state.reason : '');
    setAttributes(this.#again, { hidden: state.kind !== 'disconnected' });
  }
}
