// The service, asked from the page. The key lies in this tab's session storage and nowhere else; texts are in no address.

const KEY = "llumi key";
const TOO_LONG = "The model took too long. Please try again.";
const BROKEN_OFF = "The model stopped before it was done. Please try again.";

export const readKey = () => sessionStorage.getItem(KEY) ?? "";

export function keepKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

/** What went wrong, in words for whoever is writing; `status` is that of HTTP, 0 where nothing answered. */
export class ServiceError extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** The answer of a route; `body` makes it a POST. Throws ServiceError. */
export async function ask(path, { body } = {}) {
  try {
    return await (await send(path, { body })).json();
  } catch (problem) {
    throw inWords(problem);
  }
}

/**
 * The answer of a route piece by piece, while it is written; the last piece has no text, and all that stands beside it.
 * Throws ServiceError, or AbortError where `signal` ended it: the connection closes, and the service ends the generation.
 */
export async function* stream(path, { body, signal }) {
  try {
    const answer = await send(path, { body: { ...body, stream: true }, signal });
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
    for (let rest = ""; ; ) {
      const { done, value } = await reader.read();
      if (done) throw new ServiceError(0, BROKEN_OFF);
      const events = (rest + value).split("\n\n");
      rest = events.pop();
      for (const event of events) {
        const data = event.slice("data: ".length);
        if (data === "[DONE]") return;
        const piece = JSON.parse(data);
        if (piece.error) throw new ServiceError(0, piece.error.code === "timeout" ? TOO_LONG : BROKEN_OFF);
        yield piece;
      }
    }
  } catch (problem) {
    throw inWords(problem);
  }
}

async function send(path, { body, signal }) {
  const headers = {};
  const key = readKey();
  if (key) headers.Authorization = `Bearer ${key}`;
  if (body) headers["Content-Type"] = "application/json";
  const request = { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal, cache: "no-store" };
  const answer = await fetch(path, request);
  if (!answer.ok) throw new ServiceError(answer.status, sentence(answer, Boolean(key)));
  return answer;
}

function inWords(problem) {
  if (problem instanceof ServiceError || problem.name === "AbortError") return problem;
  return new ServiceError(0, "The service cannot be reached just now. Please try again in a minute.");
}

function sentence(answer, hadKey) {
  switch (answer.status) {
    case 400:
    case 413:
      return "That is too long for the model. Please shorten the post or your draft.";
    case 401:
      return hadKey
        ? "This key does not open the service. Please check it, or ask whoever runs the service for another."
        : "This service asks for a key. Please enter yours under “Key” at the top.";
    case 403:
      return "Your key is not for this. Please ask whoever runs the service.";
    case 422:
      return "The service did not take what was sent. Please check that nothing is empty or very long.";
    case 429:
      return `The service takes no more from you just now. Please wait ${waiting(answer)} and try again.`;
    case 408:
    case 504:
      return TOO_LONG;
    case 503:
      return "The service cannot answer just now. Please try again in a minute.";
    default:
      return `The service has a problem (${answer.status}). Please try again, or tell whoever runs it.`;
  }
}

function waiting(answer) {
  const seconds = Number(answer.headers.get("Retry-After"));
  if (!(seconds > 0)) return "a minute";
  if (seconds === 1) return "1 second";
  return seconds < 120 ? `${seconds} seconds` : `${Math.ceil(seconds / 60)} minutes`;
}
