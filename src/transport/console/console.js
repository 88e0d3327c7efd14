"use strict";

const byId = (id) => document.getElementById(id);

/** An element with text or children; texts are never parsed as HTML. */
function element(name, ...children) {
  const made = document.createElement(name);
  made.append(...children);
  return made;
}

async function call(path, body) {
  const headers = { "content-type": "application/json" };
  if (byId("key").value) headers.authorization = `Bearer ${byId("key").value}`;
  const response = await fetch(path, body ? { method: "POST", headers, body: JSON.stringify(body) } : { headers });
  const answer = await response.json();
  if (!response.ok) throw new Error(`${answer.code}: ${answer.detail}`);
  return { answer, timing: response.headers.get("server-timing") };
}

/** The text with its entities marked; offsets are UTF-16 units, as JavaScript's own. */
function marked(text, entities) {
  const paragraph = element("p");
  let at = 0;
  for (const { start, end, score, entity_group } of entities) {
    if (start < at) continue;
    paragraph.append(text.slice(at, start));
    const mark = element("mark", text.slice(start, end), element("small", entity_group));
    mark.title = `${entity_group} ${score.toFixed(3)}`;
    paragraph.append(mark);
    at = end;
  }
  paragraph.append(text.slice(at));
  return paragraph;
}

function ranked(labels) {
  const list = element("ol");
  for (const { label, score } of labels) {
    const meter = element("meter");
    meter.value = score;
    list.append(element("li", meter, ` ${label} `, element("span", score.toFixed(3))));
  }
  return list;
}

async function ask() {
  const text = byId("text").value;
  const [family, adapter] = byId("adapter").value.split(" ");
  const request = { inputs: text, parameters: family === "ner" ? { offset_unit: "utf16" } : { top_k: 5 } };
  if (adapter) request.adapter = adapter;
  const { answer, timing } = await call(`/v1/${family}`, request);
  const [result] = answer.results;
  const { name, version } = answer.adapter;
  byId("answer").replaceChildren(
    family === "ner" ? marked(text, result.entities) : ranked(result.labels),
    element("p", element("small", `${name}@${version} · ${answer.usage.tokens} tokens · ${timing}`)),
  );
}

async function listAdapters() {
  const { answer } = await call("/v1/adapters");
  const option = (family, adapter, label) => {
    const made = element("option", label);
    made.value = `${family} ${adapter}`;
    return made;
  };
  const serving = answer.data.filter((adapter) => adapter.family && adapter.active_version);
  byId("adapter").replaceChildren(
    option("ner", "", "default-ner"),
    option("classify", "", "default-classify"),
    ...serving.map(({ name, family }) => option(family, name, `${name} (${family})`)),
  );
  byId("adapters").replaceChildren(...answer.data.map(row));
}

function row(adapter) {
  const active = adapter.versions.find((version) => version.version === adapter.active_version);
  const state = active ? [active.state, active.reason].filter(Boolean).join(": ") : "–";
  const labels = adapter.labels.length > 12 ? `${adapter.labels.length} labels` : adapter.labels.join(", ");
  const cells = [adapter.name, adapter.family ?? "–", adapter.active_version ?? "–", state, labels, adapter.aliases.join(", ")];
  return element("tr", ...cells.map((cell) => element("td", String(cell))));
}

function shown(work) {
  return async (event) => {
    event?.preventDefault();
    try {
      await work();
    } catch (error) {
      const failure = element("p", error.message);
      failure.className = "failure";
      byId("answer").replaceChildren(failure);
    }
  };
}

byId("ask").addEventListener("submit", shown(ask));
byId("key").addEventListener("change", shown(listAdapters));
shown(listAdapters)();
