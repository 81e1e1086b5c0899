//! The few lines that views need to build elements. Text is always set as text, never as markup, and
//! styles only through classes and custom properties, as the content security policy demands.

/** What an element may contain. */
export type Child = Node | string | null | false;

/** Attributes: `true` is an empty one, `false` and `null` none; `on…` is a listener. */
export type Attributes = Record<string, string | number | boolean | null | ((event: Event) => void)>;

/** Makes an HTML element. */
export function h<K extends keyof HTMLElementTagNameMap>(
  tag: K,
  attributes: Attributes = {},
  ...children: Child[]
): HTMLElementTagNameMap[K] {
  const element = document.createElement(tag);
  setAttributes(element, attributes);
  element.append(...children.filter((child) => child !== null && child !== false));
  return element;
}

/** Sets, changes and removes attributes; listeners are added. */
export function setAttributes(element: Element, attributes: Attributes): void {
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === 'function') element.addEventListener(name.slice(2), value);
    else if (value === null || value === false) element.removeAttribute(name);
    else {
      const text = value === true ? '' : String(value);
      if (element.getAttribute(name) !== text) element.setAttribute(name, text);
    }
  }
}

/** Makes `nodes` the children of `parent`, moving as little as possible: focus and selection stay. */
export function setChildren(parent: Element, nodes: readonly Node[]): void {
  const wanted = new Set(nodes);
  for (const child of [...parent.childNodes]) if (!wanted.has(child)) child.remove();
  let cursor = parent.firstChild;
  for (const node of nodes) {
    if (node === cursor) cursor = cursor.nextSibling;
    else parent.insertBefore(node, cursor);
  }
}

/** Changes text only when it differs, so that live regions stay silent. */
export function setText(element: Element, text: string): void {
  if (element.textContent !== text) element.textContent = text;
}

const SVG = 'http://www.w3.org/2000/svg';

/** Paths of the icons on a grid of 20, drawn as lines. */
const ICONS = {
  menu: 'M3.5 6h13M3.5 10h13M3.5 14h13',
  people: 'M7.5 9.5a3 3 0 1 0 0-6 3 3 0 0 0 0 6ZM2.5 16.5c0-3 2-4.7 5-4.7s5 1.7 5 4.7M13 4a2.8 2.8 0 0 1 0 5.3M14.8 12c1.8.6 2.8 2.1 2.8 4.5',
  code: 'm6.5 6-4 4 4 4M13.5 6l4 4-4 4M11.3 4.5l-2.6 11',
  plus: 'M10 4.5v11M4.5 10h11',
  close: 'm5.5 5.5 9 9M14.5 5.5l-9 9',
  send: 'M10 16V4.5M5 9.2l5-4.9 5 4.9',
  down: 'M10 4v11.5M5 10.8l5 4.9 5-4.9',
  check: 'm4.5 10.5 3.6 3.6 7.4-8',
  sun: 'M10 13.2a3.2 3.2 0 1 0 0-6.4 3.2 3.2 0 0 0 0 6.4ZM10 2v1.8M10 16.2V18M2 10h1.8M16.2 10H18M4.3 4.3l1.3 1.3M14.4 14.4l1.3 1.3M4.3 15.7l1.3-1.3M14.4 5.6l1.3-1.3',
  moon: 'M16.5 11.8A7 7 0 0 1 8.2 3.5a7 7 0 1 0 8.3 8.3Z',
  auto: 'M10 3a7 7 0 1 0 0 14 7 7 0 0 0 0-14ZM10 3v14M10 6.5h5.9M10 10h7M10 13.5h5.9',
  exit: 'M12 3.5H5.5v13H12M9 10h8M14 6.8l3.2 3.2-3.2 3.2',
  copy: 'M7.5 7.5h8.5V16H7.5zM4 12.5V4h8.5',
} as const;

/** The name of an icon. */
export type IconName = keyof typeof ICONS;

/** Makes an icon; what it means is the label of the element around it. */
export function icon(name: IconName): SVGSVGElement {
  const svg = document.createElementNS(SVG, 'svg');
  setAttributes(svg, { viewBox: '0 0 20 20', class: 'icon', 'aria-hidden': 'true', focusable: 'false' });
  const path = document.createElementNS(SVG, 'path');
  path.setAttribute('d', ICONS[name]);
  svg.append(path);
  return svg;
}

/** A button that is only an icon. */
export function iconButton(name: IconName, label: string, attributes: Attributes = {}): HTMLButtonElement {
  return h('button', { type: 'button', class: 'icon-button', 'aria-label': label, title: label, ...attributes }, icon(name));
}
