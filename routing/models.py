"""The tables of how requests find their model. Writes go through :mod:`routing.services` and
:mod:`routing.rollout_services`."""

from django.db import models
from django.utils import timezone

from routing.experiments.standing import RolloutState


class RoutingRevision(models.Model):
    """A configuration that was in force; the one with the highest number is. Rows never change (trigger)."""

    number = models.PositiveIntegerField(primary_key=True)
    config = models.JSONField(help_text="As routing.config.Routing.")
    author = models.CharField(max_length=200, blank=True)
    comment = models.CharField(max_length=500, blank=True)
    created_at = models.DateTimeField(default=timezone.now)

    class Meta:
        verbose_name = "routing revision"
        ordering = ["-number"]

    def __str__(self) -> str:
        return f"revision {self.number}"


class ExperimentTally(models.Model):
    """What one node has counted of one A/B test, by all its supervisors, one after the other."""

    test = models.CharField(max_length=500, help_text="Its name: the route and both models.")
    node = models.CharField(max_length=200)
    run = models.CharField(max_length=32, help_text="Of the supervisor that told last; random.")
    letter = models.PositiveBigIntegerField(help_text="The last one of that run that was added.")
    counts = models.JSONField(default=dict, help_text="As routing.experiments.results.ExperimentCounts.")
    updated_at = models.DateTimeField(default=timezone.now)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["test", "node"], name="routing_tally_of_node")]

    def __str__(self) -> str:
        return f"{self.test} on {self.node}"


class ExperimentRollout(models.Model):
    """How far the roll-out of a route's A/B test has come."""

    route = models.CharField(max_length=64, primary_key=True)
    test = models.CharField(max_length=500, help_text="Its name: the route and both models.")
    state = models.CharField(
        max_length=16,
        choices=[(each.value, each.value) for each in RolloutState],
        default=RolloutState.RUNNING.value,
    )
    share_of_b = models.FloatField(help_text="In force: 0–1.")
    progress = models.JSONField(help_text="As routing.experiments.rollout.Progress.")

    class Meta:
        constraints = [
            models.CheckConstraint(
                condition=models.Q(share_of_b__gte=0.0, share_of_b__lte=1.0), name="routing_rollout_share"
            )
        ]

    def __str__(self) -> str:
        return f"{self.route}: {self.state}"
