// The crisis lines: there before anything is written, of the country that is chosen here, else of the service's own.

import { byId, element } from "./elements.js";
import { ask } from "./service.js";

const KEPT = "llumi country"; // in this browser alone; every page load brings the lines of all countries
const EVERYWHERE = "*";
const NAMES = new Intl.DisplayNames(["en"], { type: "region", fallback: "code" });

let countries = {}; // the lines of each, by its code

export async function loadLines() {
  try {
    const answer = await ask("/v1/resources");
    countries = { ...answer.countries, [answer.country]: answer.resources };
    offer(answer.country);
  } catch {
    byId("lines-missing").hidden = false; // beside the sentence about the emergency number, which always stands
  }
}

/** The country whose lines stand beside the page; undefined where none could be loaded. */
export const chosenCountry = () => byId("country").value || undefined;

export function showLines(resources) {
  byId("lines-missing").hidden = true;
  byId("lines").replaceChildren(...resources.map(line));
  const first = resources.find((resource) => !resource.emergency) ?? resources[0];
  if (first) byId("first-line").textContent = `${first.name} ${ways(first)[0] ?? ""}`;
}

function offer(usual) {
  const select = byId("country");
  const codes = Object.keys(countries).sort((one, other) => (one === EVERYWHERE) - (other === EVERYWHERE) || nameOf(one).localeCompare(nameOf(other)));
  select.replaceChildren(...codes.map((code) => element("option", { value: code }, nameOf(code))));
  const kept = localStorage.getItem(KEPT);
  select.value = kept in countries ? kept : usual;
  showLines(countries[select.value]);
  select.addEventListener("change", () => {
    if (select.value === usual) localStorage.removeItem(KEPT);
    else localStorage.setItem(KEPT, select.value);
    showLines(countries[select.value]);
  });
  byId("country-box").hidden = false;
}

function nameOf(code) {
  if (code === EVERYWHERE) return "Anywhere else";
  return code === "EU" ? "Elsewhere in the European Union" : NAMES.of(code);
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
