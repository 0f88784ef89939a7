"""How long loads take is learned, and known after a restart."""

from inference.protocol import LoadStage, LoadTier, ReplicaState
from registry.models import LoadTime, Node
from tests.integration.supervisor.running import NodeProcess, eventually, in_sql

FORGED = {"starting": 1.0, "reading": 1000.0, "warming": 2.0}


async def test_how_long_a_load_took_is_in_sql_and_expected_of_the_next_one(node: NodeProcess) -> None:
    await node.start()
    spec = await node.discovered("Tiny")
    gateway = await node.gateway()
    await gateway.loaded(spec)
    await eventually(LoadTime.objects.filter(version_id=spec.version_pk, node__name="here").exists)
    (sample,) = await in_sql(lambda: LoadTime.objects.get().samples)
    assert set(sample) == set(FORGED)
    assert all(seconds >= 0 for seconds in sample.values())

    def forge() -> None:
        here = Node.objects.get(name="here")
        for tier in LoadTier:
            LoadTime.objects.update_or_create(
                node=here, version_id=spec.version_pk, tier=tier.value, defaults={"samples": [FORGED]}
            )

    await node.stop()
    await in_sql(forge)
    await node.start()
    again = await node.gateway()
    await again.until_caches(lambda caches: caches.configured)  # SQL has been read
    again.demand(spec)
    loading = await again.until(spec, ReplicaState.LOADING)
    assert loading.load is not None
    assert loading.load.stage in LoadStage
    assert loading.load.expected.reading == 1000.0


async def test_what_sql_holds_of_another_version_of_ours_is_learned_again(node: NodeProcess) -> None:
    await node.start()
    spec = await node.discovered("Tiny")

    def forge() -> None:
        here = Node.objects.get(name="here")
        LoadTime.objects.create(node=here, version_id=spec.version_pk, tier="tape", samples=[FORGED])
        LoadTime.objects.create(node=here, version_id=spec.version_pk, tier="disk", samples=[{"reading": "long"}])

    await in_sql(forge)
    gateway = await node.gateway()
    await gateway.loaded(spec)
