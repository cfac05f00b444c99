from recipe import Word, app, db


@app.post("/<text>")
def post(text):
    db.create_all()
    db.session.add(Word(text=text))
    db.session.commit()
    return db.session.scalar(db.select(Word.text).where(Word.text == text))


app.testing = True  # the client raises what the view raised


def use(text):
    return app.test_client().post(f"/{text}").text
