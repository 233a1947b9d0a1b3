"""The seam to the `tf` framework: everything that this package takes from it, and what it lacks.

`tf` speaks Terraform's protocol 6 and maps it to Python objects. It has no object type, can't plan a creation, can
only replace whenever an attribute changes, turns an exception into "Plugin error", stops in the middle of an apply on
Ctrl-C, outlives a Terraform that was killed, and keeps a private key in the home folder. This module adds or mends
these; nothing else in the package imports `tf`, `grpc` or `msgpack`.
"""

from __future__ import annotations

import base64
import functools
import json
import os
import shutil
import signal
import sys
import tempfile
import threading
import traceback
from concurrent import futures
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Protocol

import grpc
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from tf import provider as tf_provider
from tf import schema, types, utils
from tf.gen import grpc_controller_pb2, grpc_controller_pb2_grpc, grpc_stdio_pb2_grpc, tfplugin_pb2, tfplugin_pb2_grpc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

Attribute = schema.Attribute
Schema = schema.Schema
Bool, Number, String = types.Bool, types.Number, types.String
List, Map = types.List, types.Map
Diagnostics = utils.Diagnostics
Unknown: Final = types.Unknown
"""Stands for a value that Terraform only knows after an apply."""
State = dict[str, Any]

_COOKIE: Final = ("TF_PLUGIN_MAGIC_COOKIE", "d602bf8f470bc67ca7faa0386276bbdd4330efaf76d1a219cb4d6991ca9872b2")
_PARENT_POLL_S: Final = 0.2


class Object(types.TfType):  # type: ignore[misc]
    """A mapping with fixed, typed attributes; a Python dict."""

    def __init__(self, attributes: Mapping[str, Any]) -> None:
        self._attributes = attributes

    def encode(self, value: Any) -> Any:
        """The wire's form of a dict."""
        if value is None or value is Unknown:
            return value
        return {name: _coded(kind.encode, value.get(name)) for name, kind in self._attributes.items()}

    def decode(self, value: Any) -> Any:
        """The dict of the wire's form."""
        if value is None or value is Unknown:
            return value
        return {name: _coded(kind.decode, value.get(name)) for name, kind in self._attributes.items()}

    def tf_type(self) -> bytes:
        """Terraform's name of the type."""
        attributes = {name: json.loads(kind.tf_type()) for name, kind in self._attributes.items()}
        return json.dumps(["object", attributes], separators=(",", ":")).encode()


def _coded(code: Callable[[Any], Any], value: Any) -> Any:
    return value if value is None or value is Unknown else code(value)


class DataSource(Protocol):
    """What Terraform reads and doesn't keep."""

    @classmethod
    def get_name(cls) -> str:
        """The type's name without the provider's."""

    @classmethod
    def get_schema(cls) -> Any:
        """The attributes."""

    def validate(self, diags: Any, type_name: str, config: State) -> None:
        """Add a diagnostic for each thing that is wrong; values may be `Unknown`."""

    def read(self, ctx: Any, config: State) -> State | None:
        """The attributes' values; diagnostics go to `ctx.diagnostics`."""


class Resource(DataSource, Protocol):
    """What Terraform makes, keeps in its state, and destroys."""

    def plan_create(self, diags: Any, planned: State) -> None:
        """Say at plan time what would make `create` fail."""

    def replaced_by(self, diags: Any, current: State, planned: State) -> Iterable[str]:
        """The attributes whose change can't be made in place."""


class Servicer(tf_provider.ProviderServicer):  # type: ignore[misc]
    """`tf`'s servicer that also plans creations and conditional replacements, and never fails without a sentence."""

    def PlanResourceChange(self, request: Any, context: Any) -> Any:  # noqa: N802 - the protocol's name
        """Plan as `tf` does, then ask the resource what `tf` doesn't ask."""
        answer = super().PlanResourceChange(request, context)
        if any(diagnostic.severity == tfplugin_pb2.Diagnostic.ERROR for diagnostic in answer.diagnostics):
            return answer
        resource = self.app.new_resource(self._get_res_cls(request.type_name))
        planned = self._decoded(request.type_name, answer.planned_state)
        prior = self._decoded(request.type_name, request.prior_state)
        diags = Diagnostics()
        if prior is None:
            resource.plan_create(diags, planned)
        else:
            paths = [tfplugin_pb2.AttributePath.Step(attribute_name=name)
                     for name in resource.replaced_by(diags, prior, planned)]  # fmt: skip
            answer.requires_replace.extend(tfplugin_pb2.AttributePath(steps=[step]) for step in paths)
        answer.diagnostics.extend(diags.to_pb())
        return answer

    def _decoded(self, type_name: str, value: Any) -> State | None:
        attributes = self._get_res_attrs(type_name)
        state = utils.read_dynamic_value(value)
        if state is None:
            return None
        return {name: _coded(attributes[name].type.decode, content) for name, content in state.items()}


