"""Limits over REST, for operators."""

import msgspec
from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from quotas import selectors, serializers
from quotas.selectors import Quota
from quotas.services import emergency_set, quota_reset, quota_restore, quota_update
from registry.rest import ControlView, EmptyInput, author, parsed
from registry.services import model_named


class QuotaView(ControlView):
    @extend_schema(responses=serializers.QuotaOut, tags=["quotas"])
    def get(self, request: Request, name: str) -> Response:
        """A model's limits: its own, else the default ones of /cache/allocation."""
        model = model_named(name=name)
        return _quota(model.name, selectors.quota_find(model=model))

    @extend_schema(request=serializers.QuotaChange, responses=serializers.QuotaOut, tags=["quotas"])
    def post(self, request: Request, name: str) -> Response:
        """Change what is named; the rest stays. What was used of a window counts."""
        model = model_named(name=name)
        changes = parsed(serializers.QuotaChange, request, wrapper="quotas", beside={"model_id": name})
        return _quota(model.name, quota_update(model=model.name, changes=changes, author=author(request)))

    @extend_schema(responses=serializers.QuotaOut, tags=["quotas"])
    def delete(self, request: Request, name: str) -> Response:
        """Give up its own limits, and follow the default ones of /cache/allocation again. What was used counts."""
        model = model_named(name=name)
        return _quota(model.name, quota_reset(model=model.name, author=author(request)))


class QuotaReportView(ControlView):
    @extend_schema(responses=serializers.QuotaReportOut, tags=["quotas"])
    def get(self, request: Request, name: str) -> Response:
        """How a model stands with its limits in the windows of now."""
        report = selectors.quota_report(model=model_named(name=name))
        return Response(serializers.QuotaReportOut(report).data)


class QuotaRevisionListView(ControlView):
    @extend_schema(responses=serializers.QuotaRevisionOut(many=True), tags=["quotas"])
    def get(self, request: Request, name: str) -> Response:
        """The limits that a model had, newest first."""
        rows = selectors.quota_revisions_list(model=model_named(name=name))
        return Response(serializers.QuotaRevisionOut(rows, many=True).data)


class QuotaRestoreView(ControlView):
    @extend_schema(request=EmptyInput, responses=serializers.QuotaOut, tags=["quotas"])
    def post(self, request: Request, name: str, number: int) -> Response:
        """Make earlier limits the newest ones; revision 0 is to have none of its own."""
        parsed(EmptyInput, request)
        model = model_named(name=name)
        return _quota(model.name, quota_restore(model=model.name, number=number, author=author(request)))


class EmergencyView(ControlView):
    @extend_schema(responses=serializers.EmergencyOut, tags=["quotas"])
    def get(self, request: Request) -> Response:
        """Whether an operator has declared an emergency, and who did or ended it last."""
        return Response(serializers.EmergencyOut(selectors.emergency_find()).data)

    @extend_schema(request=serializers.EmergencyChange, responses=serializers.EmergencyOut, tags=["quotas"])
    def post(self, request: Request) -> Response:
        """Declare an emergency, in which only requests of high priority are served, or end it."""
        emergency_set(**parsed(serializers.EmergencyChange, request), author=author(request))
        return Response(serializers.EmergencyOut(selectors.emergency_find()).data)


def _quota(model: str, found: Quota) -> Response:
    shown = {**msgspec.to_builtins(found.quota), "model_id": model, "revision": found.revision, "own": found.own}
    return Response(serializers.QuotaOut(shown).data)
