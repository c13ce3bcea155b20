// The form: what may be asked, what is asked, and what came of it.

import { article, element } from "./answers.js";
import { ServerError, describe, predict } from "./api.js";
import { curl, grpcurl, python } from "./calls.js";

const HINTS = {
  serving_default: "The search as it was exported; text and score alone.",
  greedy: "The likeliest token at each step; text and score alone.",
  beam: "The search with options; tells tokens and attention.",
  sample: "Answers drawn from the model; the same seed gives the same ones again.",
  alternatives: "What else might stand after the prefix.",
};
const PREFERRED = ["beam", "serving_default"];

const $ = (id) => document.getElementById(id);
const options = [...document.querySelectorAll("[data-option]")];
let signatures = {};
let tokenizes = false; // whether the model tells its source's tokens
let underWay; // aborts the request that is waited for

function settings() {
  const inputs = signatures[$("signature").value]?.inputs ?? { text: "DT_STRING" };
  const asked = {};
  for (const box of options) {
    const name = box.dataset.option;
    const value = $(name).value;
    if (name in inputs && value !== "") asked[name] = value;
  }
  if (asked.phrases) asked.phrases = lines(asked.phrases).join("\n");
  return {
    model: $("model").value, token: $("token").value, grpc: $("grpc").value,
    request: { signature: $("signature").value, inputs, texts: lines($("texts").value), options: asked },
  };
}

function lines(text) {
  return text.split(/\r?\n/).filter((line) => line.trim() !== "");
}

function refresh() {
  const { inputs } = signatures[$("signature").value] ?? { inputs: {} };
  for (const box of options) {
    box.hidden = !(box.dataset.option in inputs);
    for (const field of box.querySelectorAll("input, textarea")) field.disabled = box.hidden;
  }
  $("options").hidden = options.every((box) => box.hidden);
  $("signature-hint").textContent = HINTS[$("signature").value] ?? "";
  const asked = settings();
  if (!asked.request.texts.length) asked.request.texts = ["…"];
  for (const [id, write] of Object.entries({ curl, grpcurl, python })) $(id).textContent = write(asked);
}

async function load() {
  $("model-line").textContent = "Asking the server for its model …";
  problem();
  try {
    const { version, signatures: all } = await describe($("model").value, $("token").value);
    const known = new Set(["text", ...options.map((box) => box.dataset.option)]);
    signatures = Object.fromEntries(Object.entries(all).filter(([, { inputs, outputs }]) =>
      "text" in inputs && "text" in outputs && "score" in outputs && Object.keys(inputs).every((name) => known.has(name))));
    tokenizes = all.tokenize?.outputs.tokens !== undefined;
    const names = Object.keys(signatures);
    if (!names.length) throw new ServerError("This model has no signature that takes texts and gives texts.");
    const chosen = names.includes($("signature").value) ? $("signature").value :
      PREFERRED.find((name) => names.includes(name)) ?? names[0];
    $("signature").replaceChildren(...names.map((name) => element("option", { value: name }, name)));
    $("signature").value = chosen;
    $("signature").disabled = false;
    $("model-line").textContent = `Model ${$("model").value}${version ? `, version ${version}` : ""}`;
  } catch (error) {
    signatures = {};
    $("signature").replaceChildren();
    $("signature").disabled = true;
    $("model-line").textContent = `Model ${$("model").value}: not to be had`;
    $("connection").open = true;
    problem(error);
  }
  refresh();
}

async function send() {
  const { model, token, request } = settings();
  problem();
  if (!request.texts.length) return problem(new ServerError("Write a text first; one a line."));
  if (!signatures[request.signature]) return load();
  underWay = new AbortController();
  $("send").textContent = "Stop";
  $("status").textContent = "Waiting for the answer …";
  const began = performance.now();
  try {
    const { signal } = underWay;
    const outputs = await predict(model, request, token, signal);
    const took = performance.now() - began;
    const wantsTokens = tokenizes && outputs.attention !== undefined;
    const sources = wantsTokens ? (await predict(
      model, { signature: "tokenize", inputs: { text: "DT_STRING" }, texts: request.texts, options: {} }, token, signal,
    )).tokens : [];
    $("answers").replaceChildren(...request.texts.map((text, row) => article(text, outputs, row, sources[row])));
    $("status").textContent =
      `${request.texts.length} ${request.texts.length === 1 ? "text" : "texts"} answered in ${took.toFixed(0)} ms.`;
  } catch (error) {
    $("status").textContent = error.name === "AbortError" ? "Stopped." : "No answer.";
    if (error.name !== "AbortError") problem(error);
  } finally {
    underWay = undefined;
    $("send").textContent = "Send";
  }
  return undefined;
}

function problem(error) {
  $("problem").hidden = !error;
  $("problem").textContent = !error ? "" : error instanceof ServerError ? error.message :
    `This page cannot show the answer: ${error.message}`;
}

$("form").addEventListener("submit", (event) => {
  event.preventDefault();
  if (underWay) underWay.abort();
  else send();
});
$("form").addEventListener("input", refresh);
$("texts").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey) && !underWay) {
    event.preventDefault();
    $("form").requestSubmit();
  }
});
for (const id of ["model", "token"]) $(id).addEventListener("change", load);
for (const button of document.querySelectorAll("[data-copy]")) {
  button.addEventListener("click", async () => {
    const code = $(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(code.textContent);
      button.textContent = "Copied";
    } catch { // no clipboard without https
      getSelection().selectAllChildren(code);
      button.textContent = "Selected";
    }
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
}

const asked = new URLSearchParams(location.search);
$("model").value = asked.get("model") ?? "tfseq2seq";
$("texts").value = asked.get("text") ?? "";
$("grpc").value = `${location.hostname || "127.0.0.1"}:8500`;
load();
