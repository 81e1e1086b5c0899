//! Starts the console.

import './style/base.css';
import './style/shell.css';
import './style/timeline.css';
import { App } from './app.ts';
import { setChildren } from './dom.ts';
import { roomOfFragment } from './names.ts';
import { ShellView } from './views/shell.ts';
import { SignInView } from './views/signIn.ts';

const root = document.getElementById('app');
if (!root) throw new Error('index.html has no element #app');
const app = new App();
const signInView = new SignInView(app);
let shell: ShellView | null = null;

function render(): void {
  if (app.theme === 'auto') delete document.documentElement.dataset['theme'];
  else document.documentElement.dataset['theme'] = app.theme;
  const { session } = app;
  if (session !== shell?.session) shell = session ? new ShellView(app, session) : null;
  const view = shell ?? signInView;
  view.render();
  if (root && root.firstChild !== view.element) {
    setChildren(root, [view.element]);
    view.shown();
  }
  const unread = session?.unread ?? 0;
  const where = session ? `${session.open.name} · GB6` : 'GB6 console';
  document.title = unread > 0 ? `(${unread}) ${where}` : where;
}

app.onChange(render);
document.addEventListener('visibilitychange', () => {
  if (document.visibilityState === 'visible') app.session?.lookedAt();
  app.changed();
});
addEventListener('hashchange', () => {
  const room = roomOfFragment(location.hash);
  if (room !== null && room !== app.session?.open.name) app.session?.join(room);
});
void app.resume();
render();
