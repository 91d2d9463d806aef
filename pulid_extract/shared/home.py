"""Where the project lives on the web. Imports nothing: setup.py reads it too."""

# "https://github.com/OWNER/REPOSITORY", without a slash at the end. Empty: the project has no
# address yet, so that the metadata names no URLs and nothing is downloaded from there.
HOME_URL = ""


def page(path: str) -> str:
    """The address of a file of the repository, to be read. Only with an address."""
    return f"{HOME_URL}/blob/main/{path}"


def raw(path: str, revision: str = "main") -> str:
    """The address of a file's bytes."""
    return f"{HOME_URL}/raw/{revision}/{path}"
