"""Files in folders → models: the table of the layout rules, and who keeps an id."""

import re
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry import gguf
from registry.discovery.layout import MAX_ID_CHARACTERS, Fault, Found, ListedFile, find, identifier, parse_number
from registry.discovery.placement import Known, Placements, next_number, place

HEADER = gguf.GgufHeader(
    format_version=3,
    kind="model",
    architecture="llama",
    name="",
    parameter_count=10,
    quantization="Q4_K_M",
    context_length=512,
    has_chat_template=True,
    mentions_tools=False,
    pooling=None,
    causal=True,
    tokenizer_model="llama",
    split_no=0,
    split_count=1,
    tensor_count=3,
    digest="d" * 64,
    extent_bytes=100,
)


def file(path: str, *, root: str = "/m", size: int = 100, fault: Fault | None = None, **header: Any) -> ListedFile:
    *folders, name = path.split("/")
    return ListedFile(
        root=root,
        folders=tuple(folders),
        name=name,
        size_bytes=size,
        modified_ns=1,
        header=None if fault else replace(HEADER, **header),
        fault=fault,
    )


def shard(path: str, no: int, count: int, **header: Any) -> ListedFile:
    return file(f"{path}-{no:05}-of-{count:05}.gguf", **{"split_no": no - 1, "split_count": count, **header})


BROKEN = Fault("not a GGUF", may_pass=False)


# --- What the files are ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ([file("phi-4.gguf")], [("phi-4", None, None, "/m/phi-4.gguf")]),
        ([file("Llama/model.gguf")], [("Llama", None, None, "/m/Llama")]),
        ([file("Llama/Model.GGUF")], [("Llama", None, None, "/m/Llama")]),
        ([file("meta/Llama/model.gguf")], [("meta/Llama", None, None, "/m/meta/Llama")]),
        ([file("Llama/1.1.0/model.gguf")], [("Llama", None, (1, 1, 0), "/m/Llama/1.1.0")]),
        ([file("1.1.0/model.gguf")], [("1.1.0", None, None, "/m/1.1.0")]),
        ([file("Llama/v1/model.gguf")], [("Llama/v1", None, None, "/m/Llama/v1")]),
        ([file("My model@home.gguf")], [("My-model-home", None, None, "/m/My model@home.gguf")]),
        (
            [file("Llama/a.gguf", quantization="Q8_0"), file("Llama/b.gguf")],
            [("Llama", "Llama:Q8_0", None, "/m/Llama/a.gguf"), ("Llama", "Llama:Q4_K_M", None, "/m/Llama/b.gguf")],
        ),
        (
            [file("Llama/2.0.0/a.gguf", quantization="Q8_0"), file("Llama/2.0.0/b.gguf")],
            [
                ("Llama", "Llama:Q8_0", (2, 0, 0), "/m/Llama/2.0.0/a.gguf"),
                ("Llama", "Llama:Q4_K_M", (2, 0, 0), "/m/Llama/2.0.0/b.gguf"),
            ],
        ),
        (
            [file("Llama/a.gguf"), file("Llama/broken.gguf", fault=BROKEN)],
            [
                ("Llama", "Llama:Q4_K_M", None, "/m/Llama/a.gguf"),
                ("Llama", "Llama:broken", None, "/m/Llama/broken.gguf"),
            ],
        ),
        ([file("a.gguf"), file("b.gguf")], [("a", None, None, "/m/a.gguf"), ("b", None, None, "/m/b.gguf")]),
        ([file("V/model.gguf"), file("V/mmproj-f16.gguf")], [("V", None, None, "/m/V")]),
        ([file("V/model.gguf"), file("V/vision.gguf", architecture="clip")], [("V", None, None, "/m/V")]),
        ([file("V/model.gguf"), file("V/vision.gguf", kind="mmproj")], [("V", None, None, "/m/V")]),
        ([file("V/mmproj.gguf", fault=BROKEN)], []),
        ([shard("Big/big", 1, 2), shard("Big/big", 2, 2)], [("Big", None, None, "/m/Big")]),
        ([shard("big", 1, 2), shard("big", 2, 2)], [("big", None, None, "/m/big-00001-of-00002.gguf")]),
        ([], []),
    ],
)
def test_the_layout(files: list[ListedFile], expected: list[tuple[Any, ...]]) -> None:
    assert [(one.id, one.qualified_id, one.number, one.path) for one in find(files)] == expected


def test_shards_join_into_one_content() -> None:
    files = [shard("big", no, 3, digest=str(no) * 64, size=100 + no) for no in (3, 1, 2)]

    (found,) = find(files)

    assert found.fault is None
    assert found.content is not None
    assert (found.content.size_bytes, found.content.parameter_count) == (306, 30)
    assert found.files == tuple(f"/m/big-0000{no}-of-00003.gguf" for no in (1, 2, 3))
    assert found.content.header_digest not in {"1" * 64, "2" * 64, "3" * 64}


