"""The client against the embedded server, over a real port."""

import grpc
import pytest

from serving.client import Client, Hypothesis, ServingError, TensorInfo, VersionStatus


def test_hypotheses_come_best_first_with_their_scores(client):
    assert client.predict(["one", "three"]) == [
        [Hypothesis("un", -1.0), Hypothesis("un!", -2.0)],
        [Hypothesis("THREE", -2.5), Hypothesis("THREE!", -3.5)],
    ]


def test_greedy_gives_one_answer_a_text(client):
    assert client.greedy(["ab", "one"]) == [("AB", -1.0), ("un", -1.0)]


def test_a_pair_is_scored_with_its_own_target(client):
    assert client.score(["ab", "c"], ["x", "yyy"]) == [-1.5, -2.0]


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


def test_no_texts_are_answered_without_asking(client):
    nowhere = Client("127.0.0.1:1", timeout=1)
    assert nowhere.predict([]) == nowhere.greedy([]) == nowhere.score([], []) == []


def test_metadata_names_the_signatures(client):
    metadata = client.metadata()
    assert {"serving_default", "greedy", "score"} <= set(metadata)
    assert metadata["serving_default"].inputs == {"text": TensorInfo("string", (None,))}
    assert metadata["serving_default"].outputs == {
        "text": TensorInfo("string", (None, 2)),
        "score": TensorInfo("float32", (None, 2)),
    }
    assert set(metadata["score"].inputs) == {"source", "target"}
    assert metadata["score"].outputs == {"log_probability": TensorInfo("float32", (None,))}


def test_status_says_what_is_available(client):
    assert client.status() == [VersionStatus(1, "AVAILABLE", 0, "")]


def test_a_refusal_tells_code_and_reason(server):
    with (
        Client(server.address, model="other") as client,
        pytest.raises(ServingError, match="NOT_FOUND") as caught,
    ):
        client.predict(["one"])
    assert caught.value.code == grpc.StatusCode.NOT_FOUND
    assert caught.value.details == "Servable not found for request: Latest(other)"


def test_no_server_is_one_clear_line():
    with (
        Client("127.0.0.1:1", timeout=5) as client,
        pytest.raises(ServingError, match="start one with") as caught,
    ):
        client.predict(["one"])
    assert caught.value.code == grpc.StatusCode.UNAVAILABLE
    assert "\n" not in str(caught.value)


def test_a_signature_of_another_kind_is_an_error_and_not_a_wrong_answer(client):
    with pytest.raises(ServingError) as caught:
        client.predict(["one"], signature="score")
    assert caught.value.code == grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda client: client.predict("one"), "needs a list of strings as 'text'"),
        (lambda client: client.score(["a"], []), "one target a source. Received: 1 sources, 0 targets"),
        (lambda _: Client("", timeout=1), "address as 'host:port'"),
        (lambda _: Client("host:1", timeout=0), "timeout above 0 seconds. Received: timeout=0"),
        (lambda _: Client("host:1", rows=0), "rows >= 1. Received: rows=0"),
    ],
)
def test_wrong_calls_are_refused(client, call, message):
    with pytest.raises(ValueError, match=message):
        call(client)
