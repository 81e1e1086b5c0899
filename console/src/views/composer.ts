//! Where messages are written: Enter sends, Shift+Enter begins a line.

import type { Session } from '../app.ts';
import { h, icon, setAttributes, setText } from '../dom.ts';
import type { Room } from '../room.ts';

/** The most bytes of a text: the server takes 64 KiB for a message with its JSON around it. */
const TEXT_BYTES_MAX = 60_000;

/** The field at the foot of a room. */
export class ComposerView {
  readonly element: HTMLElement;
  #session: Session;
  #sent: () => void;
  #input: HTMLTextAreaElement;
  #button: HTMLButtonElement;
  #problem: HTMLElement;
  #room: Room | null = null;

  /** `sent` is called after a message was handed over. */
  constructor(session: Session, sent: () => void) {
    this.#session = session;
    this.#sent = sent;
    this.#input = h('textarea', {
      'data-testid': 'composer',
      rows: 1,
      autocomplete: 'off',
      enterkeyhint: 'send',
      'aria-describedby': 'composer-problem',
      oninput: () => this.#edited(),
      onkeydown: (event) => this.#key(event),
    });
    this.#button = h(
      'button',
      { type: 'submit', class: 'primary send', 'data-testid': 'send', 'aria-label': 'Send', title: 'Send (Enter)' },
      icon('send'),
    );
    this.#problem = h('p', { id: 'composer-problem', class: 'problem', role: 'alert' });
    this.element = h(
      'form',
      {
        class: 'composer',
        onsubmit: (event) => {
          event.preventDefault();
          this.#send();
        },
      },
      h('div', { class: 'composer-box' }, this.#input, this.#button),
      this.#problem,
    );
  }

  focus(): void {
    this.#input.focus();
  }

  render(): void {
    const room = this.#session.open;
    if (room === this.#room) return;
    this.#room = room;
    this.#input.value = room.draft;
    setAttributes(this.#input, { placeholder: `Message #${room.name}`, 'aria-label': `Message to ${room.name}` });
    this.#edited();
  }

  #edited(): void {
    if (this.#room) this.#room.draft = this.#input.value;
    const bytes = new TextEncoder().encode(JSON.stringify(this.#input.value)).length;
    const tooLong = bytes > TEXT_BYTES_MAX;
    setText(this.#problem, tooLong ? `Too long by ${(bytes - TEXT_BYTES_MAX).toLocaleString()} bytes.` : '');
    setAttributes(this.#button, { disabled: this.#input.value.trim() === '' || tooLong });
    // As high as its text, within the limits of the style sheet.
    this.#input.style.height = 'auto';
    if (this.#input.scrollHeight > 0) this.#input.style.height = `${this.#input.scrollHeight}px`;
  }

  #key(event: Event): void {
    if (!(event instanceof KeyboardEvent) || event.key !== 'Enter') return;
    // While an input method composes, Enter chooses a word.
    if (event.shiftKey || event.isComposing) return;
    event.preventDefault();
    this.#send();
  }

  #send(): void {
    const text = this.#input.value.trim();
    if (text === '' || !this.#room || this.#button.disabled) return;
    const problem = this.#room.send(text);
    if (problem !== null) {
      setText(this.#problem, problem);
      return;
    }
    this.#input.value = '';
    this.#edited();
    this.#sent();
  }
}
