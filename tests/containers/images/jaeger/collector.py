"""Receives spans by OTLP (gRPC at 4317) and answers what it has at 16686: /services, and /traces/ID. Its health is at 13133.

The messages are decoded here, because Debian has no package of their definitions.
"""

import json
import struct
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import grpc

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
spans = deque(maxlen=100_000)


def varint(message, at):
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def fields(message):
    """Yields number and value of each field of a Protobuf message."""
    at = 0
    while at < len(message):
        key, at = varint(message, at)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, at = varint(message, at)
        elif kind == 1:
            value, at = struct.unpack_from("<Q", message, at)[0], at + 8
        elif kind == 2:
            size, at = varint(message, at)
            value, at = message[at : at + size], at + size
        elif kind == 5:
            value, at = struct.unpack_from("<I", message, at)[0], at + 4
        else:
            raise ValueError(f"field of kind {kind}")
        yield number, value


def every(message, number):
    return [value for field, value in fields(message) if field == number]


def first(message, number, default=b""):
    return next(iter(every(message, number)), default)


def export(request, _context):
    """Stores the spans of an ExportTraceServiceRequest; the numbers are those of its fields in the standard."""
    for of_process in every(request, 1):
        attributes = {first(pair, 1): first(pair, 2) for pair in every(first(of_process, 1), 1)}
        process = {name: first(attributes[f"service.{name}".encode()], 1).decode() for name in ("name", "instance.id")}
        for of_scope in every(of_process, 2):
            for span in every(of_scope, 2):
                spans.append(
                    {
                        "service": process["name"],
                        "instance": process["instance.id"],
                        "trace": first(span, 1).hex(),
                        "id": first(span, 2).hex(),
                        "parent": first(span, 4).hex(),
                        "name": first(span, 5).decode(),
                        "start": first(span, 7, 0),
                        "end": first(span, 8, 0),
                    }
                )
    return b""


class Export(grpc.GenericRpcHandler):
    def service(self, call):
        return grpc.unary_unary_rpc_method_handler(export) if call.method == EXPORT else None


class Answers(BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/status":
            answer = "ready"
        elif self.path == "/services":
            answer = sorted({span["service"] for span in list(spans)})
        else:
            trace = self.path.removeprefix("/traces/")
            answer = [span for span in list(spans) if span["trace"] == trace]
        body = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments):
        pass


collector = grpc.server(ThreadPoolExecutor(4), handlers=[Export()])
assert collector.add_insecure_port("0.0.0.0:4317")
collector.start()
threading.Thread(target=ThreadingHTTPServer(("127.0.0.1", 13133), Answers).serve_forever, daemon=True).start()
ThreadingHTTPServer(("0.0.0.0", 16686), Answers).serve_forever()
