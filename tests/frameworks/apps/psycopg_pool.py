from recipe import pool

pool.wait()
pool.timeout = 0.1


def use(text):
    with pool.connection() as connection:
        return connection.execute("SELECT %s::text", [text]).fetchone()[0]
