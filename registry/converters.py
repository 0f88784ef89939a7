"""How ids stand in paths. Import this module before a path that uses ``<name:…>``."""

from django.urls import register_converter


class NameConverter:
    """Ids, node and tenant names, with ``/`` and ``:`` in them (WSGI has decoded %2F). Without control characters:
    PostgreSQL's text can't hold a NUL."""

    regex = r"[^\x00-\x1f\x7f]+"

    def to_python(self, value: str) -> str:
        return value

    def to_url(self, value: str) -> str:
        return value


register_converter(NameConverter, "name")
