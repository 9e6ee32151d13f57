// What became of each change of a revision, and the text that follows from it; every step can be undone.

/** A change is "open" until it is "accepted" or "rejected"; an open one leaves the person's own words. */
export class Choices {
  constructor(parts) {
    this.parts = parts;
    this.changes = parts.filter((part) => part.same === undefined);
    this.states = this.changes.map(() => "open");
    this.text = this.composed();
    this.isTyping = false;
    this.past = [];
  }

  /** Give one change a state, or all of them where `index` is undefined; the text is what the choices say. */
  choose(state, index) {
    this.remember();
    this.states = this.states.map((old, place) => (index === undefined || place === index ? state : old));
    this.text = this.composed();
    this.isTyping = false;
  }

  /** The text as the person wrote it; strokes in a row are one step. */
  write(text) {
    if (!this.isTyping) this.remember();
    this.isTyping = true;
    this.text = text;
  }

  undo() {
    const last = this.past.pop();
    if (last) Object.assign(this, last, { isTyping: false });
  }

  get isEdited() {
    return this.text !== this.composed();
  }

  get numOpen() {
    return this.states.filter((state) => state === "open").length;
  }

  composed() {
    let place = 0;
    return this.parts.map((part) => part.same ?? (this.states[place++] === "accepted" ? part.new : part.old)).join("");
  }

  remember() {
    this.past.push({ states: this.states, text: this.text });
  }
}
