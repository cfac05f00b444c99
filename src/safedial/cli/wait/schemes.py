"""The schemes of URLs: what each says about its server. Data only."""

# The default ports of URLs. Behind a "+" the name of a driver may follow, which changes nothing.
PORTS = {
    scheme: port
    for port, schemes in {
        5432: "postgresql postgres postgis",
        26257: "cockroachdb",
        3306: "mysql mariadb",
        1433: "mssql sqlserver",
        1521: "oracle",
        9000: "clickhouse",
        9042: "cassandra",
        27017: "mongodb",
        6379: "redis rediss valkey valkeys",
        11211: "memcached memcache",
        5672: "amqp pyamqp",
        5671: "amqps",
        1883: "mqtt",
        8883: "mqtts",
        4222: "nats",
        9092: "kafka",
        80: "http ws",
        443: "https wss",
        389: "ldap",
        636: "ldaps",
        25: "smtp",
        465: "smtps",
        21: "ftp",
        22: "ssh sftp",
    }.items()
    for scheme in schemes.split()
}
# Whose URLs libpq reads.
POSTGRES = frozenset({"postgresql", "postgres", "postgis", "cockroachdb"})
# Where TLS begins with the connection.
TLS = frozenset({"https", "wss", "rediss", "valkeys", "amqps", "mqtts", "ldaps", "smtps", "tls", "ssl"})
# Where a request is sent, and its answer judged.
HTTP = frozenset({"http", "https"})
SERVERLESS = {
    **dict.fromkeys(("sqlite", "sqlite3", "duckdb", "file"), "it has no server, so there is nothing to wait for"),
    "udp": "UDP has no connections, so nothing can be waited for",
}
