"""The way from a trained model to an answered request; each module stands for itself.

- `signatures`: what a client may ask for.        - `protocol`: the messages, without TensorFlow.
- `client`: asks a server, without TensorFlow.    - `server`: answers as TensorFlow Serving does.
- `servables`: SavedModels ready to answer.       - `export`: writes a SavedModel that proved itself.
- `replay`: held-out lines as requests.           - `checking`: asks them again, and checks the files.
- `checksums`: of a version's files.              - `weights`: in fewer bytes.
- `folders`: where versions lie, their labels.    - `tensorflow_serving/`: deployments of TensorFlow Serving.
- `bulk`: answers files, on Apache Beam.
- `bench`: asks as many do, and tells how fast a server answers.   - `playground/`: the page of the embedded server.

The embedded server's parts: `settings`; `versions`, what is loaded; `batching`, rows computed together; `answers`,
whichever way the question came; `grpc_server`, `grpc_services`, `rest`, `json_tensors`, `http_server`, the ways;
`workers`, `security`, `health`, `records`.
"""