def _with_sentence(name: str, method: Callable[..., Any]) -> Callable[..., Any]:
    """The method, with what it raises as a diagnostic: Terraform would show "Plugin error" and no more."""
    response = getattr(tfplugin_pb2, name).Response

    @functools.wraps(method)
    def answer(self: Servicer, request: Any, context: Any) -> Any:
        try:
            return method(self, request, context)
        except Exception as error:  # noqa: BLE001, RUF100 - whatever it is, the operator gets a sentence
            traceback.print_exc()
            diags = Diagnostics()
            reason = " ".join(str(error).split()) or "no message"
            diags.add_error(
                f"The provider onprem failed: {type(error).__name__}",
                f"{reason}. This is a fault of the provider; TF_LOG=debug shows where.",
            )
            failed = response(diagnostics=diags.to_pb())
            # Without a state in the answer Terraform would take the resource for gone.
            if name == "ReadResource":
                failed.new_state.CopyFrom(request.current_state)
            elif name == "ApplyResourceChange":
                failed.new_state.CopyFrom(request.prior_state)
            return failed

    return answer


for _name in (
    "GetProviderSchema", "ValidateProviderConfig", "ValidateResourceConfig", "ValidateDataResourceConfig",
    "UpgradeResourceState", "ConfigureProvider", "ReadResource", "PlanResourceChange", "ApplyResourceChange",
    "ImportResourceState", "ReadDataSource",
):  # fmt: skip
    setattr(Servicer, _name, _with_sentence(_name, getattr(Servicer, _name)))


def serve(app: Any) -> None:
    """Be the provider for the Terraform that started this process, until it says so or is gone.

    Exits with 1 and a sentence when something else started it.
    """
    if os.environ.get(_COOKIE[0]) != _COOKIE[1]:
        sys.exit(
            "This is a Terraform provider: Terraform starts it. `babelrack provider install` tells Terraform where."
        )
    # Ctrl-C reaches this process too; Terraform decides what becomes of it, and an apply's claim is made to its end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = os.getppid()
    done = threading.Event()
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=16))
    tfplugin_pb2_grpc.add_ProviderServicer_to_server(Servicer(app), server)
    grpc_controller_pb2_grpc.add_GRPCControllerServicer_to_server(_Controller(done), server)
    grpc_stdio_pb2_grpc.add_GRPCStdioServicer_to_server(_Stdio(), server)
    folder = Path(tempfile.mkdtemp(prefix="onprem-"))
    try:
        certificate, credentials = _credentials()
        address = folder / "socket"
        server.add_secure_port(f"unix://{address}", credentials)
        server.start()
        sys.stdout.write(f"1|6|unix|{address}|grpc|{base64.b64encode(certificate).decode().rstrip('=')}\n")
        sys.stdout.flush()
        while not done.wait(_PARENT_POLL_S) and os.getppid() == parent:
            pass
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if done.is_set():
        server.stop(grace=1).wait()
    # A killed Terraform's work isn't finished for it: nobody would record it. Threads that wait for a host would.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


class _Controller(grpc_controller_pb2_grpc.GRPCControllerServicer):  # type: ignore[misc]
    def __init__(self, done: threading.Event) -> None:
        self._done = done

    def Shutdown(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802, RUF100 - the protocol's name
        """Terraform needs the provider no more."""
        self._done.set()
        return grpc_controller_pb2.Empty()


class _Stdio(grpc_stdio_pb2_grpc.GRPCStdioServicer):  # type: ignore[misc]
    def StreamStdio(self, request: Any, context: Any) -> Any:  # noqa: ARG002, N802, RUF100 - the protocol's name
        """Terraform reads this process's own stderr; there is nothing to stream."""
        return iter(())


def _credentials() -> tuple[bytes, Any]:
    """A certificate for this process alone, as Terraform pins it, and the server's credentials with its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(minutes=5))
        .not_valid_after(now + timedelta(days=7))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    pair = (private, certificate.public_bytes(serialization.Encoding.PEM))
    return certificate.public_bytes(serialization.Encoding.DER), grpc.ssl_server_credentials([pair])