@pytest.mark.parametrize(
    ("files", "reason", "may_pass"),
    [
        ([file("a.gguf", fault=BROKEN)], "not a GGUF", False),
        ([file("a.gguf", size=99)], "99 bytes of 100 bytes", True),
        ([shard("a", 1, 3)], "1 of 3 shards there; missing: a-00002-of-00003.gguf, a-00003-of-00003.gguf", True),
        ([shard("a", 2, 9)], "a-00004-of-00009.gguf and 5 more", True),
        (
            [shard("a", 1, 2), shard("a", 2, 2, size=50)],
            "a-00002-of-00002.gguf: 50 bytes of 100 bytes",
            True,
        ),
        ([file("a.gguf", split_count=2)], "is a part of 2, but not named", False),
        ([file("a-00001-of-00002.gguf")], "is named as a part of 2, but is a whole model", False),
        ([shard("a", 1, 2), shard("a", 2, 2, split_no=0)], "is part 1 by its header", False),
        ([file("a.gguf", kind="adapter")], "a LoRA adapter, not a model", False),
        ([file("a.gguf", tensor_count=0)], "holds no tensors", False),
        (
            [shard("a", 1, 2, parameter_count=2**62), shard("a", 2, 2, parameter_count=2**62)],
            "more parameters than fit into 63 bits",
            False,
        ),
    ],
)
def test_what_can_not_be_used_says_why(files: list[ListedFile], reason: str, may_pass: bool) -> None:
    one = find(files)[0]

    assert one.content is None
    assert one.fault is not None
    assert re.search(reason, one.fault.reason)
    assert one.fault.may_pass == may_pass


def test_shards_keep_the_files_name_while_the_first_is_on_its_way() -> None:
    assert find([shard("big", 2, 2)])[0].files[0] == find([shard("big", 1, 2)])[0].files[0]


@given(st.text(min_size=1))
def test_every_name_becomes_an_id_that_the_table_takes(name: str) -> None:
    id = identifier([name])

    assert re.fullmatch(r"[^\s/@:][^\s@]*", id)
    assert len(id) <= MAX_ID_CHARACTERS
    assert id.isprintable()
    assert identifier([id]) == id


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("1.0.0", (1, 0, 0)),
        ("10.20.30", (10, 20, 30)),
        ("1.0", None),
        ("1.0.0-beta", None),
        ("v1.0.0", None),
        ("01.0.0", None),
        ("1.0.0\n", None),
        ("١.٠.٠", None),
        ("1.0.9999999999", None),
        ("", None),
    ],
)
def test_semantic_versions(text: str, number: tuple[int, int, int] | None) -> None:
    assert parse_number(text) == number


# --- Who keeps which id ----------------------------------------------------------------------------------------------


def known(first_file: str, model: str, number: tuple[int, int, int] = (1, 0, 0), **fields: Any) -> Known:
    return Known(
        pk=hash((first_file, model, number)),
        model=model,
        number=number,
        first_file=first_file,
        **{"has_content": True, **fields},
    )


def models(placements: Placements) -> dict[str, str]:
    return {placed.found.files[0].removeprefix("/m/"): placed.model for placed in placements.placed}


def test_newcomers_get_the_ids_that_they_claim() -> None:
    assert models(place(find([file("a.gguf"), file("B/x.gguf")]), [])) == {"a.gguf": "a", "B/x.gguf": "B"}


def test_of_several_in_a_folder_the_first_known_keeps_the_bare_name() -> None:
    found = find([file("B/new.gguf", quantization="Q8_0"), file("B/old.gguf")])

    placements = place(found, [known("/m/B/old.gguf", "B")])

    assert models(placements) == {"B/old.gguf": "B", "B/new.gguf": "B:Q8_0"}
    assert [placed.alias for placed in placements.placed] == ["B:Q4_K_M", None]


def test_a_file_keeps_its_id_when_its_neighbour_goes() -> None:
    placements = place(find([file("B/two.gguf")]), [known("/m/B/one.gguf", "B"), known("/m/B/two.gguf", "B:Q4_K_M")])

    assert models(placements) == {"B/two.gguf": "B:Q4_K_M"}
    assert [gone.model for gone in placements.gone] == ["B"]


def test_the_sound_newcomer_gets_the_id_before_the_broken() -> None:
    found = find([file("B/a.gguf", fault=BROKEN), file("B/b.gguf")])

    assert models(place(found, [])) == {"B/b.gguf": "B", "B/a.gguf": "B:a"}


@pytest.mark.parametrize(
    ("files", "loser", "reason"),
    [
        ([file("phi.gguf"), file("phi/x.gguf")], "phi/x.gguf", "'phi' belongs to /m/phi.gguf"),
        ([file("B/a.gguf"), file("B/b.gguf")], "B/b.gguf", "'B:Q4_K_M' belongs to /m/B/a.gguf"),
        ([file("B/x.gguf"), file("B/1.0.0/y.gguf")], "B/1.0.0/y.gguf", "'B@1.0.0' belongs to /m/B/x.gguf"),
        ([file("a b.gguf"), file("a-b.gguf")], "a-b.gguf", "'a-b' belongs to /m/a b.gguf"),
        ([file("auto.gguf")], "auto.gguf", "'auto' names the default route"),
    ],
)
def test_two_files_that_claim_one_id(files: list[ListedFile], loser: str, reason: str) -> None:
    (conflict,) = [placed for placed in place(find(files), []).placed if placed.conflict]

    assert conflict.found.files[0] == f"/m/{loser}"
    assert conflict.conflict is not None
    assert conflict.conflict.startswith(reason)
    assert "~" in conflict.model


