// A browser, and tabs of the console in it. Every wait is for something that a person could see.

import { execFileSync } from 'node:child_process';
import { mkdirSync } from 'node:fs';
import path from 'node:path';
import { chromium } from 'playwright-core';
import { PATIENCE, target } from './programs.js';

function executable() {
  if (process.env.GB6_CHROMIUM) return process.env.GB6_CHROMIUM;
  try {
    return execFileSync('sh', ['-c', 'command -v chromium || command -v chromium-browser'], { encoding: 'utf8' }).trim();
  } catch {
    throw new Error('Chromium is not installed: run scripts/install-test-deps.sh, or name one in GB6_CHROMIUM');
  }
}

/** Chromium without a window. */
export function launch() {
  // Root has no sandbox of Chromium's; the pages are our own.
  const args = process.getuid?.() === 0 ? ['--no-sandbox'] : [];
  return chromium.launch({ executablePath: executable(), args });
}

/** Where screenshots go. */
export const screenshots = path.join(target, 'screenshots');
mkdirSync(screenshots, { recursive: true });

const id = (name) => `[data-testid="${name}"]`;

/** One person's tab. */
export class Tab {
  /** Opens a tab, signs in and joins a room. */
  static async open(browser, http, name, room, options = {}) {
    const context = await browser.newContext({ viewport: { width: 1200, height: 800 }, ...options });
    context.setDefaultTimeout(PATIENCE);
    const tab = new Tab(await context.newPage());
    tab.name = name;
    await tab.visit(`${http}/#${room}`);
    await tab.get('name-input').fill(name);
    await tab.get('sign-in').click();
    await tab.state('connected');
    await tab.page.locator(id('room-title')).filter({ hasText: room }).waitFor();
    return tab;
  }

  constructor(page) {
    this.page = page;
    /** What the page itself complained of. */
    this.errors = [];
    page.on('pageerror', (error) => this.errors.push(error.message));
  }

  /** Opens a page of the console: it and everything that it is made of must arrive. */
  async visit(url) {
    const refused = [];
    const failed = (request) => refused.push(`${request.url()}: ${request.failure()?.errorText}`);
    const answered = (answer) => answer.ok() || refused.push(`${answer.url()}: ${answer.status()}`);
    this.page.on('requestfailed', failed).on('response', answered);
    await this.page.goto(url);
    this.page.off('requestfailed', failed).off('response', answered);
    if (refused.length + this.errors.length > 0) throw new Error(`${url}: ${[...refused, ...this.errors].join(', ')}`);
  }

  /** The element with this data-testid. */
  get(name) {
    return this.page.locator(id(name));
  }

  /** Waits for a state of the connection. */
  async state(...states) {
    await this.page.locator(states.map((s) => `${id('connection-state')}[data-state="${s}"]`).join(',')).waitFor();
  }

  /** Writes a message, as a person does. */
  async write(text) {
    await this.get('composer').fill(text);
    await this.get('composer').press('Enter');
  }

  /** The messages with this text, in a state. */
  messages(text, state) {
    const selector = state === undefined ? id('message') : `${id('message')}[data-state="${state}"]`;
    return this.page.locator(selector).filter({ hasText: text });
  }

  /** Waits until a message is there, once, and durable. */
  async sees(text) {
    await this.messages(text, 'durable').first().waitFor();
    const count = await this.messages(text).count();
    if (count !== 1) throw new Error(`${this.name} sees ${JSON.stringify(text)} ${count} times`);
  }

  /** The offsets of all messages that are shown, from top to bottom. */
  async offsets() {
    return this.page.locator(`${id('message')}[data-offset]`).evaluateAll((rows) => rows.map((row) => Number(row.dataset.offset)));
  }

  async screenshot(name) {
    await this.page.screenshot({ path: path.join(screenshots, `${name}.png`) });
  }

  close() {
    return this.page.context().close();
  }
}
