"""Where models live among nodes."""

from collections import Counter

from registry.nodes.homes import homes

NODES = [f"node-{number}" for number in range(5)]
MODELS = [f"model-{number}" for number in range(1000)]


def test_models_are_spread_evenly() -> None:
    counts = Counter(homes(model, NODES, 1)[0] for model in MODELS)
    assert all(150 <= counts[node] <= 250 for node in NODES)


def test_who_asks_and_in_which_order_does_not_matter() -> None:
    for model in MODELS[:50]:
        assert homes(model, NODES, 3) == homes(model, reversed(NODES), 3)


def test_only_the_models_of_a_node_that_leaves_move() -> None:
    for model in MODELS:
        before, after = homes(model, NODES, 1), homes(model, NODES[1:], 1)
        assert before == after or before == [NODES[0]]


def test_a_second_home_is_another_node() -> None:
    for model in MODELS[:50]:
        assert len(set(homes(model, NODES, 2))) == 2
        assert homes(model, NODES, 2)[0] == homes(model, NODES, 1)[0]


def test_there_are_no_more_homes_than_nodes() -> None:
    assert sorted(homes("m", NODES, 9)) == NODES
    assert homes("m", [], 1) == []
