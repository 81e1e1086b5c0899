//! The first page: a name, nothing else.

import type { App } from '../app.ts';
import { h, setAttributes, setText } from '../dom.ts';
import { PERSON_NAME_MAX, personNameProblem } from '../names.ts';
import { loadName } from '../remembered.ts';
import { themeButton } from './themeButton.ts';

/** Asks for a name. */
export class SignInView {
  readonly element: HTMLElement;
  #app: App;
  #input: HTMLInputElement;
  #button: HTMLButtonElement;
  #problem: HTMLElement;
  #theme: { element: HTMLElement; render(): void };
  #typed: string | null = null;

  constructor(app: App) {
    this.#app = app;
    this.#input = h('input', {
      id: 'name',
      'data-testid': 'name-input',
      name: 'name',
      type: 'text',
      autocomplete: 'off',
      autocapitalize: 'off',
      spellcheck: 'false',
      maxlength: PERSON_NAME_MAX,
      placeholder: 'alice',
      'aria-describedby': 'name-problem name-hint',
    });
    this.#button = h('button', { type: 'submit', class: 'primary', 'data-testid': 'sign-in' }, 'Start chatting');
    this.#problem = h('p', { id: 'name-problem', class: 'problem', role: 'alert', 'data-testid': 'sign-in-problem' });
    this.#theme = themeButton(app);
    const form = h(
      'form',
      { class: 'card', onsubmit: (event) => this.#submit(event) },
      h('h1', {}, 'Who are you?'),
      h('p', { id: 'name-hint', class: 'hint' }, 'A name is enough here. Open a second tab to be somebody else.'),
      h('label', { for: 'name' }, 'Your name'),
      h('div', { class: 'field' }, this.#input, this.#button),
      this.#problem,
    );
    this.element = h(
      'main',
      { class: 'sign-in' },
      h('header', { class: 'sign-in-head' }, brand(), this.#theme.element),
      form,
      h(
        'p',
        { class: 'sign-in-foot' },
        'Every message here is on disk, in order, before it is called sent. Select one to see where it went.',
      ),
    );
  }

  /** The view is on the page. */
  shown(): void {
    this.#input.value = loadName() ?? '';
    this.#input.focus();
  }

  render(): void {
    const { signingIn, signInProblem } = this.#app;
    this.#theme.render();
    setText(this.#button, signingIn ? 'One moment…' : 'Start chatting');
    setAttributes(this.#button, { disabled: signingIn });
    const problem = this.#typed ?? signInProblem ?? '';
    setText(this.#problem, problem);
    setAttributes(this.#input, { 'aria-invalid': problem !== '' ? 'true' : null });
  }

  #submit(event: Event): void {
    event.preventDefault();
    const name = this.#input.value.trim();
    this.#typed = personNameProblem(name);
    if (this.#typed === null) void this.#app.signIn(name);
    else this.#app.changed();
  }
}

/** The mark and the name. */
export function brand(): HTMLElement {
  return h('span', { class: 'brand' }, h('span', { class: 'mark', 'aria-hidden': 'true' }), h('span', {}, 'GB6'));
}
