import recipe


def use(text):
    with recipe.connect():
        return "connected"
