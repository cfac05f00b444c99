"""What to wait for: the forms of a target, and the mistakes, which show no password."""

import re
import socket
from urllib.parse import quote

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from safedial.cli.wait.targets import Target, parse, request

PG = "unix:/var/run/postgresql/.s.PGSQL.5432"


def tcp(host, port, name=None, **more):
    return Target(name or f"{host}:{port}", host, port, **more)


def unix(path, **more):
    return Target(f"unix:{path}", path=path, **more)


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("db:5432", tcp("db", 5432)),
        ("127.0.0.1:80", tcp("127.0.0.1", 80)),
        ("127.1:80", tcp("127.1", 80)),
        ("[::1]:80", tcp("::1", 80, "[::1]:80")),
        ("[::ffff:127.0.0.1]:80", tcp("::ffff:127.0.0.1", 80, "[::ffff:127.0.0.1]:80")),
        ("[fe80::1%eth0]:80", tcp("fe80::1%eth0", 80, "[fe80::1%eth0]:80")),
        (":8080", tcp("localhost", 8080)),
        ("8080", tcp("localhost", 8080)),
        ("db:05432", tcp("db", 5432)),
        ("db:1", tcp("db", 1)),
        ("db:65535", tcp("db", 65535)),
        ("  db:5432\n", tcp("db", 5432)),
        ("db_1.my-net.:5432", tcp("db_1.my-net.", 5432)),
        ("müller.example:80", tcp("müller.example", 80)),
        ("xn--mller-kva.example:80", tcp("xn--mller-kva.example", 80)),
        ("unix:/run/x.sock", unix("/run/x.sock")),
        ("unix:run/a b.sock", unix("run/a b.sock")),
        ("unix:///run/x.sock", unix("/run/x.sock")),
    ],
)
def test_addresses(text, target):
    assert parse(text, {}) == target


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("tcp://172.17.0.5:5432", tcp("172.17.0.5", 5432, "tcp://172.17.0.5:5432")),
        ("postgresql://db", tcp("db", 5432, "postgresql://db:5432")),
        ("postgres://me:secret@db:5433/app?sslmode=require", tcp("db", 5433, "postgres://db:5433")),
        ("postgresql+asyncpg://me@[::1]/app", tcp("::1", 5432, "postgresql://[::1]:5432")),
        ("POSTGRESQL://db", tcp("db", 5432, "postgresql://db:5432")),
        ("postgresql://db?port=5433", tcp("db", 5433, "postgresql://db:5433")),
        ("postgresql://db?host=x&hostaddr=10.0.0.5", tcp("10.0.0.5", 5432, "postgresql://10.0.0.5:5432")),
        ("postgresql://db?hostaddr=10.0.0.5", tcp("10.0.0.5", 5432, "postgresql://10.0.0.5:5432")),
        ("postgresql:///app?host=db&password=secret", tcp("db", 5432, "postgresql://db:5432")),
        ("postgresql://%2Fvar%2Frun%2Fpostgresql/db", Target(PG, path=PG[5:])),
        ("postgresql:///db?host=/var/run/postgresql", Target(PG, path=PG[5:])),
        ("postgresql+psycopg2://me:secret@localhost/db?host=/var/run/postgresql", Target(PG, path=PG[5:])),
        ("postgresql:///db?host=%2Frun&port=5433", unix("/run/.s.PGSQL.5433")),
        ("jdbc:postgresql://db/app?user=me&password=secret", tcp("db", 5432, "postgresql://db:5432")),
        ("redis://:secret@cache", tcp("cache", 6379, "redis://cache:6379")),
        ("redis://cache:6380/1", tcp("cache", 6380, "redis://cache:6380")),
        ("redis:///1", tcp("localhost", 6379, "redis://localhost:6379")),
        ("rediss://cache", tcp("cache", 6379, "rediss://cache:6379", tls=True)),
        ("valkey://cache", tcp("cache", 6379, "valkey://cache:6379")),
        ("redis+unix:///run/redis.sock?db=1", unix("/run/redis.sock")),
        ("redis+socket://:secret@/run/redis.sock", unix("/run/redis.sock")),
        ("unix://me:secret@/run/redis.sock?password=secret", unix("/run/redis.sock")),
        ("unix:/run/redis.sock?password=secret", unix("/run/redis.sock")),
        ("mysql+pymysql://me:secret@db/app", tcp("db", 3306, "mysql://db:3306")),
        ("mysql://me@localhost/app?unix_socket=/run/mysqld.sock", unix("/run/mysqld.sock")),
        ("mariadb://db", tcp("db", 3306, "mariadb://db:3306")),
        ("amqp://guest:guest@mq//", tcp("mq", 5672, "amqp://mq:5672")),
        ("amqps://mq", tcp("mq", 5671, "amqps://mq:5671", tls=True)),
        ("mongodb://me:secret@mongo/?authSource=admin", tcp("mongo", 27017, "mongodb://mongo:27017")),
        ("nats://nats", tcp("nats", 4222, "nats://nats:4222")),
        ("mqtt://mq", tcp("mq", 1883, "mqtt://mq:1883")),
        ("memcached://cache", tcp("cache", 11211, "memcached://cache:11211")),
        ("ssl://db:5671", tcp("db", 5671, "ssl://db:5671", tls=True)),
        ("anything://db:99", tcp("db", 99, "anything://db:99")),
        ("http://api", tcp("api", 80, "http://api:80/", http="/")),
        ("http://me:secret@api/health?t=1#top", tcp("api", 80, "http://api:80/health", http="/health?t=1")),
        ("http://api?t=1", tcp("api", 80, "http://api:80/", http="/?t=1")),
        ("http://api/@scope/ä b", tcp("api", 80, "http://api:80/@scope/%C3%A4%20b", http="/@scope/%C3%A4%20b")),
        ("http://api/a%20b?c=a@b,c", tcp("api", 80, "http://api:80/a%20b", http="/a%20b?c=a@b,c")),
        ("https://api:8443/", tcp("api", 8443, "https://api:8443/", tls=True, http="/")),
        ("https://[fe80::1%25eth0]/", tcp("fe80::1%eth0", 443, "https://[fe80::1%eth0]:443/", tls=True, http="/")),
        ("http+unix://%2Frun%2Fdocker.sock/info", unix("/run/docker.sock", http="/info")),
    ],
)
def test_urls(text, target):
    assert parse(text, {}) == target
    assert parse("$URL", {"URL": text}) == target


