from recipe import connection


def use(text):
    connection.ensure_connection(max_retries=1, interval_start=0)  # its defaults wait for seconds
    return "connected"
