"""The messages between gateway, supervisor and engine workers: version 6.

Every message is a tagged msgspec Struct. Frames (``frames.py``) of them travel over Unix sockets; between a worker and
its supervisor it is one JSON object a line.

gateway → worker, over the worker's socket
    Generate, Embed, Cancel, Grant                                                                  requests.py
worker → gateway
    Hello (once, first)                                                                             workers.py
    of each Generate Accepted (exact prompt tokens, before any text), Delta…,
    and exactly one of Finished or Failed; of each Embed exactly one of Embedded or Failed;
    before that maybe Wants, of a request with a number of granted tokens                           answers.py
    WorkerLoad and HeldPrefixes whenever they change                                                workers.py
    CacheReport likewise                                                                            cache.py

gateway → supervisor, over the supervisor's socket
    Subscribe (once, first), Demand while a request waits, InUse every second                       replicas.py
    Counted every second                                                                counts.py, routing.py
    Acquire, Withdraw, Release, Holding, Limits                                                     permits.py
    Strays and Sampled, for the other gateways                                                      routing.py
supervisor → gateway
    Replicas (everything on this node, whenever anything changes)                                   replicas.py
    Caches and Sums likewise, at most every 250 ms                                                  cache.py, counts.py
    of each Acquire that is not withdrawn exactly one of Permitted or Crowded; Contended            permits.py
    Pressure whenever it changes                                                                    replicas.py
    Strays and Sampled of the other gateways, also what they told before                            routing.py

supervisor → worker, on standard input
    CacheBudget                                                                                     cache.py
worker → supervisor, on standard output
    WorkerStatus while it loads                                                                     workers.py
    CacheReport and WorkerCounts whenever they change                                               cache.py, counts.py
    Tuned, once, if it measured                                                                     parameters.py

This package, and beside it :mod:`inference.prefixes`, :mod:`inference.durations` and :mod:`inference.cells`, which
read and make some of its values, and :mod:`inference.memory` and :mod:`inference.stopwatch`, is all that the engine
shares with the rest; it imports nothing of ours.
"""

from inference.protocol.answers import (
    Accepted,
    Delta,
    Embedded,
    Failed,
    Finished,
    FinishReason,
    TokenLogprob,
    ToolCallDelta,
    Wants,
    WorkerSpan,
)
from inference.protocol.cache import (
    TIMING_BOUNDS_SECONDS,
    CacheBudget,
    CacheReport,
    Caches,
    CacheView,
    TierReport,
    TierView,
    Timing,
)
from inference.protocol.counts import (
    Counted,
    GatewayCounts,
    ModelSums,
    PermitSum,
    RequestCounts,
    ServedCounts,
    Sums,
    WorkerCounts,
)
from inference.protocol.durations import DURATION_BOUNDS_SECONDS, Durations
from inference.protocol.frames import (
    MAX_FRAME_BYTES,
    PROTOCOL_VERSION,
    FrameDecoder,
    ProtocolError,
    encode_frame,
    read_messages,
)
from inference.protocol.loads import LoadSeconds, LoadStage, LoadTier, LoadView
from inference.protocol.parameters import EngineParameters, Measured, ModelSpec, Tuned
from inference.protocol.permits import Acquire, Contended, Crowded, Holding, Limits, Permitted, Release, Withdraw
from inference.protocol.replicas import (
    Demand,
    InUse,
    NodeView,
    Pressure,
    Replicas,
    ReplicaState,
    ReplicaView,
    Subscribe,
)
from inference.protocol.requests import (
    Cancel,
    ChatMessage,
    Constraint,
    Embed,
    Generate,
    Grant,
    Partition,
    Sampling,
    Tool,
    ToolCall,
    ToolChoice,
)
from inference.protocol.routing import (
    ROUTING_BOUNDS_SECONDS,
    ExperimentSums,
    RoutingCounts,
    Sampled,
    Stray,
    Strays,
    VariantSums,
)
from inference.protocol.workers import HeldPrefixes, Hello, WorkerLoad, WorkerStage, WorkerStatus

__all__ = [
    "DURATION_BOUNDS_SECONDS",
    "MAX_FRAME_BYTES",
    "PROTOCOL_VERSION",
    "ROUTING_BOUNDS_SECONDS",
    "TIMING_BOUNDS_SECONDS",
    "Accepted",
    "Acquire",
    "CacheBudget",
    "CacheReport",
    "CacheView",
    "Caches",
    "Cancel",
    "ChatMessage",
    "Constraint",
    "Contended",
    "Counted",
    "Crowded",
    "Delta",
    "Demand",
    "Durations",
    "Embed",
    "Embedded",
    "EngineParameters",
    "ExperimentSums",
    "Failed",
    "FinishReason",
    "Finished",
    "FrameDecoder",
    "GatewayCounts",
    "GatewayToSupervisor",
    "GatewayToWorker",
    "Generate",
    "Grant",
    "HeldPrefixes",
    "Hello",
    "Holding",
    "InUse",
    "Limits",
    "LoadSeconds",
    "LoadStage",
    "LoadTier",
    "LoadView",
    "Measured",
    "ModelSpec",
    "ModelSums",
    "NodeView",
    "Partition",
    "PermitAnswer",
    "PermitRequest",
    "PermitSum",
    "Permitted",
    "Pressure",
    "ProtocolError",
    "Relayed",
    "Release",
    "ReplicaState",
    "ReplicaView",
    "Replicas",
    "RequestCounts",
    "RoutingCounts",
    "Sampled",
    "Sampling",
    "ServedCounts",
    "Stray",
    "Strays",
    "Subscribe",
    "Sums",
    "SupervisorToGateway",
    "TierReport",
    "TierView",
    "Timing",
    "TokenLogprob",
    "Tool",
    "ToolCall",
    "ToolCallDelta",
    "ToolChoice",
    "Tuned",
    "VariantSums",
    "Wants",
    "Withdraw",
    "WorkerCounts",
    "WorkerLoad",
    "WorkerSpan",
    "WorkerStage",
    "WorkerStatus",
    "WorkerToGateway",
    "WorkerToSupervisor",
    "encode_frame",
    "read_messages",
]

GatewayToWorker = Generate | Embed | Cancel | Grant
WorkerToGateway = (
    Hello | Accepted | Wants | Delta | Finished | Failed | Embedded | WorkerLoad | CacheReport | HeldPrefixes
)
PermitRequest = Acquire | Withdraw | Release | Holding | Limits
PermitAnswer = Permitted | Crowded | Contended
Relayed = Strays | Sampled
GatewayToSupervisor = Subscribe | Demand | InUse | Counted | PermitRequest | Relayed
SupervisorToGateway = Replicas | Caches | Sums | Pressure | PermitAnswer | Relayed
WorkerToSupervisor = WorkerStatus | CacheReport | WorkerCounts | Tuned
