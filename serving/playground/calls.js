// The same request as commands and code.

import { cell, modelPath, requestBody } from "./api.js";

const VALUES = { DT_STRING: "string_val", DT_FLOAT: "float_val", DT_INT32: "int_val", DT_INT64: "int64_val" };

export function curl({ model, request, token }) {
  const url = new URL(`${modelPath(model)}:predict`, document.baseURI);
  const bearer = token ? " -H \"Authorization: Bearer $TOKEN\"" : "";
  return `curl ${quoted(url.href)} -H 'Content-Type: application/json'${bearer} -d ${quoted(requestBody(request))}`;
}

export function grpcurl({ model, request, token, grpc }) {
  const inputs = Object.entries(request.inputs).map(([name, dtype]) => {
    const values = request.texts.map((text) => {
      const value = name === "text" ? JSON.stringify(text) : cell(dtype, request.options[name]);
      if (dtype === "DT_STRING") return JSON.stringify(base64(JSON.parse(value)));
      return value === "NaN" ? '"NaN"' : value;
    });
    return `"${name}": {"dtype": "${dtype}", "tensor_shape": {"dim": [{"size": ${values.length}}]}, ` +
      `"${VALUES[dtype]}": [${values.join(", ")}]}`;
  });
  const body = `{"model_spec": {"name": ${JSON.stringify(model)}, "signature_name": "${request.signature}"}, ` +
    `"inputs": {${inputs.join(", ")}}, "output_filter": ["text", "score"]}`;
  const security = location.protocol === "https:" ? "" : " -plaintext";
  const bearer = token ? " -H \"authorization: Bearer $TOKEN\"" : "";
  return `grpcurl${security}${bearer} -d ${quoted(body)} ${grpc} tensorflow.serving.PredictionService/Predict`;
}

export function python({ model, request, token, grpc }) {
  const settings = [JSON.stringify(grpc)];
  if (model !== "tfseq2seq") settings.push(JSON.stringify(model));
  if (location.protocol === "https:") settings.push("tls=Tls()");
  if (token) settings.push('token=os.environ["TOKEN"]');
  const imports = (token ? "import os\n\n" : "") +
    `from serving.client import Client${location.protocol === "https:" ? ", Tls" : ""}`;
  return `${imports}\n\nclient = Client(${settings.join(", ")})\n` +
    `for row in client.${pythonCall(request)}:\n    for hypothesis in row:\n` +
    "        print(hypothesis.score, hypothesis.text)\n";
}

function pythonCall({ signature, texts, options, inputs }) {
  const method = ["sample", "alternatives"].includes(signature) ? signature : "predict";
  const given = [JSON.stringify(texts)];
  const left = Object.keys(inputs).filter((name) => name !== "text" && options[name] !== undefined);
  if (method === "alternatives") {
    given.push(JSON.stringify(options.prefix ?? ""));
    return `alternatives(${given.join(", ")})`;
  }
  if (method === "predict" && signature !== "serving_default") given.push(JSON.stringify(signature));
  for (const name of left) {
    const value = name === "phrases" ? JSON.stringify(options.phrases.split("\n")) :
      cell(inputs[name], options[name]);
    given.push(`${name}=${value}`);
  }
  return `${method}(${given.join(", ")})`;
}

function quoted(text) {
  return `'${text.replaceAll("'", "'\\''")}'`;
}

function base64(text) {
  return btoa(String.fromCharCode(...new TextEncoder().encode(text)));
}
