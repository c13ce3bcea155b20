// TensorFlow Serving's REST protocol, as far as this page needs it.

export const DEFAULTS = { DT_FLOAT: "NaN", DT_INT32: "-1", DT_INT64: "-1", DT_STRING: '""' }; // "as exported"

export class ServerError extends Error {}

// JSON with NaN and Infinity, which the protocol writes as they are; NaN becomes null.
export function parseJson(text) {
  const plain = text.replace(/"(?:[^"\\]|\\.)*"|-?Infinity|NaN/g, (found) =>
    ({ NaN: "null", Infinity: "1e999", "-Infinity": "-1e999" })[found] ?? found);
  return JSON.parse(plain);
}

// The body of a request: each option holds for every text. Numbers stay as they were typed, so none is rounded.
export function requestBody({ signature, inputs, texts, options }) {
  const columns = Object.entries(inputs).map(([name, dtype]) => {
    const cells = name === "text" ? texts.map((text) => JSON.stringify(text)) :
      texts.map(() => cell(dtype, options[name]));
    return `${JSON.stringify(name)}: [${cells.join(", ")}]`;
  });
  return `{"signature_name": ${JSON.stringify(signature)}, "inputs": {${columns.join(", ")}}}`;
}

export function cell(dtype, value) {
  if (value === undefined) return DEFAULTS[dtype];
  return dtype === "DT_STRING" ? JSON.stringify(value) : value;
}

export function modelPath(model) {
  return `v1/models/${encodeURIComponent(model)}`;
}

// {version, signatures: {name: {inputs: {name: dtype}, outputs: {name: dtype}}}}
export async function describe(model, token, signal) {
  const metadata = await fetched(`${modelPath(model)}/metadata`, { headers: headers(token), signal });
  const types = (tensors) => Object.fromEntries(
    Object.entries(tensors ?? {}).map(([name, { dtype }]) => [name, dtype]));
  const signatures = {};
  for (const [name, { inputs, outputs }] of Object.entries(metadata.metadata.signature_def.signature_def)) {
    signatures[name] = { inputs: types(inputs), outputs: types(outputs) };
  }
  return { version: metadata.model_spec?.version, signatures };
}

// Outputs by name, dimension 0 the texts.
export async function predict(model, request, token, signal) {
  const answer = await fetched(`${modelPath(model)}:predict`, {
    method: "POST", signal, body: requestBody(request),
    headers: { "Content-Type": "application/json", ...headers(token) },
  });
  return answer.outputs;
}

function headers(token) {
  return token ? { Authorization: `Bearer ${token}` } : {};
}

async function fetched(path, options) {
  let response, text;
  try {
    response = await fetch(path, options);
    text = await response.text();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError("The server cannot be reached. Is it still running?");
  }
  let answer;
  try {
    answer = parseJson(text);
  } catch {
    throw new ServerError(`The server answered ${response.status}, and not in JSON: ${text.slice(0, 200)}`);
  }
  if (!response.ok) throw new ServerError(explained(response.status, answer.error ?? text.slice(0, 200)));
  return answer;
}

function explained(status, error) {
  const advice = {
    401: "The server asks for a bearer token; see Connection.", 403: "The token does not allow this.",
    404: "The server has no such model; see Connection.", 429: "The server has too much to do; try again.",
    503: "The server is not ready; try again.", 504: "The server took too long.",
  }[status];
  return `${advice ? `${advice} ` : ""}The server says (${status}): ${error}`;
}