def test_the_same_id_in_two_models_directories_belongs_to_the_first() -> None:
    found = find([file("phi.gguf", root="/one"), file("phi.gguf", root="/two")])

    placements = place(found, [])

    assert [bool(placed.conflict) for placed in placements.placed] == [False, True]


def test_who_was_first_keeps_an_id_whatever_the_order() -> None:
    found = find([file("phi.gguf", root="/one"), file("phi.gguf", root="/two")])

    placements = place(found, [known("/two/phi.gguf", "phi")])

    assert {placed.found.files[0]: bool(placed.conflict) for placed in placements.placed} == {
        "/two/phi.gguf": False,
        "/one/phi.gguf": True,
    }


def test_an_adopted_file_stays_what_the_operator_made_of_it() -> None:
    placements = place(find([file("Llama-v2/x.gguf")]), [known("/m/Llama-v2/x.gguf", "Llama", (2, 0, 0))])

    assert models(placements) == {"Llama-v2/x.gguf": "Llama"}


def test_a_version_folder_can_not_take_a_version_that_is_elsewhere() -> None:
    found = find([file("adopted.gguf"), file("Llama/2.0.0/x.gguf")])

    placements = place(found, [known("/m/adopted.gguf", "Llama", (2, 0, 0))])

    assert [bool(placed.conflict) for placed in placements.placed] == [False, True]


def test_what_was_listed_by_its_files_name_is_renamed_when_its_quantization_is_known() -> None:
    found = find([file("B/a.gguf", quantization="Q8_0"), file("B/b.gguf")])

    placements = place(found, [known("/m/B/a.gguf", "B"), known("/m/B/b.gguf", "B:b", has_content=False)])

    assert models(placements) == {"B/a.gguf": "B", "B/b.gguf": "B:Q4_K_M"}
    assert [one.model for one in placements.abandoned] == ["B:b"]


def test_the_starter_gives_way_to_a_file_of_its_id() -> None:
    starter = replace(find([file("starter.gguf", root="/package")])[0], id="Smol")
    by_itself = place([], [], starter=starter)
    beside_another = place(
        find([file("Smol.gguf")]), [known("/package/starter.gguf", "Smol", starter=True)], starter=starter
    )

    assert [(placed.model, placed.conflict) for placed in by_itself.placed] == [("Smol", None)]
    assert by_itself.starter is starter
    assert models(beside_another) == {"Smol.gguf": "Smol"}
    assert beside_another.starter is None


@pytest.mark.parametrize(
    ("taken", "after", "number"),
    [
        ([], (1, 0, 0), (1, 0, 0)),
        ([(1, 0, 0)], (1, 0, 0), (1, 0, 1)),
        ([(1, 0, 0), (1, 0, 1), (2, 0, 0)], (1, 0, 0), (1, 0, 2)),
        ([(2, 1, 0)], (2, 1, 0), (2, 1, 1)),
    ],
)
def test_the_next_version_is_the_next_free_patch(
    taken: list[tuple[int, int, int]], after: tuple[int, int, int], number: tuple[int, int, int]
) -> None:
    assert next_number(taken, after) == number


_PATHS = st.sampled_from(["a.gguf", "a/x.gguf", "a/y.gguf", "a/1.0.0/z.gguf", "b/1.0.0/z.gguf", "b.gguf", "a/b/c.gguf"])


@given(
    present=st.sets(_PATHS),
    before=st.dictionaries(_PATHS, st.sampled_from(["a", "b", "a:Q4_K_M", "a:Q8_0", "c"])),
    quantizations=st.lists(st.sampled_from(["Q4_K_M", "Q8_0"]), min_size=7, max_size=7),
)
def test_whatever_is_there_each_file_has_one_place_and_each_slot_one_newcomer(
    present: set[str], before: dict[str, str], quantizations: list[str]
) -> None:
    files = [file(p, quantization=q) for p, q in zip(sorted(present), quantizations, strict=False)]
    versions = [known(f"/m/{path}", model, (1, 0, number)) for number, (path, model) in enumerate(before.items())]
    found: list[Found] = find(files)

    placements = place(found, versions)

    assert sorted(placed.found.files[0] for placed in placements.placed) == sorted(one.files[0] for one in found)
    newcomers = [(p.model, p.found.number) for p in placements.placed if not p.known and not p.conflict]
    assert len(newcomers) == len(set(newcomers))
    assert {one.first_file for one in placements.gone} == {f"/m/{p}" for p in before} - {f"/m/{p}" for p in present}
    ids = {placed.model for placed in placements.placed}
    assert not ids & {placed.alias for placed in placements.placed}
