#!/usr/bin/env bash
# Starts TensorFlow Serving $version or newer on this machine's folders; further flags may follow.
set -euo pipefail
here="$$(cd "$$(dirname "$$0")" && pwd)"

flags=(
$flags
)
exec tensorflow_model_server "$${flags[@]}" "$$@"
