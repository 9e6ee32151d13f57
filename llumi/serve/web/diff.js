// What changed between two texts, word by word. Joined again, the parts give either text back, to the last space.

const WORDS = new Intl.Segmenter(undefined, { granularity: "word" });
const MOST_CELLS = 20_000_000; // of the table below; beyond it, what differs is shown as one change
const ENDS_SENTENCE = /[.!?…。！？]["'”’)\]]*\s*$/u;
const HAS_END = /[.!?…。！？\n]/u;
const SPACE = /^\s+$/u;
const SPLINTER = 6; // characters

/** A web or mail address: one word, whatever signs it holds. */
export const ADDRESS = /(?:https?:\/\/)?(?:[\p{L}\p{N}_+@-]+\.)+\p{Ll}{2,}(?:\/[^\s)]*)?/gu;

/** The words of a text and all that stands between them, in order. */
export function tokens(text) {
  const found = [];
  let end = 0;
  for (const { 0: address, index } of text.matchAll(ADDRESS)) {
    found.push(...plainTokens(text.slice(end, index)), { text: address, isWord: true });
    end = index + address.length;
  }
  return [...found, ...plainTokens(text.slice(end))];
}

const plainTokens = (text) =>
  Array.from(WORDS.segment(text), ({ segment, isWordLike }) => ({ text: segment, isWord: Boolean(isWordLike) }));

/** The parts of `revision` against `draft`, in order: `{same}`, or `{old, new}` for a change. */
export function diff(draft, revision) {
  const runs = withoutSplinters(aligned(tokens(draft), tokens(revision)));
  const parts = onSentences(runs).flatMap(bySentence);
  return parts.map((run) => (run.isSame ? { same: text(run.old) } : { old: text(run.old), new: text(run.new) }));
}

const text = (some) => some.map((token) => token.text).join("");

// A run is {old, new, isSame}: tokens of the draft, and those that stand for them in the revision.
const same = (some) => ({ old: some, new: some, isSame: true });
const changed = (old, fresh) => ({ old, new: fresh, isSame: false });

function aligned(a, b) {
  let start = 0;
  while (start < a.length && start < b.length && a[start].text === b[start].text) start += 1;
  const [restA, restB] = [a.slice(start), b.slice(start)];
  const isHuge = (restA.length + 1) * (restB.length + 1) > MOST_CELLS;
  return [same(a.slice(0, start)), ...(isHuge ? [changed(restA, restB)] : commonSubsequence(restA, restB))];
}

/** The heaviest common subsequence: texts meet at their long words and sentence ends, and not at their spaces. */
function commonSubsequence(a, b) {
  const width = b.length + 1;
  const best = new Uint32Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i -= 1) {
    for (let j = b.length - 1; j >= 0; j -= 1) {
      const without = Math.max(best[(i + 1) * width + j], best[i * width + j + 1]);
      const together = a[i].text === b[j].text ? weight(a[i]) + best[(i + 1) * width + j + 1] : 0;
      best[i * width + j] = Math.max(without, together);
    }
  }
  const runs = [];
  let [i, j] = [0, 0];
  while (i < a.length && j < b.length) {
    const here = best[i * width + j];
    if (a[i].text === b[j].text && here === weight(a[i]) + best[(i + 1) * width + j + 1]) {
      runs.push(same([a[i]]));
      i += 1;
      j += 1;
    } else if (here === best[(i + 1) * width + j]) {
      runs.push(changed([a[i]], []));
      i += 1;
    } else {
      runs.push(changed([], [b[j]]));
      j += 1;
    }
  }
  return [...runs, changed(a.slice(i), b.slice(j))];
}

function weight(token) {
  if (token.isWord) return 16 * (2 + Math.min(token.text.length, 8));
  if (SPACE.test(token.text)) return 1;
  return ENDS_SENTENCE.test(token.text) ? 48 : 8;
}

/** What two changes leave standing between them is part of the change where it is short beside both, or holds no word. */
function withoutSplinters(runs) {
  let left = merged(runs);
  for (;;) {
    const place = left.findIndex((run, index) => run.isSame && isSplinter(run, left[index - 1], left[index + 1]));
    if (place < 0) return left;
    left = merged(left.map((run, index) => (index === place ? changed(run.old, run.new) : run)));
  }
}

function isSplinter(run, before, after) {
  if (!before || !after || HAS_END.test(text(run.old))) return false;
  const length = text(run.old).trim().length;
  return !run.old.some((token) => token.isWord) || length <= Math.min(SPLINTER, size(before), size(after));
}

const size = (run) => Math.max(text(run.old).length, text(run.new).length);

function merged(runs) {
  const made = [];
  for (const run of runs) {
    if (run.old.length === 0 && run.new.length === 0) continue;
    const last = made.at(-1);
    if (last?.isSame === run.isSame) {
      made[made.length - 1] = { old: [...last.old, ...run.old], new: [...last.new, ...run.new], isSame: run.isSame };
    } else made.push(run);
  }
  return made;
}

/**
 * An addition or a removal that could as well stand a few words to the left is moved there where it then is whole sentences:
 * of "I am here. I am sad." against "I am sad." that is "I am here. " and not "here. I am ".
 */
function onSentences(runs) {
  const moved = [...runs];
  for (let place = 1; place < moved.length; place += 1) {
    const [before, run] = [moved[place - 1], moved[place]];
    const side = oneSide(run);
    if (!side || !before.isSame) continue;
    let [left, some, passed] = [before.old, run[side], []];
    while (!isWhole(left, some) && left.length > 0 && left.at(-1).text === some.at(-1).text) {
      passed = [left.at(-1), ...passed];
      some = [left.at(-1), ...some.slice(0, -1)];
      left = left.slice(0, -1);
    }
    if (passed.length === 0 || !isWhole(left, some)) continue;
    const after = [...passed, ...(moved[place + 1]?.old ?? [])];
    moved.splice(place - 1, 3, same(left), { ...run, [side]: some }, same(after));
  }
  return merged(moved);
}

/** The side on which all of a change stands, if it is one alone. */
function oneSide(run) {
  if (run.isSame || (run.old.length > 0 && run.new.length > 0)) return null;
  return run.new.length > 0 ? "new" : "old";
}

/** Whole sentences between whole sentences, with the space either before or behind them. */
function isWhole(left, some) {
  const begins = text(left).trim() === "" || ENDS_SENTENCE.test(text(left)) || text(left).endsWith("\n");
  return begins && ENDS_SENTENCE.test(text(some)) && SPACE.test(some[0].text) !== SPACE.test(some.at(-1).text);
}

/** Whole sentences that were added or removed can be chosen one by one. */
function bySentence(run, place, runs) {
  const side = oneSide(run);
  if (!side || !isWhole(runs[place - 1]?.old ?? [], run[side])) return [run];
  const spaceLeads = SPACE.test(run[side][0].text);
  const made = [];
  let sentence = [];
  for (const [index, token] of run[side].entries()) {
    sentence.push(token);
    const rest = run[side].slice(index + 1);
    const isSeam = spaceLeads ? SPACE.test(rest[0]?.text ?? "") : SPACE.test(token.text);
    if (rest.length === 0 || (isSeam && ENDS_SENTENCE.test(text(sentence)))) {
      made.push({ ...run, [side]: sentence });
      sentence = [];
    }
  }
  return made;
}