ENVIRONMENT = {
    "DATABASE_URL": " postgresql://me:$ecret${x}@db/app\n",
    "PGHOST": "db",
    "PGPORT": "5433",
    "SOCKETS": "/run",
    "EMPTY": "",
    "USER": "me",
    "PASSWORD": "s/e?c#r@t",
    "QUOTED": "s%2Fe",
    "TOKEN": "t",
}


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("$DATABASE_URL", tcp("db", 5433, "postgresql://db:5433")),
        ("${DATABASE_URL}", tcp("db", 5433, "postgresql://db:5433")),
        ("$PGHOST:$PGPORT", tcp("db", 5433)),
        ("${PGHOST}:5432", tcp("db", 5432)),
        ("${PGHOST}1.net:5432", tcp("db1.net", 5432)),
        ("unix:$SOCKETS/x.sock", unix("/run/x.sock")),
        ("redis://$USER:$PASSWORD@$PGHOST", tcp("db", 6379, "redis://db:6379")),
        ("redis://$USER:$MISSING@$PGHOST", tcp("db", 6379, "redis://db:6379")),  # only the address is read
        ("redis://db?password=$MISSING", tcp("db", 6379, "redis://db:6379")),
        (" redis://u:pa$$w${rd@db", tcp("db", 6379, "redis://db:6379")),
        ("http://$PGHOST/health?token=$TOKEN", tcp("db", 80, "http://db:80/health", http="/health?token=t")),
        ("postgresql:///app", tcp("db", 5433, "postgresql://db:5433")),
    ],
)
def test_variables(text, target):
    assert parse(text, ENVIRONMENT) == target


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("$MISSING", "$MISSING: the variable MISSING is not set"),
        ("$EMPTY:80", "$EMPTY:80: the variable EMPTY is empty"),
        ("$$PGHOST:80", "$$PGHOST:80: write one $ before the name"),
        ("$QUOTED", "$QUOTED: it has quotes around it"),
        ("${PGHOST:-db}:5432", "only $NAME and ${NAME} are read"),
        ("$(PGHOST):5432", "only $NAME and ${NAME} are read"),  # Kubernetes leaves it if it knows no such name
        ("http://api/?a=$secret", "http://...: a variable is not set"),
        ("user:p$secret@db:80", "a target: a variable is not set"),
        ("redis://user:pw$secret", "redis://...: a variable is not set"),
        ("redis://$HOST", "redis://...: the variable HOST is not set"),
        ("http+unix://me:secret/x", "the path of a Unix socket comes first"),
        ("https://secret//x@db", "write @ as %40, / as %2F"),
        ("https://secret/x@db", "write @ as %40, / as %2F"),
        ("https://secret?x@db", "write @ as %40, / as %2F"),
        ("db", "db: it has no port: write HOST:PORT, such as db:5432"),
        ("", "a target: it has no host and no port"),
        (":", ":: it has no host and no port"),
        ("db 5432", "it has no port"),
        ("db:", "it has no port"),
        ("db:postgresql", "db:postgresql: the port must be a number"),
        ("db:٣", "the port must be a number"),
        ("db:0", "the port must be from 1 to 65535"),
        ("db:65536", "the port must be from 1 to 65535"),
        ("db:" + "9" * 5000, "the port must be from 1 to 65535"),
        ("0", "the port must be from 1 to 65535"),
        ("redis://db:0", "the port must be from 1 to 65535"),
        ("::1:80", "needs brackets"),
        ("::1", "needs brackets"),
        ("[::1]", "it has no port"),
        ("[::1]80", "written [::1]:80"),
        ("[::1:80", "written [::1]:80"),
        ("[127.0.0.1]:80", "written [::1]:80"),
        ("[::g]:80", "no valid IPv6 address"),
        ("[fe80::1%]:80", "no valid IPv6 address"),
        ("[fe80::1%a b]:80", "no valid IPv6 address"),
        ("10.0.0.256:80", "no valid IPv4 address"),
        ("a b:80", "no valid host name"),
        ("a..b:80", "no valid host name"),
        (".:80", "no valid host name"),
        ("a*b:80", "no valid host name"),
        ("a" * 64 + ":80", "no valid host name"),
        ("a\0b:80", "control character"),
        ("db:80\x1b[2J", "control character"),
        ("\udcff:80", "control character"),
        ("me:secret@db:80", "a user is only in a URL"),
        ("/run/x.sock", "a Unix socket is written unix:/path"),
        ("unix:", "a Unix socket is written unix:/path"),
        ("unix:///run/%0ax", "in printable characters"),
        ("unix:@x", "an abstract Unix socket"),
        ("unix://run/x.sock", "begins with a slash: write unix:///path"),
        ("postgresql://@x/db?host=@y", "has an @ behind its host"),
        ("postgresql://%40x/db", "an abstract Unix socket"),
        ("sqlite:///app.db", "sqlite://...: it has no server"),
        ("sqlite+aiosqlite:///app.db", "it has no server"),
        ("udp://dns:53", "UDP has no connections"),
        ("mongodb+srv://me:secret@mongo/", "its hosts are in the DNS"),
        ("anything://db", "it has no port, and safedial knows none"),
        ("tcp://", "it has no port, and safedial knows none"),
        ("postgresql:///app", "it has no host"),
        ("jdbc:sqlserver://db:1433;user=sa;password=secret@1", "write HOST:PORT"),
        ("a:1,b:2", "several hosts: give each host as a target of its own, with --any"),
        ("mongodb://me:secret@a,b/app", "several hosts"),
        ("postgresql://me:secret@[::1],b/app", "several hosts"),
        ("postgresql:///app?host=a,b", "several hosts"),
        ("http://a:1,http://b:2", "several hosts"),
        ("amqp://me:secret@a;amqp://me:secret@b", "several hosts"),
        ("redis://me:sec/ret@db:80", "write @ as %40, / as %2F"),
        ("redis://me:12?secret@db:80", "write @ as %40, / as %2F"),
        ("redis://me:12#secret@db:80", "write @ as %40, / as %2F"),
        ("http://me:p@sec/ret@db", "write @ as %40, / as %2F"),
    ],
)
def test_mistakes(text, says):
    with pytest.raises(ValueError, match=re.escape(says)) as raised:
        parse(text, {"PGHOST": "", "EMPTY": "", "QUOTED": "'redis://me:secret@db'"})
    assert "secret" not in str(raised.value).replace("$secret", "")
    assert str(raised.value).isprintable()
    assert raised.value.__cause__ is None
    assert raised.value.__suppress_context__


