"""From raw text to batches: where pairs come from, and what is done to them before a model sees them.

In the order of the data:
    sources   obtains a named data set: fetched once, verified, cached (`fetching` is how)
    text      reads pairs of local files (`reading` is how), and turns strings into ids
    audio     recordings become features (`wav`, `resampling`), named by manifests (`recordings`), kept (`frames`)
    checking  says what is wrong with the pairs, and takes the broken ones out
    prepare   keeps the filtered pairs and the tokenizers in the run's folder
    records   keeps pairs and their ids in shards with an index; `beam_corpus` writes them, on Apache Beam
    batching  few padded shapes, batches by a budget of tokens, in an order that can be resumed
    tasks     what differs between translation, pronunciation, ...: metrics, baseline, limits
"""
