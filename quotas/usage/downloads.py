"""Tables that a browser keeps as a file."""

from collections.abc import Iterable, Sequence

from django.http import StreamingHttpResponse

from quotas.usage.tables import CONTENT_TYPE, Cell, csv_pieces


def csv_response(head: Sequence[str], rows: Iterable[Sequence[Cell]], file_name: str) -> StreamingHttpResponse:
    """Sent as the rows come. Once it has begun, a fault can only end it early, which the client sees: it is chunked."""
    response = StreamingHttpResponse(csv_pieces(head, rows), content_type=CONTENT_TYPE)
    response["Content-Disposition"] = f'attachment; filename="{file_name}"'
    response["Cache-Control"] = "no-store"
    return response
