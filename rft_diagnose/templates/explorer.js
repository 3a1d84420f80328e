"use strict";
(() => {
const AT_ONCE = 60;
const facts = JSON.parse(document.getElementById("facts").textContent);
const inputs = JSON.parse(document.getElementById("data").textContent);
const byKey = new Map(inputs.map((input, place) => [input.key, place]));
const find = id => document.getElementById(id);
const list = find("list"), detail = find("detail"), query = find("query"), sort = find("sort");
const shownClasses = new Set(facts.classes.map((_, number) => number));
let descending = false, order = [], drawn = 0, current = -1, scrolled = 0;

const make = (tag, attributes, ...children) => {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
};
const write = value => value === null ? "missing" : String(+value.toPrecision(4));
const whole = text => typeof text === "string" ? text : text[0];
const address = input => "#input=" + encodeURIComponent(input.key);
const oneLine = text => whole(text).slice(0, 300).replace(/\s+/g, " ");
const facsimile = text => {
  const box = make("pre", {class: "text"}, whole(text) === "" ? make("span", {class: "dim"}, "(empty)") : whole(text));
  if (typeof text !== "string")
    box.append(make("span", {class: "dim"}, ` ... cut: ${text[1].toLocaleString("en")} characters in all`));
  return box;
};
const numbers = input => `mean ${write(input.mean)}, std ${write(input.std)}, ${input.n} generations`;

// What is searched is put together when it is first needed, and kept.
const words = input => input.words ??=
  [input.key, input.id ?? "", input.prompt, ...input.texts].map(whole).join("\n").toLowerCase();

const arrange = () => {
  const text = query.value.trim().toLowerCase(), name = sort.value, sign = descending ? -1 : 1;
  order = [];
  inputs.forEach((input, place) => {
    if (shownClasses.has(input.class) && (text === "" || words(input).includes(text))) order.push(place);
  });
  const value = place => name === "place" ? place : inputs[place][name];
  order.sort((a, b) => {
    const x = value(a), y = value(b);
    if (x === null || y === null) return (x === null) - (y === null) || a - b;  // missing ones are last
    return sign * (x - y) || a - b;
  });
  drawn = 0;
  list.replaceChildren();
  find("count").textContent = `${order.length.toLocaleString("en")} of ${inputs.length.toLocaleString("en")} inputs`;
  draw();
};

const item = place => {
  const input = inputs[place], {name, color} = facts.classes[input.class];
  const link = make("a", {href: address(input), "data-place": place, "aria-current": place === current},
    make("span", {class: "line"}, input.id === undefined ? oneLine(input.prompt) : `${oneLine(input.id)}: ${oneLine(input.prompt)}`),
    make("span", {class: "dim"}, `${name}; ${numbers(input)}`));
  link.style.borderLeftColor = color;
  return make("li", {}, link);
};
// As far as it is looked at.
const draw = () => {
  const isHidden = find("more").offsetParent === null;
  while (!isHidden && drawn < order.length && find("more").getBoundingClientRect().top < innerHeight + 600) {
    const end = Math.min(drawn + AT_ONCE, order.length);
    list.append(...order.slice(drawn, end).map(item));
    drawn = end;
  }
};
for (const event of ["scroll", "resize"]) addEventListener(event, draw, {capture: true, passive: true});

const generationLine = ([count, , ...rewards]) => {
  const parts = rewards.map((reward, i) => rewards.length > 1 ? `${facts.rewards[i]}: ${write(reward)}` : `reward ${write(reward)}`);
  return parts.join(", ") + (count > 1 ? `, ${count} times` : "");
};
const bars = input => {
  const rewards = input.generations.flatMap(([count, , reward]) => Array(count).fill(reward));
  const low = Math.min(0, ...rewards), high = Math.max(low + 1e-12, ...rewards);
  const box = make("div", {class: "bars", role: "img",
    "aria-label": `Rewards from ${write(rewards[0])} to ${write(rewards[rewards.length - 1])}`});
  for (const reward of rewards) {
    const bar = make("span", {});
    bar.style.height = `${100 * (reward - low) / (high - low)}%`;
    bar.style.background = facts.classes[input.class].color;
    box.append(bar);
  }
  return box;
};
const show = place => {
  const input = inputs[place], name = facts.classes[input.class].name;
  const at = order.indexOf(place);
  const step = (target, text) => target === undefined ? [] : [make("a", {href: address(inputs[target])}, text)];
  const shown = input.generations.reduce((sum, [count]) => sum + count, 0);
  const rest = shown < input.n ? `${shown} of the ${input.n.toLocaleString("en")}` : `${input.n}`;
  detail.replaceChildren(
    make("div", {class: "steps"}, make("a", {href: "#", class: "back"}, "Back to the list"),
      ...(at < 0 ? [] : [...step(order[at - 1], "Previous"), ...step(order[at + 1], "Next")])),
    make("h2", {}, oneLine(input.id ?? input.prompt).slice(0, 120)),
    make("p", {}, `${name} (rewards: ${input.looks}); ${numbers(input)}; prompt of ${input.length.toLocaleString("en")} characters`),
    bars(input),
    make("h3", {}, "Prompt"), facsimile(input.prompt),
    make("h3", {}, `${rest} generations, the highest reward first`),
    make("ol", {class: "generations"}, ...[...input.generations].reverse().map(generation => make("li", {},
      make("b", {}, generationLine(generation)),
      ...(generation[1] < 0 ? [] : [facsimile(input.texts[generation[1]])])))));
};

const follow = () => {
  const [, name] = location.hash.match(/^#input=(.*)$/s) ?? [];
  let key = name;
  try { key = name === undefined ? name : decodeURIComponent(name); } catch { /* as it stands */ }
  const place = byKey.get(key), was = current;
  const isPhone = getComputedStyle(document.querySelector("#panes")).display !== "grid";
  if (was < 0) scrolled = scrollY;
  current = place ?? -1;
  document.body.classList.toggle("open", name !== undefined);
  for (const link of list.querySelectorAll("a")) link.setAttribute("aria-current", +link.dataset.place === current);
  if (name === undefined) {
    detail.replaceChildren();
    draw();
    if (isPhone) scrollTo(0, scrolled);
    list.querySelector(`a[data-place="${was}"]`)?.focus({preventScroll: isPhone});
  } else if (place === undefined) {
    detail.replaceChildren(make("div", {class: "steps"}, make("a", {href: "#"}, "Back to the list")),
      make("p", {class: "card"}, `The input ${key.slice(0, 200)} is not among those on this page.`));
  } else {
    show(place);
    if (isPhone) scrollTo(0, 0);
    else detail.scrollIntoView({block: "nearest"});
    detail.focus({preventScroll: true});
  }
};

const go = by => {
  const at = order.indexOf(current);
  const target = order[at < 0 ? 0 : at + by];
  if (target !== undefined) location.hash = address(inputs[target]);
};
addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.target.matches("input, select")) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  const focused = document.activeElement.closest("#list li");
  if (event.key === "/") { document.body.classList.contains("open") && (location.hash = ""); query.focus(); }
  else if (event.key === "j") go(1);
  else if (event.key === "k") go(-1);
  else if (event.key === "Escape") location.hash = "";
  else if (focused && event.key === "ArrowDown") (focused.nextElementSibling ?? focused).firstChild.focus();
  else if (focused && event.key === "ArrowUp") (focused.previousElementSibling ?? focused).firstChild.focus();
  else return;
  event.preventDefault();
});

facts.classes.forEach(({name, color}, number) => {
  const count = inputs.filter(input => input.class === number).length;
  const key = make("span", {class: "key"});
  key.style.background = color;
  const button = make("button", {type: "button", "aria-pressed": true, value: number}, key, `${name} ${count}`);
  button.addEventListener("click", () => {
    shownClasses.has(number) ? shownClasses.delete(number) : shownClasses.add(number);
    button.setAttribute("aria-pressed", shownClasses.has(number));
    arrange();
  });
  find("classes").append(button);
});
let waiting = 0;
query.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(arrange, 120); });
sort.addEventListener("change", arrange);
find("direction").addEventListener("click", event => {
  descending = !descending;
  event.target.setAttribute("aria-pressed", descending);
  event.target.textContent = descending ? "descending" : "ascending";
  arrange();
});
addEventListener("hashchange", follow);
arrange();
follow();
})();
