"""Every client against the embedded server, over a real port: the same questions, the same answers."""

import inspect

import grpc
import numpy as np
import pytest

from serving.client import (
    AsyncClient,
    Client,
    Hypothesis,
    RestClient,
    Retry,
    ServingError,
    TensorInfo,
    Tls,
    Tokens,
    VersionStatus,
    connect,
    connect_async,
    questions,
)
from serving.signatures import BEAM
from tests.serving.callers import CLIENTS, Caller


@pytest.fixture(scope="module", params=list(CLIENTS))
def client(request, addresses):
    """Each client in turn."""
    with Caller(request.param, addresses[request.param], timeout=30, rows=4) as connected:
        yield connected


def test_hypotheses_come_best_first_with_their_scores(client):
    assert client.predict(["one", "three"]) == [
        [Hypothesis("un", -1.0), Hypothesis("un!", -2.0)],
        [Hypothesis("THREE", -2.5), Hypothesis("THREE!", -3.5)],
    ]


def test_a_question_is_cut_where_its_bytes_would_be_too_many_for_a_server():
    rows = [b"a" * 1_400_000] * 5 + [b"b" * 9_000_000, b"c"]
    pieces = list(questions.predict(rows).pieces(32))
    assert [len(piece.columns["text"]) for piece in pieces] == [2, 2, 1, 1, 1]
    assert sum((piece.columns["text"] for piece in pieces), []) == rows
    assert [len(piece.columns["text"]) for piece in questions.predict(["a"] * 9).pieces(4)] == [4, 4, 1]
    assert list(questions.predict([]).pieces(4)) == []


def test_greedy_gives_one_answer_a_text(client):
    assert client.greedy(["ab", "one"]) == [Hypothesis("AB", -1.0), Hypothesis("un", -1.0)]


def test_a_pair_is_scored_with_its_own_target(client):
    assert client.score(["ab", "c"], ["x", "yyy"]) == [-1.5, -2.0]
    assert client.score_tokens(["ab", "c"], ["x", "yyy"]) == [[-0.75, -0.75], [-1.0, -1.0]]


def described(text, score, log_probability, prefix=""):
    word = text.removeprefix(prefix).partition("|")[0]  # what the fake model's tokens are of
    return Hypothesis(
        text, score, log_probability, 2, [(0, 0), (1, 2)], [log_probability, 0.0], tokens=[word, "</s>"])


def test_an_option_of_all_texts_or_of_each_goes_with_its_text_and_the_rest_is_as_exported(client):
    # The fake model writes what it was asked for at the end of its answers: min_length:max_length:phrases.
    assert client.predict(["one", "x"], length_penalty=0.5) == [
        [described("un|-1:-1:", -1.5, -1.0), described("un!|-1:-1:", -2.5, -2.0)],
        [described("X|-1:-1:", -1.0, -0.5), described("X!|-1:-1:", -2.0, -1.5)],
    ]
    rows = client.predict(
        ["one", "x"], length_penalty=[None, 2], min_length=[1, None], max_length=6, prefix=["a ", None],
        phrases=[["b", "c"], None],
    )
    assert [(row[0].text, row[0].score) for row in rows] == [("a un|1:6:b\nc", -1.0), ("X|-1:6:", -2.5)]


@pytest.mark.parametrize(
    ("phrases", "sent"),
    [
        ("a", ["a", "a"]),
        (["a", "b"], ["a\nb", "a\nb"]),
        ([], ["", ""]),
        (["a", None], ["a", ""]),
        ([["a"], ["b", "c"]], ["a", "b\nc"]),
    ],
)
def test_phrases_are_those_of_all_texts_or_of_each(client, phrases, sent):
    rows = client.predict(["x", "y"], phrases=phrases)
    assert [row[0].text.partition(":")[2].partition(":")[2] for row in rows] == sent


def test_attention_comes_where_it_is_asked_for(client):
    for rows in (
        client.predict(["one", "x"], attention=True), client.sample(["one"], attention=True),
        client.alternatives(["one"], "", attention=True),
    ):
        # Neither after the answer's two tokens nor after the source's three.
        np.testing.assert_array_equal(rows[0][1].attention, [[1.0, 0.0, 0.0], [0.25, 0.25, 0.5]])
    assert client.predict(["one"], signature=BEAM)[0][0].attention is None
    with pytest.raises(ValueError, match="needs signature 'beam' for options and attention. Received: 'greedy'"):
        client.predict(["one"], "greedy", attention=True)


def test_every_setting_of_draws_arrives(client):
    # min_length:max_length:temperature:top_k:top_p:min_p:seed
    (plain,), (set_,) = client.sample(["x"]), client.sample(
        ["x"], seed=2**40, temperature=0.5, top_k=3, top_p=[0.25], min_p=1, min_length=2, max_length=5,
        length_penalty=1.0, prefix="y",
    )
    assert plain[0] == described("X|-1:-1:nan:-1:nan:nan:-1", -0.5, -0.5)
    assert set_[1] == described(
        "yX!|2:5:0.50:3:0.25:1.00:1099511627776", -2.5, -1.5, "y")


