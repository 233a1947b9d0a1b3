// What was said, on the page: finals as paragraphs, and below them the utterance that is being spoken, in place.

const segments = (text) => {
  const words = new Intl.Segmenter(undefined, { granularity: "word" });
  return Array.from(words.segment(text), ({ segment }) => segment);
};

/** The words, with what is between them, that begin both texts. */
export function agreed(before, now) {
  const [one, other] = [segments(before), segments(now)];
  const end = other.findIndex((segment, place) => segment !== one[place]);
  return other.slice(0, end < 0 ? other.length : end).join("");
}

export class Transcript {
  #finals;
  #current;
  #settled;
  #open;
  #before = "";

  /** Draw into `finals`, and into `current`, which holds an element for what is settled and one for what may change. */
  constructor(finals, current) {
    this.#finals = finals;
    this.#current = current;
    [this.#settled, this.#open] = current.children;
  }

  /** The finals, a line each. */
  get text() {
    return Array.from(this.#finals.children, ({ textContent }) => textContent).join("\n");
  }

  /** Two partials in a row that agree on their beginning are as good as final there. */
  partial(text) {
    const shared = agreed(this.#before, text);
    const kept = this.#settled.textContent;
    const settled = text.startsWith(kept) && kept.length > shared.length ? kept : shared;
    this.#settled.textContent = settled;
    this.#open.textContent = text.slice(settled.length);
    this.#before = text;
    this.#current.hidden = text === "";
  }

  final(text, language) {
    this.partial("");
    if (text === "") return;
    const paragraph = document.createElement("p");
    paragraph.textContent = text;
    paragraph.dir = "auto";
    if (language) paragraph.lang = language;
    this.#finals.append(paragraph);
  }

  clear() {
    this.partial("");
    this.#finals.replaceChildren();
  }
}
