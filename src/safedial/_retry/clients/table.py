"""The clients: one row for each, by the package of its exceptions. A new client is one row. Imports none of them.

A code or a class says what it means by itself. Words count if a library has no code and no cause for a failure; those
of a failed login always. A default is for a class that says no more than that the dial failed.
"""

import re
from collections.abc import Mapping
from typing import Any

from safedial._retry.clients.databases import DATABASES
from safedial._retry.clients.row import Client, each
from safedial._retry.kinds import (
    CERTIFICATE,
    CLOSED,
    DENIED,
    HOST_UNREACHABLE,
    MISCONFIGURED,
    NETWORK_UNREACHABLE,
    NO_DATABASE,
    NO_NAME,
    REFUSED,
    RESET,
    TIMED_OUT,
    UNAVAILABLE,
)

# Of HTTP: those that websockets retries too, and the refusals that a login would change.
_STATUSES = each(UNAVAILABLE, "500", "502", "503", "504") | each(DENIED, "401", "403", "407")
# Of the answers that aiohttp raises: those to a WebSocket's handshake, and a proxy's to CONNECT.
_AIOHTTP_HANDSHAKES = ("WSServerHandshakeError", "ClientHttpProxyError")

# The two halves of httpx have classes of the same names.
_HTTPX = Client(
    words=each(CLOSED, "Server disconnected without sending a response"),
    defaults=each(TIMED_OUT, "ConnectTimeout", "ReadTimeout", "WriteTimeout")
    | each(RESET, "ReadError", "WriteError", "CloseError"),
)

_KAFKA = Client(
    classes=each(
        DENIED, "AuthenticationFailedError", "SaslAuthenticationFailedError", "AuthenticationMethodNotSupported"
    )
    | each(DENIED, "SaslAuthenticationFailed", "UnsupportedSaslMechanismError", "ClusterAuthorizationFailedError")
    | each(MISCONFIGURED, "KafkaConfigurationError", "IncompatibleBrokerVersion", "UnrecognizedBrokerVersion"),
    # They drop what each broker said.
    defaults=each(UNAVAILABLE, "NoBrokersAvailable", "KafkaUnavailableError", "BrokerNotAvailableError")
    | each(UNAVAILABLE, "NodeNotReadyError", "KafkaConnectionError")
    | each(TIMED_OUT, "KafkaTimeoutError", "RequestTimedOutError"),
)


def _reply_code(error: Any) -> object:
    if hasattr(error, "reply_code"):
        return error.reply_code
    # pika's ProbableAccessDeniedError("ConnectionClosedByBroker: (320) …"), though the broker is only stopping.
    return match[1] if (match := re.search(r"ConnectionClosedByBroker: \((\d+)\)", str(error))) else error.code


# AMQP 0-9-1's reply codes: the broker stops; access refused, not allowed (an unknown virtual host).
_AMQP: dict[str, Any] = {
    "code": _reply_code,
    "codes": each(UNAVAILABLE, "320") | each(DENIED, "403") | each(NO_DATABASE, "530"),
}

