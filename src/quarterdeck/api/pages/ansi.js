// Turns what a terminal would be told into safe tokens: text with a style, line ends and returns.
//
// Colours pass, nothing else: every other sequence is dropped whole, a lone control shows as a dot.
// The state lives across chunks, so a sequence may be torn anywhere. A string that never ends (OSC,
// DCS, ...) is given up at the end of its line or after STRING_LIMIT characters.

const STRING_LIMIT = 4096;
const PARAMETER_LIMIT = 128;
const FLAGS = { 1: "bold", 2: "dim", 3: "italic", 4: "underline", 7: "inverse", 8: "hidden", 9: "strike" };
const OFF = { 22: ["bold", "dim"], 23: ["italic"], 24: ["underline"], 27: ["inverse"], 28: ["hidden"], 29: ["strike"] };

const PLAIN = Object.freeze({ fg: null, bg: null, flags: Object.freeze([]) });

export class Ansi {
  #state = "ground";
  #parameters = "";
  #length = 0;
  #style = PLAIN;

  // [{kind: "text", text, style} | {kind: "line"} | {kind: "return"} | {kind: "clear"}]
  feed(input) {
    const tokens = [];
    let text = "";
    const flush = () => {
      if (text) tokens.push({ kind: "text", text, style: this.#style });
      text = "";
    };
    for (const c of input) {
      const code = c.codePointAt(0);
      if (this.#state === "ground") {
        if (code >= 0xa0 || (code >= 0x20 && code < 0x7f) || c === "\t") text += c;
        else if (c === "\n" || c === "\r") {
          flush();
          tokens.push({ kind: c === "\n" ? "line" : "return" });
        } else if (code === 0x1b) this.#state = "escape";
        else if (code === 0x9b) this.#begin("csi");
        else if ([0x90, 0x98, 0x9d, 0x9e, 0x9f].includes(code)) this.#begin("string");
        else if (code !== 0x07 && code !== 0x0e && code !== 0x0f) text += "·";
      } else if (code === 0x18 || code === 0x1a) this.#state = "ground";
      else if (this.#state === "escape") this.#escape(c, code);
      else if (this.#state === "charset") this.#state = "ground";
      else if (this.#state === "csi") {
        if (code >= 0x40 && code <= 0x7e) {
          flush();
          if (c === "m") this.#colour();
          else if (c === "K") tokens.push({ kind: "clear" });
          this.#state = "ground";
        } else if (code < 0x20 || code > 0x7e || this.#parameters.length > PARAMETER_LIMIT) {
          this.#state = "ground";
          if (c === "\n") tokens.push({ kind: "line" });
        } else this.#parameters += c;
      } else {
        this.#length += 1;
        const closed = this.#state === "string-escape";
        if (code === 0x1b) this.#state = "string-escape";
        else if (code === 0x07 || code === 0x9c || closed || this.#length > STRING_LIMIT) {
          this.#state = "ground";
        } else if (c === "\n") {
          this.#state = "ground";
          tokens.push({ kind: "line" });
        }
      }
    }
    flush();
    return tokens;
  }

  #begin(state) {
    this.#state = state;
    this.#parameters = "";
    this.#length = 0;
  }

  #escape(c, code) {
    if (c === "[") this.#begin("csi");
    else if ("]PX^_".includes(c)) this.#begin("string");
    else if (code === 0x1b) this.#state = "escape";
    else this.#state = code >= 0x20 && code <= 0x2f ? "charset" : "ground";
  }

  #colour() {
    if (/[^0-9;:]/.test(this.#parameters)) return;
    let { fg, bg, flags } = this.#style;
    flags = new Set(flags);
    const numbers = this.#parameters.split(/[;:]/).map((word) => Number(word || 0));
    for (let at = 0; at < numbers.length; at += 1) {
      const n = numbers[at];
      if (n === 0) [fg, bg, flags] = [null, null, new Set()];
      else if (FLAGS[n]) flags.add(FLAGS[n]);
      else if (OFF[n]) OFF[n].forEach((flag) => flags.delete(flag));
      else if (n >= 30 && n <= 37) fg = n - 30;
      else if (n >= 90 && n <= 97) fg = n - 82;
      else if (n >= 40 && n <= 47) bg = n - 40;
      else if (n >= 100 && n <= 107) bg = n - 92;
      else if (n === 39) fg = null;
      else if (n === 49) bg = null;
      else if (n === 38 || n === 48) {
        const wide = numbers[at + 1] === 2;
        const found = wide ? rgb(numbers.slice(at + 2, at + 5)) : indexed(numbers[at + 2]);
        if (n === 38) fg = found;
        else bg = found;
        at += wide ? 4 : 2;
      }
    }
    const none = fg === null && bg === null && flags.size === 0;
    this.#style = none ? PLAIN : { fg, bg, flags: [...flags] };
  }
}

// A number below 16 is one of the page's own colours; anything else is a CSS colour.
function indexed(n) {
  if (!(n >= 0 && n <= 255)) return null;
  if (n < 16) return n;
  if (n >= 232) return rgb(Array(3).fill(8 + (n - 232) * 10));
  const steps = [0, 95, 135, 175, 215, 255];
  const m = n - 16;
  return rgb([steps[Math.floor(m / 36)], steps[Math.floor(m / 6) % 6], steps[m % 6]]);
}

function rgb(parts) {
  const [r, g, b] = [0, 1, 2].map((at) => Math.min(255, Math.max(0, Math.trunc(parts[at] || 0))));
  return `rgb(${r}, ${g}, ${b})`;
}
