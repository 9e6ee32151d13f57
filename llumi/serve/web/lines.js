// The crisis lines: there before anything is written, and renewed by every answer that brings some.

import { byId, element } from "./elements.js";
import { ask } from "./service.js";

export async function loadLines() {
  try {
    showLines((await ask("/v1/resources")).resources);
  } catch {
    byId("lines-missing").hidden = false; // beside the sentence about the emergency number, which always stands
  }
}

export function showLines(resources) {
  byId("lines-missing").hidden = true;
  byId("lines").replaceChildren(...resources.map(line));
  const first = resources.find((resource) => !resource.emergency) ?? resources[0];
  if (first) byId("first-line").textContent = `${first.name} ${ways(first)[0] ?? ""}`;
}

const ways = (resource) => [
  ...(resource.numbers ?? []),
  ...(resource.text ? [`text ${resource.text}`] : []),
  ...(resource.domains ?? []),
];

function line(resource) {
  const numbers = (resource.numbers ?? []).map((number) => element("a", { href: `tel:${number.replaceAll(" ", "")}` }, number));
  const domains = (resource.domains ?? []).map((domain) =>
    element("a", { href: `https://${domain}`, rel: "noreferrer", target: "_blank" }, domain),
  );
  const text = resource.text ? [element("span", {}, `text ${resource.text}`)] : [];
  return element("li", {}, element("strong", {}, resource.name), ...[...numbers, ...text, ...domains].flatMap((way) => [" ", way]));
}
