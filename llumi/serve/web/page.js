// The writing page: asks for a draft or a revision, shows what comes, and flags it where somebody says so.

import { byId, element } from "./elements.js";
import { chosenCountry, loadLines, showLines } from "./lines.js";
import { connectReview, showReply, showRevision } from "./review.js";
import { ask, keepKey, readKey, stream } from "./service.js";

const FIXED_TEXT = "This is a fixed text of the service, the same for everybody.";
const GUARD_NOTES = {
  regenerated: "The safety rules refused the first answer of the model; this is its second.",
  own_draft: "The safety rules refused what the model wrote. Your own draft stands, as it was.",
  fallback: `The safety rules refused what the model wrote. ${FIXED_TEXT}`,
  error: `What the model wrote could not be checked, and is not shown. ${FIXED_TEXT}`,
};
const NOTES_ON_THE_REST = {
  fallback: "The safety rules refused the rest of what the model wrote. The last sentence is a fixed text of the service.",
  error: "The rest of what the model wrote could not be checked, and is not shown. The last sentence is a fixed text of the service.",
};
const NARROW = "(max-width: 60rem)";

const field = Object.fromEntries(["key", "post", "draft", "result", "reason"].map((id) => [id, byId(id)]));
let asking = null;
let shown = null; // what a flag would keep

async function request(role) {
  if (asking || !isFilled("post", "Please put in what the person wrote.")) return;
  if (role === "im" && !isFilled("draft", "Please write your reply first; “Draft a reply” begins without one.")) return;
  const asked = { post: field.post.value, ...(role === "im" ? { draft: field.draft.value } : {}), country: chosenCountry() };
  asking = new AbortController();
  showBusy(true);
  try {
    show(role, asked, await written(role === "gm" ? "/v1/draft" : "/v1/improve", asked));
    byId("status").textContent = "";
  } catch (problem) {
    if (problem.name === "AbortError") byId("status").textContent = "Cancelled. Your texts are still here.";
    else fail(problem);
  } finally {
    asking = null;
    showBusy(false);
  }
}

/** The whole answer, shown sentence by sentence as it is written; `text` is all of it, in `numPieces`. */
async function written(path, asked) {
  const answer = { text: "", numPieces: 0 };
  for await (const piece of stream(path, { body: asked, signal: asking.signal })) {
    const { text = "", ...beside } = piece;
    Object.assign(answer, beside, { text: answer.text + text, numPieces: answer.numPieces + (text ? 1 : 0) });
    if ("banner" in beside) showHelp(asked, answer);
    byId("growing").append(element("span", {}, text));
    byId("growing").hidden = false;
  }
  return answer;
}

/** The banner, and the lines of the country that was asked for, unless another was chosen meanwhile. */
function showHelp(asked, answer) {
  byId("banner").textContent = answer.banner ?? "";
  if (answer.resources && asked.country === chosenCountry()) showLines(answer.resources);
}

function isFilled(name, sentence) {
  const filled = field[name].value.trim() !== "";
  field[name].toggleAttribute("aria-invalid", !filled);
  byId("problem").textContent = filled ? "" : sentence;
  if (!filled) field[name].focus();
  return filled;
}

function showBusy(isBusy) {
  for (const id of ["ask-draft", "ask-improve"]) byId(id).setAttribute("aria-disabled", String(isBusy));
  if (!isBusy && document.activeElement === byId("cancel")) byId("ask-improve").focus();
  byId("cancel").hidden = !isBusy;
  byId("status").classList.toggle("busy", isBusy);
  byId("growing").replaceChildren();
  byId("growing").hidden = true;
  if (isBusy) {
    byId("problem").textContent = "";
    byId("status").textContent = "The model is writing. Each sentence is checked before it comes; this can take a minute.";
  }
}

function fail(problem) {
  byId("status").textContent = "";
  byId("problem").textContent = `${problem.message} Your texts are still here.`;
  if (problem.status === 401) {
    byId("key-box").open = true;
    field.key.focus();
  }
}

function show(role, asked, answer) {
  const suggestion = answer.text;
  const decision = answer.guard?.decision;
  const isFixed = decision === "fallback" || decision === "error";
  const guardNotes = isFixed && answer.numPieces > 1 ? NOTES_ON_THE_REST : GUARD_NOTES;
  shown = { role, model: answer.model, post: asked.post, draft: asked.draft ?? null, suggestion };
  byId("suggestion").hidden = false;
  const notes = [guardNotes[decision], answer.finish_reason === "length" ? "It was cut off at the greatest length." : undefined];
  if (role === "gm") showReply(asked.post, suggestion);
  else {
    // A fixed text is no revision, nor is half of one: it stands beside the draft, and nothing is laid over the person's words.
    const { numChanges, numAdded } = showRevision(asked.post, asked.draft, isFixed ? asked.draft : suggestion);
    if (isFixed) notes.push("Your draft stands below, unchanged.");
    else if (decision !== "own_draft") notes.push(counted(numChanges, numAdded));
  }
  byId("instead").hidden = !(isFixed && role === "im");
  byId("instead").textContent = suggestion;
  const note = notes.filter(Boolean).join(" ");
  byId("note").hidden = note === "";
  byId("note").textContent = note;
  showHelp(asked, answer);
  byId("model").textContent = answer.model;
  readyToFlag();
  byId("suggestion-title").focus({ preventScroll: true });
  (answer.banner ? byId("banner") : byId("suggestion")).scrollIntoView({ block: "start" });
}

function counted(numChanges, numAdded) {
  if (numChanges === 0) return "The model would change nothing.";
  const changes = numChanges === 1 ? "One change is proposed." : `${numChanges} changes are proposed.`;
  return numAdded === 0 ? changes : `${changes} ${numAdded} of them ${numAdded === 1 ? "adds" : "add"} information: look at it closely.`;
}

function readyToFlag() {
  byId("flag").setAttribute("aria-disabled", "false");
  byId("flagged").textContent = "";
  field.reason.value = "";
}

async function flag() {
  const button = byId("flag");
  if (button.getAttribute("aria-disabled") === "true") return;
  button.setAttribute("aria-disabled", "true");
  try {
    await ask("/v1/flags", { body: { ...shown, reason: field.reason.value || null } });
    byId("flagged").textContent = "Flagged, and kept for the people who run this service. Thank you.";
  } catch (problem) {
    button.setAttribute("aria-disabled", "false");
    byId("flagged").textContent = `Not flagged. ${problem.message}`;
  }
}

field.key.value = readKey();
field.key.addEventListener("input", () => keepKey(field.key.value.trim()));
byId("ask-draft").addEventListener("click", () => request("gm"));
byId("ask-improve").addEventListener("click", () => request("im"));
byId("cancel").addEventListener("click", () => asking?.abort());
byId("flag").addEventListener("click", flag);
connectReview();
if (matchMedia(NARROW).matches) byId("lines-box").open = false;
loadLines();

// What is written here is kept nowhere: leaving would lose it.
window.addEventListener("beforeunload", (event) => {
  if ([field.post, field.draft, field.result].some((text) => text.value.trim() !== "")) event.preventDefault();
});
