"""A server that forks after it has loaded the application, as gunicorn and uWSGI do: a child for each use."""

import multiprocessing

from tests.frameworks.apps import peewee

fork = multiprocessing.get_context("fork")


def use(text):
    with fork.Pool(1) as pool:
        return pool.apply(peewee.use, [text])