def test_system_without_unix_sockets(monkeypatch):
    monkeypatch.delattr(socket, "AF_UNIX")
    with pytest.raises(ValueError, match="no Unix sockets on this system"):
        parse("unix:/run/x.sock", {})


@pytest.mark.parametrize("name", ["PGHOST", "PGPORT"])
def test_lists_in_libpqs_variables(name):
    with pytest.raises(ValueError, match="several hosts"):
        parse("postgresql:///app", {"PGHOST": "db", name: "1,2"})


LABELS = st.from_regex(r"[a-z0-9_]([a-z0-9_-]{0,20}[a-z0-9_])?", fullmatch=True)
NAMES = st.lists(LABELS, min_size=1, max_size=4).map(".".join).filter(lambda name: not name.replace(".", "").isdigit())
ADDRESSES = st.ip_addresses(v=4).map(str)
IN_BRACKETS = st.ip_addresses(v=6).map(lambda each: f"[{each}]")
HOSTS = NAMES | ADDRESSES | IN_BRACKETS
PORTS = st.integers(1, 65535)
SCHEMES = st.sampled_from(["postgresql", "redis", "rediss", "mysql+pymysql", "amqp", "http", "https", "tcp", "mongodb"])


@given(HOSTS, PORTS)
def test_a_pair_comes_out_as_it_went_in(host, port):
    target = parse(f"{host}:{port}", {})
    assert target == Target(f"{host}:{port}", host.strip("[]"), port)
    assert parse("$H:${P}", {"H": host, "P": str(port)}) == target