BY_PACKAGE: Mapping[str, Client] = {
    **DATABASES,
    # Python's own.
    "http": Client(classes=each(CLOSED, "RemoteDisconnected")),
    "smtplib": Client(
        code=lambda error: error.smtp_code,
        codes=each(UNAVAILABLE, "421"),
        classes=each(DENIED, "SMTPAuthenticationError"),
        defaults=each(CLOSED, "SMTPServerDisconnected"),
    ),
    "imaplib": Client(classes=each(CLOSED, "abort")),
    "poplib": Client(words=each(CLOSED, "-ERR EOF")),
    "ftplib": Client(code=lambda error: error.args[0][:3], codes=each(UNAVAILABLE, "421") | each(DENIED, "530")),
    # HTTP. The answer to a request is nobody's business here; one that refuses a WebSocket or a tunnel is.
    "urllib3": Client(
        links=("reason",),
        defaults=each(TIMED_OUT, "ConnectTimeoutError", "ReadTimeoutError")
        | each(NO_NAME, "NameResolutionError")
        | each(REFUSED, "NewConnectionError"),
    ),
    "requests": Client(defaults=each(TIMED_OUT, "Timeout")),
    "httpx": _HTTPX,
    "httpcore": _HTTPX,
    "aiohttp": Client(
        code=lambda error: error.status if type(error).__name__ in _AIOHTTP_HANDSHAKES else "",
        codes=_STATUSES,
        classes=each(CLOSED, "ServerDisconnectedError")
        | each(CERTIFICATE, "ClientConnectorCertificateError", "ServerFingerprintMismatch"),
        defaults=each(NO_NAME, "ClientConnectorDNSError"),
    ),
    "websockets": Client(
        code=lambda error: error.response.status_code if hasattr(error, "response") else error.rcvd.code,
        # RFC 6455, section 7.4.1: the server goes away or restarts; what the client sent was wrong.
        codes=_STATUSES
        | each(UNAVAILABLE, "1000", "1001", "1011", "1012", "1013", "1014")
        | each(MISCONFIGURED, "1002", "1003", "1007", "1008", "1009", "1010"),
        classes=each(MISCONFIGURED, "InvalidStatus", "InvalidProxyStatus", "InvalidURI"),
        defaults=each(CLOSED, "ConnectionClosed"),
    ),
    "anyio": Client(defaults=each(CLOSED, "EndOfStream", "IncompleteRead") | each(RESET, "BrokenResourceError")),
    "trio": Client(defaults=each(TIMED_OUT, "TooSlowError") | each(RESET, "BrokenResourceError")),
    "tornado": Client(links=("real_error",), defaults=each(CLOSED, "StreamClosedError")),
    "grpc": Client(
        code=lambda error: error.code().name,
        codes=each(DENIED, "UNAUTHENTICATED", "PERMISSION_DENIED"),
        words=each(NO_NAME, "Domain name not found", "DNS resolution failed", "errors resolving"),
        defaults=each(UNAVAILABLE, "UNAVAILABLE") | each(TIMED_OUT, "DEADLINE_EXCEEDED", "FutureTimeoutError"),
    ),
    # Messages.
    "pika": Client(
        **_AMQP,
        classes=each(DENIED, "AuthenticationError", "ProbableAuthenticationError", "ProbableAccessDeniedError")
        | each(CLOSED, "StreamLostError")
        | each(TIMED_OUT, "AMQPHeartbeatTimeout", "ConnectionBlockedTimeout", "AMQPConnectorStackTimeout"),
        words=each(CLOSED, "StreamLostError"),  # of an IncompatibleProtocolError: the broker hung up at once
        links=("exception", "exceptions"),
    ),
    "aiormq": Client(
        **_AMQP, classes=each(DENIED, "AuthenticationError", "ProbableAuthenticationError"), links=("reason",)
    ),
    "kafka": _KAFKA,
    "aiokafka": _KAFKA,
    # After a failed login too, which it has dialed again itself, and then forgotten.
    "nats": Client(
        classes=each(DENIED, "AuthorizationError", "InvalidUserCredentialsError"),
        defaults=each(UNAVAILABLE, "NoServersError") | each(CLOSED, "UnexpectedEOF", "StaleConnectionError"),
    ),
    "aiomqtt": Client(
        code=lambda error: getattr(error.rc, "value", error.rc),
        # MQTT 3.1.1, section 3.2.2.3, and 5.0, section 3.2.2.2.
        codes=each(UNAVAILABLE, "3", "136", "137") | each(DENIED, "4", "5", "134", "135", "138"),
        words=each(TIMED_OUT, "Operation timed out", "timed out"),
    ),
    # Others.
    "paramiko": Client(
        classes=each(DENIED, "AuthenticationException", "BadHostKeyException", "ConfigParseError")
        | each(MISCONFIGURED, "IncompatiblePeer"),
        words=each(CLOSED, "Error reading SSH protocol banner", "No existing session", "SSH session not active"),
    ),
    "ldap3": Client(
        classes=each(DENIED, "LDAPInvalidCredentialsResult", "LDAPBindError")
        | each(UNAVAILABLE, "LDAPBusyResult", "LDAPUnavailableResult", "LDAPServerPoolExhaustedError")
        | each(CLOSED, "LDAPSessionTerminatedByServerError"),
        words=each(NO_NAME, "invalid server address"),
    ),
    "socks": Client(
        classes=each(DENIED, "SOCKS5AuthError"),
        words=each(REFUSED, "0x05: Connection refused")
        | each(HOST_UNREACHABLE, "0x04: Host unreachable")
        | each(NETWORK_UNREACHABLE, "0x03: Network unreachable")
        | each(CLOSED, "Connection closed unexpectedly"),
        links=("socket_err",),
    ),
}
