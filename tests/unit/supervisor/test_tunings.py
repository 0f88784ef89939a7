"""What was measured, on its way from one worker to the next."""

from msgspec.structs import replace

from inference.protocol import EngineParameters, Measured, ModelSpec, Tuned
from inference.supervisor.tunings import Tuning, Tunings, machine, merged

SPEC = ModelSpec(version_pk=7, model="Tiny", version="1.0.0", files=("/t.gguf",))
SET = replace(SPEC, parameters=EngineParameters(lanes=4))
TUNED = Tuned(
    parameters=EngineParameters(threads=3, flash_attention="on"),
    measured=(Measured(parameters=EngineParameters(), decode_seconds=0.1, mixed_seconds=0.2),),
)


def known(spec: ModelSpec) -> Tuning:
    return Tuning(version_pk=spec.version_pk, under=spec.parameters, parameters=TUNED.parameters)


def test_what_an_operator_sets_wins_over_what_was_measured() -> None:
    explicit = EngineParameters(threads=1, unified=False)
    assert merged(explicit, TUNED.parameters) == EngineParameters(threads=1, flash_attention="on", unified=False)


def test_nothing_is_measured_before_sql_has_told_what_is_known() -> None:
    tunings = Tunings(lambda _: None)
    assert tunings.reporter(SPEC) is None
    tunings.read([])
    assert tunings.reporter(SPEC) is not None


def test_what_is_known_is_used_and_not_measured_again() -> None:
    tunings = Tunings(lambda _: None)
    tunings.read([known(SPEC)])
    assert tunings.parameters(SPEC) == TUNED.parameters
    assert tunings.reporter(SPEC) is None


def test_what_was_measured_under_other_parameters_says_nothing() -> None:
    tunings = Tunings(lambda _: None)
    tunings.read([known(SPEC)])
    assert tunings.parameters(SET) == SET.parameters
    assert tunings.reporter(SET) is not None


def test_what_a_worker_measures_is_recorded_and_known_at_once() -> None:
    recorded: list[Tuning] = []
    tunings = Tunings(recorded.append)
    tunings.read([])
    report = tunings.reporter(SET)
    assert report is not None
    report(TUNED)
    assert recorded == [replace(known(SET), measured=TUNED.measured)]
    assert tunings.parameters(SET) == EngineParameters(lanes=4, threads=3, flash_attention="on")


def test_the_machine_is_told_in_words() -> None:
    assert " cores, llama-cpp-python " in machine()