def test_alternatives_are_asked_with_the_prefix_of_each_text(client):
    rows = client.alternatives(["x", "one"], ["a", "b"])
    assert rows[0] == [described("aX|", -0.5, -0.5, "a"), described("aX!|", -1.5, -1.5, "a")]
    assert [row[0].text for row in client.alternatives(["x", "one"], "c")] == ["cX|", "cun|"]


def test_tokens_are_those_that_the_model_reads(client):
    # The fake model's ids are lengths, and its limit is 9 letters.
    assert client.tokenize(["one", "x" * 10]) == [
        Tokens(["one", "</s>"], [7, 3], False), Tokens(["x" * 10, "</s>"], [7, 3], True)]


def test_a_text_that_was_cut_says_so(client):
    for rows in (client.predict(["x" * 10, "x"]), client.predict(["x" * 10, "x"], min_length=1)):
        assert [[each.truncated for each in row] for row in rows] == [[True, True], [False, False]]


def test_options_stay_with_their_texts_where_these_are_sent_in_pieces(client):
    texts, lengths = [f"t{number}" for number in range(11)], list(range(1, 12))  # 4 rows a request
    answers = [row[0].text for row in client.predict(texts, max_length=lengths)]
    assert answers == [f"{text.upper()}|-1:{length}:" for text, length in zip(texts, lengths, strict=True)]


def test_the_beam_tells_of_its_answers_without_options_too(client):
    assert client.predict(["x"], BEAM)[0][0] == described("X|-1:-1:", -0.5, -0.5)


def test_more_texts_than_a_request_may_hold_keep_their_order(client):
    texts = [f"t{number}" for number in range(11)]  # 4 rows a request: the last one has 3
    assert [row[0].text for row in client.predict(texts)] == [text.upper() for text in texts]


def test_odd_texts_are_answered(client):
    texts = ["", "x" * 10_000, "naïve 猫", "end\0", "\ud800"]
    answers = [answer.text for answer in client.greedy(texts)]
    assert answers[0] == ""
    assert answers[1] == "X" * 10_000
    assert answers[2] == "NAïVE 猫"
    assert len(client.predict(texts)) == 5


@pytest.mark.parametrize("kind", CLIENTS)
def test_no_texts_are_answered_without_asking(kind):
    with Caller(kind, nowhere(kind), timeout=1) as client:
        assert client.predict([]) == client.greedy([]) == client.score([], []) == []
        assert client.predict([], max_length=3) == client.sample([], seed=[]) == client.alternatives([], "") == []


def test_metadata_names_the_signatures(client):
    metadata = client.metadata()
    assert set(metadata) >= {"serving_default", "greedy", "beam", "sample", "alternatives", "score"}
    assert metadata["serving_default"].inputs == {"text": TensorInfo("string", (None,))}
    assert metadata["serving_default"].outputs == {
        "text": TensorInfo("string", (None, 2)),
        "score": TensorInfo("float32", (None, 2)),
        "truncated": TensorInfo("bool", (None,)),
    }
    assert set(metadata["score"].inputs) == {"source", "target"}
    assert metadata["score"].outputs == {
        "log_probability": TensorInfo("float32", (None,)),
        "length": TensorInfo("int32", (None,)),
        "token_log_probability": TensorInfo("float32", (None, 3)),
        "tokens": TensorInfo("string", (None,)),
        "truncated": TensorInfo("bool", (None,)),
    }
    assert metadata["beam"].inputs == {
        "text": TensorInfo("string", (None,)),
        "length_penalty": TensorInfo("float32", (None,)),
        "min_length": TensorInfo("int32", (None,)),
        "max_length": TensorInfo("int32", (None,)),
        "prefix": TensorInfo("string", (None,)),
        "phrases": TensorInfo("string", (None,)),
    }
    assert metadata["sample"].inputs["seed"] == TensorInfo("int64", (None,))
    assert metadata["sample"].outputs["alignment"] == TensorInfo("string", (None, 2))


def test_status_says_what_is_available(client, addresses):
    assert VersionStatus(addresses["version"], "AVAILABLE", 0, "") in client.status()


def nowhere(kind):
    return "http://127.0.0.1:1" if kind.startswith("rest") else "127.0.0.1:1"


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_refusal_tells_code_and_reason(kind, addresses):
    with (
        Caller(kind, addresses[kind], model="other", request_id=lambda: "mine") as client,
        pytest.raises(ServingError, match="NOT_FOUND") as caught,
    ):
        client.predict(["one"])
    assert caught.value.code == grpc.StatusCode.NOT_FOUND
    assert caught.value.details == "Servable not found for request: Latest(other)"
    assert caught.value.request_id == "mine"


