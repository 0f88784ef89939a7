"""Where versions are answered that are no GGUF here. Imported by :mod:`registry.models`."""

from django.db import models
from django.db.models import Q
from django.utils import timezone

URL_PATTERN = r"\Ahttps?://[^\s?#@]+\Z"


class RemoteBackend(models.Model):
    """An OpenAI-compatible URL, and how a model is called there. Both are the version's content, and never change
    (trigger); its key may."""

    version = models.OneToOneField(
        "registry.Version", primary_key=True, editable=False, on_delete=models.CASCADE, related_name="backend"
    )
    url = models.TextField("URL", editable=False, help_text="What its paths follow, such as https://api.example.com/v1")
    model = models.CharField(max_length=200, editable=False, help_text="How it is called there.")
    sealed_key = models.BinaryField(editable=False, default=bytes, help_text="See registry.backends.sealing.")
    keyed_at = models.DateTimeField(default=timezone.now, editable=False)
    missed = models.PositiveIntegerField(default=0, editable=False, help_text="Checks in a row that it did not pass.")

    class Meta:
        constraints = [
            models.CheckConstraint(condition=Q(url__regex=URL_PATTERN), name="registry_remotebackend_url_form"),
            models.CheckConstraint(condition=~Q(model=""), name="registry_remotebackend_named"),
        ]

    def __str__(self) -> str:
        return f"{self.model} at {self.url}"

    @property
    def has_key(self) -> bool:
        return bool(self.sealed_key)
