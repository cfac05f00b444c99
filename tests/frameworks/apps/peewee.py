from recipe import Word, database


def use(text):
    with database:  # as for a request: connect, and close at the end
        database.create_tables([Word])
        Word.create(text=text)
        return Word.get(Word.text == text).text