@pytest.mark.parametrize("kind", CLIENTS)
def test_no_server_is_one_clear_line(kind):
    with (
        Caller(kind, nowhere(kind), timeout=5, retry=Retry(first=0.001)) as client,
        pytest.raises(ServingError, match="start one with") as caught,
    ):
        client.predict(["one"])
    assert caught.value.code == grpc.StatusCode.UNAVAILABLE
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", CLIENTS)
def test_a_version_is_asked_for_by_its_number(kind, addresses):
    with Caller(kind, addresses[kind], version=addresses["version"]) as client:
        assert client.greedy(["one"]) == [Hypothesis("un", -1.0)]
    with Caller(kind, addresses[kind], version=1_000_007) as client, pytest.raises(ServingError) as caught:
        client.greedy(["one"])
    assert caught.value.code == grpc.StatusCode.NOT_FOUND


def test_a_signature_of_another_kind_is_an_error_and_not_a_wrong_answer(client):
    with pytest.raises(ServingError) as caught:
        client.predict(["one"], signature="score")
    assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda client: client.predict("one"), "needs a list of strings as 'text'"),
        (lambda client: client.score(["a"], []), "one target a source. Received: 1 sources, 0 targets"),
        (lambda client: client.predict(["a"], max_length=[1, 2]), "one max_length for all texts, or .* 2 values, 1 te"),
        (lambda client: client.predict(["a"], max_length=-1), "int32 numbers other than -1.* Received: -1"),
        (lambda client: client.predict(["a"], max_length=2.0), "int32 numbers .*'max_length'. Received: 2.0"),
        (lambda client: client.predict(["a"], max_length=2**31), "int32 numbers .* Received: 2147483648"),
        (lambda client: client.predict(["a"], length_penalty=float("nan")), "numbers, or None .*'length_penalty'"),
        (lambda client: client.predict(["a"], length_penalty="1"), "numbers, or None .* Received: '1'"),
        (lambda client: client.predict(["a"], prefix=[b"b"]), "strings as 'prefix'. Received: b'b'"),
        (lambda client: client.predict(["a"], phrases=[["b\nc"]]), "without line ends as 'phrases'. Received: 'b"),
        (lambda client: client.predict(["a"], phrases=[[3]]), "strings without line ends as 'phrases'. Received: 3"),
        (lambda client: client.predict(["a"], "greedy", prefix="b"), "signature 'beam' for options .*'greedy'"),
        (lambda client: client.sample(["a", "b"], seed=[1]), "one seed for all texts, or one a text. .* 1 values, 2"),
        (lambda client: client.alternatives(["a"], ["b", "c"]), "one prefix for all texts, or one a text"),
        (lambda _: Client("", timeout=1), "address as 'host:port'"),
        (lambda _: AsyncClient("http://host:1"), "address as 'host:port'. Received: 'http://host:1'"),
        (lambda _: RestClient("host:1"), "address as 'http://host:port'. Received: 'host:1'"),
        (lambda _: RestClient("http://host:1", tls=Tls()), "address with https:// for tls"),
        (lambda _: Client("host:1", token="t"), "needs tls for a token.* Received: a token without tls for host:1"),
        (lambda _: Client("127.0.0.1:1", token="a\nb"), "token of printable ASCII characters. Received: another one"),
        (lambda _: RestClient("http://host:1", token="t"), "needs tls for a token"),
        (lambda _: Client("host:1", version=1, label="stable"), "a version or a label. Received: version=1, label='s"),
        (lambda _: Client("host:1", call_timeout=0), "call_timeout above 0 seconds. Received: call_timeout=0"),
        (lambda _: AsyncClient("host:1", parallel=0), "parallel >= 1. Received: parallel=0"),
        (lambda _: Tls(key_file="k"), "certificate_file and key_file together. Received: None and 'k'"),
        (lambda _: Retry(tries=0), "tries >= 1.* Received: Retry.tries=0"),
        (lambda _: Retry(first=2, longest=1), "first <= longest.* Received"),
        (lambda _: Client("host:1", timeout=0), "timeout above 0 seconds. Received: timeout=0"),
        (lambda _: Client("host:1", rows=0), "rows >= 1. Received: rows=0"),
    ],
)
def test_wrong_calls_are_refused(client, call, message):
    with pytest.raises(ValueError, match=message):
        call(client)


def test_the_address_chooses_the_protocol():
    for address, settings, kind in (
        ("host:1", {}, "grpc"), ("http://host:1", {}, "rest"), ("https://host:1", {"token": "t"}, "rest"),
        ("host:1", {"rest": True}, "rest"), ("host:1", {"rest": True, "tls": Tls(), "token": "t"}, "rest"),
    ):
        with connect(address, **settings) as client:
            assert type(client) is CLIENTS[kind]
        assert type(connect_async(address, **settings)) is CLIENTS[f"{kind}-async"]


def test_methods_have_the_signature_and_the_words_of_their_question():
    parameters = inspect.signature(AsyncClient.predict).parameters
    assert list(parameters)[:3] == ["self", "texts", "signature"] and parameters["attention"].default is False
    assert "best first" in RestClient.sample.__doc__
