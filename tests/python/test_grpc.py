"""gRPC as a client in another language sees it: everything is learnt from reflection, nothing from our files."""

import json

import grpc
import pytest
from conftest import FIXTURES
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToDict, ParseDict
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

SERVICE = "trunkline.v1.Inference"


class Client:
    """Calls methods by name with dictionaries, as grpcurl does."""

    def __init__(self, channel):
        self.channel = channel
        self.database = ProtoReflectionDescriptorDatabase(channel)
        self.pool = DescriptorPool(self.database)

    def method(self, name):
        method = self.pool.FindServiceByName(SERVICE).FindMethodByName(name)
        request, response = GetMessageClass(method.input_type), GetMessageClass(method.output_type)
        kinds = {(False, False): self.channel.unary_unary, (True, True): self.channel.stream_stream}
        kind = kinds[method.client_streaming, method.server_streaming]
        call = kind(f"/{SERVICE}/{name}", request_serializer=request.SerializeToString, response_deserializer=response.FromString)
        return call, request

    def unary(self, name, body, **options):
        call, request = self.method(name)
        return MessageToDict(call(ParseDict(body, request()), timeout=30, **options), preserving_proto_field_name=True)

    def stream(self, name, bodies):
        call, request = self.method(name)
        return list(call(iter([ParseDict(body, request()) for body in bodies]), timeout=60))


@pytest.fixture(scope="session")
def client(server):
    with grpc.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        yield Client(channel)


def pipeline(name, strategy):
    return json.loads((FIXTURES / name / "pipeline.json").read_text())[strategy]


def test_reflection_names_every_service(client):
    services = set(client.database.get_services())
    assert {SERVICE, "trunkline.v1.Admin", "grpc.health.v1.Health"} <= services


def test_health_serves(client):
    answer = health_pb2_grpc.HealthStub(client.channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING


@pytest.mark.parametrize("strategy", ["none", "simple", "first", "average", "max"])
def test_entities_are_those_of_the_reference_pipeline(client, strategy):
    for row in pipeline("ner-r8-qv", strategy):
        body = {"inputs": [{"text": row["text"]}], "adapter": "ner-r8-qv", "parameters": {"aggregation_strategy": strategy}}
        got = client.unary("Ner", body)["results"][0].get("entities", [])
        key = "entity" if strategy == "none" else "entity_group"
        assert [(e[key], e.get("start", 0), e["end"]) for e in got] == [(e[key], e["start"], e["end"]) for e in row["entities"]]
        for ours, reference in zip(got, row["entities"]):
            assert ours["score"] == pytest.approx(reference["score"], abs=1e-4)
            assert ours["word"] == row["text"][ours.get("start", 0):ours["end"]]


def test_classification_logits_are_the_reference_logits(client, golden):
    for name in ("cls-r8-qv", "cls-r4-rslora"):
        labels = golden[name]["labels"]
        for row in golden[name]["rows"]:
            body = {"inputs": [{"text": row["text"]}], "adapter": name, "parameters": {"function_to_apply": "none"}}
            scores = {l["label"]: l.get("score", 0.0) for l in client.unary("Classify", body)["results"][0]["labels"]}
            assert [scores[label] for label in labels] == pytest.approx(row["logits"][0], abs=1e-4), (name, row["text"])


def test_a_stream_mixes_adapters_and_one_bad_item_fails_alone(client):
    bodies = [
        {"id": str(i), "request": {"inputs": [{"text": f"item {i} for Anna"}], "adapter": ["ner-r8-qv", "ner-r16-all-last2", "nobody"][i % 3]}}
        for i in range(60)
    ]
    answers = {answer.id: answer for answer in client.stream("NerStream", bodies)}
    assert sorted(answers, key=int) == [str(i) for i in range(60)]
    for i in range(60):
        if i % 3 == 2:
            assert answers[str(i)].error.code == grpc.StatusCode.NOT_FOUND.value[0]
        else:
            assert answers[str(i)].response.adapter.name == bodies[i]["request"]["adapter"]


@pytest.mark.parametrize(
    ("method", "body", "code"),
    [
        ("Ner", {"inputs": [{"text": "x"}], "adapter": "nobody"}, grpc.StatusCode.NOT_FOUND),
        ("Ner", {"inputs": [{"text": "x"}], "adapter": "cls-r8-qv"}, grpc.StatusCode.FAILED_PRECONDITION),
        ("Classify", {"inputs": [], "adapter": "cls-r8-qv"}, grpc.StatusCode.INVALID_ARGUMENT),
        ("Classify", {"inputs": [{"text": "x"}] * 10_000, "adapter": "cls-r8-qv"}, grpc.StatusCode.INVALID_ARGUMENT),
        ("Ner", {"inputs": [{"text": "x"}], "adapter": "ner-r8-qv", "parameters": {"offset_unit": "inch"}}, grpc.StatusCode.INVALID_ARGUMENT),
    ],
)
def test_errors_have_the_status_of_the_contract(client, method, body, code):
    with pytest.raises(grpc.RpcError) as failure:
        client.unary(method, body)
    assert failure.value.code() == code, failure.value.details()


def test_a_deadline_is_honoured(client):
    call, request = client.method("Classify")
    body = ParseDict({"inputs": [{"text": "word " * 400}] * 200, "adapter": "cls-r8-qv"}, request())
    with pytest.raises(grpc.RpcError) as failure:
        call(body, timeout=0.05)
    assert failure.value.code() in (grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.RESOURCE_EXHAUSTED)


def test_answers_equal_rests(client, server):
    text = "Meet Anna Kowalska at the Hilton in Kraków on Friday at 3pm."
    rest = server.call("POST", "/v1/ner", {"inputs": text, "adapter": "ner-r8-qv"})
    grpc_ = client.unary("Ner", {"inputs": [{"text": text}], "adapter": "ner-r8-qv"})
    assert rest["adapter"] == grpc_["adapter"]
    assert [(e["entity_group"], e["start"]) for e in rest["results"][0]["entities"]] == [
        (e["entity_group"], e.get("start", 0)) for e in grpc_["results"][0]["entities"]
    ]
