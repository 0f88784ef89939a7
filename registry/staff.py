"""What the admin's pages share: services are called, their refusals become messages, and changes come by POST only."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar

from django.contrib import messages
from django.db.models import Model
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.loader import render_to_string
from django.urls import reverse
from django.utils.html import format_html_join
from django.utils.safestring import SafeString, mark_safe
from unfold.admin import ModelAdmin
from unfold.decorators import action, display

from registry.errors import ApiError

HEALTH_COLOURS = {
    "healthy": "success",
    "degraded": "warning",
    "unhealthy": "danger",
    "loading": "info",
    "unknown": "default",
}
STATE_COLOURS = {"ready": "success", "draining": "warning", "loading": "info", "failed": "danger", "cold": "default"}


F = TypeVar("F", bound=Callable[..., Any])


@contextmanager
def refusals_shown(request: HttpRequest) -> Iterator[None]:
    """What a service refuses is told to the operator; the page goes on."""
    try:
        yield
    except ApiError as refusal:
        messages.error(request, refusal.message)


def counted(request: HttpRequest, done: int, what: str) -> None:
    """“2 models enabled.”; nothing if nothing was done, since the refusals have been shown."""
    if done:
        messages.success(request, f"{done} {what}.")


def column(
    description: str,
    *,
    ordering: str | None = None,
    boolean: bool | None = None,
) -> Callable[[F], F]:
    """A column or a read-only field."""
    decorate: Callable[[F], F] = display(description=description, ordering=ordering, boolean=boolean)
    return decorate


def coloured(word: str, colours: Mapping[str, str], *, hint: str = "") -> SafeString:
    """A word as a coloured label, with ``hint`` under the pointer. Unlike Unfold's own it also works in forms."""
    context = {"text": word.replace("_", " "), "type": colours.get(word, "default"), "label_title": hint}
    return mark_safe(render_to_string("unfold/helpers/label.html", context))


def labels(words: Iterable[str]) -> SafeString:
    """Words as labels beside each other; a dash for none."""
    return format_html_join(" ", "{}", ((coloured(word, {}),) for word in words)) or SafeString("–")


def unbroken(text: str) -> str:
    """A number stays on one line with its unit."""
    return text.replace(" ", "\u00a0")


def bulk_action(description: str, *, permission: str = "change") -> Callable[[F], F]:
    """An action on the selected rows of a list; Django sends it as a form."""
    decorate: Callable[[F], F] = action(description=description, permissions=[permission])
    return decorate


def post_action(description: str, *, icon: str, permission: str = "change") -> Callable[[Callable[..., Any]], Any]:
    """A button of a page or of a row. It is drawn as a link and sent as a form (``post-actions.js``)."""

    def decorate(act: Callable[..., HttpResponse]) -> Any:
        @wraps(act)
        def guarded(self: Any, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:
            if request.method != "POST":
                messages.error(request, f"'{description}' needs the button itself: its address alone does nothing.")
                return HttpResponseRedirect(self.list_url())
            return act(self, request, *args, **kwargs)

        return action(description=description, icon=icon, permissions=[permission], attrs={"data-post": True})(guarded)

    return decorate


def become(obj: Any, row: Any) -> None:
    """Django's admin goes on with the object of its form: make it the row that the service wrote."""
    obj.__dict__.update(row.__dict__)


class ServiceAdmin(ModelAdmin):  # type: ignore[misc] # Unfold has no types
    """A page over rows that are written by services."""

    compressed_fields = True
    list_per_page = 50
    empty_hint = ""
    """What to do when there is nothing to show yet."""

    def list_url(self) -> str:
        return reverse(f"admin:{self.opts.app_label}_{self.opts.model_name}_changelist")

    def back(self, request: HttpRequest) -> HttpResponseRedirect:
        """To the page where the button was pressed, if it is one of ours."""
        referer = request.headers.get("Referer", "")
        here = f"{request.scheme}://{request.get_host()}/"
        return HttpResponseRedirect(referer if referer.startswith(here) else self.list_url())

    def changeform_view(
        self,
        request: HttpRequest,
        object_id: str | None = None,
        form_url: str = "",
        extra_context: dict[str, Any] | None = None,
    ) -> Any:
        try:
            return super().changeform_view(request, object_id, form_url, extra_context)
        except ApiError as refusal:
            messages.error(request, refusal.message)
            return HttpResponseRedirect(request.get_full_path())


class ReadOnlyAdmin(ServiceAdmin):
    """A page over rows that nobody writes by hand."""

    def has_add_permission(self, request: HttpRequest) -> bool:
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False

    def get_readonly_fields(self, request: HttpRequest, obj: Model | None = None) -> list[str]:
        return [field.name for field in self.opts.fields]

    def has_operate_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Whether the buttons are there; the fields stay read-only for everybody."""
        allowed: bool = request.user.has_perm(f"{self.opts.app_label}.change_{self.opts.model_name}")
        return allowed

    def has_change_permission(self, request: HttpRequest, obj: Model | None = None) -> bool:
        return False


def each(request: HttpRequest, rows: Iterable[Any], act: Callable[[Any], object]) -> int:
    """Do it for each; one refusal stops no other. Returns for how many it was done."""
    done = 0
    for row in rows:
        with refusals_shown(request):
            act(row)
            done += 1
    return done
