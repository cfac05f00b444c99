import asyncio

import recipe


def use(text):
    asyncio.run(recipe.main())
    return "connected"
