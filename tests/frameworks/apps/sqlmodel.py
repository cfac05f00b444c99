from recipe import Word, engine
from sqlmodel import Session, SQLModel, select


def use(text):
    SQLModel.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(Word(text=text))
        session.commit()
        return session.exec(select(Word).where(Word.text == text)).one().text
