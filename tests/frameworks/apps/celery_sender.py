"""A program that sends a task, and gets no result: there is no worker."""

import recipe

# Its defaults retry for a minute.
recipe.app.conf.update(task_ignore_result=True, task_publish_retry_policy={"max_retries": 0})


def use(text):
    recipe.echo.delay(text)
    return text
