// What can be said of a change by looking at the texts alone. Nothing here guesses what the model meant.

import { ADDRESS, tokens } from "./diff.js";

const SENTENCES = new Intl.Segmenter(undefined, { granularity: "sentence" });
const SHARE_KNOWN = 0.5; // a sentence of whose longer words fewer are in the post or the draft is a new one
const LONGER_WORD = 4;

const words = (text) => tokens(text).filter((token) => token.isWord).map((token) => token.text);
const plain = (text) => words(text).join(" ").toLowerCase();

/** What a change does: its `kind` in a word, and in a sentence. */
export function kindOf(change) {
  const [out, added] = [words(change.old).length, words(change.new).length];
  if (plain(change.old) === plain(change.new)) return { kind: "Punctuation", why: "Only signs, spaces or capitals differ; the words are yours." };
  if (out === 0) return { kind: "Addition", why: `Adds ${counted(added)} to your draft.` };
  if (added === 0) return { kind: "Removal", why: `Takes ${counted(out)} out of your draft.` };
  return { kind: "Wording", why: `Puts ${counted(added)} in place of ${out} of yours.` };
}

const counted = (number) => (number === 1 ? "1 word" : `${number} words`);

/**
 * What a text says that none of `known` says, change by change: numbers, addresses, capitalised words that may be names, and
 * whole new sentences. `parts` are those of a diff (see diff.js); the answer has a list of `{what, text}` for each change.
 */
export function addedInformation(parts, known) {
  const heard = new Set(known.flatMap(words).map((word) => word.toLowerCase()));
  const revision = parts.map((part) => part.same ?? part.new).join("");
  const sentences = Array.from(SENTENCES.segment(revision), ({ segment, index }) => sentenceAt(segment, index));
  const found = [];
  let start = 0;
  for (const part of parts) {
    const end = start + (part.same ?? part.new).length;
    if (part.same === undefined) found.push(addedBetween(start, end, sentences, heard));
    start = end;
  }
  return found;
}

/** A sentence with its words, each at its place in the whole text. */
function sentenceAt(segment, index) {
  const placed = [];
  let start = index;
  for (const { text, isWord } of tokens(segment)) {
    if (isWord) placed.push({ text, start });
    start += text.length;
  }
  return { text: segment.trim(), words: placed };
}

function addedBetween(start, end, sentences, heard) {
  const added = [];
  for (const sentence of sentences) {
    const inside = sentence.words.filter((word) => word.start >= start && word.start + word.text.length <= end);
    for (const word of inside) {
      const what = heard.has(word.text.toLowerCase()) ? null : informationIn(word, sentence);
      if (what && !added.some((one) => one.text === word.text)) added.push({ what, text: word.text });
    }
    if (sentence.words.length > 0 && inside.length === sentence.words.length && isNew(sentence, heard)) {
      added.push({ what: "new sentence", text: sentence.text });
    }
  }
  return added;
}

function informationIn(word, sentence) {
  if (word.text.match(ADDRESS)) return "address";
  if (/\p{N}/u.test(word.text)) return "number";
  const isName = word !== sentence.words[0] && /^\p{Lu}\p{L}/u.test(word.text);
  return isName ? "capitalised word" : null;
}

function isNew(sentence, heard) {
  const longer = sentence.words.filter((word) => word.text.length >= LONGER_WORD);
  const known = longer.filter((word) => heard.has(word.text.toLowerCase()));
  return longer.length > 0 && known.length < SHARE_KNOWN * longer.length;
}
