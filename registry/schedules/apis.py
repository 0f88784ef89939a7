"""Warm hours over REST."""

from drf_spectacular.utils import extend_schema
from rest_framework.request import Request
from rest_framework.response import Response

from registry.rest import ControlView, parsed
from registry.schedules import services
from registry.schedules.serializers import ScheduleIn, ScheduleOut


class ScheduleListView(ControlView):
    @extend_schema(responses=ScheduleOut(many=True), tags=["schedules"])
    def get(self, request: Request, name: str) -> Response:
        """When a model is kept loaded."""
        return Response(ScheduleOut(services.schedules_list(name=name), many=True).data)

    @extend_schema(request=ScheduleIn, responses={201: ScheduleOut}, tags=["schedules"])
    def post(self, request: Request, name: str) -> Response:
        """Keep a model loaded from each opening to the next closing; outside of these hours it is on demand."""
        schedule = services.schedule_add(name=name, **parsed(ScheduleIn, request))
        return Response(ScheduleOut(schedule).data, status=201)


class ScheduleView(ControlView):
    @extend_schema(request=None, responses={204: None}, tags=["schedules"])
    def delete(self, request: Request, name: str, key: int) -> Response:
        """Forget these hours."""
        services.schedule_remove(name=name, key=key)
        return Response(status=204)
