from recipe import connection, send


def use(text):
    with connection.SimpleQueue("words") as queue:
        queue.clear()  # of words that an earlier use left
    send(text)
    with connection.SimpleQueue("words") as queue:
        message = queue.get(timeout=5)
        message.ack()
        return message.payload
