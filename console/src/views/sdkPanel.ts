//! "Use it from your code": a program that runs as it stands, with this tab's address and a token.

import type { Session } from '../app.ts';
import { h, icon, iconButton, setText } from '../dom.ts';
import { channelOf } from '../names.ts';

/** The example. Whatever comes from outside is written as a JSON string, which is also one of JavaScript. */
export function sdkExample(url: string, token: string, room: string): string {
  return `import { Centrifuge } from 'centrifuge'; // npm install centrifuge; Node 22, as a file .mjs
const url = ${JSON.stringify(url)};
const token = ${JSON.stringify(token)};
const room = ${JSON.stringify(channelOf(room))};
const client = new Centrifuge(url, { token });
const messages = client.newSubscription(room);
messages.on('publication', (m) => console.log(m.offset, m.info?.user, m.data)).subscribe();
client.connect(); // below: the same id again is the same message
const sent = await client.rpc('room.publish', { room, id: crypto.randomUUID(), data: { text: 'Hello' } });
console.log('durable at offset', sent.data.offset);
`;
}

/** The same room followed without any program: one command of a shell, by the unidirectional event stream. */
export function curlExample(url: string, token: string, room: string): string {
  const address = url.replace(/^ws/, 'http').replace(/websocket$/, 'uni_sse');
  const connect = JSON.stringify({ token, subs: { [channelOf(room)]: {} } });
  const quoted = (text: string): string => `'${text.replaceAll("'", String.raw`'\''`)}'`;
  return `curl -N ${quoted(address)} --json ${quoted(connect)}\n`;
}

/** The panel, a dialog. */
export class SdkPanel {
  readonly element: HTMLDialogElement;
  #session: Session;
  #code: HTMLElement;
  #curl: HTMLElement;
  #note: HTMLElement;
  #copied: HTMLElement;

  constructor(session: Session) {
    this.#session = session;
    this.#code = h('code', { 'data-testid': 'sdk-example' });
    this.#curl = h('code', { 'data-testid': 'curl-example' });
    this.#note = h('p', { class: 'hint' });
    this.#copied = h('span', { role: 'status' });
    this.element = h(
      'dialog',
      {
        class: 'sdk',
        'data-testid': 'sdk-panel',
        'aria-labelledby': 'sdk-title',
        // A click on the backdrop hits the dialog itself.
        onclick: (event) => {
          if (event.target === this.element) this.element.close();
        },
      },
      h(
        'div',
        { class: 'sdk-body' },
        h(
          'header',
          {},
          h('h2', { id: 'sdk-title' }, 'Use it from your code'),
          iconButton('close', 'Close', { onclick: () => this.element.close() }),
        ),
        this.#note,
        h('pre', { tabindex: 0, 'aria-label': 'Example program' }, this.#code),
        h('p', { class: 'hint' }, 'Or follow the room in a shell:'),
        h('pre', { tabindex: 0, 'aria-label': 'Example command' }, this.#curl),
        h(
          'footer',
          {},
          h(
            'button',
            { type: 'button', class: 'primary', 'data-testid': 'sdk-copy', onclick: () => void this.#copy() },
            icon('copy'),
            'Copy',
          ),
          this.#copied,
        ),
      ),
    );
  }

  /** Opens the panel with a token of now. */
  async open(): Promise<void> {
    const { connection, open } = this.#session;
    this.#write(connection.identity.token, open.name);
    setText(this.#copied, '');
    if (!this.element.open) this.element.showModal();
    try {
      this.#write(await connection.freshToken(), open.name);
    } catch {
      setText(this.#note, 'The server does not answer at the moment; the token below may have expired.');
    }
  }

  #write(token: string, room: string): void {
    const { identity, url } = this.#session.connection;
    setText(this.#note, `Any Centrifuge SDK works. The token below is ${identity.name}’s and expires; opening this panel again makes a fresh one.`);
    setText(this.#code, sdkExample(url, token, room));
    setText(this.#curl, curlExample(url, token, room));
  }

  async #copy(): Promise<void> {
    try {
      await navigator.clipboard.writeText(this.#code.textContent ?? '');
      setText(this.#copied, 'Copied');
    } catch {
      // Without the right to the clipboard the text is selected, for the person's own copy.
      getSelection()?.selectAllChildren(this.#code);
      setText(this.#copied, 'Selected: press Ctrl+C');
    }
  }
}
