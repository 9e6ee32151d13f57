// A suggestion before the person: its changes one by one, and the text that the person makes of it.

import { addedInformation, kindOf } from "./changes.js";
import { Choices } from "./choices.js";
import { diff } from "./diff.js";
import { byId, element } from "./elements.js";

let choices = new Choices([]);
let cards = [];

/** Show the changes of `revision` against `draft`; what neither `draft` nor `post` says is marked. */
export function showRevision(post, draft, revision) {
  begin(diff(draft, revision));
  const added = addedInformation(choices.parts, [post, draft]);
  cards = choices.changes.map((change, index) => card(change, index, added[index]));
  byId("changes").replaceChildren(...cards);
  byId("review").hidden = cards.length === 0;
  byId("facts").hidden = true;
  show();
  return { numChanges: cards.length, numAdded: added.filter((one) => one.length > 0).length };
}

/** Show a reply that no draft came before; numbers, addresses and names that the `post` lacks are listed. */
export function showReply(post, reply) {
  begin([{ same: reply }]);
  cards = [];
  const found = addedInformation([{ old: "", new: reply }], [post])[0].filter((one) => one.what !== "new sentence");
  byId("review").hidden = true;
  byId("facts").hidden = found.length === 0;
  byId("facts").replaceChildren(badge(), element("p", {}, `Not in the post: ${listed(found)}. Check it before you use it.`));
  show();
}

function begin(parts) {
  choices = new Choices(parts);
  byId("said").textContent = "";
}

/** Connect the buttons of the review, once. */
export function connectReview() {
  byId("accept-all").addEventListener("click", () => choose("accepted"));
  byId("reject-all").addEventListener("click", () => choose("rejected"));
  byId("undo").addEventListener("click", () => {
    if (choices.past.length === 0) return;
    choices.undo();
    show();
    say("Undone.");
  });
  byId("result").addEventListener("input", (event) => {
    choices.write(event.target.value);
    showUndo();
  });
  byId("copy").addEventListener("click", copy);
}

function choose(state, index) {
  const lostEdits = choices.isEdited;
  choices.choose(state, index);
  show();
  const which = index === undefined ? "All changes" : `Change ${index + 1}`;
  const left = choices.numOpen === 0 ? "None is left open." : `${choices.numOpen} left open.`;
  say(`${which} ${state}. ${left}` + (lostEdits ? " What you had typed is gone from the text; Undo brings it back." : ""));
}

function show() {
  byId("result").value = choices.text;
  showUndo();
  let place = 0;
  byId("diff").replaceChildren(...choices.parts.flatMap((part) => (part.same === undefined ? marked(part, place++) : [part.same])));
  cards.forEach((item, index) => {
    item.dataset.state = choices.states[index];
    for (const button of item.querySelectorAll("button")) {
      button.setAttribute("aria-pressed", String(button.dataset.state === choices.states[index]));
    }
  });
}

const showUndo = () => byId("undo").setAttribute("aria-disabled", String(choices.past.length === 0));

function marked(change, index) {
  const state = choices.states[index];
  const old = change.old && state !== "accepted" ? element(state === "open" ? "del" : "span", {}, change.old) : null;
  const fresh = change.new && state !== "rejected" ? element(state === "open" ? "ins" : "span", {}, change.new) : null;
  const number = element("sup", {}, String(index + 1));
  return [element("span", { class: `change ${state}` }, old, fresh, number)];
}

function card(change, index, added) {
  const { kind, why } = kindOf(change);
  const number = String(index + 1);
  const news = added.length > 0 ? element("p", { class: "news" }, `In neither the post nor your draft: ${listed(added)}. Check it.`) : null;
  const buttons = [["accepted", "Accept"], ["rejected", "Reject"]].map(([state, word]) => {
    const unseen = element("span", { class: "unseen" }, ` change ${number}`);
    const button = element("button", { type: "button", "data-state": state, "aria-pressed": "false" }, word, unseen);
    button.addEventListener("click", () => choose(choices.states[index] === state ? "open" : state, index));
    return button;
  });
  return element(
    "li",
    { class: "change-card" },
    element("p", { class: "head" }, element("span", { class: "number", "aria-hidden": "true" }, number), element("strong", {}, kind), added.length > 0 ? badge() : null),
    element("p", { class: "pair" }, change.old ? element("del", {}, visible(change.old)) : null, change.old && change.new ? " " : null, change.new ? element("ins", {}, visible(change.new)) : null),
    element("p", { class: "why" }, why),
    news,
    element("div", { class: "acts" }, ...buttons),
  );
}

const badge = () => element("span", { class: "badge" }, "Added information");
const listed = (added) => added.map((one) => `${one.what} “${one.text}”`).join(", ");

/** Spaces and line ends that are all of a change, as signs: else there would be nothing to see. */
const visible = (text) => (text.trim() === "" ? text.replaceAll(" ", "␣").replaceAll("\n", "↵") : text.trim());

async function copy() {
  const field = byId("result");
  let copied = true;
  if (navigator.clipboard) {
    await navigator.clipboard.writeText(field.value).catch(() => { copied = false; });
  } else { // not there on a plain http address
    field.select();
    copied = document.execCommand("copy");
  }
  say(copied ? "Copied." : "The browser did not let this page copy; please mark the text and copy it.");
}

function say(sentence) {
  byId("said").textContent = sentence;
}