@given(SCHEMES, HOSTS, PORTS, st.text(max_size=20).map(quote))
def test_the_name_of_a_url_is_a_target_too(scheme, host, port, path):
    target = parse(f"{scheme}://u:p@{host}:{port}/{path}", {})
    assert (target.host, target.port) == (host.strip("[]"), port)
    assert parse(target.name, {}) == target
    assert target.name.isprintable()


# Nothing that a name or a message has anyway.
SECRET = st.text(st.characters(exclude_categories=["Cs"], min_codepoint=32), min_size=1, max_size=12)


@given(SCHEMES, SECRET, SECRET)
@example("redis", "a/b", "$x")
@example("http", "a#b", "@")
@example("postgresql", "1", "/@")
@example("redis", "1", "1/?@#")
@example("redis", ":", "[::1]@")
def test_no_password_is_shown(scheme, user, password):
    """Whatever it has in it, and whether it is encoded as it should be."""
    # Markers survive each way to cut it up.
    marked = "".join(f"Q{each}Q" for each in password)
    for login in (f"{user}:{marked}", f":{quote(marked, safe='')}"):
        if scheme.startswith("http") and "/" in login:
            continue  # by RFC 3986, the host ends there
        for text in (f"{scheme}://{login}@db:80/x", f"{scheme}://db:80/x?user=u&password={quote(marked, safe='')}"):
            for given_as in (text, "$URL"):
                try:
                    shown = parse(given_as, {"URL": text}).name
                except ValueError as error:
                    shown = str(error)
                assert "Q" not in shown.replace("SQL", "")
                assert shown.isprintable()


@given(st.text(), st.dictionaries(st.sampled_from(["A", "B"]), st.text()))
@example("$A", {"A": "$B", "B": "secret"})
def test_whatever_comes_is_a_target_or_a_value_error(text, environ):
    try:
        target = parse(text, environ)
    except ValueError as error:
        target, shown = None, str(error)
    else:
        shown = target.name
    assert shown.isprintable()
    if target is not None:
        assert bool(target.path) != bool(target.host and 1 <= target.port <= 65535)
        assert target.http is None or re.fullmatch("/[!-~]*", target.http)


@given(st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="?$"), min_size=1, max_size=50))
def test_paths(path):
    assume(not path.startswith(("@", "//")))
    assert parse(f"unix:{path}", {}) == Target(f"unix:{path}", path=path)


def test_path_that_is_no_utf_8():
    assert request(b"/caf\xe9".decode(errors="surrogateescape")) == "/caf%E9"
