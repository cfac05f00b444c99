"""The peers: which of their tests run, and what these need."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Peer:
    """A peer's suite.

    Attributes:
        tests: pytest's arguments.
        needs: what pip installs for them, beside pytest.
        server: a shell command that runs beside them.
        seconds: how long one run may take.
    """

    tests: str
    needs: str = ""
    server: str = ""
    seconds: int = 400


PEERS = {
    "urllib3": Peer(
        "test/with_dummyserver test/test_connection.py test/test_connectionpool.py test/test_poolmanager.py",
        "anyio[trio] h2 httpx hypercorn pysocks pytest-socket pytest-timeout quart quart-trio trustme pyopenssl",
    ),
    "requests": Peer("tests", "PySocks pytest-httpbin==2.1.0 httpbin~=0.10.0 pytest-mock trustme"),
    "httpcore": Peer("tests", "httpcore[asyncio,http2,socks,trio] pytest-httpbin pytest-trio"),
    "httpx": Peer("tests", "httpx[brotli,cli,http2,socks,zstd] chardet cryptography trio trustme uvicorn"),
    "aiohttp": Peer(
        # Its own options are for many workers and coverage.
        "-n 0 --no-cov tests/test_connector.py tests/test_client_functional.py tests/test_proxy_functional.py",
        "blockbuster isal pkgconfig proxy.py>=2.4.4rc5 pytest-codspeed pytest-cov pytest-mock pytest-timeout"
        " pytest-xdist python-on-whales trustme zlib_ng",
    ),
    "redis": Peer(
        "tests/test_connection.py tests/test_connection_pool.py tests/test_pubsub.py tests/test_retry.py"
        " tests/test_asyncio/test_connection.py tests/test_asyncio/test_connection_pool.py -m 'not onlycluster'",
        "aiohttp mock numpy opentelemetry-sdk pybreaker pytest-asyncio pytest-timeout redis-entraid ujson uvloop"
        " xxhash",
        server="redis-server --save '' --dir .",
    ),
    "PyMySQL": Peer("tests"),  # the sdist has little, for MySQL 8
    "psycopg": Peer("tests"),  # the sdist has none
    "anyio": Peer(
        "tests/test_sockets.py",
        "blockbuster coverage hypothesis psutil pytest-mock pytest-timeout trio trustme truststore uvloop",
    ),
    "trio": Peer(
        "--pyargs trio._tests.test_socket trio._tests.test_highlevel_open_tcp_stream trio._tests.test_highlevel_socket"
        " trio._tests.test_ssl",
        "astor pyOpenSSL trustme",
    ),
    "uvloop": Peer(
        "tests/test_tcp.py tests/test_sockets.py tests/test_base.py tests/test_dns.py", "aiohttp psutil pyOpenSSL"
    ),
    "tenacity": Peer("tests", "tornado trio"),
} | {
    # pytest's capturing is in the way of what some of these test. No namespace has vsock to itself.
    f"test.{name}": Peer(f"-p no:logging -s -k 'not VSOCK' --pyargs test.{name}")
    for name in (
        *("test_asyncio", "test_ftplib", "test_httplib", "test_logging", "test_smtplib", "test_socket"),
        *("test_socketserver", "test_ssl", "test_urllib2_localnet"),
    )
}
# Some five minutes.
DEFAULT = ("httpcore", "httpx", "trio", "tenacity", "test.test_httplib", "test.test_smtplib")
