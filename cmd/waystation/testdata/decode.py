"""Decodes Kafka records with libraries that the gateway does not use.

usage: decode.py SCHEMAS < messages > records

SCHEMAS is the folder with record.avsc and record.proto. A message is one line
of JSON: encoding, value (base64), key, headers, and registry, the address of a
schema registry or "". The answer is one line of JSON each: what was read, in
the same words for every encoding.
"""

import base64
import datetime
import importlib
import importlib.resources
import io
import json
import struct
import sys
import tempfile
import urllib.request

import fastavro
import grpc_tools.protoc
from cloudevents.core.bindings import kafka

EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.timezone.utc)


def fail(text):
    raise SystemExit("decode.py: " + text)


def compiled(folder):
    """The module protoc makes of record.proto."""
    out = tempfile.mkdtemp()
    include = importlib.resources.files("grpc_tools").joinpath("_proto")
    if grpc_tools.protoc.main(["protoc", f"-I{folder}", f"-I{include}", f"--python_out={out}", "record.proto"]) != 0:
        fail("record.proto does not compile")
    sys.path.insert(0, out)
    return importlib.import_module("record_pb2")


def bits(x):
    return struct.pack(">d", x).hex()


def from_registry(url, id, cache={}):
    if (url, id) not in cache:
        with urllib.request.urlopen(f"{url}/schemas/ids/{id}") as answer:
            cache[url, id] = json.load(answer)["schema"]
    return cache[url, id]


def unframed(value, registry, protobuf):
    """Takes off what Confluent's wire format puts before a value."""
    magic, id = struct.unpack(">bI", value[:5])
    if magic != 0:
        fail(f"magic byte {magic}")
    schema, rest = from_registry(registry, id), value[5:]
    if protobuf:
        if rest[0] != 0:
            fail(f"message indexes {rest[:4]!r}: want the short form of [0]")
        rest = rest[1:]
    return schema, rest


def avro(value, schema):
    stream = io.BytesIO(value)
    r = fastavro.schemaless_reader(stream, schema)
    if stream.read():
        fail("bytes are left over")

    def nanos(t, rest):
        return "" if t is None else str((t - EPOCH) // datetime.timedelta(microseconds=1) * 1000 + rest)

    fields = {"bool_value": lambda x: str(x).lower(), "int_value": str, "uint_value": str, "double_value": bits, "string_value": str, "bytes_value": bytes.hex}
    values = []
    for v in r["values"]:
        text = [read(v[f]) for f, read in fields.items() if v[f] is not None]
        if len(text) != (v["type"] != "none"):
            fail(f"{len(text)} values in a {v['type']}")
        values.append([v["name"], v["type"], "".join(text), v["unit"] or "", v["quality"], v["reason"] or ""])
    return {
        "position": [r["gateway"], r["generation"], r["lane"], str(r["seq"]), str(r["replayed"]).lower()],
        "source": r["source"], "device": r["device"], "name": r["name"],
        "time": nanos(r["time"], r["time_nanos"]), "received": nanos(r["received"], r["received_nanos"]),
        "clock_trusted": r["clock_trusted"], "quality": r["quality"], "reason": r["reason"] or "", "tags": r["tags"], "values": values,
        "payload": None if r["payload"] is None else r["payload"].hex(), "content_type": r["content_type"] or "", "replaced": r["replaced"],
    }


def protobuf(value, module):
    r = module.Record()
    r.ParseFromString(value)
    grade = {0: "good", 1: "uncertain", 2: "bad"}

    def nanos(field):
        t = getattr(r, field)
        return str(t.seconds * 10**9 + t.nanos) if r.HasField(field) else ""

    kinds = {"bool_value": ("bool", lambda x: str(x).lower()), "int_value": ("int64", str), "uint_value": ("uint64", str),
             "double_value": ("float64", bits), "string_value": ("string", str), "bytes_value": ("bytes", bytes.hex)}
    values = []
    for v in r.values:
        field = v.WhichOneof("value")
        kind, text = ("none", "") if field is None else (kinds[field][0], kinds[field][1](getattr(v, field)))
        values.append([v.name, kind, text, v.unit, grade[v.quality], v.reason])
    return {
        "position": [r.gateway, r.generation, r.lane, str(r.seq), str(r.replayed).lower()],
        "source": r.source, "device": r.device, "name": r.name, "time": nanos("time"), "received": nanos("received"),
        "clock_trusted": not r.clock_untrusted, "quality": grade[r.quality], "reason": r.reason, "tags": dict(r.tags), "values": values,
        "payload": r.payload.hex() if r.HasField("payload") else None, "content_type": r.content_type, "replaced": r.replaced,
    }


def event(m, value):
    e = kafka.from_kafka_event(kafka.KafkaMessage({k: v.encode() for k, v in m["headers"].items()}, m["key"], value))
    data = e.get_data()
    if isinstance(data, bytes):
        data = "hex " + data.hex()
    return {"id": e.get_id(), "source": e.get_source(), "type": e.get_type(), "specversion": e.get_specversion(), "subject": e.get_subject(),
            "micros": str((e.get_time() - EPOCH) // datetime.timedelta(microseconds=1)), "kind": e.get_datacontenttype(), "data": data}


def main():
    folder = sys.argv[1]
    module = compiled(folder)
    with open(f"{folder}/record.avsc") as f:
        own = fastavro.parse_schema(json.load(f))
    for line in sys.stdin:
        m = json.loads(line)
        value, schema = base64.b64decode(m["value"]), None
        if m["registry"]:
            schema, value = unframed(value, m["registry"], m["encoding"] == "protobuf")
        if m["encoding"] == "avro":
            out = avro(value, fastavro.parse_schema(json.loads(schema)) if schema else own)
        elif m["encoding"] == "protobuf":
            out = protobuf(value, module)
        else:
            out = event(m, value)
        print(json.dumps(out, sort_keys=True))


main()
