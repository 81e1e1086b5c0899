//! The switch between the system's colours, light and dark.

import type { App } from '../app.ts';
import { icon, iconButton, setAttributes, setChildren, type IconName } from '../dom.ts';
import type { Theme } from '../remembered.ts';

const NEXT: Record<Theme, Theme> = { auto: 'light', light: 'dark', dark: 'auto' };
const ICON: Record<Theme, IconName> = { auto: 'auto', light: 'sun', dark: 'moon' };
const WORD: Record<Theme, string> = { auto: 'as the system', light: 'light', dark: 'dark' };

/** A button that goes round the three. */
export function themeButton(app: App): { element: HTMLElement; render(): void } {
  const element = iconButton('auto', '', {
    'data-testid': 'theme',
    onclick: () => app.setTheme(NEXT[app.theme]),
  });
  let shown: Theme | null = null;
  const render = (): void => {
    if (shown === app.theme) return;
    shown = app.theme;
    setChildren(element, [icon(ICON[shown])]);
    const label = `Colours: ${WORD[shown]}`;
    setAttributes(element, { 'aria-label': label, title: label, 'data-theme': shown });
  };
  return { element, render };
}
