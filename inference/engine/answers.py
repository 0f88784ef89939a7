"""What a request wants of its answer → how its tokens are chosen (a grammar) and read (thoughts, calls, stops)."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import msgspec

from inference.engine.constraints import MAX_GRAMMAR_CHARACTERS, Constraint, GrammarRefused, Grammars, Vocabulary, fork
from inference.engine.output import Output, Reading
from inference.engine.schemas import Schema, any_object, grammar, parsed
from inference.engine.thinking import markers_of
from inference.engine.tools.described import described, without_system
from inference.engine.tools.families import form_of, knows_tools
from inference.engine.tools.forms import NamedSchema, nine_letters
from inference.engine.tools.grammars import forced, free
from inference.protocol import ChatMessage, Generate, Tool, ToolChoice

_RESPONSE_SCHEMA = "response_format.json_schema.schema"
_PROMPT_END_CHARACTERS = 200


class AnswerRefused(Exception):
    """No answer can be what the request asks for; ``str()`` says why, ``param`` names the field at fault."""

    def __init__(self, message: str, param: str) -> None:
        super().__init__(message)
        self.param = param


@dataclass(frozen=True, slots=True)
class Plan:
    """How the choices of one request are made."""

    reading: Reading = field(default_factory=Reading)
    grammar: Constraint | None = None
    """Where every choice begins in it; None: any text."""

    def output(self) -> Output:
        """For one choice."""
        return Output(self.reading)

    def constraint(self) -> Constraint | None:
        """For one choice."""
        return None if self.grammar is None else fork(self.grammar)


class Answers:
    """For one model. Thread-safe."""

    def __init__(self, vocabulary: Vocabulary, template: str | None) -> None:
        self._grammars = Grammars(vocabulary)
        self._knows_tools = knows_tools(template)
        self._form = form_of(template)
        self._thinking = markers_of(template)
        self._controls = _control_tokens(vocabulary, self._form.markers)
        thoughts = (self._thinking.begin, self._thinking.end) if self._thinking else ()
        self._spelled_thoughts = _spelled(_control_tokens(vocabulary, thoughts))
        self._spelled_calls = _spelled(self._controls)

    def shown(self, request: Generate) -> tuple[tuple[ChatMessage, ...], tuple[Tool, ...]]:
        """The messages and tools that the chat template is to show."""
        assert request.messages is not None
        tools = _callable_tools(request)
        if not self._knows_tools:
            required = request.tool_choice is ToolChoice.REQUIRED
            several = request.parallel_tool_calls and not request.forced_tool
            return described(request.messages, tools, several=several, required=required), ()
        if self._form.new_id is nine_letters:
            return tuple(_with_short_ids(message) for message in request.messages), tools
        return request.messages, tools

    def shown_without_system(self, messages: Sequence[ChatMessage]) -> tuple[ChatMessage, ...] | None:
        """Another try for a template that refused ``messages``; None if there is none."""
        if self._knows_tools or not messages or messages[0].role != "system":
            return None
        changed = without_system(messages)
        return None if changed == tuple(messages) else changed

    def plan(self, request: Generate, prompt: str) -> Plan:
        """Compiles what is to be held to; that takes milliseconds, so not in a thread that must not wait.

        Args:
            prompt: as the template has rendered it.

        Raises:
            AnswerRefused: a schema is wrong, too complex or can't be met.
        """
        tools = _callable_tools(request)
        text = self._grammar(request, tools)
        thinks = self._thinking is not None and request.messages is not None
        reading = Reading(
            stops=request.stop + (self._form.stops if tools else ()),
            thinking=self._thinking if thinks else None,
            prompt_end=prompt[-_PROMPT_END_CHARACTERS:],
            form=self._form if tools else None,
            tools=frozenset(tool.name for tool in tools),
            parallel=request.parallel_tool_calls,
            spelled=(self._spelled_thoughts if thinks else {}) | (self._spelled_calls if tools else {}),
        )
        return Plan(reading, None if text is None else self._compiled(text, request, tools))

    def _grammar(self, request: Generate, tools: tuple[Tool, ...]) -> str | None:
        """
        1. Calls that must be made: nothing but calls.
        2. A constrained answer beside tools that may be called: calls, or the answer.
        3. A constrained answer: that.
        4. Strict tools that may be called: any text, calls by their schemas.
        5. Else any text.
        """
        answer = _response_schema(request)
        required = request.tool_choice is ToolChoice.REQUIRED
        if tools and (required or answer is not None):
            wanted = [tool for tool in tools if request.forced_tool in (None, tool.name)]
            return forced(
                self._form,
                [_named_schema(tool, request) for tool in wanted],
                several=request.parallel_tool_calls and request.forced_tool is None,
                controls=self._controls,
                or_answer=None if required else answer,
            )
        if answer is not None:
            return grammar(answer)
        if any(tool.strict for tool in tools):
            return free(self._form, [_named_schema(tool, request) for tool in tools], controls=self._controls)
        return None

    def _compiled(self, text: str, request: Generate, tools: tuple[Tool, ...]) -> Constraint:
        if len(text) > MAX_GRAMMAR_CHARACTERS and tools:
            raise _refused(f"all tools together have more than {MAX_GRAMMAR_CHARACTERS} characters", "tools")
        try:
            return self._grammars.compile(text)
        except GrammarRefused as refusal:
            raise self._culprit(request, tools, refusal) from refusal

    def _culprit(self, request: Generate, tools: tuple[Tool, ...], refusal: GrammarRefused) -> AnswerRefused:
        """Which schema of several is at fault: the first that does not compile alone."""
        for tool in tools:
            schema = _named_schema(tool, request)
            try:
                self._grammars.compile(grammar(schema.arguments))
            except GrammarRefused as own:
                return _refused(str(own), _parameters_of(tool, request))
        return _refused(str(refusal), _RESPONSE_SCHEMA if request.constraint is not None else "tools")


def _callable_tools(request: Generate) -> tuple[Tool, ...]:
    return () if request.tool_choice is ToolChoice.NONE else request.tools


def _response_schema(request: Generate) -> Schema | None:
    constraint = request.constraint
    if constraint is None:
        return None
    if constraint.schema is None:
        return any_object()
    try:
        return parsed(constraint.schema, strict=constraint.strict)
    except GrammarRefused as refusal:
        raise _refused(str(refusal), _RESPONSE_SCHEMA) from refusal


def _named_schema(tool: Tool, request: Generate) -> NamedSchema:
    """A tool's arguments as they are held to. Arguments that its schema does not name are allowed only if it says so:
    a function has no use for them, and small models invent them without end."""
    try:
        schema = parsed(tool.parameters or '{"type": "object", "properties": {}}', strict=tool.strict)
    except GrammarRefused as refusal:
        raise _refused(str(refusal), _parameters_of(tool, request)) from refusal
    open_ended = "additionalProperties" in schema or "patternProperties" in schema
    if schema.get("type", "object") == "object" and "properties" in schema and not open_ended:
        schema = schema | {"type": "object", "additionalProperties": False}
    return NamedSchema(tool.name, schema)


def _parameters_of(tool: Tool, request: Generate) -> str:
    return f"tools[{request.tools.index(tool)}].function.parameters"


def _refused(reason: str, param: str) -> AnswerRefused:
    return AnswerRefused(f"this JSON schema can't be held to: {reason}", param)


def _control_tokens(vocabulary: Vocabulary, marks: Iterable[str]) -> dict[str, int]:
    """The marks that are one token each whose text is usually not shown."""
    found = {}
    for mark in marks:
        tokens = vocabulary.tokenize(mark, add_special=False)
        if len(tokens) == 1 and not vocabulary.piece(tokens[0]):
            found[mark] = tokens[0]
    return found


def _spelled(controls: Mapping[str, int]) -> dict[int, bytes]:
    return {token: mark.encode() for mark, token in controls.items()}


def _with_short_ids(message: ChatMessage) -> ChatMessage:
    calls = tuple(msgspec.structs.replace(call, id=_short_id(call.id)) for call in message.tool_calls)
    answered = None if message.tool_call_id is None else _short_id(message.tool_call_id)
    return msgspec.structs.replace(message, tool_calls=calls, tool_call_id=answered)


def _short_id(long: str) -> str:
    """The same nine letters for the same id, which may come from another model."""
    if len(long) == 9 and long.isalnum():
        return long
    return hashlib.sha256(long.encode()).hexdigest()[:9]
