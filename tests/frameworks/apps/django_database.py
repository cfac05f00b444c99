"""Django's ORM, as a task or a management command uses it; requests call `close_old_connections` in the same way."""

import os

os.environ["DJANGO_SETTINGS_MODULE"] = "recipe"

import django
from django.db import close_old_connections, connection, models

django.setup()


class Word(models.Model):
    text = models.CharField(max_length=100, primary_key=True)

    class Meta:
        app_label = "words"
        db_table = "django_words"


def use(text):
    close_old_connections()
    if Word._meta.db_table not in connection.introspection.table_names():
        with connection.schema_editor() as editor:
            editor.create_model(Word)
    Word.objects.create(text=text)
    return Word.objects.get(text=text).text
