import os

import recipe
from redis.backoff import NoBackoff
from redis.retry import Retry

os.environ["DJANGO_SETTINGS_MODULE"] = "recipe"
# redis's ten retries wait for seconds.
recipe.CACHES["default"]["OPTIONS"] = {"retry": Retry(NoBackoff(), 1)}

from django.core.cache import cache  # noqa: E402  # it reads the settings


def use(text):
    cache.set(text, text)
    return cache.get(text)
