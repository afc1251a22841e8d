// The lines of one sender: a bounded model, and the part of it that is on the page.

import { Ansi } from "./ansi.js";

const MOST_LINES = 5000;
const LONGEST_LINE = 16384;
const SETTLING = 30; // frames

export class Log {
  #lines = [];
  #streams = { stdout: stream(), stderr: stream() };
  #drawn = 0; // lines of the model that have an element
  #let_go = 0;
  #gone = [];
  #dirty = new Set();
  #scheduled = false;

  constructor(element, { scrolled }) {
    this.element = element;
    this.following = true;
    this.steady = false; // the reader wants it to stay where it is
    this.behind = 0;
    this.#scrolled = scrolled;
    element.addEventListener("scroll", () => this.#moved(), { passive: true });
    // a pane that is made smaller or larger stays at its end
    new ResizeObserver(() => this.#settle()).observe(element);
  }

  #scrolled;
  #top = 0;

  // Only who scrolls up stops following: lines that come or a new size do not.
  #moved() {
    const { scrollTop, scrollHeight, clientHeight } = this.element;
    const near = scrollHeight - scrollTop - clientHeight < 24;
    const following = near || (this.following && scrollTop >= this.#top);
    this.#top = scrollTop;
    if (following === this.following) return;
    this.following = following;
    if (following) this.behind = 0;
    this.#scrolled();
  }

  // The height of a line is known once it has been in sight: so the end may move away again.
  #settle(again = SETTLING) {
    const { element } = this;
    if (this.following && !this.steady) {
      element.scrollTop = element.scrollHeight;
      if (again > 0) requestAnimationFrame(() => this.#resettle(again - 1));
    }
    this.#top = element.scrollTop;
  }

  #resettle(again) {
    const { scrollTop, scrollHeight, clientHeight } = this.element;
    if (scrollHeight - scrollTop - clientHeight >= 1) this.#settle(again);
  }

  get letGo() {
    return this.#let_go;
  }

  // Bytes of one stream, in order.
  output(name, bytes, timeUs) {
    const one = this.#streams[name];
    this.#put(name, one, one.decoder.decode(bytes, { stream: true }), timeUs);
  }

  // A line of the page's own: {kind, text}.
  note(kind, text) {
    for (const one of Object.values(this.#streams)) one.line = null;
    this.#push({ parts: [{ text, style: null }], kind, time: "" });
  }

  toEnd() {
    this.following = true;
    this.behind = 0;
    this.#settle();
    this.#scrolled();
  }

  text() {
    return this.#lines.map((line) => line.parts.map((part) => part.text).join("")).join("\n");
  }

  #put(name, one, text, timeUs) {
    for (const token of one.ansi.feed(text)) {
      if (token.kind === "line") {
        if (one.line === null) this.#begin(name, one, timeUs);
        one.line = null;
        one.back = false;
      } else if (token.kind === "return") one.back = true;
      else if (token.kind === "clear") {
        if (one.back && one.line) this.#change(one, []);
        one.back = false;
      } else this.#text(name, one, token, timeUs);
    }
  }

  #text(name, one, token, timeUs) {
    if (one.line === null) this.#begin(name, one, timeUs);
    else if (one.back) this.#change(one, []); // what follows a return is written over the line
    one.back = false;
    let { text } = token;
    while (text) {
      const room = LONGEST_LINE - one.length;
      one.line.parts.push({ text: text.slice(0, room), style: token.style });
      one.length += Math.min(room, text.length);
      this.#dirty.add(one.line);
      text = text.slice(room);
      if (text) this.#begin(name, one, timeUs);
    }
    this.#schedule();
  }

  #begin(name, one, timeUs) {
    one.length = 0;
    one.line = { parts: [], kind: name, time: timeUs ? clock(timeUs) : "" };
    this.#push(one.line);
  }

  #change(one, parts) {
    one.line.parts = parts;
    one.length = 0;
    this.#dirty.add(one.line);
    this.#schedule();
  }

  #push(line) {
    this.#lines.push(line);
    if (!this.following) this.behind += 1;
    if (this.#lines.length > MOST_LINES) {
      for (const old of this.#lines.splice(0, this.#lines.length - MOST_LINES)) {
        this.#let_go += 1;
        this.#dirty.delete(old);
        if (old.element) {
          this.#gone.push(old.element);
          this.#drawn -= 1;
        }
      }
    }
    this.#schedule();
  }

  #schedule() {
    if (this.#scheduled) return;
    this.#scheduled = true;
    requestAnimationFrame(() => this.#draw());
  }

  #draw() {
    this.#scheduled = false;
    for (const element of this.#gone) element.remove();
    this.#gone = [];
    for (const line of this.#dirty) if (line.element) fill(line);
    this.#dirty.clear();
    const fresh = document.createDocumentFragment();
    for (; this.#drawn < this.#lines.length; this.#drawn += 1) {
      const line = this.#lines[this.#drawn];
      line.element = document.createElement("div");
      line.element.className = `line ${line.kind}`;
      if (line.time) line.element.dataset.time = line.time;
      fill(line);
      fresh.append(line.element);
    }
    this.element.append(fresh);
    this.#settle();
    this.#scrolled();
  }
}

function stream() {
  return { ansi: new Ansi(), decoder: new TextDecoder(), line: null, length: 0, back: false };
}

function fill(line) {
  const parts = line.parts.map(({ text, style }) => {
    if (!style || (style.fg === null && style.bg === null && !style.flags.length)) return text;
    const span = document.createElement("span");
    span.textContent = text;
    let { fg, bg } = style;
    const inverse = style.flags.includes("inverse");
    if (inverse) [fg, bg] = [bg ?? "ground", fg ?? "text"];
    for (const flag of style.flags) if (flag !== "inverse") span.classList.add(flag);
    paint(span, "f", "color", fg);
    paint(span, "b", "backgroundColor", bg);
    if (fg === null && typeof bg === "string" && bg.startsWith("rgb")) span.style.color = readable(bg);
    return span;
  });
  line.element.replaceChildren(...(parts.length ? parts : [" "]));
}

function paint(span, prefix, property, value) {
  if (value === null) return;
  if (typeof value === "number" || value === "ground" || value === "text") span.classList.add(prefix + value);
  else span.style[property] = value;
}

// The page's own colour of text is for its own ground: on one that a sender chose it may not be seen.
function readable(ground) {
  const [r, g, b] = ground.match(/\d+/g).map(Number);
  return 0.299 * r + 0.587 * g + 0.114 * b > 140 ? "#000" : "#fff";
}

function clock(timeUs) {
  const at = new Date(timeUs / 1000);
  const two = (n) => String(n).padStart(2, "0");
  return `${two(at.getHours())}:${two(at.getMinutes())}:${two(at.getSeconds())}.${String(at.getMilliseconds()).padStart(3, "0")}`;
}
