// Labels and weights of a hypothesis' attention, as far as the model tells them.

export const END = "</s>";

// What stands for each of `count` tokens: `joined` if the model tells them, else words or characters where just that
// many come out (with an end token), else positions. Returns {labels, told}.
export function labelled(joined, text, count) {
  if (joined !== undefined) {
    const labels = joined.split(" ").slice(0, count || undefined);
    return { labels: filled(labels, count), told: true };
  }
  for (const parts of [text.trim().split(/\s+/), [...text.trim()]]) {
    if (parts.length + 1 === count) return { labels: [...parts, END], told: false };
  }
  return { labels: filled([], count), told: false };
}

function filled(labels, count) {
  const missing = Array.from({ length: Math.max(0, count - labels.length) }, (_, at) => `${labels.length + at + 1}`);
  return [...labels, ...missing];
}

// How many of the source's tokens any hypothesis looks at: [H][L][S] weights are padded with zeros.
export function columns(hypotheses) {
  let count = 0;
  for (const rows of hypotheses) {
    for (const row of rows) {
      for (let at = row.length; at > count; at -= 1) if (row[at - 1] !== 0) count = at;
    }
  }
  return count;
}

// Target token -> the source token with the most attention, from "0-0 1-2".
export function strongest(alignment) {
  return new Map((alignment ?? "").split(" ").filter(Boolean).map((pair) => pair.split("-").map(Number)));
}

// Text, score and what else is told of the hypotheses of text `row`; those that do not exist have the score -Infinity.
export function hypotheses(outputs, row) {
  const told = (name, h) => outputs[name]?.[row]?.[h];
  return outputs.score[row].map((score, h) => ({
    score, text: told("text", h), logProbability: told("log_probability", h), length: told("length", h),
    tokenLogProbabilities: told("token_log_probability", h), tokens: told("tokens", h),
    alignment: strongest(told("alignment", h)), attention: told("attention", h)?.slice(0, told("length", h)),
  })).filter(({ score }) => Number.isFinite(score));
}
